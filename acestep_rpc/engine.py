"""The worker threads of a device, and whether they still get on. Knows no work by name."""

import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from acestep_rpc.telemetry import ENGINE_PIECE_SECONDS

P = ParamSpec("P")
T = TypeVar("T")


class Engine(ThreadPoolExecutor):
    """The one thread that may touch a stage's device, or several. It knows how long it has been at its work, whatever else waits for it.

    Args:
        stage: Name of the threads, and label of the metric.
        workers: Threads.
    """

    def __init__(self, stage: str, workers: int = 1) -> None:
        super().__init__(max_workers=workers, thread_name_prefix=stage)
        self._began: dict[object, float] = {}
        _engines.add(self)
        engine = weakref.ref(self)

        def piece_seconds() -> float:
            running = engine()
            return 0.0 if running is None else running.piece_seconds

        ENGINE_PIECE_SECONDS.labels(stage).set_function(piece_seconds)

    @property
    def piece_seconds(self) -> float:
        """How long the running piece of work, of several the longest, takes already; 0: there is none."""
        return max((time.monotonic() - began for began in list(self._began.values())), default=0.0)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As of any executor."""

        def piece() -> T:
            self._began[piece] = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                del self._began[piece]

        return super().submit(piece)


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def longest_piece_seconds() -> float:
    """Of all engines of this process."""
    return max((engine.piece_seconds for engine in list(_engines)), default=0.0)
