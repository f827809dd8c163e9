"""The worker thread of a device, and whether it still gets on. Knows no work by name."""

import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from acestep_rpc.telemetry import ENGINE_PIECE_SECONDS

P = ParamSpec("P")
T = TypeVar("T")


class Engine(ThreadPoolExecutor):
    """The one thread that may touch a stage's device. It knows how long it has been at one piece of work, whatever else waits for it.

    Args:
        stage: Name of the thread, and label of the metric.
    """

    def __init__(self, stage: str) -> None:
        super().__init__(max_workers=1, thread_name_prefix=stage)
        self._began: float | None = None
        _engines.add(self)
        engine = weakref.ref(self)

        def piece_seconds() -> float:
            running = engine()
            return 0.0 if running is None else running.piece_seconds

        ENGINE_PIECE_SECONDS.labels(stage).set_function(piece_seconds)

    @property
    def piece_seconds(self) -> float:
        """How long the running piece of work takes already; 0: there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As of any executor."""

        def piece() -> T:
            self._began = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                self._began = None

        return super().submit(piece)


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def longest_piece_seconds() -> float:
    """Of all engines of this process."""
    return max((engine.piece_seconds for engine in list(_engines)), default=0.0)
