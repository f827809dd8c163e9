"""A request that is frozen between any two of its steps and goes on elsewhere gives the same songs, bit for bit."""

import asyncio
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from acestep_rpc.admission import Memory
from acestep_rpc.errors import AcestepError, InvalidRequest, Overloaded
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import diffusion_pb2, sampling_pb2
from diffusion_svc.adapters import AdapterStore
from diffusion_svc.batcher import Batcher, Progress, Result
from diffusion_svc.budget import Budget
from diffusion_svc.memory import request_bytes
from diffusion_svc.places import MOST_TIMES_ASIDE, Snapshot
from diffusion_svc.sampler import Sampler, SamplingRequest, SongSnapshot
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import CfgType
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.scheduling import Priority, Terms
from diffusion_svc.servicer import DiffusionServicer, read_request
from diffusion_svc.snapshots import SnapshotMessages
from diffusion_svc.tasks import AudioToAudio, Edit, Extend, Repaint, Retake, TaskSpec, TextToMusic
from tests import tiny
from tests.unit.diffusion_svc.test_adapters import low_rank, write
from tests.unit.diffusion_svc.test_servicer import request as message_of

MODEL = tiny.transformer(num_layers=1)
SOURCE = tiny.latents(9)
TASKS: dict[str, TaskSpec] = {
    "text_to_music": TextToMusic(9),
    "retake": Retake(9, (0.3, 0.6), (7, 8)),
    "repaint": Repaint(SOURCE, ((2, 5),), 0.8, (7, 8), feather=1.0),
    "repaint in windows": Repaint(SOURCE, ((1, 3), (6, 8)), 0.8, (7, 8), context=1),
    "extend": Extend(SOURCE, 3, 2, (7, 8)),
    "edit": Edit(SOURCE, tiny.conditions(5, 2, 7), EditWindow(0.1, 0.6, 2), (7, 8)),
    "edit to the end": Edit(SOURCE, tiny.conditions(5, 2, 7), EditWindow(0.0, 1.0, 1), (7, 8)),
    "audio_to_audio": AudioToAudio(SOURCE, 0.1),
}
GUIDANCE = {
    "none": tiny.guidance_params(guidance_scale=1.0),
    **{cfg_type.value: tiny.guidance_params(cfg_type=cfg_type, guidance_interval=0.9, guidance_interval_decay=0.5) for cfg_type in CfgType},
    "double": tiny.guidance_params(guidance_interval=1.0, guidance_scale_text=5.0, guidance_scale_lyric=2.0),
}


def cases():
    for (name, task), solver, guidance in itertools.product(TASKS.items(), SchedulerType, GUIDANCE):
        if isinstance(task, Repaint | Extend) and solver is not SchedulerType.EULER:
            continue
        if isinstance(task, Edit) and (solver is SchedulerType.HEUN or guidance not in ("none", "apg")):
            continue
        yield pytest.param(task, solver, GUIDANCE[guidance], id=f"{name}, {solver.value}, {guidance}")


def request_of(task: TaskSpec, solver: SchedulerType, guidance, steps: int = 5) -> SamplingRequest:
    return tiny.sampling_request((1, 2), params=tiny.sampling_params(steps, solver, guidance), task=task)


def run(sampler: Sampler, request: SamplingRequest, snapshot: list[SongSnapshot] | None = None) -> tuple[list[torch.Tensor], list]:
    """Final latents, and a snapshot of every step boundary."""
    songs, boundaries = sampler.start(request, snapshot), []
    while waiting := [song for song in songs if song.pending]:
        boundaries.append((sampler.freeze(songs), [(song.steps_done, song.forwards_done, song.evaluated_rows) for song in songs]))
        sampler.tick(waiting[:1] if len(boundaries) % 3 == 0 else waiting)  # variants drift apart, and end apart
    return [song.result for song in songs], [*boundaries, (sampler.freeze(songs), None)]


@pytest.mark.parametrize(("task", "solver", "guidance"), list(cases()))
def test_a_request_frozen_at_any_step_goes_on_to_the_same_songs(task, solver, guidance):
    request = request_of(task, solver, guidance)
    expected, boundaries = run(Sampler(MODEL), request)
    assert len(boundaries) >= 3
    for snapshot, counts in boundaries:
        resumed = Sampler(MODEL)
        songs = resumed.start(request, snapshot)
        if counts:
            assert [(song.steps_done, song.forwards_done, song.evaluated_rows) for song in songs] == counts
        while waiting := [song for song in songs if song.pending]:
            resumed.tick(waiting)
        assert all(torch.equal(song.result, alone) for song, alone in zip(songs, expected, strict=True))


