"""Metrics of the user's own: functions named on the command line, for learned metrics whose weights do not travel with the project.

A hook is `module:function`, called as function(generated: Path, real: Path) with two folders of mono wavs at 44.1 kHz, a clip a prompt and
of the same names; it returns a dict of figures.
"""

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Metric = Callable[[Path, Path], Mapping[str, float]]


def load_metric(name: str) -> Metric:
    """The function that `module:function` names.

    Raises:
        ValueError: There is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        metric: Metric = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--metric {name} is no module:function: {error}") from error
    return metric


def run_metric(metric: Metric, generated: Sequence[Path], real: Sequence[Path]) -> dict[str, float]:
    """Call a metric with the wavs linked into two folders, pairs under the same name."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, wavs in (("generated", generated), ("real", real)):
            (Path(folder) / kind).mkdir()
            for index, wav in enumerate(wavs):
                (Path(folder) / kind / f"{index:04d}.wav").symlink_to(wav.resolve())
        figures = metric(Path(folder) / "generated", Path(folder) / "real")
    return {name: float(value) for name, value in figures.items()}
