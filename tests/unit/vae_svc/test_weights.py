import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.vae_svc.conftest import GRIFFIN_LIM_CONFIG
from vae_svc.model.griffin_lim import MelGriffinLim
from vae_svc.model.vocoder_config import VocoderConfig
from vae_svc.weights import (
    CheckpointError,
    LoadedCodec,
    build_dcae,
    build_vocoder,
    dcae_tensors,
    load_codec,
    mel_tensors,
    read_vocoder_config,
    vocoder_tensors,
)

FILE = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, torch.Tensor]


def load(folder: Path) -> LoadedCodec:
    return load_codec(folder, torch.device("cpu"), torch.float32)


@pytest.fixture
def changed(checkpoint: Path, tmp_path: Path) -> Callable[[str, Callable[[Tensors], None]], Path]:
    """A copy of the checkpoint whose tensors of one part went through a function."""

    def change(part: str, edit: Callable[[Tensors], None]) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(checkpoint, folder)
        tensors = load_file(folder / part / FILE)
        edit(tensors)
        save_file(tensors, folder / part / FILE)
        return folder

    return change


@pytest.mark.parametrize("part", ["music_dcae_f8c8", "music_vocoder"])
def test_a_misshapen_and_a_missing_tensor_stop_the_load(changed, part):
    name = {"music_dcae_f8c8": "decoder.conv_in.weight", "music_vocoder": "head.conv_pre.weight_v"}[part]
    folder = changed(part, lambda tensors: tensors.update({name: torch.zeros(2, 3)}))
    with pytest.raises(CheckpointError, match=rf"{part}.*{name} has shape \[2, 3\], expected"):
        load(folder)
    tensors = load_file(folder / part / FILE)
    del tensors[name]
    save_file(tensors, folder / part / FILE)
    with pytest.raises(CheckpointError, match=f"{part}.*{name} is missing"):
        load(folder)


def test_an_unexpected_tensor_is_named(changed):
    with pytest.raises(CheckpointError, match=r"music_vocoder.*head.extra.weight is unexpected"):
        load(changed("music_vocoder", lambda tensors: tensors.update({"head.extra.weight": torch.zeros(1)})))


def test_whole_numbers_are_no_weights(changed):
    with pytest.raises(CheckpointError, match="expected floating point"):
        load(changed("music_vocoder", lambda tensors: tensors.update({"backbone.norm.bias": torch.zeros(12, dtype=torch.int64)})))


def test_weight_normalisation_is_folded(checkpoint):
    tensors = load_file(checkpoint / "music_vocoder" / FILE)
    model = load(checkpoint).codec.vocoder
    layers = {"head.conv_pre": model.head.conv_pre, "head.ups.0": model.head.ups[0]}
    for name, layer in layers.items():
        g, v = tensors[f"{name}.weight_g"], tensors[f"{name}.weight_v"]
        torch.testing.assert_close(layer.weight, torch._weight_norm(v, g, 0))


def test_the_newer_spelling_of_weight_normalisation_gives_the_same_weights(changed, checkpoint):
    def respell(tensors: Tensors) -> None:
        for name in list(tensors):
            for older, newer in (("weight_g", "original0"), ("weight_v", "original1")):
                if name.endswith(older):
                    tensors[name.removesuffix(older) + "parametrizations.weight." + newer] = tensors.pop(name)

    newer = load(changed("music_vocoder", respell)).codec.vocoder.state_dict()
    for name, tensor in load(checkpoint).codec.vocoder.state_dict().items():
        assert torch.equal(tensor, newer[name])


def test_buffers_of_the_mel_front_end_are_accepted_in_their_shape_only(changed):
    folder = changed(
        "music_vocoder",
        lambda tensors: tensors.update(
            {"mel_transform.spectrogram.window": torch.ones(2048), "mel_transform.mel_scale.fb": torch.ones(1025, 128)}
        ),
    )
    load(folder)
    tensors = load_file(folder / "music_vocoder" / FILE)
    save_file(tensors | {"mel_transform.mel_scale.fb": torch.ones(513, 128)}, folder / "music_vocoder" / FILE)
    with pytest.raises(CheckpointError, match=r"mel_transform.mel_scale.fb has shape \[513, 128\]"):
        load(folder)


def shard(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / (FILE + ".index.json")).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / FILE).unlink()


def test_shards_are_the_same_checkpoint(changed, checkpoint):
    folder = changed("music_dcae_f8c8", lambda tensors: None)
    shard(folder / "music_dcae_f8c8")
    assert load(folder).model_digest == load(checkpoint).model_digest
    (folder / "music_dcae_f8c8" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load(folder)


def test_an_index_cannot_lead_out_of_its_folder(changed):
    folder = changed("music_dcae_f8c8", lambda tensors: None)
    (folder / "music_dcae_f8c8" / FILE).unlink()
    (folder / "music_dcae_f8c8" / (FILE + ".index.json")).write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    with pytest.raises(CheckpointError, match="weight_map"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"no safetensors", bytes(64)])
