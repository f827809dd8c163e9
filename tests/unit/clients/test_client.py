"""The client against a server that follows a script."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_status import rpc_status

from acestep_client import AsyncClient, BrokenTransfer, QuotaExceeded, StageUnavailable, TextToMusic, TimeRange, song_request
from acestep_client.requests import sampling_params
from acestep_rpc.errors import StageUnavailable as Away
from acestep_rpc.errors import to_status
from acestep_rpc.v1 import music_pb2, music_pb2_grpc

AWAY = Away("no vae stage", retry_after_seconds=0.01)


class Music(music_pb2_grpc.MusicServiceServicer):
    """Sends what it was given; counts the calls."""

    def __init__(self) -> None:
        self.events: list[music_pb2.GenerateEvent] = []
        self.pieces: list[music_pb2.DownloadAudioResponse] = []
        self.watches: list[int] = []
        self.generations = 0
        self.quota_seconds: float | None = None

    async def WatchGeneration(self, request, context) -> AsyncIterator[music_pb2.WatchGenerationResponse]:
        self.watches.append(request.from_sequence)
        for event in self.events[request.from_sequence - 1 :]:
            yield music_pb2.WatchGenerationResponse(event=event)
        await context.abort_with_status(rpc_status.to_status(to_status(AWAY)))

    async def DownloadAudio(self, request, context) -> AsyncIterator[music_pb2.DownloadAudioResponse]:
        for piece in self.pieces:
            yield piece

    async def Generate(self, request, context) -> AsyncIterator[music_pb2.GenerateEvent]:
        self.generations += 1
        error = QuotaExceeded("audio_seconds_per_day", "used up", retry_after_seconds=self.quota_seconds)
        status = rpc_status.to_status(to_status(error))
        metadata = (*status.trailing_metadata, ("grpc-retry-pushback-ms", str(error.pushback_milliseconds)))
        await context.abort_with_status(status._replace(trailing_metadata=metadata))
        yield music_pb2.GenerateEvent()


class Operations(operations_pb2_grpc.OperationsServicer):
    """Knows one job, which failed for want of a stage after three events."""

    async def GetOperation(self, request, context) -> operations_pb2.Operation:
        operation = operations_pb2.Operation(name=request.name, done=True, error=to_status(AWAY))
        operation.metadata.Pack(music_pb2.GenerationMetadata(state=music_pb2.JOB_STATE_FAILED, last_sequence=3))
        return operation


@pytest.fixture
async def music():
    return Music()


@pytest.fixture
async def client(music):
    server = grpc.aio.server()
    music_pb2_grpc.add_MusicServiceServicer_to_server(music, server)
    operations_pb2_grpc.add_OperationsServicer_to_server(Operations(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as one:
        yield one
    await server.stop(None)


async def test_a_job_that_failed_for_want_of_a_stage_is_not_taken_for_a_server_that_is_away(client, music):
    music.events = [music_pb2.GenerateEvent(sequence=number) for number in (1, 2, 3)]
    watched = client.watch("job")
    assert [(await anext(watched)).sequence for _ in music.events] == [1, 2, 3]
    with pytest.raises(StageUnavailable, match="no vae stage"):
        await anext(watched)
    assert music.watches == [1]


@pytest.mark.parametrize(("seconds", "calls"), [(None, 1), (3600.0, 1), (0.01, 5)])
async def test_a_quota_is_waited_for_only_if_it_is_soon_free(client, music, seconds, calls):
    music.quota_seconds = seconds
    with pytest.raises(QuotaExceeded):
        await client.generate(song_request("funk"))
    assert music.generations == calls


@pytest.mark.parametrize(
    ("pieces", "match"),
    [
        ([(0, b"ab", 5), (3, b"de", 5)], "from 3 on"),
        ([(0, b"ab", 5), (1, b"bc", 5)], "from 1 on"),
        ([(0, b"ab", 5), (2, b"cde", 6)], "of 6"),
        ([(0, b"ab", 5)], "2 of 5"),
    ],
)
async def test_bytes_that_are_lost_or_come_twice_are_noticed(client, music, pieces, match):
    music.pieces = [music_pb2.DownloadAudioResponse(offset=offset, data=data, size_bytes=size) for offset, data, size in pieces]
    with pytest.raises(BrokenTransfer, match=match):
        [_ async for _ in client.read("assets/a")]


def test_a_request_says_what_was_said_and_no_more():
    request = song_request(
        "funk", duration_seconds=30, seeds=[1, 2], adapters={"rap": 0.5}, audio_format="flac", infer_step=30, cfg_type="cfg"
    )
    assert request.text_to_music == TextToMusic(duration_seconds=30)
    assert request.output == music_pb2.OutputSpec(format=music_pb2.AUDIO_FORMAT_FLAC)
    assert request.sampling == sampling_params(infer_step=30, cfg_type="cfg")
    assert (request.adapters[0].name, request.adapters[0].scale) == ("rap", 0.5)
    assert not request.HasField("num_variants")
    assert song_request().WhichOneof("task") == "text_to_music"


@pytest.mark.parametrize("words", [{"audio_format": "aiff"}, {"scheduler_type": "dpm"}, {"cfg_type": "none"}, {"priority": "high"}])
def test_words_that_mean_nothing_are_refused_by_name(words):
    with pytest.raises(ValueError, match=f"{next(iter(words))}: '{next(iter(words.values()))}' is none of "):
        song_request("funk", **words)


def test_a_length_beside_a_task_that_has_its_own_is_refused():
    task = music_pb2.Repaint(regions=[TimeRange(start_seconds=0, end_seconds=1)])
    with pytest.raises(ValueError, match="duration_seconds"):
        song_request("funk", task=task, duration_seconds=3)
