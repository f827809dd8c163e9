"""A client whose server is killed in the middle of things and comes back with the same data folder, or has no room."""

import asyncio
import signal
from contextlib import aclosing

import numpy as np
import pytest
import soundfile

from acestep_client import AsyncClient, BrokenTransfer, Overloaded
from acestep_rpc.v1 import music_pb2
from tests.integration.client_songs import short_song
from tests.integration.conftest import START_SECONDS, serving
from tests.integration.requests import Answer

PLAIN_BACKOFF_SECONDS = 4.0  # by then a client that heeds no pushback has used up its five attempts


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    with serving(checkpoint, tmp_path_factory.mktemp("failures"), max_requests="1") as one:
        yield one


@pytest.fixture
async def client(server):
    async with AsyncClient(server.target, reconnect_seconds=START_SECONDS) as one:
        yield one


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A file that no buffer on the way holds."""
    path = tmp_path_factory.mktemp("recording") / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (44100 * 200, 2)), 44100, subtype="PCM_24")
    return path


async def test_download_watcher_and_waiter_outlive_a_killed_server(server, client, recording):
    request = short_song(duration_seconds=8.0, infer_step=40)
    undisturbed = await client.generate(request)
    name = (await client.upload(recording)).name
    job = await client.submit(request)
    waiter = asyncio.create_task(client.wait(job))
    events, received = [], b""
    async with aclosing(client.watch(job)) as watched, aclosing(client.read(name)) as pieces:
        while not events or events[-1].progress.stage != music_pb2.STAGE_SAMPLE:
            events.append(await anext(watched))
        received += await anext(pieces)
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        restarting = asyncio.create_task(asyncio.to_thread(server.start))
        async for piece in pieces:
            received += piece
        assert restarting.done()  # so much was not on its way when the server died
        async for event in watched:
            events.append(event)
    assert received == recording.read_bytes()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert Answer(events).file() == undisturbed.song.read()
    assert (await waiter).metadata.attempt == 2
    assert [event async for event in client.watch(job)] == events
    assert (await client.result(job)).song.read() == undisturbed.song.read()


async def test_a_download_that_was_given_up_is_taken_up_by_the_next(client, recording, tmp_path):
    name = (await client.upload(recording)).name

    async def give_up():
        download = asyncio.create_task(client.download(name, tmp_path / "song.wav"))
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            await asyncio.sleep(0)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        (partial,) = tmp_path.iterdir()
        assert 0 < partial.stat().st_size < recording.stat().st_size
        return partial

    partial = await give_up()
    partial.write_bytes(partial.read_bytes()[:-1] + b"?")  # so that the end shows what was taken from it
    with pytest.raises(BrokenTransfer, match="SHA-256"):
        await client.download(name, tmp_path / "song.wav")
    assert list(tmp_path.iterdir()) == []
    await give_up()
    await client.download(name, tmp_path / "song.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
    assert (tmp_path / "song.wav").read_bytes() == recording.read_bytes()


async def test_a_refusal_for_want_of_room_is_tried_again_when_the_server_says_so(server, client):
    began = asyncio.Event()
    busy = asyncio.create_task(client.generate(short_song(duration_seconds=60.0, infer_step=60), on_progress=lambda _: began.set()))
    await began.wait()
    async with AsyncClient(server.target, retries=False) as hasty:
        with pytest.raises(Overloaded) as refused:
            await hasty.generate(short_song())
    assert refused.value.retry_after_seconds > PLAIN_BACKOFF_SECONDS
    patient = asyncio.create_task(client.generate(short_song()))
    while await asyncio.to_thread(server.metric, "acestep_refused_total", reason="requests") < 2:
        await asyncio.sleep(0.1)
    await asyncio.sleep(PLAIN_BACKOFF_SECONDS)
    assert await asyncio.to_thread(server.metric, "acestep_refused_total", reason="requests") == 2
    assert not patient.done()
    busy.cancel()
    assert (await patient).song.read()
