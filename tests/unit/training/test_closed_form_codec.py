import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC
from torch import Tensor

from tests.unit.vae_svc.conftest import VOCODER_CONFIG
from training import checkpoint_layout
from training.closed_form_codec import ClosedFormCodec, fit, normalised_log_mel, write, write_griffin_lim
from training.init_checkpoint import write_weights
from vae_svc.codec import LATENT_SCALE, LATENT_SHIFT, Codec
from vae_svc.model.griffin_lim_config import GriffinLimConfig
from vae_svc.model.mel import LogMel, MelConfig
from vae_svc.weights import load_codec, read_vocoder_config

RATE = 44100
LATENTS_EXACT = 1e-3
IMAGES_EXACT = 1e-2
MIB = 2**20


def clip(seed: int, seconds: float = 2.0) -> Tensor:
    """A chirp with partials panned to one side, and bursts of noise: [2, S]."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.arange(int(seconds * RATE)) / RATE
    low, high, pan = torch.rand(3, generator=generator)
    phase = 2 * torch.pi * ((60 + 400 * low) * times + 300 * high * times.square())
    tone = sum((torch.sin(partial * phase) / partial for partial in range(1, 9)), torch.zeros_like(times))
    noise = torch.randn(len(times), generator=generator) * torch.exp(-30 * (times % (0.2 + 0.3 * float(low))))
    return torch.stack([pan * tone + noise, (1 - pan) * tone + noise]) * 0.2


def images(seeds: range) -> Iterator[Tensor]:
    log_mel = LogMel(MelConfig(), torch.device("cpu"))
    return (normalised_log_mel(clip(seed), log_mel) for seed in seeds)


@pytest.fixture(scope="module")
def fitted() -> ClosedFormCodec:
    return fit(images(range(12)))


@pytest.fixture(scope="module")
def loaded(fitted: ClosedFormCodec, tmp_path_factory: pytest.TempPathFactory) -> Callable[[torch.dtype], Codec]:
    """The codec stage over the file of a type, beside a tiny vocoder."""

    def load(dtype: torch.dtype) -> Codec:
        folder = tmp_path_factory.mktemp("closed_form")
        write(fitted, folder, dtype)
        vocoder = folder / "music_vocoder"
        vocoder.mkdir()
        config = VOCODER_CONFIG | {"n_fft": 2048, "win_length": 2048, "f_min": 40, "f_max": 16000}
        (vocoder / "config.json").write_text(json.dumps(config))
        write_weights(vocoder, "diffusion_pytorch_model", checkpoint_layout.vocoder(config), 0, torch.float32)
        return load_codec(folder, torch.device("cpu"), torch.float32).codec

    return load


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_network_on_disk_equals_the_matrices(fitted: ClosedFormCodec, loaded: Callable[[torch.dtype], Codec], dtype: torch.dtype):
    codec = loaded(dtype)
    [image] = images(range(20, 21))
    latents = codec.encode(clip(20), RATE)
    torch.testing.assert_close(fitted.encode(image), latents, atol=LATENTS_EXACT, rtol=0)
    with torch.inference_mode():
        decoded = codec.dcae.decode_local(codec.dcae.decode_global((latents / LATENT_SCALE + LATENT_SHIFT)[None]))[0]
    torch.testing.assert_close(fitted.decode(latents), decoded, atol=IMAGES_EXACT, rtol=0)


@torch.inference_mode()
def test_diffusers_loads_the_file_by_itself(fitted: ClosedFormCodec, tmp_path: Path):
    write(fitted, tmp_path)
    autoencoder = AutoencoderDC.from_pretrained(tmp_path / "music_dcae_f8c8", torch_dtype=torch.float32)
    [image] = images(range(20, 21))
    raw = autoencoder.encode(image[None]).latent[0]
    latents = (raw - LATENT_SHIFT) * LATENT_SCALE
    torch.testing.assert_close(fitted.encode(image), latents, atol=LATENTS_EXACT, rtol=0)
    torch.testing.assert_close(fitted.decode(latents), autoencoder.decode(raw[None]).sample[0], atol=IMAGES_EXACT, rtol=0)


def test_latents_of_the_material_have_mean_0_and_unit_deviation_within_a_band(fitted: ClosedFormCodec):
    latents = torch.cat([fitted.encode(image) for image in images(range(12))], dim=-1)
    torch.testing.assert_close(latents.mean(dim=(1, 2)), torch.zeros(8), atol=2e-3, rtol=0)
    within = (latents - latents.mean(dim=2, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(within, torch.ones(8), atol=2e-3, rtol=0)


def test_the_reported_error_is_the_measured_one(fitted: ClosedFormCodec):
    errors = torch.cat([(fitted.decode(fitted.encode(image)) - image).square() for image in images(range(12))], dim=-1)
    assert float(errors.mean()) == pytest.approx(fitted.image_mse, rel=0.02)
    spread = torch.cat(list(images(range(12))), dim=-1).var()
    assert fitted.image_mse < 0.2 * spread


def test_equal_material_gives_equal_files(fitted: ClosedFormCodec, tmp_path: Path):
    again = fit(images(range(12)))
    write(fitted, tmp_path / "one")
    write(again, tmp_path / "other")
    one, other = ((tmp_path / name / "music_dcae_f8c8" / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other
    assert len(one) < 1.2 * MIB


def test_a_batch_is_encoded_and_decoded_item_by_item(fitted: ClosedFormCodec):
    batch = torch.stack(list(images(range(3))))
    latents = fitted.encode(batch)
    assert latents.shape == (3, 8, 16, batch.shape[-1] // 8)
    torch.testing.assert_close(latents[1], fitted.encode(batch[1]))
    torch.testing.assert_close(fitted.decode(latents)[2], fitted.decode(latents[2]))


def test_frames_beyond_a_patch_are_left_out():
    whole = list(images(range(3)))
    torn = [torch.cat([image, torch.full((2, 128, 5), 9.0)], dim=-1) for image in whole]
    assert torch.equal(fit(torn).encoder_weight, fit(whole).encoder_weight)


def test_material_without_variety_is_refused():
    with pytest.raises(ValueError, match="no mel"):
        fit([torch.zeros(2, 128, 7)])
    with pytest.raises(ValueError, match="fewer than 8 directions"):
        fit([torch.full((2, 128, 64), -0.8)])


def test_a_codec_without_any_training_returns_the_sound(fitted: ClosedFormCodec, tmp_path: Path):
    write(fitted, tmp_path)
    write_griffin_lim(GriffinLimConfig(iterations=8), tmp_path)
    assert read_vocoder_config(tmp_path / "music_vocoder") == GriffinLimConfig(iterations=8)
    codec = load_codec(tmp_path, torch.device("cpu"), torch.float32).codec
    waveform = clip(20)[:, : 20 * 4096]
    again = torch.cat(list(codec.decode(codec.encode(waveform, RATE), RATE)), dim=-1)
    assert again.shape == waveform.shape
    errors = (codec.log_mel(again) - codec.log_mel(waveform)).abs()
    assert float(errors.mean()) < 0.6  # nats; the components alone leave 0.4
    with pytest.raises(FileExistsError):
        write_griffin_lim(GriffinLimConfig(), tmp_path)


def test_a_checkpoints_autoencoder_is_never_overwritten(fitted: ClosedFormCodec, tmp_path: Path):
    write(fitted, tmp_path)
    with pytest.raises(FileExistsError):
        write(fitted, tmp_path)
    shutil.rmtree(tmp_path / "music_dcae_f8c8")
    write(fitted, tmp_path)
