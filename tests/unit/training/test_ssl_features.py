import pytest
import torch

from training.ssl_features import MERT, MHUBERT, SOURCE_RATE, SslInput, prepare, ssl_features

SMALL = SslInput(sample_rate=16_000, chunk_samples=3200)


def first_samples(chunks: torch.Tensor) -> torch.Tensor:
    """One frame every 320 samples: [first sample, number of chunks in the forward]."""
    first = chunks[:, ::320]
    return torch.stack([first, torch.full_like(first, len(chunks))], dim=-1)


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, round(seconds * SOURCE_RATE), generator=torch.Generator().manual_seed(seed))


def test_prepared_signal_has_mean_0_and_variance_1():
    signal = prepare(5 * noise(0.5) + 3, 24_000)
    assert signal.shape == (12_000,)
    assert signal.mean().abs() < 1e-5
    assert signal.var().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("samples", [3, 4, 5, 48_000])
def test_constant_and_shortest_audio_become_finite(samples):
    signal = prepare(torch.full((2, samples), 0.25), 16_000)
    assert len(signal) == samples // 3
    assert torch.isfinite(signal).all()


def test_audio_without_a_sample_is_an_error():
    with pytest.raises(ValueError, match="2 samples has none at 16000 Hz"):
        ssl_features([noise(1.0), torch.zeros(2, 2)], SMALL, first_samples)


def test_frames_are_the_first_sample_of_each_320_across_chunks():
    waveform = noise(0.45)
    (features,) = ssl_features([waveform], SMALL, first_samples)
    signal = prepare(waveform, 16_000)  # 7200 samples: chunks of 3200, 3200 and 800
    assert len(features) == 10 + 10 + 3
    assert torch.equal(features[:, 0], signal[::320])


def test_items_are_the_same_alone_and_in_company():
    waveforms = [noise(0.45, 1), 1e-3 * noise(0.21, 2), noise(0.8, 3)]
    together = ssl_features(waveforms, SMALL, first_samples)
    for waveform, features in zip(waveforms, together, strict=True):
        (alone,) = ssl_features([waveform], SMALL, first_samples)
        assert torch.equal(alone[:, 0], features[:, 0])


def test_forwards_hold_at_most_so_many_chunks():
    features = ssl_features([noise(0.45), noise(0.21)], SMALL, first_samples, chunks_per_forward=2)
    assert torch.cat(features)[:, 1].unique().tolist() == [1, 2]  # five chunks


def test_encoder_that_gives_fewer_frames_is_not_padded():
    (features,) = ssl_features([noise(0.4)], SMALL, lambda chunks: first_samples(chunks)[:, :9])
    assert len(features) == 18


def test_encoders_hear_five_and_thirty_seconds():
    assert (MERT.chunk_samples / MERT.sample_rate, MHUBERT.chunk_samples / MHUBERT.sample_rate) == (5, 30)
