"""A real server with a random tiny checkpoint, the page in a process of its own, and Chromium in front of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.conftest import Server, adapters, checkpoint

__all__ = ["adapters", "checkpoint"]

START_SECONDS = 180.0
WAIT_SECONDS = 90.0
"""For whatever the page waits for: machines under load are slow, and nothing here measures time."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


class Page:
    """`acestep ui` in a process of its own."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._log = folder / "ui.log"
        command = [sys.executable, "-m", "clients.cli.main", "ui", "--port", "0", *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"^http://\S+$", self.log(), re.MULTILINE)):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"the page did not start: {self.log()}"
            time.sleep(0.1)
        self.url = found[0]

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="package")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: .ci/run installs it")
        pytest.skip("no Chromium: apt-get install chromium")
    return path


@pytest.fixture(scope="package")
def browser(chromium) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def songs_server(chromium, checkpoint, adapters, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("songs")
    own = ["--checkpoint", str(checkpoint), "--adapters", str(adapters), "--data", str(folder / "data")]
    server = Server(
        "orchestrator", ["--embedded", "--dtype", "float32", "--threads", "1", *own], folder, environment={"OMP_NUM_THREADS": "1"}
    )
    server.start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture(scope="package")
def ui(songs_server, tmp_path_factory) -> Iterator[Page]:
    page = Page(["--server", songs_server.target], tmp_path_factory.mktemp("ui"))
    yield page
    page.stop()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Opens the page in a browser without a past. At the end: it has asked nobody else for anything, and no script has failed."""
    contexts, outside, failures = [], [], []

    def open_page(url: str, width: int = 1280, scheme: str = "light", wait: str = "#make"):
        context = browser.new_context(base_url=url, viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_SECONDS * 1000)
        page.on("request", lambda request: None if _is_inside(request.url, url) else outside.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        page.locator(wait).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not outside
    assert not failures


@pytest.fixture
def page(open_page, ui):
    return open_page(ui.url)


def _is_inside(asked: str, url: str) -> bool:
    return asked.startswith(("data:", "blob:")) or urlsplit(asked).netloc == urlsplit(url).netloc
