"""The codec stage: waveform to latents and latents to waveform, in exact pieces. It knows nothing of messages and files.

    decode   latents -> DCAE attention level, whole song -> DCAE convolutions -> log-mel -> vocoder -> resampler -> waveform
                                                            `------------------ in pieces ------------------'
    encode   the same backwards, without the vocoder

Pieces carry the margin that their convolutions can see, so together they equal the whole-song result to rounding, and memory hardly
grows with the length. How the mel becomes sound, and in which pieces, is the vocoder's affair.

B batch, S samples, T latent frames of 4096 samples at 44.1 kHz, W latent frames of a piece.
"""

from collections.abc import Generator, Iterator

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from torch import Tensor

from vae_svc.model.dcae import FRAMES_PER_LATENT, IMAGE_CHANNELS, LATENT_CHANNELS, Dcae
from vae_svc.model.efficient_vit import spans
from vae_svc.model.griffin_lim import MelGriffinLim
from vae_svc.model.mel import LogMel
from vae_svc.model.resample import Resampler, num_output_samples, resample
from vae_svc.model.vocoder import Vocoder

SAMPLE_RATE = 44100
HOP_LENGTH = 512  # samples of a mel frame
SAMPLES_PER_LATENT = HOP_LENGTH * FRAMES_PER_LATENT  # 4096
NUM_MELS = 128
LATENT_ROWS = NUM_MELS // FRAMES_PER_LATENT  # 16

MEL_MIN, MEL_MAX = -11.0, 3.0  # range of the log-mel that the DCAE sees as -1 to 1
LATENT_SHIFT, LATENT_SCALE = -1.9091, 0.1786

PIECE_LATENTS = 128
"""Latent frames decoded at once, 11.9 s of audio. At the official size the margins then cost 19 % more vocoder work and a piece takes
about half a gigabyte in float32; halving it would double the first number, doubling it the second and the wait for the first sound."""


