"""The client without asyncio: from scripts, threads and notebooks."""

import asyncio
import inspect
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from acestep_client import AsyncClient, Client, InvalidRequest
from acestep_client.blocking import Options
from acestep_rpc.v1 import music_pb2
from tests.integration.client_songs import LONG, is_idle, short_song


@pytest.fixture(scope="module")
def client(song_server):
    with Client(song_server.target) as one:
        yield one


def wait_until_idle(client):
    """Returns when the server has nothing to do, which songs of LONG do not give it for minutes."""
    deadline = time.monotonic() + 60
    while not is_idle(client.estimate(short_song())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_has_every_method_and_option_of_the_other():
    def public(kind):
        return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    keywords = {name for name, parameter in inspect.signature(AsyncClient).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert set(Options.__annotations__) == keywords


def test_songs_jobs_and_iterators_from_a_script(client, tmp_path):
    song = client.generate(short_song(), to=tmp_path / "song.wav").song
    job = client.submit(short_song())
    events = list(client.watch(job, audio=False))
    assert events[-1].WhichOneof("event") == "completed"
    assert client.result(job).song.read() == song.read()
    assert client.download(client.wait(job).outcome().songs[0].name, tmp_path / "again.wav").read_bytes() == song.read()
    with pytest.raises(InvalidRequest):
        client.generate(short_song(infer_step=0))


def test_threads_share_a_client(client):
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda seed: client.generate(short_song(seeds=[seed])), (1, 2, 3, 1)))
    songs = [result.song.read() for result in results]
    assert songs[0] == songs[3]
    assert len(set(songs)) == 3


async def test_it_works_inside_a_running_loop_as_a_notebook_has_one(client, song_server):
    song = client.generate(short_song()).song
    async with AsyncClient(song_server.target) as other:
        assert (await other.generate(short_song())).song.read() == song.read()
    shown = song._repr_html_()
    assert shown.startswith('<audio controls src="data:audio/wav;base64,')
    assert "funk, bass, 105 bpm" in shown


def test_samples_come_as_an_array(client):
    song = client.generate(short_song(audio_format="flac")).song
    samples, sample_rate = song.to_numpy()
    assert samples.shape == (round(song.duration_seconds * sample_rate), 2)
    assert (samples.dtype, sample_rate) == ("float32", 48000)


def test_leaving_an_iterator_cancels_the_work(client):
    for event in client.stream(short_song(**LONG)):
        if event.progress.stage == music_pb2.STAGE_SAMPLE:
            break
    del event
    wait_until_idle(client)


def test_a_callback_that_calls_the_client_is_told_so(client):
    with pytest.raises(RuntimeError, match="callback"):
        client.generate(short_song(), on_progress=lambda _: client.capabilities())


SCRIPT = """
import sys
from acestep_client import Client, song_request
client = Client(sys.argv[1])
client.generate(song_request("funk", duration_seconds=240, infer_step=200), on_progress=lambda _: print("began", flush=True))
"""


def test_interrupting_a_script_cancels_the_work(client, song_server):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, song_server.target], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        script.stdout.readline()
        script.send_signal(signal.SIGINT)
        _, errors = script.communicate(timeout=60)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    wait_until_idle(client)


def test_a_script_that_forgets_to_close_ends_without_a_word(song_server):
    script = "import sys; from acestep_client import Client; print(Client(sys.argv[1]).capabilities().version)"
    ended = subprocess.run([sys.executable, "-c", script, song_server.target], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_lost_task_is_not_waited_for(client):
    """A generator that the shared loop's own thread lets go of closes without waiting for itself."""
    events = client.stream(short_song(**LONG))
    next(events)
    held = [events]
    del events
    from acestep_client.blocking import _thread

    asyncio.run_coroutine_threadsafe(_forget(held), _thread().loop).result(30)
    wait_until_idle(client)


async def _forget(held):
    held.clear()
