"""`python -m benchmarks.simulation`: how many replicas for this traffic, answered without any; prints JSON, a line per number of replicas.

    python -m benchmarks.simulation --arrivals-per-second 2 --seconds 60:0.5,240:0.2 --deadline 120 --replicas 1..8

Requests arrive at random (Poisson). What their work costs is asked of running stages (--stages), read from a file (--costs), or
measured here on a checkpoint.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from acestep_rpc.v1 import music_pb2, sampling_pb2, stage_pb2
from benchmarks.simulated import Simulation
from orchestrator.stages import connect_stages

PACKAGED = Path(__file__).parents[1] / "clients" / "checkpoint"
LYRICS = "[verse]\nhello world\nwe sing"


@dataclass(frozen=True)
class Traffic:
    """What arrives.

    Attributes:
        arrivals_per_second: In the mean.
        lengths: Weight of each length of song in seconds.
        requests: How many.
        deadline: Seconds that every caller gives; None: as long as it takes.
        steps: Of every song; None: the checkpoint's default.
    """

    arrivals_per_second: float
    lengths: dict[float, float]
    requests: int = 500
    deadline: float | None = None
    steps: int | None = None


def simulate(
    traffic: Traffic, descriptions: Sequence[stage_pb2.DescribeResponse], replicas: Sequence[int], seed: int = 0, refuse: bool = True
) -> dict[str, Any]:
    """Figures of a system under traffic.

    Args:
        traffic: What arrives; the same for one seed, whatever the replicas.
        descriptions: Of the encoder, the diffusion and the vae stage.
        replicas: Of each.
        seed: Of all draws.
        refuse: Whether what cannot be done in time is refused.
    """
    randoms, simulation, arrival = random.Random(seed), Simulation(descriptions, replicas, refuse, seed), 0.0
    sampling = sampling_pb2.SamplingParams(infer_step=traffic.steps) if traffic.steps else None
    for _ in range(traffic.requests):
        arrival += randoms.expovariate(traffic.arrivals_per_second)
        (seconds,) = randoms.choices(list(traffic.lengths), list(traffic.lengths.values()))
        prompt = music_pb2.Prompt(tags="funk, bass, 108 bpm", lyrics=LYRICS)
        simulation.add(
            arrival,
            music_pb2.GenerateRequest(prompt=prompt, sampling=sampling, text_to_music={"duration_seconds": seconds}),
            traffic.deadline,
        )
    simulation.run()
    return summarise(simulation)


def summarise(simulation: Simulation) -> dict[str, Any]:
    """What came of a simulation."""
    outcomes = [request.outcome for request in simulation.requests]
    taken = [request.finished - request.arrival for request in simulation.requests if request.outcome == "completed"]
    return {
        "replicas": dict(zip(("encoder", "diffusion", "vae"), simulation.replicas, strict=True)),
        "seconds": simulation.clock.now,
        "outcomes": {name: outcomes.count(name) for name in ("completed", "refused", "missed")},
        "completed_per_second": len(taken) / simulation.clock.now,
        "latency_seconds": {f"p{share}": float(np.percentile(taken, share)) for share in (50, 95, 99)} if taken else None,
        "utilisation": {stage: simulation.utilisation(index) for index, stage in enumerate(("encoder", "diffusion", "vae"))},
        "device_seconds": sum(replica.busy_seconds for pool in simulation.pools for replica in pool),
    }


async def ask(targets: Sequence[str]) -> list[stage_pb2.DescribeResponse]:
    """What running stages say of themselves: the encoder, the diffusion and the vae stage."""
    stages = connect_stages(*targets)
    try:
        return await stages.describe(None)
    finally:
        await stages.close()


async def measure(checkpoint: Path, device: str, threads: int) -> list[stage_pb2.DescribeResponse]:
    """Load the stages here and let them measure themselves."""
    from orchestrator.embedded import load

    return await (await load(checkpoint, device, "auto", threads)).describe(None)


def read_costs(file: Path) -> list[stage_pb2.DescribeResponse]:
    """As `write_costs` wrote them."""
    return [json_format.ParseDict(one, stage_pb2.DescribeResponse()) for one in json.loads(file.read_text())]


def write_costs(file: Path, descriptions: Sequence[stage_pb2.DescribeResponse]) -> None:
    """Keep what stages said of themselves."""
    file.write_text(json.dumps([json_format.MessageToDict(one) for one in descriptions], indent=2))


def _lengths(text: str) -> dict[float, float]:
    """As "60:0.5,240:0.2"."""
    pairs = (part.partition(":") for part in text.split(","))
    return {float(seconds): float(weight or 1) for seconds, _, weight in pairs}


def _replicas(text: str) -> list[int]:
    """As "4" or "1..8"."""
    first, _, last = text.partition("..")
    return list(range(int(first), int(last or first) + 1))


def main(arguments: list[str] | None = None) -> int:
    """Read the traffic from the command line, simulate it, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--arrivals-per-second", type=float, required=True)
    parser.add_argument("--seconds", type=_lengths, required=True, metavar="LENGTH:WEIGHT,...", help="lengths of songs")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="of every call (default: none)")
    parser.add_argument("--steps", type=int, help="of every song (default: the checkpoint's)")
    parser.add_argument("--requests", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--replicas", type=_replicas, default=[1], metavar="N or FROM..TO", help="of the diffusion stage (default: 1)")
    parser.add_argument("--encoders", type=int, default=1, help="replicas of the encoder stage (default: %(default)s)")
    parser.add_argument("--vaes", type=int, default=1, help="replicas of the vae stage (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    costs = parser.add_mutually_exclusive_group()
    costs.add_argument("--stages", nargs=3, metavar=("ENCODER", "DIFFUSION", "VAE"), help="HOST:PORT of running stages")
    costs.add_argument("--costs", type=Path, metavar="FILE", help="of --save-costs")
    costs.add_argument("--checkpoint", type=Path, default=PACKAGED, help="measured here (default: the one of the package)")
    parser.add_argument("--device", default="auto", help="for --checkpoint (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="for --checkpoint (default: one per core)")
    parser.add_argument("--save-costs", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.costs:
        descriptions = read_costs(options.costs)
    elif options.stages:
        descriptions = asyncio.run(ask(options.stages))
    else:
        descriptions = asyncio.run(measure(options.checkpoint, options.device, options.threads))
    if options.save_costs:
        write_costs(options.save_costs, descriptions)
    traffic = Traffic(options.arrivals_per_second, options.seconds, options.requests, options.deadline, options.steps)
    for count in options.replicas:
        print(json.dumps(simulate(traffic, descriptions, (options.encoders, count, options.vaes), options.seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
