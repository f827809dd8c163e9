import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from grpc_status import rpc_status

from acestep_rpc.errors import AcestepError, InvalidRequest, Overloaded, RequestCancelled, StageError, StageUnavailable, to_status
from acestep_rpc.v1 import music_pb2, music_pb2_grpc
from clients.cli.failures import ExitCode

AUDIO = bytes(range(256)) * 40
Events = AsyncIterator[music_pb2.GenerateEvent]


class Server(music_pb2_grpc.MusicServiceServicer):
    """A MusicService that answers with the events of a script."""

    def __init__(self) -> None:
        self.script: Callable[[music_pb2.GenerateRequest], Events] = songs
        self.requests: list[music_pb2.GenerateRequest] = []
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.target = ""

    async def Generate(self, request: music_pb2.GenerateRequest, context: grpc.aio.ServicerContext) -> Events:
        self.requests.append(request)
        ended = False
        try:
            async for event in self.script(request):
                yield event
                self.started.set()
            ended = True
        except AcestepError as error:
            ended = True
            await context.abort_with_status(rpc_status.to_status(to_status(error)))
        finally:
            if not ended:
                self.cancelled.set()


async def songs(request: music_pb2.GenerateRequest) -> Events:
    """A well-behaved server: each variant is its index and then AUDIO."""
    seeds = list(request.seeds) or [7]
    yield music_pb2.GenerateEvent(accepted=music_pb2.Accepted(seeds=seeds, duration_seconds=1.0))
    yield music_pb2.GenerateEvent(progress=music_pb2.Progress(stage=music_pb2.STAGE_ENCODE, step=1, total=1))
    for step in range(3):
        eta = Duration(seconds=2 - step)
        yield music_pb2.GenerateEvent(progress=music_pb2.Progress(stage=music_pb2.STAGE_SAMPLE, step=step + 1, total=3, eta=eta))
    result = music_pb2.GenerateResult(warnings=["line 2 is empty"])
    for index, seed in enumerate(seeds):
        data = bytes([index]) + AUDIO
        for offset in range(0, len(data), 4096):
            piece = data[offset : offset + 4096]
            chunk = music_pb2.AudioChunk(variant_index=index, offset=offset, data=piece, last=offset + len(piece) == len(data))
            yield music_pb2.GenerateEvent(audio_chunk=chunk)
        receipt = Struct()
        receipt.update({"actual_seeds": [seed], "infer_step": 60, "prompt": request.prompt.tags, "guidance_scale": 7.5})
        song = result.songs.add(variant_index=index, seed=seed, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        song.receipt.CopyFrom(receipt)
    yield music_pb2.GenerateEvent(completed=result)


def failing(error: AcestepError) -> Callable[[music_pb2.GenerateRequest], Events]:
    async def script(request: music_pb2.GenerateRequest) -> Events:
        yield music_pb2.GenerateEvent(accepted=music_pb2.Accepted(seeds=[7]))
        yield music_pb2.GenerateEvent(audio_chunk=music_pb2.AudioChunk(data=b"half a song"))
        raise error

    return script


def spoiled(change: Callable[[music_pb2.GenerateEvent], object]) -> Callable[[music_pb2.GenerateRequest], Events]:
    async def script(request: music_pb2.GenerateRequest) -> Events:
        async for event in songs(request):
            change(event)
            yield event

    return script


async def endless(request: music_pb2.GenerateRequest) -> Events:
    yield music_pb2.GenerateEvent(accepted=music_pb2.Accepted(seeds=[7]))
    yield music_pb2.GenerateEvent(audio_chunk=music_pb2.AudioChunk(data=b"half a song"))
    while True:
        yield music_pb2.GenerateEvent(progress=music_pb2.Progress(stage=music_pb2.STAGE_SAMPLE, step=1, total=60))
        await asyncio.sleep(0.02)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    servicer = Server()
    grpc_server = grpc.aio.server()
    music_pb2_grpc.add_MusicServiceServicer_to_server(servicer, grpc_server)
    servicer.target = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    await grpc_server.start()
    yield servicer
    await grpc_server.stop(0)


async def start(*argv: str, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clients.cli.main", *argv, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@pytest.fixture
def acestep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[tuple[int, str, str]]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))

    async def run(*argv: str) -> tuple[int, str, str]:
        process = await start(*argv, cwd=tmp_path)
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    return run


