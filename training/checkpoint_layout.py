"""Names, shapes and initial values of every tensor in the official checkpoint layout.

It knows what a file holds, the tensors that no inference reads included; it does not know what the networks compute. The DCAE and UMT5 are
the libraries' own classes and name their tensors themselves.

Weights start with variance 1 / fan-in, biases at 0, norms at 1: activations keep their size through any depth.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderDC
from transformers import UMT5Config, UMT5EncoderModel
from transformers.audio_utils import mel_filter_bank

# E[SiLU(x)^2] = 0.355 for unit x: a layer behind it must gain 1 / sqrt(0.355) to keep the variance.
SILU_GAIN = 1.68
# Of the vocoder's residual convolutions: 21 residual additions in a row must not multiply the signal.
RESIDUAL_GAIN = 0.5
# Of the convolution before the vocoder's last tanh: loud enough to hear, far from clipping, whatever the seed.
OUTPUT_GAIN = 0.2


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: normal values around a mean, or a fixed table."""

    shape: tuple[int, ...]
    std: float = 0.0
    mean: float = 0.0
    table: Callable[[], torch.Tensor] | None = None
    """Computes the values of a buffer; mean and std are then unused."""


def _weight(*shape: int) -> TensorSpec:
    return TensorSpec(shape, std=1 / math.sqrt(math.prod(shape[1:])))


def _affine(name: str, *shape: int, bias: bool = True) -> dict[str, TensorSpec]:
    """A linear or convolution layer, weight [out, in, ...]."""
    specs = {f"{name}.weight": _weight(*shape)}
    if bias:
        specs[f"{name}.bias"] = TensorSpec((shape[0],))
    return specs


def _norm(name: str, width: int) -> dict[str, TensorSpec]:
    return {f"{name}.weight": TensorSpec((width,), mean=1.0), f"{name}.bias": TensorSpec((width,))}


