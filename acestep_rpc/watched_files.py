"""Files that change while a server runs: read again when they do, the last good content kept when they cannot be."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from acestep_rpc.telemetry import log

T = TypeVar("T")

CHECK_SECONDS = 1.0
"""How often files are looked at, at most."""


class WatchedFiles(Generic[T]):
    """What a function reads out of files, as they are now. Safe to ask from any thread.

    Args:
        paths: The files.
        read: Reads them. An OSError or ValueError at the start is the caller's; later ones are logged, and the last content stays.
        check_seconds: How often the files are looked at, at most.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], check_seconds: float = CHECK_SECONDS) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._check_seconds = check_seconds
        self._lock = threading.Lock()
        self._signature = self._look()
        self._content = read()
        self._checked = time.monotonic()

    def current(self) -> T:
        """The content, read again if a file changed."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked < self._check_seconds:
                return self._content
            self._checked = now
            try:
                signature = self._look()
                if signature == self._signature:
                    return self._content
                content = self._read()
                if self._look() != signature:  # one of several files is being replaced: the next look sees them all
                    return self._content
            except (OSError, ValueError) as error:
                log("files_not_reloaded", level=logging.ERROR, files=[str(path) for path in self._paths], error=str(error))
                return self._content
            self._signature, self._content = signature, content
            log("files_reloaded", files=[str(path) for path in self._paths])
            return content

    def _look(self) -> list[tuple[int, int, int]]:
        return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in (path.stat() for path in self._paths)]