Acestep = Callable[..., Awaitable[tuple[int, str, str]]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_one_song_is_written_with_its_receipt_beside_it(server: Server, acestep: Acestep, tmp_path: Path) -> None:
    code, output, errors = await acestep(
        "generate", "--server", server.target, "--tags", "funk", "--lyrics", r"[verse]\nhello", "--duration", "10", "-o", "song.flac"
    )
    assert (code, output) == (ExitCode.OK, "song.flac\n")
    assert names(tmp_path) == ["song.flac", "song_input_params.json"]
    assert (tmp_path / "song.flac").read_bytes() == b"\x00" + AUDIO
    receipt = json.loads((tmp_path / "song_input_params.json").read_text())
    assert receipt == {"actual_seeds": [7], "infer_step": 60, "prompt": "funk", "guidance_scale": 7.5, "audio_path": "song.flac"}
    assert isinstance(receipt["actual_seeds"][0], int)
    request = server.requests[0]
    assert request.prompt.lyrics == "[verse]\nhello"
    assert request.text_to_music.duration_seconds == 10
    assert request.output.format == music_pb2.AUDIO_FORMAT_FLAC
    assert "sample" in errors
    assert "3/3" in errors
    assert "acestep: warning: line 2 is empty" in errors


async def test_variants_get_numbered_files_and_json_prints_their_receipts(server: Server, acestep: Acestep, tmp_path: Path) -> None:
    code, output, errors = await acestep(
        "generate", "--server", server.target, "--tags", "x", "--seed", "3", "--seed", "5", "-o", "take.mp3", "--json", "--quiet"
    )
    assert code == ExitCode.OK
    assert names(tmp_path) == ["take_0.mp3", "take_0_input_params.json", "take_1.mp3", "take_1_input_params.json"]
    assert (tmp_path / "take_1.mp3").read_bytes() == b"\x01" + AUDIO
    receipts = [json.loads(line) for line in output.splitlines()]
    assert [(receipt["actual_seeds"], receipt["audio_path"]) for receipt in receipts] == [([3], "take_0.mp3"), ([5], "take_1.mp3")]
    assert errors == "acestep: warning: line 2 is empty\n"


def _only_wav(event: music_pb2.GenerateEvent) -> None:
    for song in event.completed.songs:
        song.format = music_pb2.AUDIO_FORMAT_WAV_PCM16


async def test_what_the_server_could_only_keep_as_wav_is_named_so(server: Server, acestep: Acestep, tmp_path: Path) -> None:
    server.script = spoiled(_only_wav)
    assert (await acestep("generate", "--server", server.target, "--tags", "x", "-o", "take.mp3"))[:2] == (ExitCode.OK, "take.wav\n")
    assert names(tmp_path) == ["take.wav", "take_input_params.json"]
    assert json.loads((tmp_path / "take_input_params.json").read_text())["audio_path"] == "take.wav"
    assert (await acestep("generate", "--server", server.target, "--tags", "x", "-o", "take.x", "--format", "wav"))[1] == "take.x\n"


async def previewing(request: music_pb2.GenerateRequest) -> Events:
    """As `songs`, after a preview of each variant in two chunks, the first of which comes twice."""
    async for event in songs(request):
        yield event
        if event.HasField("accepted"):
            for index in range(len(event.accepted.seeds)):
                for offset, data, last in ((0, b"lost", False), (0, b"early", False), (5, b"!", True)):
                    chunk = music_pb2.AudioChunk(variant_index=index, offset=offset, data=data, preview_step=5, last=last)
                    yield music_pb2.GenerateEvent(audio_chunk=chunk)


async def test_previews_are_files_beside_the_song(server: Server, acestep: Acestep, tmp_path: Path) -> None:
    server.script = previewing
    flags = ["--preview-steps", "5,10", "--preview-window", "0:8.5"]
    code, output, errors = await acestep("generate", "--server", server.target, "--tags", "x", *flags, "-o", "song.ogg")
    assert (code, output) == (ExitCode.OK, "song.ogg\n")
    assert names(tmp_path) == ["song.ogg", "song.preview-05.ogg", "song_input_params.json"]
    assert (tmp_path / "song.preview-05.ogg").read_bytes() == b"early!"
    assert "acestep: preview song.preview-05.ogg" in errors
    window = music_pb2.TimeRange(start_seconds=0, end_seconds=8.5)
    assert server.requests[0].output.preview == music_pb2.PreviewSpec(at_steps=[5, 10], window=window)
    await acestep("generate", "--server", server.target, "--tags", "x", "--seed", "1", "--seed", "2", "--preview-steps", "5", "-o", "a.wav")
    assert {"a_0.preview-05.wav", "a_1.preview-05.wav"} < set(names(tmp_path))
    assert server.requests[1].output.preview == music_pb2.PreviewSpec(at_steps=[5])


async def test_a_preview_that_is_not_whole_is_refused(server: Server, acestep: Acestep, tmp_path: Path) -> None:
    async def broken(request: music_pb2.GenerateRequest) -> Events:
        async for event in previewing(request):
            if event.audio_chunk.HasField("preview_step") and event.audio_chunk.last:
                event.audio_chunk.offset = 6
            yield event

    server.script = broken
    code, _, errors = await acestep("generate", "--server", server.target, "--tags", "x", "--preview-steps", "5")
    assert code == ExitCode.FAILED
    assert "a preview is cut: received 5 bytes, the next chunk starts at 6" in errors
    assert names(tmp_path) == []


async def test_format_flag_wins_over_the_extension(server: Server, acestep: Acestep) -> None:
    await acestep("generate", "--server", server.target, "--tags", "x", "--format", "wav24", "-o", "song.wav", "--sample-rate", "44100")
    assert server.requests[0].output == music_pb2.OutputSpec(format=music_pb2.AUDIO_FORMAT_WAV_PCM24, sample_rate=44100)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidRequest("sampling.infer_step", 0, "1 to 200"), 2, "--steps: 0 is not allowed; allowed: 1 to 200"),
        (StageUnavailable("no replica of diffusion"), 3, "no replica of diffusion"),
        (Overloaded("the queue is full"), 4, "the queue is full"),
        (StageError("internal error, request r-1"), 1, "internal error, request r-1"),
    ],
)
async def test_each_kind_of_error_has_its_exit_code_and_leaves_no_file(
    server: Server, acestep: Acestep, tmp_path: Path, error: AcestepError, code: int, message: str
) -> None:
    server.script = failing(error)
    got, output, errors = await acestep("generate", "--server", server.target, "--tags", "x")
    assert (got, output) == (code, "")
    assert message in errors
    assert names(tmp_path) == []


