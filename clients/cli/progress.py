"""A live view of one request on standard error: a bar per stage, with its step and the server's estimate."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from acestep_rpc.v1 import music_pb2

_STAGES = {
    music_pb2.STAGE_QUEUED: "queued",
    music_pb2.STAGE_ENCODE: "encode",
    music_pb2.STAGE_SOURCE: "source",
    music_pb2.STAGE_SAMPLE: "sample",
    music_pb2.STAGE_DECODE: "decode",
}


class ProgressView:
    """Bars that appear as their stages begin. Prints only the final state where standard error is no terminal.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description:<8}"),
            BarColumn(),
            TextColumn("{task.fields[steps]:>9}"),
            TextColumn("{task.fields[eta]}"),
            console=Console(stderr=True, quiet=quiet),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        """Show a bar without a known length."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, steps="", eta="")

    def end(self, name: str) -> None:
        """Fill a bar."""
        self._progress.update(self._tasks[name], total=1, completed=1, steps="")

    def update(self, progress: music_pb2.Progress) -> None:
        """Show where a stage stands."""
        name = _STAGES.get(progress.stage, "work")
        self.begin(name)
        if name != "queued" and "queued" in self._tasks:  # a server need not say that the wait is over
            self.end("queued")
        eta = (
            f"{progress.eta.ToTimedelta().total_seconds():.0f} s left"
            if progress.HasField("eta") and progress.step < progress.total
            else ""
        )
        self._progress.update(
            self._tasks[name],
            total=progress.total or None,
            completed=progress.step,
            steps=f"{progress.step}/{progress.total}" if progress.total else "",
            eta=eta,
        )
