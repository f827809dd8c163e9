"""Log-mel, resampling, codec and vocoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.conformance.checkpoint import Checkpoint
from vae_svc.audio_file import read_audio
from vae_svc.codec import LATENT_SCALE, LATENT_SHIFT, MEL_MAX, MEL_MIN, SAMPLE_RATE, SAMPLES_PER_LATENT, Codec
from vae_svc.model.resample import resample

Tensors = Mapping[str, Tensor]
DEFAULT_ENCODE_RATE = 48000
MAX_SECONDS = 60.0
_INPUTS = ("audio", "audio_lengths", "mel", "latents")


def unsupported(tensors: Tensors) -> str:
    """Why a case is not run; empty: it is."""
    if any(name.startswith("slice.") for name in tensors):
        return "the reference's overlapped decode, which exact pieces replace (issue 1/7, codec)"
    return ""


def split(entry: Mapping[str, Any], tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Inputs and recorded outputs, which lie in one file."""
    if "latent_lengths" in tensors:  # encode: latents are an output, and so is audio when a file was read
        inputs = {"audio", "audio_lengths"} - ({"audio"} if "file" in entry.get("params", {}) else set())
    elif "backbone" in tensors or "mel" in tensors:
        inputs = {"mel"}
    elif "latents" in tensors:
        inputs = {"latents", "audio_lengths"}
    else:
        inputs = {name for name in tensors if name.startswith(("wav.", "in."))}
    given = {name: tensor for name, tensor in tensors.items() if name in inputs}
    return given, {name: tensor for name, tensor in tensors.items() if name not in inputs}


def reduce(inputs: Tensors, expected: Tensors) -> tuple[Tensors, str]:
    """Leave out of the recorded outputs what contradicts the specification; says so in the second result.

    Of a batch of different audio the reference gives the first item's latents for every item. Ours encodes each item: only the first is
    held against the recording, and the unit tests hold a batch against its items alone.
    """
    latents, audio = expected.get("latents"), inputs.get("audio")
    if latents is None or audio is None or len(latents) == 1 or not torch.equal(latents, latents[:1].expand_as(latents)):
        return expected, ""
    return {**expected, "latents": latents[:1]}, "(item 0 only: the recording repeats its latents for the others, whose audio differs)"


def compute(folder: Path, checkpoint: Checkpoint, entry: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    """Our outputs under the recorded names."""
    codec, params = checkpoint.codec, entry.get("params", {})
    if any(name.startswith("wav.") for name in inputs):
        return _mels(codec, inputs, expected)
    if "latent_lengths" in expected:
        return _encode(codec, folder, params, inputs, expected)
    if "mel" in inputs:
        vocoder = codec.vocoder
        return {"audio": vocoder(inputs["mel"])[:, None], "backbone": vocoder.backbone(inputs["mel"])}
    if "latents" in inputs:
        return _decode(codec, params, inputs, expected)
    return {name: resample(inputs[f"in.{name.removeprefix('out.')}"], *_rates(name)) for name in expected}


def _rates(name: str) -> tuple[int, int]:
    _, old, new = name.split(".")
    return int(old), int(new)


def _mels(codec: Codec, inputs: Tensors, expected: Tensors) -> Tensors:
    front = codec.log_mel
    outputs = {"filterbank": front.filterbank, "window": front.window}
    for name, waveform in inputs.items():
        signal = name.removeprefix("wav.")
        outputs[f"mel.{signal}"] = front.frames(front.pad(waveform))
        linear = front.magnitudes(front.pad(waveform)).clamp(min=1e-5).log()
        recorded = expected[f"loglinear.{signal}"]
        every = 1 if recorded.shape[-1] == linear.shape[-1] else 8
        outputs[f"loglinear.{signal}"] = linear[..., ::every]
    return outputs


def _encode(codec: Codec, folder: Path, params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    outputs: dict[str, Tensor] = {}
    rate = params["sr"] or DEFAULT_ENCODE_RATE
    if "file" in params:
        file = read_audio(folder / params["file"], MAX_SECONDS)
        rate = file.sample_rate
        outputs["audio"] = file.waveform.expand(2, -1)  # mono is doubled
        audio = file.waveform[None]
    else:
        audio = inputs["audio"]
    outputs["latents"] = codec.encode(audio, rate)[: len(expected["latents"])]
    lengths = inputs.get("audio_lengths", torch.full((len(audio),), audio.shape[-1]))
    outputs["latent_lengths"] = (lengths / rate * SAMPLE_RATE / 512 / 8).floor().to(torch.int64)
    if "normalised_mel_first" in expected:
        waveform = resample(audio[0], rate, SAMPLE_RATE)
        waveform = torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % SAMPLES_PER_LATENT))
        mel = codec.log_mel.frames(codec.log_mel.pad(waveform))
        outputs["normalised_mel_first"] = ((mel - MEL_MIN) * (2 / (MEL_MAX - MEL_MIN)) - 1)[None]
    return outputs


def _decode(codec: Codec, params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    latents = inputs["latents"]
    if "audio_lengths" in inputs:
        return {
            f"audio_{index}": torch.cat(list(codec.decode(one, params["sr"])), dim=-1)[:, :length]
            for index, (one, length) in enumerate(zip(latents, inputs["audio_lengths"].tolist(), strict=True))
        }
    outputs = {
        "audio_44k": torch.cat(list(codec.decode(latents[0], params["sr_a"])), dim=-1),
        "audio_48k": torch.cat(list(codec.decode(latents[0], params["sr_b"])), dim=-1),
    }
    outputs["decoder_output"] = codec.dcae.decode_local(codec.dcae.decode_global(latents / LATENT_SCALE + LATENT_SHIFT))
    return outputs
