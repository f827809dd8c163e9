"""The recordings that travel with the project, or those of the folder that ACESTEP_GOLDEN names."""

import os
from pathlib import Path

import pytest

from tests.parity.conformance.cases import Case, Verdict, collect_cases, run_case

GOLDEN = Path(os.environ.get("ACESTEP_GOLDEN", Path(__file__).parent / "golden"))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in collect_cases(GOLDEN) if not case.skip])
def test_case_agrees_within_its_tolerance(case: Case):
    outcome = run_case(case)
    assert outcome.verdict is Verdict.PASSED, f"largest error {outcome.error}: {outcome.remark}"


def test_a_wrong_output_fails_its_case():
    case = next(case for case in collect_cases(GOLDEN) if not case.skip)
    name, tensor = next(iter(case.expected.items()))
    shifted = Case(case.name, case.compute, {name: tensor + 1}, case.atol, case.rtol)
    assert run_case(shifted).verdict is Verdict.FAILED