def transformer(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Tensors of ace_step_transformer, the lyric encoder, the dead and the training-only ones included."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    hidden = int(width * config["mlp_ratio"])
    specs: dict[str, TensorSpec] = {}
    for block in range(config["num_layers"]):
        name = f"transformer_blocks.{block}"
        specs[f"{name}.scale_shift_table"] = TensorSpec((6, width), std=1 / math.sqrt(width))
        for attention, dead in (("attn", ()), ("cross_attn", ("add_k_proj", "add_v_proj", "add_q_proj", "to_add_out"))):
            for layer in ("to_q", "to_k", "to_v", "to_out.0", *dead):
                specs |= _affine(f"{name}.{attention}.{layer}", width, width)
        specs |= _affine(f"{name}.ff.inverted_conv.conv", 2 * hidden, width, 1)
        specs |= _affine(f"{name}.ff.depth_conv.conv", 2 * hidden, 1, 3)
        specs |= _affine(f"{name}.ff.point_conv.conv", width, hidden, 1, bias=False)
    specs |= _affine("timestep_embedder.linear_1", width, 256)
    specs |= _affine("timestep_embedder.linear_2", width, width)
    specs |= _affine("t_block.1", 6 * width, width)
    specs |= _affine("speaker_embedder", width, config["speaker_embedding_dim"])
    specs |= _affine("genre_embedder", width, config["text_embedding_dim"])
    specs |= _lyric_encoder(config)
    specs |= _affine("lyric_proj", width, config["lyric_hidden_size"])
    for index, target in enumerate(config["ssl_latent_dims"]):
        specs |= _affine(f"projectors.{index}.0", 2 * width, width)
        specs |= _affine(f"projectors.{index}.2", 2 * width, 2 * width)
        specs |= _affine(f"projectors.{index}.4", target, 2 * width)
    patch = config["in_channels"] * 256
    specs |= _affine("proj_in.early_conv_layers.0", patch, config["in_channels"], *config["patch_size"])
    specs |= _norm("proj_in.early_conv_layers.1", patch)
    specs |= _affine("proj_in.early_conv_layers.2", width, patch, 1, 1)
    specs["final_layer.scale_shift_table"] = TensorSpec((2, width), std=1 / math.sqrt(width))
    specs |= _affine("final_layer.linear", math.prod(config["patch_size"]) * config["out_channels"], width)
    return specs


def _lyric_encoder(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    width = config["lyric_hidden_size"]
    heads = config.get("lyric_encoder_attention_heads", 16)
    hidden = config.get("lyric_encoder_linear_units", 4096)
    specs = {"lyric_embs.weight": TensorSpec((config["lyric_encoder_vocab_size"], width), std=1.0)}
    specs |= _affine("lyric_encoder.embed.out.0", width, width)
    specs |= _norm("lyric_encoder.embed.out.1", width)
    for block in range(config.get("lyric_encoder_num_blocks", 6)):
        name = f"lyric_encoder.encoders.{block}"
        for layer in ("linear_q", "linear_k", "linear_v", "linear_out"):
            specs |= _affine(f"{name}.self_attn.{layer}", width, width)
        specs |= _affine(f"{name}.self_attn.linear_pos", width, width, bias=False)
        for bias in ("pos_bias_u", "pos_bias_v"):
            specs[f"{name}.self_attn.{bias}"] = _weight(heads, width // heads)
        specs |= _affine(f"{name}.feed_forward.w_1", hidden, width)
        specs |= _affine(f"{name}.feed_forward.w_2", width, hidden)
        specs |= _norm(f"{name}.norm_mha", width) | _norm(f"{name}.norm_ff", width)
    return specs | _norm("lyric_encoder.after_norm", width)


def vocoder(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Tensors of music_vocoder: ConvNeXt backbone, weight-normed HiFi-GAN head, the two tables of the mel front end."""
    assert len(config["kernel_sizes"]) == 1, "parallel kernels have other names; no known checkpoint has them"
    assert not config["use_template"], "a template adds convolutions; no known checkpoint has them"
    kernel = config["kernel_sizes"][0]
    dims = config["dims"]
    specs = _affine("backbone.channel_layers.0.0", dims[0], config["input_channels"], kernel) | _norm(
        "backbone.channel_layers.0.1", dims[0]
    )
    for stage in range(1, len(dims)):
        specs |= _norm(f"backbone.channel_layers.{stage}.0", dims[stage - 1])
        specs |= _affine(f"backbone.channel_layers.{stage}.1", dims[stage], dims[stage - 1], 1)
    for stage, (depth, width) in enumerate(zip(config["depths"], dims, strict=True)):
        for block in range(depth):
            name = f"backbone.stages.{stage}.{block}"
            specs[f"{name}.gamma"] = TensorSpec((width,), mean=0.1)
            specs |= _affine(f"{name}.dwconv", width, 1, kernel) | _norm(f"{name}.norm", width)
            specs |= _affine(f"{name}.pwconv1", 4 * width, width) | _affine(f"{name}.pwconv2", width, 4 * width)
    specs |= _norm("backbone.norm", dims[-1])
    return specs | _vocoder_head(config) | _mel_tables(config)


def _vocoder_head(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    width = config["upsample_initial_channel"]
    specs = _weight_normed("head.conv_pre", width, config["num_mels"], config["pre_conv_kernel_size"])
    resblock = 0
    for stage, (rate, up_kernel) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True)):
        half = width // 2
        # Transposed: dim 0 is the input. An output sample sums width * up_kernel / rate products.
        gain = SILU_GAIN * math.sqrt(rate * half / width)
        specs |= _weight_normed(f"head.ups.{stage}", width, half, up_kernel, gain=gain, num_biases=half)
        width = half
        for kernel, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True):
            for index in range(len(dilations)):
                for convs in ("convs1", "convs2"):
                    specs |= _weight_normed(f"head.resblocks.{resblock}.{convs}.{index}", width, width, kernel, gain=RESIDUAL_GAIN)
            resblock += 1
    return specs | _weight_normed("head.conv_post", 1, width, config["post_conv_kernel_size"], gain=OUTPUT_GAIN)


def _weight_normed(name: str, *shape: int, gain: float = 1.0, num_biases: int | None = None) -> dict[str, TensorSpec]:
    """A layer whose weight is g * v / ||v||, the norm over all axes but 0: g is the norm of a row."""
    return {
        f"{name}.bias": TensorSpec((num_biases or shape[0],)),
        f"{name}.weight_g": TensorSpec((shape[0], 1, 1), mean=gain),
        f"{name}.weight_v": _weight(*shape),
    }


def _mel_tables(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    num_bins = config["n_fft"] // 2 + 1

    def filterbank() -> torch.Tensor:
        values = mel_filter_bank(
            num_bins, config["n_mels"], config["f_min"], config["f_max"], config["sampling_rate"], norm="slaney", mel_scale="slaney"
        )
        return torch.from_numpy(values).float()

    return {
        "mel_transform.spectrogram.window": TensorSpec((config["win_length"],), table=lambda: torch.hann_window(config["win_length"])),
        "mel_transform.mel_scale.fb": TensorSpec((num_bins, config["n_mels"]), table=filterbank),
    }


def dcae(config: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Tensors of music_dcae_f8c8, as diffusers' class names them."""
    with torch.device("meta"):
        model: Any = AutoencoderDC(**config)  # type: ignore[no-untyped-call]
    specs = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            specs[name] = _weight(*tensor.shape)
        else:
            specs[name] = TensorSpec(tuple(tensor.shape), mean=0.0 if name.endswith(".bias") else 1.0)
    return specs


def umt5(config: UMT5Config) -> dict[str, TensorSpec]:
    """Tensors of umt5-base, as transformers' class names them. T5 does not scale its scores: the query weights do."""
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    specs = {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name == "encoder.embed_tokens.weight":  # the same tensor as shared.weight
            continue
        if name == "shared.weight":
            specs[name] = TensorSpec(shape, std=1.0)
        elif name.endswith("relative_attention_bias.weight"):
            specs[name] = TensorSpec(shape, std=1 / math.sqrt(config.d_model))
        elif name.endswith("SelfAttention.q.weight"):
            specs[name] = TensorSpec(shape, std=1 / math.sqrt(config.d_model * config.d_kv))
        else:
            specs[name] = _weight(*shape) if len(shape) > 1 else TensorSpec(shape, mean=1.0)
    return specs
