"""What the codec's work costs in time and memory, measured when the stage starts; the times are followed as it works."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from acestep_rpc.admission import Memory
from acestep_rpc.cost import CostModel
from vae_svc.codec import LATENT_ROWS, SAMPLE_RATE, Codec
from vae_svc.model.dcae import LATENT_CHANNELS

WARM_UP_FRAMES = (8, 32)
WARM_UP_SECONDS = (1, 4)
COPIES = 3
"""Tensors as large as the attention level's output that a song has at its largest moment."""
FREE_SHARE = 0.8
"""Of the memory that is free once pieces have been decoded."""
CPU_BYTES = 8 << 30
"""For requests on a CPU, where nothing else is set."""


@dataclass(frozen=True)
class CodecCosts:
    """Predictions of this stage.

    Attributes:
        decode: Seconds, by songs and frames.
        encode_audio: Seconds, by files and seconds of audio.
        bytes_per_frame: What a latent frame of a song takes while it is decoded.
    """

    decode: CostModel
    encode_audio: CostModel
    bytes_per_frame: int


def decode_features(frames: int) -> dict[str, float]:
    """Of the decode of one song."""
    return {"songs": 1.0, "frames": frames}


def encode_features(seconds: float) -> dict[str, float]:
    """Of the encode of one file."""
    return {"files": 1.0, "seconds": seconds}


@torch.inference_mode()
def measure_costs(codec: Codec) -> CodecCosts:
    """Decode and encode two lengths; on CUDA one decode is of a whole piece, so that its memory is taken before the rest is counted."""

    def latents(frames: int) -> torch.Tensor:
        return torch.zeros(LATENT_CHANNELS, LATENT_ROWS, frames)

    frames = WARM_UP_FRAMES if codec.device.type == "cpu" else (WARM_UP_FRAMES[0], codec.piece_latents)
    decoded = [(decode_features(length), _seconds(partial(_decode, codec, latents(length)))) for length in frames]
    waveforms = {length: torch.zeros(2, length * SAMPLE_RATE) for length in WARM_UP_SECONDS}
    encoded = [(encode_features(length), _seconds(partial(_encode, codec, waveform))) for length, waveform in waveforms.items()]
    held = codec.dcae.decode_global(latents(WARM_UP_FRAMES[0])[None].to(codec.device))
    return CodecCosts(CostModel(decoded), CostModel(encoded), COPIES * held.nbytes // WARM_UP_FRAMES[0])


def request_memory(device: torch.device, set_bytes: int) -> Memory:
    """The device's memory for requests, measured when the weights are there and a piece has been decoded.

    Args:
        device: Of the stage.
        set_bytes: What the settings say; 0: on CUDA most of what is free, on others CPU_BYTES.
    """
    if set_bytes:
        return Memory(set_bytes, str(device))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Memory(int(FREE_SHARE * free), str(device))
    return Memory(CPU_BYTES, str(device))


def _decode(codec: Codec, latents: torch.Tensor) -> None:
    for _ in codec.decode(latents, SAMPLE_RATE):
        pass


def _encode(codec: Codec, waveform: torch.Tensor) -> None:
    codec.encode(waveform, SAMPLE_RATE).cpu()


def _seconds(work: Callable[[], object]) -> float:
    work()  # the first of a shape is slow
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