async def test_deadline_ends_the_call_with_its_exit_code(server: Server, acestep: Acestep, tmp_path: Path) -> None:
    server.script = endless
    code, _, _ = await acestep("generate", "--server", server.target, "--tags", "x", "--timeout", "0.3")
    assert code == ExitCode.DEADLINE
    assert names(tmp_path) == []


async def test_no_server_is_unavailable_and_names_the_address(acestep: Acestep) -> None:
    code, _, errors = await acestep("generate", "--server", "127.0.0.1:1", "--tags", "x")
    assert code == ExitCode.UNAVAILABLE
    assert "127.0.0.1:1" in errors


def _change_digest(event: music_pb2.GenerateEvent) -> None:
    for song in event.completed.songs:
        song.sha256 = "0" * 64


def _drop_bytes(event: music_pb2.GenerateEvent) -> None:
    if event.audio_chunk.last:
        event.audio_chunk.data = event.audio_chunk.data[:-1]


def _skip_ahead(event: music_pb2.GenerateEvent) -> None:
    if event.audio_chunk.offset == 4096:
        event.audio_chunk.offset = 5000


def _announce_too_many(event: music_pb2.GenerateEvent) -> None:
    if event.HasField("accepted"):
        event.accepted.seeds.append(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change_digest, "SHA-256 of the received audio"),
        (_drop_bytes, "received 10240 bytes of 10241"),
        (_skip_ahead, "audio is missing"),
        (_announce_too_many, "finished 1 songs and announced 2"),
    ],
)
async def test_audio_that_is_not_whole_is_refused_and_removed(
    server: Server, acestep: Acestep, tmp_path: Path, change: Callable[[music_pb2.GenerateEvent], object], message: str
) -> None:
    (tmp_path / "song.wav").write_bytes(b"an older song")
    server.script = spoiled(change)
    code, _, errors = await acestep("generate", "--server", server.target, "--tags", "x")
    assert code == ExitCode.FAILED
    assert message in errors
    assert names(tmp_path) == ["song.wav"]
    assert (tmp_path / "song.wav").read_bytes() == b"an older song"


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
async def test_interrupt_cancels_the_call_on_the_server_and_removes_the_partial_file(
    server: Server, acestep: Acestep, tmp_path: Path, interrupt: signal.Signals
) -> None:
    server.script = endless
    process = await start("generate", "--server", server.target, "--tags", "x", cwd=tmp_path)
    await asyncio.wait_for(server.started.wait(), 30)
    while not names(tmp_path):
        await asyncio.sleep(0.02)
    process.send_signal(interrupt)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == ExitCode.INTERRUPTED
    assert errors.decode().endswith("acestep: interrupted\n")
    await asyncio.wait_for(server.cancelled.wait(), 10)
    assert names(tmp_path) == []