class Codec:
    """Both directions of the codec.

    Args:
        autoencoder: The music DCAE.
        vocoder: Its vocoder, on the same device.
        piece_latents: Latent frames at a time.
    """

    def __init__(self, autoencoder: AutoencoderDC, vocoder: Vocoder | MelGriffinLim, piece_latents: int = PIECE_LATENTS) -> None:
        self.piece_latents = piece_latents
        self.device = next(autoencoder.parameters()).device
        self.vocoder = vocoder
        self.dcae = Dcae(autoencoder, piece_latents)
        self.log_mel = LogMel(vocoder.config.mel, self.device)
        self.margin_latents = self.dcae.decoder_halo - (-vocoder.halo // FRAMES_PER_LATENT)
        """Latent frames on either side that a stretch must be decoded with to sound as in its song; the attention level would hear more."""

    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Encode a waveform to latents.

        Args:
            waveform: [B, C, S] or [C, S] float32 with one channel (doubled) or two.
            sample_rate: In Hz.
        Returns:
            [B, 8, 16, T] or [8, 16, T] float32 on the codec's device; T counts the last, started frame.
        """
        work = self.encode_in_pieces(waveform, sample_rate)
        while True:
            try:
                next(work)
            except StopIteration as finished:
                latents: Tensor = finished.value
                return latents

    @torch.inference_mode()
    def encode_in_pieces(self, waveform: Tensor, sample_rate: int) -> Generator[None, None, Tensor]:
        """As encode; yields after each piece of work so that the caller can stop."""
        if waveform.dim() == 2:
            return (yield from self.encode_in_pieces(waveform[None], sample_rate))[0]
        batch, channels, _ = waveform.shape
        assert channels in (1, 2), f"{channels} channels"
        waveform = resample(waveform.to(self.device, torch.float32), sample_rate, SAMPLE_RATE)
        waveform = F.pad(waveform, (0, -waveform.shape[-1] % SAMPLES_PER_LATENT))
        num_latents = waveform.shape[-1] // SAMPLES_PER_LATENT
        if num_latents == 0:
            return waveform.new_zeros(batch, LATENT_CHANNELS, LATENT_ROWS, 0)
        padded = self.log_mel.pad(waveform.flatten(0, 1))
        window_excess = padded.shape[-1] - waveform.shape[-1]  # samples that the windows of a stretch reach past its frames
        halo, columns = self.dcae.encoder_halo, self.dcae.encoder_columns_per_latent
        pieces = []
        for start, stop in spans(num_latents, self.piece_latents):
            low, high = max(start - halo, 0), min(stop + halo, num_latents)
            mel = self.log_mel.frames(padded[:, low * SAMPLES_PER_LATENT : high * SAMPLES_PER_LATENT + window_excess])
            images = (mel - MEL_MIN) * (2 / (MEL_MAX - MEL_MIN)) - 1
            images = images.reshape(batch, channels, *images.shape[1:]).expand(batch, 2, -1, -1)  # mono is doubled
            pieces.append(self.dcae.encode_local(images)[..., (start - low) * columns : (stop - low) * columns].clone())
            yield
        return (self.dcae.encode_global(torch.cat(pieces, dim=-1)) - LATENT_SHIFT) * LATENT_SCALE

    @torch.inference_mode()
    def decode(self, latents: Tensor, sample_rate: int) -> Iterator[Tensor]:
        """Decode latents to a waveform, piece by piece.

        Args:
            latents: [8, 16, T] float32.
            sample_rate: Wanted rate in Hz.
        Yields:
            [2, S] float32 on the CPU; put together they have num_samples(T, sample_rate) samples.
        """
        num_latents = latents.shape[-1]
        if num_latents == 0:
            return
        hidden_states = self._decode_global(latents)
        resampler = Resampler(SAMPLE_RATE, sample_rate)
        cuts = [(start * FRAMES_PER_LATENT, stop * FRAMES_PER_LATENT) for start, stop in spans(num_latents, self.piece_latents)]
        samples_left = num_latents * SAMPLES_PER_LATENT
        for waveform in self.vocoder.stream(lambda start, stop: self._decode_mel(hidden_states, start, stop), cuts):
            samples_left -= waveform.shape[-1]
            yield resampler.push(waveform, last=samples_left == 0).cpu()

    @torch.inference_mode()
    def decode_mel(self, latents: Tensor) -> Tensor:
        """The log-mel that the vocoder is given, of a whole song at once, [8, 16, T] -> [2, 128, 8 T]."""
        return self._decode_mel(self._decode_global(latents), 0, latents.shape[-1] * FRAMES_PER_LATENT)

    def _decode_global(self, latents: Tensor) -> Tensor:
        return self.dcae.decode_global((latents.to(self.device, torch.float32) / LATENT_SCALE + LATENT_SHIFT)[None])

    def _decode_mel(self, hidden_states: Tensor, start: int, stop: int) -> Tensor:
        """Log-mel of the frames start to stop, [2, 128, stop - start], from the attention level's output for the whole song."""
        if start == stop:
            return hidden_states.new_empty(IMAGE_CHANNELS, NUM_MELS, 0, dtype=torch.float32)
        columns = self.dcae.decoder_columns_per_latent
        low = max(start // FRAMES_PER_LATENT - self.dcae.decoder_halo, 0)
        high = -(-stop // FRAMES_PER_LATENT) + self.dcae.decoder_halo
        images = self.dcae.decode_local(hidden_states[..., low * columns : high * columns])[0]
        images = images[..., start - low * FRAMES_PER_LATENT : stop - low * FRAMES_PER_LATENT]
        return (images + 1) * ((MEL_MAX - MEL_MIN) / 2) + MEL_MIN


def num_samples(num_latents: int, sample_rate: int) -> int:
    """Samples per channel of num_latents latent frames at sample_rate."""
    return num_output_samples(num_latents * SAMPLES_PER_LATENT, SAMPLE_RATE, sample_rate)
