"""Ways to evaluate rows of different lengths: one after another, length by length, packed, and padded to the longest.

CPU seconds on one thread, medians of paired ratios: rows one after another against each other way.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_svc.model.config import TransformerConfig
from diffusion_svc.model.transformer import WEAKENED_BLOCKS, WEAKENED_QUERY_SCALE, Row, Transformer
from diffusion_svc.task_fields import num_frames

TOKENS = 167  # speaker, 40 of text and 126 of lyrics: a song of 30 s
NETWORKS = {
    "tiny": (TransformerConfig(2, 16, 4, 2.5), (5, 10, 30, 60), 7),
    "embedded": (TransformerConfig(8, 64, 4, 2.5), (5, 10, 30, 60), 7),
    "official_width_2_blocks": (TransformerConfig(2, 128, 20, 2.5), (5, 10, 20, 30), 3),
}
"""Size, seconds of the songs of which each has two rows, and repetitions."""


def padded_velocities(model: Transformer, rows: Sequence[Row]) -> list[Tensor]:
    """Evaluate rows padded to the longest: exact, as what runs over time is kept from the padding."""
    longest = max(row.num_frames for row in rows)
    mask = torch.stack([(torch.arange(longest) < row.num_frames).to(model.dtype) for row in rows])
    embedded = [model.proj_in(row.latents[None])[0] for row in rows]  # its statistics are those of the song alone
    x = torch.stack([F.pad(tokens, (0, 0, 0, longest - len(tokens))) for tokens in embedded])
    tables = model.rotary.tables(torch.arange(longest), model.dtype)
    modulation = torch.stack([row.modulation.blocks for row in rows])
    weakened = torch.tensor([WEAKENED_QUERY_SCALE if row.weakened else 1.0 for row in rows])[:, None, None]
    for index, block in enumerate(model.transformer_blocks):
        pairs = [(row.context.keys[index], row.context.values[index]) for row in rows]
        scale = weakened if index in WEAKENED_BLOCKS else None
        x = block(x, modulation, pairs, model.rotary, tables, scale, frame_mask=mask, convolution_mask=mask)
    velocities = model.final_layer(x, torch.stack([row.modulation.final for row in rows]))
    return [velocity[..., : row.num_frames] for velocity, row in zip(velocities, rows, strict=True)]


def compare(config: TransformerConfig, seconds: Sequence[float], repeats: int) -> dict[str, Any]:
    """Time each way on guided songs of these lengths, and of one length."""
    torch.manual_seed(0)
    model = Transformer(config).eval().requires_grad_(False)
    (modulation,) = model.modulate(torch.tensor([500.0]))

    def song(length: float) -> list[Row]:
        contexts = [model.project_context(torch.randn(TOKENS, config.inner_dim)) for _ in range(2)]
        latents = torch.randn(8, 16, num_frames(length))
        return [Row(latents, modulation, context) for context in contexts]

    mixed = [row for length in seconds for row in song(length)]
    by_length = [list(rows) for _, rows in itertools.groupby(mixed, key=lambda row: row.num_frames)]
    frames = [row.num_frames for row in mixed]
    ways: dict[str, Callable[[], Any]] = {
        "one_by_one": lambda: model(mixed, share_products=False),
        "length_by_length": lambda: [model(rows, share_products=True) for rows in by_length],
        "packed": lambda: model(mixed, share_products=True),
        "padded": lambda: padded_velocities(model, mixed),
    }

    def together(length: float) -> float:
        rows = [*song(length), *song(length)]
        one_length: dict[str, Callable[[], Any]] = {
            "one_by_one": lambda: model(rows, share_products=False),
            "together": lambda: model(rows, share_products=True),
        }
        return _time(one_length, repeats)["one_by_one_over_together"]

    pairs = zip(model(mixed, share_products=True), padded_velocities(model, mixed), strict=True)
    return {
        "padding_share": 1 - sum(frames) / (len(frames) * max(frames)),
        "largest_difference_of_packed_and_padded": max((packed - padded).abs().max().item() for packed, padded in pairs),
        "mixed_lengths": _time(ways, repeats),
        "four_rows_of_one_length_one_by_one_over_together": {f"{length} s": together(length) for length in (1, *seconds)},
    }


def _time(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    runs: list[dict[str, float]] = []
    for _ in range(repeats + 1):  # the first warms up
        run = {}
        for name, work in ways.items():
            started = time.process_time()
            work()
            run[name] = time.process_time() - started
        runs.append(run)
    first, *others = ways
    result = {f"{first}_cpu_seconds": statistics.median(run[first] for run in runs[1:])}
    return result | {f"{first}_over_{name}": statistics.median(run[first] / run[name] for run in runs[1:]) for name in others}


@torch.inference_mode()
def batching() -> dict[str, Any]:
    """Every network."""
    torch.set_num_threads(1)
    return {name: compare(*network) for name, network in NETWORKS.items()}
