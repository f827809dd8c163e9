"""`python -m benchmarks.endurance.invariance`: random mixes of requests; each song is the same alone and in its company.

A mix has 2 to 12 requests of 1 s to 240 s: all tasks, solvers, kinds of guidance, adapters, with few steps each. Every song joins at a
random tick and every tick takes a random part of those that are there. Each mix runs without shared matrix products, as CPUs do it, where
results must have the same bits, and with them, as GPUs do it, where they must agree within 1e-5 of the largest value. Noise is compared bit
for bit. A mix depends on the seed and its own number only: --first and --mixes split a run.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from acestep_rpc.work import FRAME_SAMPLES
from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound
from diffusion_svc.adapters import Adaptation
from diffusion_svc.sampler import SamplingRequest
from tests import tiny
from tests.unit.diffusion_svc.test_batch_invariance import TOLERANCE, assert_invariant, draw_adaptations, random_request

SAMPLE_RATE = 44_100
HEADS = 16  # width 128: wide enough for the library to block products in other ways in company
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 240.0


def draw_mix(randoms: random.Random, adaptations: list[Adaptation | None]) -> list[SamplingRequest]:
    """Requests of one mix; lengths are drawn evenly on a logarithmic scale."""
    requests = []
    for index in range(randoms.randint(2, 12)):
        seconds = SHORTEST_SECONDS * (LONGEST_SECONDS / SHORTEST_SECONDS) ** randoms.random()
        frames = int(seconds * SAMPLE_RATE / FRAME_SAMPLES)
        requests.append(random_request(randoms, frames, 10 * index, randoms.choice(adaptations)))
    return requests


async def run(first: int, mixes: int, seed: int) -> dict[str, Any]:
    """So many mixes from a number on."""
    torch.set_num_threads(1)
    model = tiny.transformer(heads=HEADS)
    largest, songs, broken = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        adaptations = draw_adaptations(Path(folder), model)
        for number in range(first, first + mixes):
            randoms = random.Random(f"{seed} {number}")
            requests = draw_mix(randoms, adaptations)
            songs += len(requests)
            try:
                largest = max(largest, assert_invariant(requests, randoms, model))
            except AssertionError as error:
                broken.append({"mix": number, "error": str(error).partition("\n")[0]})
            print(f"mix {number}: {len(requests)} songs, largest difference so far {largest:.2g}", file=sys.stderr)
    bounds = {"mixes_that_changed_a_song": Bound(len(broken), most=0), "largest_difference": Bound(largest, most=TOLERANCE)}
    return processes.report(bounds, {"mixes": mixes, "songs": songs, "broken": broken})


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.invariance", description=__doc__)
    parser.add_argument("--mixes", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mix (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
