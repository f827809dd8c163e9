import math

import pytest
import torch
from torch import Tensor

from tests.unit.vae_svc.conftest import GRIFFIN_LIM_CONFIG
from vae_svc.codec import PIECE_LATENTS, Codec, num_samples
from vae_svc.model.griffin_lim import MelGriffinLim
from vae_svc.model.griffin_lim_config import GriffinLimConfig, griffin_lim_config_from_dict
from vae_svc.model.mel import LogMel, MelConfig
from vae_svc.weights import load_codec

CPU = torch.device("cpu")
RATE = 44100
HOP = 512
SMALL = griffin_lim_config_from_dict({name: value for name, value in GRIFFIN_LIM_CONFIG.items() if not name.startswith("_")})
LOG_MEL = LogMel(MelConfig(), CPU)
QUIET = 10 ** (-80 / 20)


@pytest.fixture(scope="module")
def vocoder() -> MelGriffinLim:
    """As it ships, but for windows of 1.5 s."""
    return MelGriffinLim(GriffinLimConfig(window_frames=128, overlap_frames=32), CPU)


def sine(hertz: float, num_frames: int) -> Tensor:
    times = torch.arange(num_frames * HOP, dtype=torch.float64) / RATE
    return (0.3 * torch.sin(2 * math.pi * hertz * times)).float().expand(2, -1).contiguous()


def chord(num_frames: int) -> Tensor:
    """Three notes with partials, louder on the left; struck every 40 frames, with a burst of noise on the right."""
    times = torch.arange(num_frames * HOP) / RATE
    since = times % (40 * HOP / RATE)
    notes = [torch.sin(2 * math.pi * root * k * times) / k for root in (220.0, 277.2, 329.6) for k in range(1, 6)]
    tone = torch.stack(notes).sum(0) * torch.exp(-2 * since) * 0.05
    noise = torch.randn(len(times), generator=torch.Generator().manual_seed(0)) * torch.exp(-40 * since) * 0.2
    return torch.stack([tone, 0.6 * tone + noise])


def spectral_convergence(waveform: Tensor, reference: Tensor) -> float:
    magnitudes, target = LOG_MEL.magnitudes(LOG_MEL.pad(waveform)), LOG_MEL.magnitudes(LOG_MEL.pad(reference))
    return float((magnitudes - target).norm() / target.norm())


@pytest.mark.parametrize("hertz", [110.0, 440.0, 1234.5, 5000.0])
def test_a_sine_stays_a_sine(vocoder, hertz):
    num_frames = 300  # three windows
    waveform = vocoder(LOG_MEL(sine(hertz, num_frames)))
    size = 2048
    for start in range(8192, num_frames * HOP - 8192 - size, 4096):  # joins of windows among them
        spectrum = torch.fft.rfft(waveform[:, start : start + size] * torch.hann_window(size)).abs()
        peak = spectrum.argmax(dim=-1)
        assert ((peak - hertz * size / RATE).abs() <= 1).all()
        near = torch.stack([row[max(int(bin_) - 6, 0) : int(bin_) + 7].square().sum() for row, bin_ in zip(spectrum, peak, strict=True)])
        assert (near / spectrum.square().sum(dim=-1) > 0.9).all()


def test_silence_stays_silence(vocoder):
    waveform = vocoder(LOG_MEL(torch.zeros(2, 200 * HOP)))
    assert float(waveform.abs().max()) < QUIET