def test_a_snapshot_is_not_touched_by_the_song_that_goes_on():
    request = request_of(TASKS["repaint in windows"], SchedulerType.EULER, GUIDANCE["apg"])
    sampler = Sampler(MODEL)
    expected, boundaries = run(sampler, request)
    snapshot, _ = boundaries[len(boundaries) // 2]
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(run(sampler, request, snapshot)[0], expected, strict=True))


def test_draws_of_ping_pong_are_counted():
    _, boundaries = run(Sampler(MODEL), request_of(TASKS["text_to_music"], SchedulerType.PINGPONG, GUIDANCE["apg"], steps=6))
    draws = [[song.state.draws for song in snapshot] for snapshot, counts in boundaries if counts]
    assert draws[0] == [1, 1]
    assert max(max(row) for row in draws) == 6


def test_windows_of_a_long_extension_go_on():
    source = tiny.latents(100)
    request = tiny.sampling_request(
        task=Extend(source, 1400, 2700, (7,)), params=tiny.sampling_params(2, guidance=tiny.guidance_params(guidance_interval=1.0))
    )
    expected, boundaries = run(Sampler(MODEL), request)
    assert {snapshot[0].state.window for snapshot, counts in boundaries if counts} == {0, 1, 2, 3}
    for snapshot, _ in boundaries[1:8:3]:
        assert torch.equal(run(Sampler(MODEL), request, snapshot)[0][0], expected[0])
    assert boundaries[0][0][0].state.tensors.keys() == {"latents", "result"}


def test_a_request_under_adapters_goes_on(tmp_path):
    write(tmp_path, "a", low_rank(MODEL, seed=1))
    adaptation = AdapterStore(tmp_path, MODEL, 1).select([("a", 1.0)])
    request = tiny.sampling_request((1, 2), params=tiny.sampling_params(3))
    plain, adapted = (SamplingRequest(request.conditions, request.params, request.seeds, request.task, one) for one in (None, adaptation))
    expected, boundaries = run(Sampler(MODEL), adapted)
    assert all(torch.equal(*pair) for pair in zip(run(Sampler(MODEL), adapted, boundaries[1][0])[0], expected, strict=True))
    assert not torch.equal(run(Sampler(MODEL), plain)[0][0], expected[0])


def batcher_of(memory: Memory | None = None, max_requests: int = 8) -> Batcher:
    return Batcher(Sampler(MODEL), ThreadPoolExecutor(max_workers=1), Budget(160, 0.01), max_requests, memory=memory)


def request_for(seed: int, steps: int = 4, **task) -> SamplingRequest:
    return tiny.sampling_request((seed,), params=tiny.sampling_params(steps), **task)


async def collect(batcher: Batcher, *arguments) -> list[Progress | Snapshot | Result]:
    return [event async for event in batcher.sample(*arguments)]


async def test_snapshots_come_between_steps_and_another_batcher_goes_on_from_each():
    request = tiny.sampling_request((1, 2), params=tiny.sampling_params(4))
    events = await collect(batcher_of(), request, None, None, 1e-9)
    assert [type(event).__name__ for event in events] == ["Progress", "Snapshot"] * 3 + ["Progress", "Result"]
    snapshots = [event for event in events if isinstance(event, Snapshot)]
    assert [snapshot.step for snapshot in snapshots] == [2, 4, 6]
    for snapshot in snapshots:
        resumed = await collect(batcher_of(), request, None, snapshot.songs)
        assert [event.step for event in resumed[:-1]] == list(range(snapshot.step + 2, 9, 2))
        assert all(torch.equal(*pair) for pair in zip(resumed[-1].latents, events[-1].latents, strict=True))
        assert resumed[-1].evaluated_rows == events[-1].evaluated_rows
        assert resumed[-1].device_seconds > snapshot.device_seconds


