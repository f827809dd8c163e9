"""`acestep-train vocoder`: train the network that turns a log-mel into sound, on songs.

It learns from the log-mel's error, from spectra at several resolutions and, from the step `adversarial_from` on, against discriminators of
the waveform. It hears real log-mels, one channel at a time.

Checkpoints, samples and resumes are those of every trainer of the codec (`training/audio_run.py`).
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.adversarial import AdversarialTraining, Reconstruction
from training.audio_run import run_command, train_audio
from training.codec_checkpoint import trainable_vocoder
from training.codec_recipes import VOCODER_RECIPES, VocoderRecipe
from training.discriminators import waveform_discriminators
from training.spectral_losses import multi_resolution_stft_loss
from vae_svc.model.mel import LogMel
from vae_svc.model.vocoder import Vocoder


class VocoderTraining(AdversarialTraining):
    """The vocoder's trainer.

    Args:
        vocoder: From `trainable_vocoder`.
        recipe: Of the run.
    """

    def __init__(self, vocoder: Vocoder, recipe: VocoderRecipe) -> None:
        opponents = nn.ModuleList()
        if recipe.adversarial_from >= 0:
            opponents = waveform_discriminators(recipe.periods, recipe.resolutions, recipe.discriminator_width)
        super().__init__(vocoder, opponents, recipe, {"mel": recipe.mel_weight, "stft": recipe.stft_weight})
        self._mel_config = vocoder.config.mel
        self._stft_sizes = recipe.stft_sizes

    def reconstruct(self, waveforms: Tensor) -> Reconstruction:
        """Losses of waveforms [B, 1, S]."""
        real = waveforms[:, 0]
        with torch.autocast(real.device.type, enabled=False):
            log_mel = LogMel(self._mel_config, real.device)
            mel = log_mel(real)
        generated = self.network(mel).float()
        with torch.autocast(real.device.type, enabled=False):
            losses = {
                "mel": (log_mel(generated) - mel).abs().mean(),
                "stft": multi_resolution_stft_loss(generated, real, self._stft_sizes),
            }
        return Reconstruction(real, generated, losses)

    def resynthesise(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """From the log-mel of the song, in pieces as it is served; the log-mel is of the result."""
        vocoder: Any = self.network
        mel = LogMel(self._mel_config, self.device)(waveform.to(self.device))
        num_frames, piece = mel.shape[-1], 1024
        cuts = [(start, min(start + piece, num_frames)) for start in range(0, num_frames, piece)]
        made = torch.cat(list(vocoder.stream(lambda start, stop: mel[..., start:stop], cuts)), dim=-1)
        return made.cpu(), LogMel(self._mel_config, self.device)(made).cpu()


def train_vocoder(recipe: VocoderRecipe, ckpt_path: Path | None = None, max_time: float | None = None) -> Path:
    """Run a recipe; arguments and errors as of `train_audio`."""
    return train_audio(recipe, lambda: VocoderTraining(trainable_vocoder(recipe), recipe), True, ckpt_path, max_time)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    return run_command("vocoder", __doc__ or "", VocoderRecipe, VOCODER_RECIPES, train_vocoder, arguments)


if __name__ == "__main__":
    sys.exit(main())
