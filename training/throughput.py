"""How fast a run goes, and how much of its time it waits for data."""

import time
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader


class TimedLoader(DataLoader[Any]):
    """A loader that knows how long it was waited for: `waiting_seconds`."""

    waiting_seconds = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches."""
        batches = super().__iter__()
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waiting_seconds += time.perf_counter() - started
            yield batch


class Throughput(Callback):
    """Logs, over the run so far, `speed/audio_seconds_per_second`, the same per CPU second of this process, and `speed/waiting_share`.

    Checkpoints, samples and validations do not count, nor does the first micro-batch. With several processes the figures are those of one.
    """

    def __init__(self) -> None:
        self.audio_seconds = 0.0
        self.working_seconds = 0.0
        self.cpu_seconds = 0.0
        self._waited_before: float | None = None
        self._started = 0.0
        self._cpu_started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The batch is done."""
        loader = trainer.train_dataloader
        assert isinstance(loader, TimedLoader)
        if self._waited_before is None:
            self._waited_before = loader.waiting_seconds
            return
        self.working_seconds += time.perf_counter() - self._started
        self.cpu_seconds += time.process_time() - self._cpu_started
        self.audio_seconds += batch.audio_seconds
        seconds = self.working_seconds + loader.waiting_seconds - self._waited_before
        speeds = {
            "audio_seconds_per_second": self.audio_seconds / seconds,
            "audio_seconds_per_cpu_second": self.audio_seconds / self.cpu_seconds,
            "waiting_share": 1 - self.working_seconds / seconds,
        }
        pl_module.log_dict({f"speed/{name}": value for name, value in speeds.items()}, batch_size=1)
