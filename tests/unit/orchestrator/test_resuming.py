"""Sampling that is disturbed, as its caller sees it. Each call answers as it is told."""

from collections.abc import AsyncGenerator, Sequence

import pytest

from acestep_rpc.errors import AcestepError, InvalidRequest, Overloaded, RequestCancelled, StageUnavailable
from acestep_rpc.v1 import diffusion_pb2
from orchestrator.resuming import Kept, sample_to_the_end

Answer = diffusion_pb2.SampleResponse | AcestepError
GONE = StageUnavailable("gone")


def step(number: int) -> Answer:
    return diffusion_pb2.SampleResponse(progress=diffusion_pb2.SampleProgress(step=number, total_steps=9))


def snapshot(number: int, draining: bool = False, num_bytes: int = 100) -> Answer:
    content = diffusion_pb2.SamplingSnapshot(format_version=number, request_digest=bytes(num_bytes))
    return diffusion_pb2.SampleResponse(snapshot=diffusion_pb2.SampleSnapshot(snapshot=content, step=number, draining=draining))


RESULT = diffusion_pb2.SampleResponse(result=diffusion_pb2.SampleResult(evaluated_rows=5))


class Replicas:
    """Calls answered one after another."""

    def __init__(self, *answers: Sequence[Answer], max_bytes: int = 1000) -> None:
        self.answers = list(answers)
        self.began_at: list[int] = []
        self.kept = Kept(max_bytes)

    async def call(self, request: diffusion_pb2.SampleRequest) -> AsyncGenerator[diffusion_pb2.SampleResponse, None]:
        self.began_at.append(request.snapshot.format_version)
        assert request.seeds == [3]
        for answer in self.answers.pop(0):
            if isinstance(answer, AcestepError):
                raise answer
            yield answer

    async def run(self, another_ready: bool = True) -> list[int]:
        """Steps that the caller hears of, and -1 for the result."""
        heard = []
        with self.kept.slot() as slot:
            request = diffusion_pb2.SampleRequest(seeds=[3])
            async for response in sample_to_the_end(request, self.call, slot, 5.0, lambda: another_ready):
                heard.append(response.progress.step or -1)
        return heard


async def test_it_goes_on_at_the_last_snapshot_and_steps_never_run_backwards() -> None:
    replicas = Replicas([step(1), snapshot(1), step(2), snapshot(2), step(3), GONE], [step(3), step(4), GONE], [step(3), step(5), RESULT])
    assert await replicas.run() == [1, 2, 3, 4, 5, -1]
    assert replicas.began_at == [0, 2, 2]


async def test_without_a_snapshot_it_begins_anew() -> None:
    replicas = Replicas([step(1), step(2), GONE], [step(1), step(2), step(3), RESULT])
    assert await replicas.run() == [1, 2, 3, -1]
    assert replicas.began_at == [0, 0]


async def test_what_gets_nowhere_is_given_up_after_three_tries_and_before_the_first_step_after_two() -> None:
    replicas = Replicas([step(1), snapshot(1), step(2), GONE], [step(2), GONE], [step(2), GONE], [step(3), RESULT])
    with pytest.raises(StageUnavailable):
        await replicas.run()
    assert len(replicas.began_at) == 3
    replicas = Replicas([GONE], [GONE], [RESULT])
    with pytest.raises(StageUnavailable):
        await replicas.run()
    assert len(replicas.began_at) == 2


async def test_headway_earns_new_tries() -> None:
    broken = [[step(number), snapshot(number), GONE] for number in range(1, 9)]
    replicas = Replicas(*broken, [step(9), RESULT])
    assert await replicas.run() == [*range(1, 10), -1]


async def test_a_replica_that_stops_and_one_that_drains_are_left() -> None:
    replicas = Replicas([step(1), snapshot(1, draining=True), step(2)], [step(2), RequestCancelled("stopping")], [step(2), step(3), RESULT])
    assert await replicas.run() == [1, 2, 3, -1]
    assert replicas.began_at == [0, 1, 1]


async def test_the_only_replica_is_not_left_while_it_drains() -> None:
    replicas = Replicas([step(1), snapshot(1, draining=True), step(2), RESULT])
    assert await replicas.run(another_ready=False) == [1, 2, -1]


async def test_a_replica_without_room_is_waited_for_by_what_has_begun_only() -> None:
    full = Overloaded("full", 0.001)
    replicas = Replicas([step(1), GONE], [full], [full], [step(2), RESULT])
    assert await replicas.run() == [1, 2, -1]
    with pytest.raises(Overloaded):
        await Replicas([full], [RESULT]).run()


async def test_a_refused_snapshot_is_dropped_and_any_other_refusal_is_told() -> None:
    refused = InvalidRequest("snapshot.request_digest", "ab", "cd")
    replicas = Replicas([step(1), snapshot(1), GONE], [refused], [step(1), step(2), RESULT])
    assert await replicas.run() == [1, 2, -1]
    assert replicas.began_at == [0, 1, 0]
    for answers in ([refused], [step(1), snapshot(1), InvalidRequest("seeds", 17, "1 to 16")]):
        with pytest.raises(InvalidRequest):
            await Replicas(answers).run()


async def test_snapshots_are_kept_as_long_as_there_is_room() -> None:
    replicas = Replicas([step(1), snapshot(1), step(2), snapshot(2, num_bytes=2000), GONE], [step(3), RESULT], max_bytes=200)
    assert await replicas.run() == [1, 2, 3, -1]
    assert replicas.began_at == [0, 1]
    with replicas.kept.slot() as first, replicas.kept.slot() as second:
        for slot in (first, second):
            slot.keep(diffusion_pb2.SamplingSnapshot(request_digest=bytes(150)))
        assert first.snapshot is not None
        assert second.snapshot is None


async def test_previews_are_told_once() -> None:
    def preview(number: int) -> Answer:
        return diffusion_pb2.SampleResponse(preview=diffusion_pb2.SamplePreview(variant_index=0, step=number))

    replicas = Replicas([step(1), preview(1), step(2), preview(2), GONE], [step(1), preview(1), step(2), preview(2), preview(3), RESULT])
    assert await replicas.run() == [1, -1, 2, -1, -1, -1]  # two, and one that is new, before the result