async def test_snapshots_come_as_often_as_they_are_wanted():
    assert not any(isinstance(event, Snapshot) for event in await collect(batcher_of(), request_for(1)))
    assert not any(isinstance(event, Snapshot) for event in await collect(batcher_of(), request_for(1), None, None, 1000.0))


async def test_a_stage_that_drains_says_so_at_the_next_step_and_works_on():
    batcher = batcher_of(Memory(request_bytes(request_for(1), MODEL.config, MODEL.dtype), "cpu"))
    running, waiting = (batcher.sample(request_for(seed, 20), None, None, 1000.0) for seed in (1, 2))
    await anext(running)
    told = asyncio.ensure_future(anext(waiting))
    await asyncio.sleep(0)
    batcher.drain()
    nothing_done = await told
    assert nothing_done == Snapshot(None, 0, draining=True)
    events = [event async for event in running]
    (snapshot,) = [event for event in events if isinstance(event, Snapshot)]
    assert snapshot.draining
    assert isinstance(events[-1], Result)
    await waiting.aclose()


async def test_a_higher_class_gets_the_memory_of_a_lower_one_which_goes_on_later_to_the_same_song():
    expected = [(await collect(batcher_of(), request_for(seed, 30)))[-1].latents[0] for seed in (1, 2)]
    memory = Memory(int(1.5 * request_bytes(request_for(1), MODEL.config, MODEL.dtype)), "cpu")
    batcher, ended = batcher_of(memory), []
    preempted = REGISTRY.get_sample_value("acestep_preempted_total", {"reason": "memory"}) or 0.0

    async def sample(seed: int, priority: Priority, until_running: asyncio.Event) -> list:
        events = []
        async for event in batcher.sample(request_for(seed, 30), Terms(priority)):
            events.append(event)
            until_running.set()
        ended.append(priority)
        return events

    running = asyncio.Event()
    low = asyncio.create_task(sample(1, Priority.BATCH, running))
    await running.wait()
    high = asyncio.create_task(sample(2, Priority.INTERACTIVE, asyncio.Event()))
    results = await asyncio.gather(low, high)
    assert ended == [Priority.INTERACTIVE, Priority.BATCH]
    for events, song in zip(results, expected, strict=True):
        assert [event.step for event in events[:-1]] == list(range(1, 31))
        assert torch.equal(events[-1].latents[0], song)
    assert memory.free == memory.amount
    assert REGISTRY.get_sample_value("acestep_preempted_total", {"reason": "memory"}) == preempted + 1


async def test_at_the_limit_of_requests_a_higher_class_gets_the_place_of_a_lower_one_and_an_equal_one_is_refused():
    batcher, expected = batcher_of(max_requests=1), (await collect(batcher_of(), request_for(1, 30)))[-1].latents[0]
    low = batcher.sample(request_for(1, 30), Terms(Priority.BATCH))
    steps = [(await anext(low)).step]
    with pytest.raises(Overloaded):
        await collect(batcher, request_for(2), Terms(Priority.BATCH))
    high = await collect(batcher, request_for(2, 30), Terms(Priority.NORMAL))
    assert isinstance(high[-1], Result)
    events = [event async for event in low]
    assert steps + [event.step for event in events[:-1]] == list(range(1, 31))
    assert torch.equal(events[-1].latents[0], expected)


async def test_nobody_steps_aside_for_ever():
    batcher = batcher_of(max_requests=1)
    low = asyncio.create_task(collect(batcher, request_for(1, 2000), Terms(Priority.BATCH)))

    async def until_running() -> None:
        async with asyncio.timeout(30):
            while batcher.waiting_requests or not batcher.running_rows:
                await asyncio.sleep(0.001)

    for number in range(MOST_TIMES_ASIDE):
        await until_running()
        assert isinstance((await collect(batcher, request_for(number), Terms(Priority.INTERACTIVE)))[-1], Result)
    await until_running()
    with pytest.raises(Overloaded):
        await collect(batcher, request_for(9), Terms(Priority.INTERACTIVE))
    low.cancel()
    await asyncio.gather(low, return_exceptions=True)
    assert not batcher._places.tickets


def stub_of(digest: str = "weights") -> InProcessStub:
    return InProcessStub(DiffusionServicer(batcher_of(), MODEL.config, AdapterStore(None, MODEL, 0), ThreadPoolExecutor(1), digest))


