import json
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

from tests.unit.vae_svc.conftest import DCAE_CONFIG
from vae_svc.model.dcae import Dcae
from vae_svc.weights import CheckpointError, build_dcae

OFFICIAL = {
    "attention_head_dim": 32,
    "encoder_block_out_channels": [128, 256, 512, 1024],
    "decoder_block_out_channels": [128, 256, 512, 1024],
    "encoder_layers_per_block": [2, 2, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3],
}
ROUNDING = 2e-5  # of values about 10: other widths, other kernels
VARIANTS = {
    "plain": {},
    "pixel shuffles": {"upsample_block_type": "pixel_shuffle", "downsample_block_type": "pixel_unshuffle"},
    "attention in two levels": {
        "encoder_block_types": ["ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"],
        "decoder_block_types": ["ResBlock", "EfficientViTBlock", "ResBlock", "EfficientViTBlock"],
        "decoder_qkv_multiscales": [[], [5], [5], [5]],
    },
    "no attention": {"encoder_block_types": ["ResBlock"] * 4, "decoder_block_types": ["ResBlock"] * 4},
    "attention everywhere": {
        "encoder_block_types": ["EfficientViTBlock"] * 4,
        "decoder_block_types": ["EfficientViTBlock"] * 4,
    },
    "nothing in the deepest level": {
        "encoder_block_types": ["ResBlock"] * 4,
        "decoder_block_types": ["ResBlock"] * 4,
        "encoder_layers_per_block": [1, 1, 1, 0],
        "decoder_layers_per_block": [1, 1, 1, 0],
    },
    "deeper": {"decoder_layers_per_block": [3, 3, 3, 3], "encoder_layers_per_block": [2, 2, 3, 3]},
}


def build(folder: Path, changes: dict) -> AutoencoderDC:
    (folder / "config.json").write_text(json.dumps(DCAE_CONFIG | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_dcae(folder)


def test_the_official_architecture_needs_7_latent_frames_on_either_side(tmp_path):
    with torch.device("meta"):
        dcae = Dcae(build(tmp_path, OFFICIAL), 128)
    assert dcae.decoder_halo == 7
    assert (dcae.encoder_columns_per_latent, dcae.decoder_columns_per_latent) == (1, 1)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
@torch.inference_mode()
def test_both_parts_together_are_the_whole_network(tmp_path, changes):
    autoencoder = build(tmp_path, changes)
    dcae = Dcae(autoencoder, 128)
    latents = torch.randn(1, 8, 16, 9)
    images = torch.randn(1, 2, 128, 72)
    torch.testing.assert_close(dcae.decode_local(dcae.decode_global(latents)), autoencoder.decoder(latents))
    torch.testing.assert_close(dcae.encode_global(dcae.encode_local(images)), autoencoder.encoder(images))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
@torch.inference_mode()
def test_a_piece_with_its_halo_equals_that_piece_of_the_whole(tmp_path, changes):
    dcae = Dcae(build(tmp_path, changes), 128)
    start, stop = 20, 24
    hidden_states = dcae.decode_global(torch.randn(1, 8, 16, 44))
    columns, low, high = dcae.decoder_columns_per_latent, start - dcae.decoder_halo, stop + dcae.decoder_halo
    piece = dcae.decode_local(hidden_states[..., low * columns : high * columns])[..., 8 * (start - low) : 8 * (stop - low)]
    torch.testing.assert_close(piece, dcae.decode_local(hidden_states)[..., 8 * start : 8 * stop], atol=ROUNDING, rtol=0)

    images = torch.randn(1, 2, 128, 8 * 44)
    columns, low, high = dcae.encoder_columns_per_latent, start - dcae.encoder_halo, stop + dcae.encoder_halo
    piece = dcae.encode_local(images[..., 8 * low : 8 * high])[..., (start - low) * columns : (stop - low) * columns]
    torch.testing.assert_close(piece, dcae.encode_local(images)[..., start * columns : stop * columns], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("changes", [VARIANTS["plain"], VARIANTS["pixel shuffles"]], ids=["plain", "pixel shuffles"])
@torch.inference_mode()
def test_a_smaller_halo_would_not_do(tmp_path, changes):
    dcae = Dcae(build(tmp_path, changes), 128)
    hidden_states = dcae.decode_global(torch.randn(1, 8, 16, 44))
    low = 20 - dcae.decoder_halo + 1
    piece = dcae.decode_local(hidden_states[..., low:])[..., 8 * (20 - low) :]
    assert not torch.equal(piece[..., 0], dcae.decode_local(hidden_states)[..., 160])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 3}, "in_channels"),
        ({"latent_channels": 4, "encoder_out_shortcut": False}, "latent_channels"),
        ({"decoder_norm_types": "batch_norm"}, "rms_norm"),
        ({"decoder_layers_per_block": [0, 1, 1, 1]}, "at least one layer"),
        ({"decoder_block_types": ["Other"] * 4}, "Other"),
        ({"decoder_block_out_channels": [8, 8]}, "4 levels"),
    ],
)
def test_an_architecture_that_cannot_run_is_refused(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path, changes)
