from pathlib import Path

import pytest

from benchmarks.quality.hooks import load_metric, run_metric


def test_a_metric_gets_pairs_of_the_same_name(tmp_path):
    names = [tmp_path / f"{name}.wav" for name in ("b", "a", "x", "y")]
    for path in names:
        path.write_text(path.stem)

    def paired(generated: Path, real: Path) -> dict[str, float]:
        pairs = [(path.read_text(), (real / path.name).read_text()) for path in sorted(generated.iterdir())]
        return {"right": float(pairs == [("b", "x"), ("a", "y")])}

    assert run_metric(paired, names[:2], names[2:]) == {"right": 1.0}


@pytest.mark.parametrize("name", ["nowhere:metric", "json:nothing", "json"])
def test_a_metric_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=name):
        load_metric(name)


def test_a_metric_is_found_by_module_and_function():
    assert load_metric("benchmarks.quality.hooks:run_metric") is run_metric