async def answers(stub: InProcessStub, message: diffusion_pb2.SampleRequest) -> list[diffusion_pb2.SampleResponse]:
    return [event async for event in stub.Sample(message)]


def sampled(**fields) -> diffusion_pb2.SampleRequest:
    return message_of(params__infer_step=4, params__scheduler_type=sampling_pb2.SCHEDULER_TYPE_HEUN, **fields)


async def test_snapshots_survive_the_wire_and_go_on_at_another_servicer():
    events = await answers(stub_of(), sampled(snapshot_seconds=1e-9))
    snapshots = [event.snapshot for event in events if event.WhichOneof("event") == "snapshot"]
    assert [snapshot.step for snapshot in snapshots] == [2, 4, 6, 8, 10, 12]
    assert "trial_start" in snapshots[0].snapshot.songs[0].tensors
    for snapshot in snapshots:
        content = diffusion_pb2.SamplingSnapshot.FromString(snapshot.snapshot.SerializeToString())
        resumed = sampled(tenant="other", priority=1)  # these shape no result
        resumed.snapshot.CopyFrom(content)
        last = (await answers(stub_of(), resumed))[-1].result
        assert list(last.latents) == list(events[-1].result.latents)


async def test_a_snapshot_holds_a_few_times_the_latents():
    events = await answers(stub_of(), sampled(snapshot_seconds=1e-9, params__guidance_interval=1.0))
    sizes = [event.snapshot.snapshot.ByteSize() for event in events if event.WhichOneof("event") == "snapshot"]
    latents = sum(len(tensor.data) for tensor in events[-1].result.latents)
    assert max(sizes) < 4 * latents + 1000  # heun: latents, start and slope of its trial; the momentum of apg


async def test_a_snapshot_that_could_not_come_back_is_not_sent(monkeypatch):
    monkeypatch.setattr("diffusion_svc.snapshots.MAX_MESSAGE_BYTES", 80_000)
    events = await answers(stub_of(), sampled(snapshot_seconds=1e-9))
    assert not any(event.snapshot.HasField("snapshot") for event in events)
    assert list(events[-1].result.latents)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
async def test_snapshots_cannot_be_asked_for_at_no_interval(seconds):
    with pytest.raises(InvalidRequest) as refused:
        await answers(stub_of(), sampled(snapshot_seconds=seconds))
    assert refused.value.violations[0][0] == "snapshot_seconds"


def taken(index: int = 2) -> tuple[diffusion_pb2.SampleRequest, diffusion_pb2.SamplingSnapshot]:
    """A request and a snapshot of it."""
    message, messages = sampled(), SnapshotMessages("weights")
    request = read_request(message, MODEL.config)
    messages.bind(message, None)
    songs, _ = run(Sampler(MODEL), request)[1][index]
    return message, messages.write(Snapshot(songs, 1)).snapshot


MESSAGE, TAKEN = taken()


def signed(songs: list[diffusion_pb2.SongSnapshot]) -> diffusion_pb2.SamplingSnapshot:
    """As somebody hostile who knows how would write it."""
    from diffusion_svc.snapshots import _songs_digest

    return diffusion_pb2.SamplingSnapshot(
        format_version=1, request_digest=TAKEN.request_digest, songs=songs, songs_digest=_songs_digest(songs)
    )


def changed(**fields) -> diffusion_pb2.SamplingSnapshot:
    song = diffusion_pb2.SongSnapshot()
    song.CopyFrom(TAKEN.songs[0])
    for name, value in fields.items():
        if name == "tensors":
            for key, tensor in value.items():
                if tensor is None:
                    del song.tensors[key]
                else:
                    song.tensors[key].CopyFrom(pack(tensor))
        else:
            setattr(song, name, value)
    return signed([song, TAKEN.songs[1]])


def read(snapshot: diffusion_pb2.SamplingSnapshot, message: diffusion_pb2.SampleRequest = MESSAGE, digest: str = "weights") -> list:
    messages = SnapshotMessages(digest)
    messages.bind(message, None)
    return messages.read(snapshot, read_request(message, MODEL.config))


