"""Sampling to its end, whichever replicas do it: a request goes on where its last snapshot stands. It opens no snapshot."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator

from acestep_rpc.errors import InvalidRequest, Overloaded, RequestCancelled, StageUnavailable
from acestep_rpc.telemetry import SAMPLING_RESUMED, SNAPSHOTS, SNAPSHOTS_KEPT_BYTES, STAGE_RETRIES, log
from acestep_rpc.v1 import diffusion_pb2

TRIES, TRIES_WHEN_BEGUN = 2, 3
"""Calls in a row that may fail without a step beyond those before them or a new snapshot: a request that kills replicas kills no more."""
MAX_WAIT_SECONDS = 5.0
"""Between two tries to go on at a replica that has no room."""

Call = Callable[[diffusion_pb2.SampleRequest], AsyncGenerator[diffusion_pb2.SampleResponse, None]]


class Kept:
    """The last snapshot of each request under way, as long as all of them are not too large together.

    Args:
        max_bytes: Of all; one that does not fit beside the others is not kept, and its request begins anew if it has to.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0

    @contextlib.contextmanager
    def slot(self) -> Iterator["Slot"]:
        """A place for the snapshots of one request, until the end of the block."""
        slot = Slot(self)
        try:
            yield slot
        finally:
            slot.keep(None)

    def swap(self, old: int, new: int) -> bool:
        """Exchange so many bytes for others, if there is room; whether there was."""
        if new and self._num_bytes - old + new > self._max_bytes:
            return False
        self._num_bytes += new - old
        SNAPSHOTS_KEPT_BYTES.set(self._num_bytes)
        return True


class Slot:
    """The last snapshot of one request."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._num_bytes = 0
        self.snapshot: diffusion_pb2.SamplingSnapshot | None = None
        """None: there is none, the request begins anew."""

    def keep(self, snapshot: diffusion_pb2.SamplingSnapshot | None) -> None:
        """This one from now on, if there is room; else the one before."""
        num_bytes = 0 if snapshot is None else snapshot.ByteSize()
        if self._kept.swap(self._num_bytes, num_bytes):
            self.snapshot, self._num_bytes = snapshot, num_bytes
        else:
            SNAPSHOTS.labels("no_room").inc()


async def sample_to_the_end(
    request: diffusion_pb2.SampleRequest,
    call: Call,
    slot: Slot,
    snapshot_seconds: float,
    another_ready: Callable[[], bool],
) -> AsyncGenerator[diffusion_pb2.SampleResponse, None]:
    """Responses as those of one call that nothing disturbs: no step and no preview is told twice. Snapshots are kept and not passed on.

    Args:
        request: What to sample.
        call: Of some replica.
        slot: For its snapshots.
        snapshot_seconds: Of device time between two snapshots; 0: none, and a call that breaks off begins anew.
        another_ready: Whether there is a replica that does not drain.
    Raises:
        StageUnavailable: Nobody takes it on.
    """
    shown, failures, reason = 0, 0, ""
    heard: set[tuple[int, int]] = set()  # previews: variant and step
    while True:
        attempt = diffusion_pb2.SampleRequest(snapshot_seconds=snapshot_seconds, snapshot=slot.snapshot)
        attempt.MergeFrom(request)
        if reason:
            SAMPLING_RESUMED.labels(reason).inc()
            log("sampling_resumed", reason=reason, step=shown, from_snapshot=slot.snapshot is not None)
        reason = ""
        try:
            async with contextlib.aclosing(call(attempt)) as responses:
                async for response in responses:
                    match response.WhichOneof("event"):
                        case "progress":
                            if response.progress.step > shown:
                                shown, failures = response.progress.step, 0
                                yield response
                        case "snapshot":
                            if response.snapshot.HasField("snapshot"):
                                slot.keep(response.snapshot.snapshot)
                                failures = 0
                            if response.snapshot.draining and another_ready():
                                reason = "drained"
                                break
                        case "preview":
                            if (key := (response.preview.variant_index, response.preview.step)) not in heard:
                                heard.add(key)
                                yield response
                        case _:
                            yield response
                if not reason:
                    return
        except (StageUnavailable, RequestCancelled) as error:  # a replica that has to stop cancels what it does
            failures += 1
            if failures == (TRIES_WHEN_BEGUN if shown else TRIES):
                raise
            STAGE_RETRIES.labels("diffusion", "broken_off" if shown else "unavailable").inc()
            log("stage_retried", stage="diffusion", reason=str(error))
            reason = "broken_off" if shown else ""
        except Overloaded as error:
            if not shown:
                raise
            await asyncio.sleep(min(error.retry_after_seconds, MAX_WAIT_SECONDS))
        except InvalidRequest as error:
            if slot.snapshot is None or not _of_the_snapshot(error):
                raise
            SNAPSHOTS.labels("refused").inc()
            log("snapshot_refused", reason=str(error))
            slot.keep(None)


def _of_the_snapshot(error: InvalidRequest) -> bool:
    return all(field.partition(".")[0] == "snapshot" for field, _ in error.violations)
