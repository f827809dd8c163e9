"""The Python client against a real server."""

import asyncio
from contextlib import aclosing

import pytest

from acestep_client import AsyncClient, InvalidRequest, NotFound, RequestCancelled, StageUnavailable
from acestep_rpc.v1 import music_pb2
from tests.integration.client_songs import LONG, is_idle, short_song


@pytest.fixture
async def client(song_server):
    async with AsyncClient(song_server.target) as one:
        yield one


async def test_songs_come_to_memory_or_to_files(client, tmp_path):
    steps = []
    result = await client.generate(short_song(seeds=[7, 8]), on_progress=steps.append)
    assert [song.seed for song in result] == [7, 8]
    assert steps[-1].step == steps[-1].total
    filed = await client.generate(short_song(seeds=[7, 8]), to=tmp_path / "take.wav")
    assert [song.content for song in filed] == [tmp_path / "take_0.wav", tmp_path / "take_1.wav"]
    assert [song.read() for song in filed] == [song.read() for song in result]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "take_0.wav",
        "take_0_input_params.json",
        "take_1.wav",
        "take_1_input_params.json",
    ]


async def test_events_are_iterated_and_leaving_them_ends_the_work(client):
    async with aclosing(client.stream(short_song(**LONG))) as events:
        kinds = []
        async for event in events:
            kinds.append(event.WhichOneof("event"))
            if event.progress.stage == music_pb2.STAGE_SAMPLE:
                break
    assert kinds[0] == "accepted"
    await idle(client)


async def test_a_job_is_submitted_watched_fetched_listed_and_deleted(client, tmp_path):
    job = await client.submit(short_song())
    events = [event async for event in client.watch(job)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    result = await client.result(job, to=tmp_path / "song.wav")
    assert result.song.read() == (await client.generate(short_song())).song.read()
    assert job.name in [found.name async for found in client.jobs("state = succeeded")]
    assert (await client.wait(job)).state == "succeeded"
    await client.delete(job)
    with pytest.raises(NotFound):
        await client.job(job)


async def test_what_is_uploaded_is_downloaded(client, tmp_path):
    song = (await client.generate(short_song())).song
    stored = await client.upload(song.read())
    assert stored == await client.upload(song.save(tmp_path / "one.wav"))
    path = await client.download(stored.name, tmp_path / "two.wav")
    assert path.read_bytes() == song.read()


async def test_errors_are_typed(client):
    with pytest.raises(InvalidRequest) as refused:
        await client.generate(short_song(infer_step=0))
    assert refused.value.violations[0][0] == "sampling.infer_step"
    job = await client.submit(short_song(**LONG))
    await client.cancel(job)
    with pytest.raises(RequestCancelled):
        await client.result(job)
    async with AsyncClient("127.0.0.1:1", connect_seconds=0.2) as nobody:
        with pytest.raises(StageUnavailable):
            await nobody.capabilities()


async def test_cancelling_the_task_ends_the_work(client):
    began = asyncio.Event()
    task = asyncio.create_task(client.generate(short_song(**LONG), on_progress=lambda _: began.set()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(client)


async def idle(client):
    """Returns when the server has nothing to do, which songs of LONG do not give it for minutes."""
    async with asyncio.timeout(60):
        while not is_idle(await client.estimate(short_song())):
            await asyncio.sleep(0.05)
