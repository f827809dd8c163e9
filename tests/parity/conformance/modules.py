"""Single networks and layers: what a case is for shows in the names of its recorded outputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_svc.model.transformer import Row, Transformer, normalize_control, rms_norm, timestep_features
from tests.parity.conformance import training
from tests.parity.conformance.checkpoint import CPU, Checkpoint

Tensors = Mapping[str, Tensor]


def compute(checkpoint: Checkpoint, params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    """Our outputs under the recorded names."""
    if "last_hidden_state" in expected:
        return _text_encoder(checkpoint, inputs)
    if "rotated" in expected:
        return _rotary(checkpoint.transformer, inputs["x"])
    if "time_proj" in expected:
        return _timesteps(checkpoint.transformer, inputs["timesteps"])
    if "out_same" in expected:
        return _final_layer(checkpoint.transformer, inputs, params["output_lengths"])
    if "self_attn" in expected:
        return _block(checkpoint.transformer, inputs, params["block_index"])
    if "encode" in expected:
        half = Checkpoint(checkpoint.folder, torch.bfloat16)
        states, _ = _conditions(half, inputs)
        return {"encode": states.float(), "sample": _evaluate(half.transformer, inputs)}
    if "cross_norm" in expected:
        return _control(checkpoint.transformer, inputs, expected)
    if "projected" in expected:
        return _lyric_encoder(checkpoint, inputs, weakened="tau" in params)
    if "encoder_hidden_states" in expected:
        states, mask = _conditions(checkpoint, inputs)
        return {"encoder_hidden_states": states, "encoder_hidden_mask": mask}
    if "tokens" in expected:
        return {"tokens": checkpoint.transformer.proj_in(inputs["latent"])}
    if any("proj_loss" in name for name in expected):
        return training.recorded_projection_losses(checkpoint.trainable, inputs)
    if "sample" in expected:
        return _velocities(checkpoint.transformer, inputs, params)
    raise ValueError(f"no part of the system gives {', '.join(expected)}")


def _text_encoder(checkpoint: Checkpoint, inputs: Tensors) -> Tensors:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    plain, weakened = checkpoint.encoder.text_encoder.plain_and_weakened(ids, mask)
    return {"last_hidden_state": plain, "last_hidden_state_temperature": weakened}


def _rotary(model: Transformer, x: Tensor) -> Tensors:
    cos, sin = model.rotary.tables(torch.arange(x.shape[-2]), torch.float32)
    return {"cos": cos, "sin": sin, "rotated": model.rotary(x, cos, sin)}


def _timesteps(model: Transformer, timesteps: Tensor) -> Tensors:
    modulations = model.modulate(timesteps)
    return {
        "time_proj": timestep_features(timesteps),
        "embedded_timestep": torch.stack([modulation.final for modulation in modulations]),
        "temb": torch.stack([modulation.blocks.flatten() for modulation in modulations]),
    }


def _final_layer(model: Transformer, inputs: Tensors, output_lengths: Mapping[str, int]) -> Tensors:
    """Our layer gives as many frames as it takes; the reference cuts or fills with zeros to a wanted length, 0 giving an empty tensor."""
    frames = model.final_layer(inputs["hidden_states"], inputs["embedded_timestep"])
    return {
        f"out_{name}": F.pad(frames, (0, length - frames.shape[-1])) if length else torch.empty(0)
        for name, length in output_lengths.items()
    }


def _block(model: Transformer, inputs: Tensors, index: int) -> Tensors:
    x, frame_mask = inputs["hidden_states"], inputs["attention_mask"]
    block, rotary = model.transformer_blocks[index], model.rotary
    tables = rotary.tables(torch.arange(x.shape[1]), torch.float32)
    contexts = [
        model.project_context(states, mask)
        for states, mask in zip(inputs["encoder_hidden_states"], inputs["encoder_attention_mask"], strict=True)
    ]
    pairs = [(context.keys[index], context.values[index]) for context in contexts]
    modulation = inputs["temb"].unflatten(1, (6, -1))
    return {
        "norm": rms_norm(x),
        "self_attn": block.attn(x, rotary, tables, frame_mask),
        "self_attn_nomask": block.attn(x, rotary, tables, None),
        "cross_attn": block.cross_attn(x, pairs, rotary, tables, None, frame_mask),
        "cross_attn_full_query_mask": block.cross_attn(x, pairs, rotary, tables, None, None),
        "ff": block.ff(x),
        "block": block(x, modulation, pairs, rotary, tables, None, frame_mask),
        "block_full_mask": block(x, modulation, pairs, rotary, tables, None, None),
    }


def _lyric_encoder(checkpoint: Checkpoint, inputs: Tensors, weakened: bool) -> Tensors:
    encoder, project = checkpoint.encoder.lyric_encoder, checkpoint.transformer.lyric_proj
    ids, mask = inputs["ids"], inputs["mask"]
    states = encoder(ids, mask, weakened=weakened)
    stack = encoder.lyric_encoder
    embedded, positions = stack.embed(encoder.lyric_embs(ids))
    masked_keys = (mask == 0)[:, None, None]
    return {
        "encoder_out": states,
        "projected": project(states),
        "embedded": embedded,
        "pos_emb": positions[None],
        "layer0": stack.encoders[0](embedded, masked_keys, positions, 1.0),
        "layer0_self_attn_on_embedded": stack.encoders[0].self_attn(embedded, masked_keys, positions, 1.0),
        "encoder_out_all_masked": encoder(ids, torch.zeros_like(mask)),
        "encoder_out_single_token": encoder(ids[:, :1], mask[:, :1]),
    }


def _conditions(checkpoint: Checkpoint, inputs: Tensors) -> tuple[Tensor, Tensor]:
    dtype = checkpoint.dtype
    lyrics = checkpoint.encoder.lyric_encoder(inputs["lyric_token_idx"], inputs["lyric_mask"])
    text, speaker = inputs["encoder_text_hidden_states"].to(dtype), inputs["speaker_embeds"].to(dtype)
    states = checkpoint.transformer.embed_conditions(text, lyrics, speaker)
    mask = torch.cat([torch.ones(len(text), 1), inputs["text_attention_mask"].float(), inputs["lyric_mask"].float()], dim=1)
    return states, mask


def _evaluate(model: Transformer, inputs: Tensors, frame_mask: Tensor | None = None, **fields: Any) -> Tensor:
    """Velocities of a recorded batch; the rows must not care whether they share matrix products."""
    control = fields.pop("control", None)
    rows = [
        Row(
            latents=latents,
            modulation=modulation,
            context=model.project_context(states.to(model.dtype), mask),
            frame_mask=None if frame_mask is None else frame_mask[index],
            control=None if control is None else control[index],
            **fields,
        )
        for index, (latents, modulation, states, mask) in enumerate(
            zip(
                inputs["hidden_states"],
                model.modulate(inputs["timestep"]),
                inputs["encoder_hidden_states"],
                inputs["encoder_hidden_mask"],
                strict=True,
            )
        )
    ]
    alone, shared = torch.stack(model(rows)), torch.stack(model(rows, share_products=True))
    # Both must pass; of two that agree, either is the answer. NaN where they differ by more than reordered float operations.
    limit = 1e-4 if model.dtype is torch.float32 else 0.1
    return torch.where((alone - shared).abs() <= limit, alone, torch.nan).to(CPU)


def _control(model: Transformer, inputs: Tensors, expected: Tensors) -> Tensors:
    control = inputs["block_controlnet_hidden_states"]
    tokens = model.proj_in(inputs["hidden_states"])
    outputs = {"tokens": tokens, "cross_norm": normalize_control(control, tokens)}
    for name in expected:
        if name.startswith("sample_scale_"):
            scale = float(name.removeprefix("sample_scale_"))
            outputs[name] = _evaluate(model, inputs, control=control, control_scale=scale)
    return outputs


def _velocities(model: Transformer, inputs: Tensors, params: Mapping[str, Any]) -> Tensors:
    outputs = {"sample": _evaluate(model, inputs, weakened="tau" in params), "sample_length_default_zero": torch.empty(0)}
    if "attention_mask_padded" in inputs:
        padded = inputs["attention_mask_padded"]
        outputs["sample_padded"] = _evaluate(model, inputs, frame_mask=padded)
        short = int(padded.sum(dim=1).argmin())
        alone = {name: tensor[short : short + 1] for name, tensor in inputs.items()}
        alone["hidden_states"] = alone["hidden_states"][..., : int(padded[short].sum())]
        outputs["sample_short_alone"] = _evaluate(model, alone)
    return outputs