async def test_a_call_that_the_server_cancels_is_no_interrupt(server: Server, acestep: Acestep) -> None:
    server.script = failing(RequestCancelled("an operator stopped it"))
    code, _, errors = await acestep("generate", "--server", server.target, "--tags", "x")
    assert code == ExitCode.FAILED
    assert "an operator stopped it" in errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-o", "song.xyz"], "give --format"),
        (["-o", "missing/song.wav"], "there is no folder missing"),
        (["--device", "cpu"], "--device does not go with --server"),
        (["--lyrics", "a", "--lyrics-file", "b"], "not allowed with argument"),
        (["--timeout", "nan"], "not a number of seconds above 0"),
    ],
)
async def test_bad_usage_is_refused_before_anything_is_sent(server: Server, acestep: Acestep, argv: list[str], message: str) -> None:
    code, _, errors = await acestep("generate", "--server", server.target, "--tags", "x", *argv)
    assert code == ExitCode.USAGE
    assert message in errors
    assert not server.requests


async def test_a_server_and_a_checkpoint_exclude_each_other(acestep: Acestep) -> None:
    code, _, errors = await acestep("generate", "--tags", "x", "--server", "a:1", "--checkpoint", "b")
    assert code == ExitCode.USAGE
    assert "not allowed with argument" in errors


async def test_an_embedded_server_that_cannot_start_is_unavailable_and_shows_why(acestep: Acestep, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, errors = await acestep("generate", "--checkpoint", "empty", "--tags", "x")
    assert code == ExitCode.UNAVAILABLE
    assert "the embedded server stopped before it was ready:\n" in errors
    assert len(errors.split("ready:\n")[1].strip()) > 0
    assert names(tmp_path) == ["empty"]
