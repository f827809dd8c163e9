"""What a request holds on the device from its first step to its last."""

import torch

from acestep_rpc.admission import Memory
from diffusion_svc.model.config import LATENT_CHANNELS, LATENT_HEIGHT, TransformerConfig
from diffusion_svc.sampler import SamplingRequest
from diffusion_svc.tasks import Edit

LATENT_COPIES = 12
"""Tensors of a song as large as its latents: itself, noise, source, mask, velocities and what its solver and its guidance keep."""
FREE_SHARE = 0.8
"""Of the memory that is free once the largest forward has been run."""
CPU_BYTES = 8 << 30
"""For requests on a CPU, where nothing else is set."""


def request_bytes(request: SamplingRequest, config: TransformerConfig, dtype: torch.dtype) -> int:
    """Keys and values of every branch, and the latents of every song. Counted from above: branches under equal conditions share theirs."""
    prompts = [request.conditions, *([request.task.target] if isinstance(request.task, Edit) else [])]
    guidance = request.params.guidance
    branches = len(prompts) * (2 if guidance.active else 1) + (1 if guidance.double_condition else 0)
    tokens = max(1 + prompt.text_tokens + len(prompt.lyrics) for prompt in prompts)
    keys_and_values = branches * config.num_layers * 2 * tokens * config.inner_dim * dtype.itemsize
    latents = LATENT_CHANNELS * LATENT_HEIGHT * request.task.num_frames * torch.float32.itemsize
    return keys_and_values + len(request.seeds) * LATENT_COPIES * latents


def request_memory(device: torch.device, set_bytes: int) -> Memory:
    """The device's memory for requests, measured when the weights are there and the largest forward has been run.

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
