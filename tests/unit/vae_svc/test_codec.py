import subprocess
import sys

import pytest
import torch

from vae_svc.codec import LATENT_SCALE, LATENT_SHIFT, MEL_MAX, MEL_MIN, PIECE_LATENTS, Codec, num_samples
from vae_svc.model.dcae import Dcae
from vae_svc.model.resample import resample
from vae_svc.weights import load_codec

PIECE = 16
SONG_LATENTS = 2583  # 240 seconds
EXACT = 1e-5
ENCODE_ROUNDING = 5e-5  # of values up to 10: pieces and batches of other sizes run other kernels


@pytest.fixture(scope="module")
def in_small_pieces(codec) -> Codec:
    """The same networks with pieces of 16 frames."""
    small = Codec.__new__(Codec)
    small.__dict__.update(codec.__dict__)
    small.piece_latents = PIECE
    small.dcae = Dcae.__new__(Dcae)
    small.dcae.__dict__.update(codec.dcae.__dict__)
    small.dcae.piece_width = PIECE
    return small


@torch.inference_mode()
def decode_whole(codec: Codec, latents: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """The yardstick: diffusers' decoder on the whole latents, the vocoder on the whole mel, one resampling."""
    images = codec.dcae.decoder((latents / LATENT_SCALE + LATENT_SHIFT)[None])[0]
    mel = (images * 0.5 + 0.5) * (MEL_MAX - MEL_MIN) + MEL_MIN
    return resample(codec.vocoder(mel), 44100, sample_rate)


@torch.inference_mode()
def encode_whole(codec: Codec, waveform: torch.Tensor) -> torch.Tensor:
    """The yardstick at 44.1 kHz."""
    waveform = torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % 4096))
    images = (codec.log_mel(waveform) - MEL_MIN) / (MEL_MAX - MEL_MIN) * 2 - 1
    return (codec.dcae.encoder(images[None])[0] - LATENT_SHIFT) * LATENT_SCALE


@pytest.mark.parametrize("sample_rate", [44100, 48000])
@pytest.mark.parametrize("length", [1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 75])
def test_pieces_put_together_equal_the_whole_decode(codec, in_small_pieces, latents, length, sample_rate):
    pieces = list(in_small_pieces.decode(latents(length), sample_rate))
    waveform = torch.cat(pieces, dim=-1)
    assert len(pieces) == -(-length // PIECE)
    assert waveform.shape == (2, num_samples(length, sample_rate))
    torch.testing.assert_close(waveform, decode_whole(codec, latents(length), sample_rate), atol=EXACT, rtol=0)


@pytest.mark.parametrize("length", [PIECE_LATENTS, PIECE_LATENTS + 1, 2 * PIECE_LATENTS, SONG_LATENTS])
def test_pieces_of_the_default_size_equal_the_whole_decode(codec, latents, length):
    waveform = torch.cat(list(codec.decode(latents(length), 48000)), dim=-1)
    torch.testing.assert_close(waveform, decode_whole(codec, latents(length), 48000), atol=EXACT, rtol=0)


def test_every_part_of_the_sound_follows_its_latents(codec, latents):
    changed = latents(40).clone()
    changed[..., 30:] = 0.0
    one, other = (torch.cat(list(codec.decode(item, 44100)), dim=-1) for item in (latents(40), changed))
    assert float(one.std()) > 0.05
    assert float((one - other)[:, 30 * 4096 :].std()) > 0.05


def test_the_length_is_4096_samples_a_frame_at_the_wanted_rate(codec, latents):
    for sample_rate in (8000, 44100, 48000, 192000):
        waveform = torch.cat(list(codec.decode(latents(3), sample_rate)), dim=-1)
        assert waveform.shape[-1] == num_samples(3, sample_rate) == -(-4096 * 3 * sample_rate // 44100)


def test_no_latents_give_no_audio(codec):
    assert list(codec.decode(torch.zeros(8, 16, 0), 48000)) == []


def test_the_first_piece_leaves_before_the_second_is_begun(in_small_pieces, latents):
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = in_small_pieces.vocoder.register_forward_hook(count)
    pieces = in_small_pieces.decode(latents(5 * PIECE), 48000)
    next(pieces)
    handle.remove()
    assert calls == 1


def test_the_channels_are_not_mixed_up(codec, latents):
    images = codec.dcae.decode_local(codec.dcae.decode_global((latents(4) / LATENT_SCALE + LATENT_SHIFT)[None]))[0]
    mel = (images + 1) * 7 - 11
    waveform = torch.cat(list(codec.decode(latents(4), 44100)), dim=-1)
    for channel in (0, 1):
        torch.testing.assert_close(waveform[channel], codec.vocoder(mel[channel : channel + 1])[0], atol=EXACT, rtol=0)


@pytest.mark.parametrize("samples", [1, 4096, 4097, PIECE * 4096, PIECE * 4096 + 1, 200_000])
def test_pieces_equal_the_whole_encode(codec, in_small_pieces, samples):
    waveform = 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    latents = in_small_pieces.encode(waveform, 44100)
    assert latents.shape == (8, 16, -(-samples // 4096))
    torch.testing.assert_close(latents, encode_whole(codec, waveform), atol=ENCODE_ROUNDING, rtol=0)


def test_encode_resamples_first(codec):
    waveform = 0.3 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        codec.encode(waveform, 16000), encode_whole(codec, resample(waveform, 16000, 44100)), atol=ENCODE_ROUNDING, rtol=0
    )


def test_mono_is_doubled(codec):
    waveform = 0.3 * torch.randn(1, 20000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(codec.encode(waveform, 44100), codec.encode(waveform.expand(2, -1), 44100), atol=ENCODE_ROUNDING, rtol=0)


def test_items_of_a_batch_are_encoded_each_for_itself(codec):
    waveforms = 0.3 * torch.randn(3, 2, 20000, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(waveforms, 44100)
    assert latents.shape == (3, 8, 16, 5)
    for waveform, item in zip(waveforms, latents, strict=True):
        torch.testing.assert_close(item, codec.encode(waveform, 44100), atol=ENCODE_ROUNDING, rtol=0)


def test_an_empty_waveform_gives_no_latents(codec):
    assert codec.encode(torch.zeros(2, 0), 48000).shape == (8, 16, 0)


def test_bfloat16_keeps_samples_finer_than_its_own_steps(checkpoint, codec, latents):
    low = load_codec(checkpoint, torch.device("cpu"), torch.bfloat16).codec
    waveform = torch.cat(list(low.decode(latents(20), 48000)), dim=-1)
    assert waveform.dtype == torch.float32
    assert not torch.equal(waveform, waveform.bfloat16().float())
    reference = torch.cat(list(codec.decode(latents(20), 48000)), dim=-1)
    assert float((waveform - reference).square().mean().sqrt()) < 0.2 * float(reference.std())


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from vae_svc.weights import load_codec
codec = load_codec(Path(sys.argv[1]), torch.device("cpu"), torch.float32).codec
for _ in codec.decode(torch.zeros(8, 16, int(sys.argv[2])), 48000):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_peak_memory_at_240_seconds_is_within_a_fifth_of_that_at_60(checkpoint):
    def peak_bytes(length: int) -> int:
        command = [sys.executable, "-c", MEASURE, str(checkpoint), str(length)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    at_60, at_240 = peak_bytes(645), peak_bytes(SONG_LATENTS)
    assert at_240 < 1.2 * at_60
    assert at_240 - at_60 < 64 * 2**20
