"""Hold the stages against recorded cases: python -m tests.parity.conformance DIR.

Prints a row a case and a closing line; exits with 1 when a case fails.
"""

import sys
import warnings
from pathlib import Path

import torch

from tests.parity.conformance.cases import Verdict, collect_cases, run_case


def main(folder: Path) -> int:
    """Run every case of a folder."""
    torch.set_num_threads(1)  # the cases are tiny
    warnings.simplefilter("error")
    counts = dict.fromkeys(Verdict, 0)
    print(f"{'case':44} {'largest error':>13} {'atol':>8} {'rtol':>8}  verdict")
    for case in collect_cases(folder):
        outcome = run_case(case)
        counts[outcome.verdict] += 1
        error = "" if outcome.error is None else f"{outcome.error:.2e}"
        print(f"{case.name:44} {error:>13} {case.atol:8.0e} {case.rtol:8.0e}  {outcome.verdict.value} {outcome.remark}".rstrip())
    print(f"{counts[Verdict.PASSED]} passed, {counts[Verdict.FAILED]} failed, {counts[Verdict.SKIPPED]} skipped")
    return 1 if counts[Verdict.FAILED] or not counts[Verdict.PASSED] else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
