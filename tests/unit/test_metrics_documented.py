"""Every metric is in docs/operations.md, and every metric named there or elsewhere in the docs exists."""

import re
from pathlib import Path

from prometheus_client import REGISTRY

import acestep_rpc.telemetry

DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"`(acestep_[a-z0-9_]+?)(?:\{[a-z_, ]*\})?`")
NOT_METRICS = {"acestep_client", "acestep_rpc"}


def exported() -> set[str]:
    """Names as a query has them."""
    assert acestep_rpc.telemetry.REQUESTS is not None  # imported: the metrics are registered
    names = set()
    for family in REGISTRY.collect():
        if family.name.startswith("acestep_"):
            names.add(family.name + ("_total" if family.type == "counter" else ""))
    return names


def named(path: Path) -> set[str]:
    return set(NAME.findall(path.read_text())) - NOT_METRICS


def test_the_operations_page_names_every_metric_and_no_other() -> None:
    assert named(DOCS / "operations.md") == exported()


def test_no_page_names_a_metric_that_is_not_there() -> None:
    wrong = {path.name: missing for path in DOCS.rglob("*.md") if (missing := named(path) - exported())}
    assert wrong == {}
