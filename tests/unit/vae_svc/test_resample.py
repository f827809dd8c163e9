import math

import pytest
import torch

from vae_svc.model.resample import Resampler, _kernel, num_output_samples, resample


def naive(signal: list[float], old: int, new: int) -> list[float]:
    """The definition: every output is a sum over all inputs."""
    base = min(old, new) * 0.99
    outputs = []
    for m in range(-(-len(signal) * new // old)):
        total = 0.0
        for index, value in enumerate(signal):
            time = (index / old - m / new) * base
            if abs(time) < 6:
                sinc = 1.0 if time == 0 else math.sin(math.pi * time) / (math.pi * time)
                total += value * math.cos(math.pi * time / 12) ** 2 * sinc * base / old
        outputs.append(total)
    return outputs


@pytest.mark.parametrize(("old", "new"), [(3, 2), (2, 3), (1, 4), (4, 1), (147, 160)])
def test_resampling_is_the_windowed_sinc_sum(old, new):
    signal = torch.randn(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample(signal, old, new), torch.tensor(naive(signal.tolist(), old, new)), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(44100, 48000), (48000, 44100), (44100, 8000), (16000, 44100), (44100, 44101)])
@pytest.mark.parametrize("sizes", [[4000], [1, 1, 3998], [1000, 0, 3, 2997], [3999, 1]])
def test_pieces_put_together_equal_the_whole_bit_for_bit(old, new, sizes):
    signal = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    resampler = Resampler(old, new)
    pieces = torch.split(signal, sizes, dim=-1)
    output = torch.cat([resampler.push(piece, last=index == len(pieces) - 1) for index, piece in enumerate(pieces)], dim=-1)
    assert output.shape[-1] == num_output_samples(4000, old, new) == -(-4000 * new // old)
    assert torch.equal(output, resample(signal, old, new))


def test_a_tone_keeps_its_shape():
    times = torch.arange(48000, dtype=torch.float64) / 48000
    tone = resample(torch.sin(2 * math.pi * 440 * times).float(), 48000, 44100)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(44100, dtype=torch.float64) / 44100).float()
    torch.testing.assert_close(tone[200:-200], expected[200:-200], atol=2e-3, rtol=0)


def test_equal_rates_change_nothing():
    signal = torch.randn(2, 100)
    assert torch.equal(resample(signal, 44100, 44100), signal)


def test_rates_without_a_common_divisor_need_a_small_kernel():
    assert _kernel(191999, 44100).numel() < 4_000_000  # a dense one has 8e9 taps


def test_an_empty_waveform_stays_empty():
    assert resample(torch.zeros(2, 0), 48000, 44100).shape == (2, 0)