def test_sound_comes_back_where_it_was(vocoder):
    waveform = chord(200)
    mel = LOG_MEL(waveform)
    again = vocoder(mel)
    assert again.shape == waveform.shape
    assert spectral_convergence(again, waveform) < 0.45
    for shift in (-HOP // 4, HOP // 4):
        assert spectral_convergence(again.roll(shift, -1), waveform) > spectral_convergence(again, waveform)
    assert float((LOG_MEL(again) - mel).abs().mean()) < 0.35


def test_channels_stay_together(vocoder):
    """Their sum sounds as good as they do: phases that drift apart would cancel."""
    mono = chord(150)[:1]
    waveform = torch.cat([mono, 0.5 * mono])
    again = vocoder(LOG_MEL(waveform))
    assert spectral_convergence(again.mean(0, keepdim=True), waveform.mean(0, keepdim=True)) < 1.1 * spectral_convergence(again, waveform)


def test_joins_of_windows_are_as_good_as_the_rest(vocoder):
    waveform = chord(420)
    again = vocoder(LOG_MEL(waveform))
    errors = (LOG_MEL(again) - LOG_MEL(waveform)).abs().mean(dim=(0, 1))
    joins = torch.cat([errors[start + 6 : start + 22] for start in (96, 192, 288)])
    assert float(joins.mean()) < 1.25 * float(errors.mean())


def test_windows_agree_where_they_are_faded():
    """The middle of a fade between two sounds that only resemble each other has less power, down to half."""
    vocoder = MelGriffinLim(GriffinLimConfig(window_frames=64, overlap_frames=32), CPU)
    noise = 0.1 * torch.randn(2, 800 * HOP, generator=torch.Generator().manual_seed(0))
    power = vocoder(LOG_MEL(noise)).square().mean(dim=0)
    middles = torch.cat([power[(start + 13) * HOP : (start + 15) * HOP] for start in range(32, 736, 32)])
    assert float(middles.mean()) > 0.95 * float(power.mean())


def test_the_length_is_a_hop_a_frame():
    vocoder = MelGriffinLim(SMALL, CPU)
    for num_frames in (8, 16, 56, 64, 72, 112, 120, 200):
        assert vocoder(torch.full((2, 128, num_frames), -4.0)).shape == (2, num_frames * HOP)


def test_a_sound_does_not_depend_on_what_comes_after_its_window():
    vocoder = MelGriffinLim(SMALL, CPU)
    mel = LOG_MEL(chord(240))
    changed = mel.clone()
    changed[..., 160:] = -9.0
    settled = (2 * 48 + 6) * HOP  # two hops, and what of the overlap is out before the third window
    one, other = vocoder(mel), vocoder(changed)
    assert torch.equal(one[:, :settled], other[:, :settled])
    assert not torch.equal(one, other)


def decode(codec: Codec, latents: Tensor, piece_latents: int, sample_rate: int) -> list[Tensor]:
    cut = Codec.__new__(Codec)
    cut.__dict__.update(codec.__dict__)
    cut.piece_latents = piece_latents
    return list(cut.decode(latents, sample_rate))


@pytest.fixture(scope="module")
def codec(griffin_lim_checkpoint) -> Codec:
    return load_codec(griffin_lim_checkpoint, CPU, torch.float32).codec


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_any_cutting_of_the_stream_gives_identical_samples(codec, latents, sample_rate):
    whole = torch.cat(decode(codec, latents(30), PIECE_LATENTS, sample_rate), dim=-1)
    assert whole.shape == (2, num_samples(30, sample_rate))
    for piece_latents in (1, 7, 16, 30):
        assert torch.equal(torch.cat(decode(codec, latents(30), piece_latents, sample_rate), dim=-1), whole)


def test_the_first_piece_leaves_before_the_song_is_read():
    read = []

    def read_mel(start: int, stop: int) -> Tensor:
        read.append(stop)
        return torch.full((2, 128, stop - start), -4.0)

    next(MelGriffinLim(SMALL, CPU).stream(read_mel, [(0, 10_000)]))
    assert read == [SMALL.window_frames]


def test_every_part_of_the_sound_follows_its_latents(codec, latents):
    changed = latents(40).clone()
    changed[..., 30:] = 0.0
    one, other = (torch.cat(decode(codec, item, 128, 44100), dim=-1) for item in (latents(40), changed))
    assert float((one - other)[:, 31 * 4096 :].std()) > 0.1 * float(one.std())


def test_no_latents_give_no_audio(codec):
    assert decode(codec, torch.zeros(8, 16, 0), 128, 48000) == []
