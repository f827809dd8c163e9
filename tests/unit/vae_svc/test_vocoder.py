import dataclasses

import pytest
import torch

from vae_svc.model.vocoder import Upsample, Vocoder
from vae_svc.model.vocoder_config import VocoderConfig, config_from_dict, receptive_frames

TINY = VocoderConfig(
    depths=(1, 1),
    dims=(8, 12),
    resblock_kernel_sizes=(3, 5),
    resblock_dilation_sizes=((1, 3), (1, 2)),
    num_mels=12,
    upsample_initial_channel=128,
    pre_conv_kernel_size=7,
    post_conv_kernel_size=5,
)


def vocoder(config: VocoderConfig) -> Vocoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vocoder(config).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
            if name.endswith("gamma"):
                parameter += 1.0
    return model


def test_the_official_architecture_sees_91_frames_on_either_side():
    assert receptive_frames(VocoderConfig()) == 91


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, kernel_sizes=(3, 11)),
        dataclasses.replace(TINY, depths=(3, 2)),
        dataclasses.replace(TINY, upsample_rates=(8, 8, 8), upsample_kernel_sizes=(16, 12, 8)),
    ],
    ids=["plain", "several kernel sizes", "deeper", "other rates"],
)
def test_no_sample_sees_further_than_the_receptive_frames(config):
    model = vocoder(config).double()
    reach = receptive_frames(config)
    frames, changed = 4 * reach, 2 * reach
    mel = torch.randn(1, 128, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other = mel.clone()
    other[..., changed] += 3.0
    differs = (model(mel) - model(other)).abs().reshape(frames, 512).amax(1).nonzero()[:, 0]
    assert changed - reach <= int(differs.min())
    assert int(differs.max()) <= changed + reach
    assert int(differs.max()) - int(differs.min()) > reach  # the bound is no wild guess


def test_several_kernel_sizes_add_parallel_branches_under_blocks():
    names = Vocoder(dataclasses.replace(TINY, kernel_sizes=(3, 7))).state_dict()
    assert names["backbone.stages.1.0.blocks.0.dwconv.weight"].shape == (12, 1, 3)
    assert names["backbone.stages.1.0.blocks.1.dwconv.weight"].shape == (12, 1, 7)


def test_one_kernel_size_has_no_blocks():
    assert "backbone.stages.1.0.dwconv.weight" in Vocoder(TINY).state_dict()


@pytest.mark.parametrize(("kernel_size", "rate"), [(8, 4), (4, 2), (16, 4), (7, 3), (3, 1)])
def test_upsampling_is_a_transposed_convolution(kernel_size, rate):
    layer = Upsample(6, 3, kernel_size, rate).double().requires_grad_(False)
    hidden_states = torch.randn(2, 6, 19, dtype=torch.float64)
    torch.testing.assert_close(layer(hidden_states), torch.nn.ConvTranspose1d.forward(layer, hidden_states))


def test_the_waveform_has_512_samples_a_frame_within_one():
    waveform = vocoder(TINY)(torch.randn(2, 128, 5))
    assert waveform.shape == (2, 5 * 512)
    assert float(waveform.abs().max()) <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_template": True}, "use_template"),
        ({"dims": [128, 256, 384]}, "depths and dims"),
        ({"num_mels": 100}, "num_mels"),
        ({"upsample_rates": [4, 4, 2, 2, 2, 2, 4]}, "hop_length"),
        ({"upsample_kernel_sizes": [9, 8, 4, 4, 4, 4, 4]}, "even"),
        ({"kernel_sizes": [6]}, "odd"),
        ({"n_mels": 80}, "input_channels"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_dict(change)


def test_an_empty_config_is_the_official_one():
    assert config_from_dict({}) == VocoderConfig()
