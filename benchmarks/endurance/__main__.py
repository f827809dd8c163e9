"""`python -m benchmarks.endurance [RUN ...]`: all runs in their full length, or those named, each in a process of its own; prints JSON."""

import argparse
import json
import subprocess
import sys

RUNS = ("invariance", "concurrency", "cancels", "faults", "overload", "slow_reader", "malformed", "overhead")


def main(arguments: list[str] | None = None) -> int:
    """Run them one after another; 1 where a bound is missed or a run ends without a report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{', '.join(RUNS)} (default: all)")
    names = parser.parse_args(arguments).runs or RUNS
    if unknown := [name for name in names if name not in RUNS]:
        parser.error(f"no run is named {', '.join(unknown)}; there are {', '.join(RUNS)}")
    reports, missed = {}, False
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        ended = subprocess.run([sys.executable, "-m", f"benchmarks.endurance.{name}"], stdout=subprocess.PIPE, text=True, check=False)
        reports[name] = json.loads(ended.stdout) if ended.stdout else {"verdict": "no report"}
        missed = missed or ended.returncode != 0
        print(f"{name}: {reports[name]['verdict']}", file=sys.stderr)
    print(json.dumps(reports, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
