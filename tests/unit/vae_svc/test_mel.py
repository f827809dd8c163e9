import math

import pytest
import torch

from vae_svc.model.mel import LogMel, MelConfig, slaney_filterbank

CPU = torch.device("cpu")


@pytest.mark.parametrize("samples", [4096, 8192, 10000, 10240])
def test_a_frame_comes_for_each_started_hop_window(samples):
    assert LogMel(MelConfig(), CPU)(torch.zeros(2, samples)).shape == (2, 128, (samples + 1536 - 2048) // 512 + 1)


def test_digital_silence_lies_near_minus_ten_and_above_the_floor():
    mel = LogMel(MelConfig(), CPU)(torch.zeros(1, 4096))
    assert -10.2 < float(mel.min()) <= float(mel.max()) < -9.7


def test_a_tone_is_loudest_in_the_band_that_holds_it():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(44100) / 44100)[None]
    log_mel = LogMel(MelConfig(), CPU)
    band = int(log_mel(tone)[0, :, 40].argmax())
    frequencies = torch.linspace(0, 22050, 1025)
    assert abs(float(frequencies[log_mel.filterbank[:, band].argmax()]) - 1000) < 60


def test_wide_filters_have_unit_area():
    filterbank = slaney_filterbank(MelConfig())
    assert filterbank.shape == (1025, 128)
    torch.testing.assert_close(filterbank[:, 60:].sum(0) * 22050 / 1024, torch.ones(68), atol=0.02, rtol=0)


def test_filters_end_at_the_configured_frequencies():
    used = slaney_filterbank(MelConfig()).sum(1).nonzero()[:, 0] * 22050 / 1024
    assert 40 <= float(used.min()) < 80
    assert 15900 < float(used.max()) <= 16000


def test_a_stretch_of_the_padded_waveform_gives_the_same_frames():
    log_mel = LogMel(MelConfig(), CPU)
    waveform = torch.randn(2, 40960, generator=torch.Generator().manual_seed(0))
    padded = log_mel.pad(waveform)
    torch.testing.assert_close(log_mel.frames(padded[:, 10 * 512 : 30 * 512 + 1536]), log_mel(waveform)[..., 10:30], atol=1e-5, rtol=0)
