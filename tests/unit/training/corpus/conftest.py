"""The band's tools, where the machine has them."""

from pathlib import Path

import pytest

from training.corpus.render import Renderer
from training.corpus.singer import Singer


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    try:
        return Renderer()
    except RuntimeError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def singer(tmp_path_factory: pytest.TempPathFactory) -> Singer:
    try:
        return Singer(Path(tmp_path_factory.mktemp("voices")))
    except RuntimeError as missing:
        pytest.skip(str(missing))