def test_a_damaged_file_is_named(changed, content):
    folder = changed("music_vocoder", lambda tensors: None)
    (folder / "music_vocoder" / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"music_vocoder.*safetensors"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_config_is_named(changed, content):
    folder = changed("music_vocoder", lambda tensors: None)
    (folder / "music_vocoder" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"music_vocoder.config\.json"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="music_dcae_f8c8"):
        load(tmp_path)


def test_another_rate_than_the_codecs_is_refused(write_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="sampling_rate"):
        write_checkpoint(tmp_path, vocoder={"sampling_rate": 48000})


def test_the_digest_follows_the_weights(changed, checkpoint):
    folder = changed("music_vocoder", lambda tensors: tensors["head.conv_post.bias"].add_(1e-3))
    assert len(load(folder).model_digest) == 64
    assert load(folder).model_digest != load(checkpoint).model_digest


def test_the_digest_does_not_follow_the_compute_type(checkpoint):
    assert load_codec(checkpoint, torch.device("cpu"), torch.bfloat16).model_digest == load(checkpoint).model_digest


def test_only_the_ends_stay_float32_in_bfloat16(checkpoint):
    codec = load_codec(checkpoint, torch.device("cpu"), torch.bfloat16).codec
    float32 = {name.rsplit(".", 1)[0] for name, tensor in codec.vocoder.state_dict().items() if tensor.dtype == torch.float32}
    assert float32 == {"backbone.channel_layers.0.0", "backbone.channel_layers.0.1", "head.conv_post"}
    for half in (codec.dcae.encoder, codec.dcae.decoder):
        float32 = {name.rsplit(".", 1)[0] for name, tensor in half.state_dict().items() if tensor.dtype == torch.float32}
        assert float32 == {"conv_in", "conv_out"}


def test_official_sizes_have_the_official_number_of_parameters(tmp_path):
    for name, config in (
        (
            "dcae",
            {
                "in_channels": 2,
                "latent_channels": 8,
                "attention_head_dim": 32,
                "encoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
                "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
                "encoder_block_out_channels": [128, 256, 512, 1024],
                "decoder_block_out_channels": [128, 256, 512, 1024],
                "encoder_layers_per_block": [2, 2, 3, 3],
                "decoder_layers_per_block": [3, 3, 3, 3],
                "encoder_qkv_multiscales": [[], [], [5], [5]],
                "decoder_qkv_multiscales": [[], [], [5], [5]],
                "upsample_block_type": "interpolate",
                "downsample_block_type": "Conv",
            },
        ),
        ("vocoder", {"_class_name": "ADaMoSHiFiGANV1"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        dcae = dcae_tensors(build_dcae(tmp_path / "dcae"))
        config = read_vocoder_config(tmp_path / "vocoder")
        assert isinstance(config, VocoderConfig)
        vocoder = build_vocoder(config)
    assert sum(torch.Size(shape).numel() for shape in dcae.values()) == 156_812_426
    assert sum(torch.Size(shape).numel() for shape in vocoder_tensors(vocoder).values()) == 103_005_138
    assert mel_tensors(vocoder) == {"mel_transform.spectrogram.window": (2048,), "mel_transform.mel_scale.fb": (1025, 128)}


@pytest.fixture
def vocoder_folder(griffin_lim_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint whose vocoder without weights has other parameters."""

    def change(**values: object) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(griffin_lim_checkpoint, folder)
        (folder / "music_vocoder" / "config.json").write_text(json.dumps(GRIFFIN_LIM_CONFIG | values))
        return folder

    return change


def test_the_config_names_the_vocoder(checkpoint, griffin_lim_checkpoint):
    assert load(checkpoint).codec.vocoder.class_name == "ADaMoSHiFiGANV1"
    assert load(griffin_lim_checkpoint).codec.vocoder.class_name == "MelGriffinLim"


def test_a_config_without_a_class_name_is_the_official_vocoder(checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    path = folder / "music_vocoder" / "config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "_class_name"}))
    assert load(folder).codec.vocoder.class_name == "ADaMoSHiFiGANV1"


@pytest.mark.parametrize("kind", ["WaveRNN", 3, ["MelGriffinLim"]])
def test_an_unknown_vocoder_is_refused_with_the_known_ones(vocoder_folder, kind):
    with pytest.raises(CheckpointError, match=r"_class_name is .*; the known vocoders are ADaMoSHiFiGANV1, MelGriffinLim"):
        load(vocoder_folder(_class_name=kind))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("iteration", 32, "unknown: iteration"),
        ("iterations", 0, "iterations must be"),
        ("iterations", 1.5, "iterations, .* must be whole numbers"),
        ("momentum", 1.0, "momentum must be"),
        ("overlap_frames", 12, "overlap_frames must be a multiple"),
        ("overlap_frames", 0, "half of overlap_frames"),
        ("window_frames", 24, "window_frames must be at least"),
        ("n_fft", 1024, "n_fft must equal win_length"),
        ("sampling_rate", 48000, "sampling_rate"),
    ],
)
def test_parameters_that_make_no_vocoder_are_refused_by_name(vocoder_folder, name, value, reason):
    with pytest.raises(CheckpointError, match=rf"music_vocoder.config\.json: .*{reason}"):
        load(vocoder_folder(**{name: value}))


def test_weights_beside_a_vocoder_without_any_are_refused(vocoder_folder, checkpoint):
    folder = vocoder_folder()
    shutil.copy(checkpoint / "music_vocoder" / FILE, folder / "music_vocoder" / FILE)
    with pytest.raises(CheckpointError, match="MelGriffinLim has no weights"):
        load(folder)


def test_the_digest_follows_the_parameters_of_a_vocoder_without_weights(vocoder_folder, griffin_lim_checkpoint):
    assert load(vocoder_folder(iterations=5)).model_digest != load(griffin_lim_checkpoint).model_digest


def test_a_vocoder_without_weights_is_float32_whatever_the_codec(griffin_lim_checkpoint):
    vocoder = load_codec(griffin_lim_checkpoint, torch.device("cpu"), torch.bfloat16).codec.vocoder
    assert isinstance(vocoder, MelGriffinLim)
    assert vocoder(torch.full((2, 128, 16), -3.0)).dtype == torch.float32