@pytest.mark.parametrize(
    ("snapshot", "field"),
    [
        (diffusion_pb2.SamplingSnapshot(), "snapshot.format_version"),
        (diffusion_pb2.SamplingSnapshot(format_version=1), "snapshot.request_digest"),
        (signed([]), "snapshot.songs"),
        (signed([TAKEN.songs[0]]), "snapshot.songs"),
        (changed(timestep_index=7), "snapshot.songs[0].timestep_index"),
        (changed(window=1), "snapshot.songs[0].window"),
        (changed(noise_draws=2**32 - 1), "snapshot.songs[0].noise_draws"),
        (changed(device_seconds=math.nan), "snapshot.songs[0].device_seconds"),
        (changed(device_seconds=-1.0), "snapshot.songs[0].device_seconds"),
        (changed(timestep_index=3), "snapshot.songs[0].tensors"),
        (changed(tensors={"latents": None}), "snapshot.songs[0].tensors"),
        (changed(tensors={"latent": torch.zeros(8, 16, 10)}), "snapshot.songs[0].tensors"),
        (changed(tensors={"latents": torch.zeros(8, 16, 9)}), "snapshot.songs[0].tensors.latents.shape"),
        (changed(tensors={"latents": torch.zeros(8, 16, 10, dtype=torch.bfloat16)}), "snapshot.songs[0].tensors.latents.data_type"),
        (changed(tensors={"momentum": torch.full((8, 16, 10), torch.nan)}), "snapshot.songs[0].tensors.momentum.data"),
    ],
)
def test_a_snapshot_that_is_no_place_of_the_request_is_refused_by_field(snapshot, field):
    with pytest.raises(InvalidRequest) as refused:
        read(snapshot)
    assert [name for name, _ in refused.value.violations] == [field]


def test_a_snapshot_of_another_request_or_other_weights_is_refused():
    assert len(read(TAKEN)) == 2
    for arguments in ({"digest": "other weights"}, {"message": sampled(seeds=[1, 3])}, {"message": sampled(params__omega_scale=9.0)}):
        with pytest.raises(InvalidRequest, match="snapshot.request_digest"):
            read(TAKEN, **arguments)


def songs_or_fields(message: diffusion_pb2.SamplingSnapshot) -> tuple[list[SongSnapshot], list[str]]:
    """What a snapshot says, or what of it is refused."""
    try:
        return read(message), []
    except InvalidRequest as refused:
        return [], [field for field, _ in refused.violations]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_snapshots_are_refused_with_a_typed_error_or_tell_the_same(data):
    good = TAKEN.SerializeToString(deterministic=True)
    position = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.integers(0, 3))
    damaged = good[:position] + data.draw(st.binary(max_size=4)) + good[position + cut :]
    try:
        message = diffusion_pb2.SamplingSnapshot.FromString(damaged)
    except Exception:  # no message at all: gRPC refuses it
        return
    songs, fields = songs_or_fields(message)
    assert songs or all(field.startswith("snapshot") for field in fields)
    if fields:
        return
    for song, undamaged in zip(songs, read(TAKEN), strict=True):  # what came along is unknown, as from another version
        assert song.state.tensors.keys() == undamaged.state.tensors.keys()
        assert all(torch.equal(tensor, undamaged.state.tensors[name]) for name, tensor in song.state.tensors.items())
        assert (song.state.index, song.state.draws) == (undamaged.state.index, undamaged.state.draws)


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, 2**32 - 1) | st.integers(0, 7),
    window=st.integers(0, 2),
    draws=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    forwards=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1.0, 1e38]),
    names=st.sets(st.sampled_from(["latents", "momentum", "trial_start", "trial_slope", "target_momentum", "result"])),
)
def test_whatever_a_snapshot_says_a_stage_ends_with_songs_or_a_typed_error(index, window, draws, forwards, rows, scale, names):
    song = diffusion_pb2.SongSnapshot(timestep_index=index, window=window, noise_draws=draws, forwards=forwards, evaluated_rows=rows)
    for name in names:
        song.tensors[name].CopyFrom(pack(torch.full((8, 16, 10), scale)))
    try:
        snapshot = read(signed([song, song]))
    except AcestepError:
        return
    sampler = Sampler(MODEL)
    songs = sampler.start(read_request(MESSAGE, MODEL.config), snapshot)
    while waiting := [one for one in songs if one.pending]:
        sampler.tick(waiting)
    assert all(isinstance(one.result, torch.Tensor | AcestepError) for one in songs)
