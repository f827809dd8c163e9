"""`python -m benchmarks.cells`: how many devices must stand together until more together gain nothing; prints JSON, a line per size.

The simulation of `simulation.py` with cells of as many diffusion devices as --sizes says, each as busy as --utilisation says. Devices are
those of `autoscaling.py`, and all songs are alike.
"""

import argparse
import json
import random
import sys

import numpy as np

from benchmarks.autoscaling import DIFFUSION, devices, song
from benchmarks.simulated import Simulation


def main(arguments: list[str] | None = None) -> int:
    """Simulate each size, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64], metavar="DEVICES", help="(default: %(default)s)")
    parser.add_argument("--utilisation", type=float, nargs="+", default=[0.9], help="(default: %(default)s)")
    parser.add_argument("--song-seconds", type=float, default=10.0, help="(default: %(default)s)")
    parser.add_argument("--songs", type=int, default=3000, help="in all, but no fewer than 100 for each device (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for utilisation in options.utilisation:
        for size in options.sizes:
            randoms, now = random.Random(options.seed), 0.0
            simulation = Simulation(devices(options.song_seconds), (size, size, size), refuse=False, seed=options.seed)
            for _ in range(max(options.songs, 100 * size)):
                now += randoms.expovariate(utilisation * size / options.song_seconds)
                simulation.add(now, song())
            simulation.run()
            settled = simulation.requests[len(simulation.requests) // 5 :]  # the first ones found everything idle
            taken = [one.finished - one.arrival for one in settled]
            figures = {
                "devices": size,
                "asked_utilisation": utilisation,
                "utilisation": round(simulation.utilisation(DIFFUSION), 2),
                "latency_seconds": {f"p{share}": round(float(np.percentile(taken, share)), 1) for share in (50, 95, 99)},
            }
            print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
