"""The client for asyncio. One object a server; it connects on the first call, and again after every break.

    async with AsyncClient("localhost:7860") as client:
        result = await client.generate(song_request("funk, bass, 105 bpm", duration_seconds=30), to="song.wav")

Cancelling a task, or leaving an iterator early, cancels the call, and with it the work on the server. What can be taken up again
(watching a job, waiting for it, downloads) goes on where it stopped when a server comes back; nothing is lost and nothing comes twice.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from google.longrunning import operations_pb2, operations_pb2_grpc

from acestep_client import transfers
from acestep_client.arriving import ArrivingSongs, OnPreview, OnProgress, make_result, receive, variant_path
from acestep_client.jobs import PREFIX, Job, job_name
from acestep_client.retries import CHANNEL_OPTIONS, NO_RETRIES
from acestep_client.songs import Result, Song, write_receipt
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import NotFound, StageUnavailable
from acestep_rpc.tls import ClientTls
from acestep_rpc.v1 import adapter_pb2, adapter_pb2_grpc, encoder_pb2, lyrics_pb2, lyrics_pb2_grpc, music_pb2, music_pb2_grpc

_T = TypeVar("_T")
_PAGE_SIZE = 200
_LONGEST_WAIT_SECONDS = 2.0  # between two attempts to reach a server that went away


class AsyncClient:
    """A server's whole API.

    Args:
        target: As "localhost:7860" or "dns:///music.example:443".
        tls: How to check the server, and what to show it; None: plain text.
        api_key: API key or token, or what gives the present one at each call.
        connect_seconds: How long a call waits for a connection before it raises StageUnavailable.
        reconnect_seconds: How long what can be taken up again waits for a server that went away.
        retries: Let gRPC try again what was refused for want of room or did not arrive, when the server says so. False: the first
            refusal is raised.
    Raises:
        ValueError: A certificate, a key or the list of authorities is none.
        OSError: One of these files cannot be read.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: ClientTls | None = None,
        api_key: str | Callable[[], str] | None = None,
        connect_seconds: float = 5.0,
        reconnect_seconds: float = 60.0,
        retries: bool = True,
    ) -> None:
        bearer = api_key if callable(api_key) else lambda: api_key or ""
        security = ClientSecurity(tls, bearer) if tls is not None or api_key else None
        self.target = target
        """As given."""
        self._reconnect_seconds = reconnect_seconds
        self._channel = connect(target, security, CHANNEL_OPTIONS if retries else NO_RETRIES)
        self._music = RemoteStub(music_pb2_grpc.MusicServiceStub, self._channel, target, connect_seconds)
        self._operations = RemoteStub(operations_pb2_grpc.OperationsStub, self._channel, target, connect_seconds)
        self._lyrics = RemoteStub(lyrics_pb2_grpc.LyricsServiceStub, self._channel, target, connect_seconds)
        self._adapters = RemoteStub(adapter_pb2_grpc.AdapterServiceStub, self._channel, target, connect_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._channel.close()

    async def generate(
        self,
        request: music_pb2.GenerateRequest,
        *,
        to: str | Path | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Make songs and wait for them.

        Args:
            request: From `song_request`, or a message.
            to: File of the song, with its receipt beside it; several become song_0.wav, song_1.wav, ... None: songs stay in memory.
            on_progress: Called with each step.
            on_preview: Called with each preview that the request asks for (`output.preview`).
            timeout: Seconds; the server refuses at once what it cannot finish in them.
        Raises:
            AcestepError: The server's answer.
            BrokenTransfer: Not everything arrived.
        """
        with ArrivingSongs(Path(to) if to is not None else None, request.output.format) as songs:
            async with aclosing(self.stream(request, timeout=timeout)) as events:
                return await receive(events, songs, on_progress, on_preview)

    def stream(self, request: music_pb2.GenerateRequest, *, timeout: float | None = None) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
        """Events of a song in the making: accepted, progress, audio as it is decoded, completed. Closing the iterator cancels the work."""
        events: AsyncGenerator[music_pb2.GenerateEvent, None] = self._music.Generate(request, timeout=timeout)
        return events

    async def estimate(self, request: music_pb2.GenerateRequest) -> music_pb2.EstimateGenerationResponse:
        """What a request would cost and when it would be done; nothing is run."""
        response: music_pb2.EstimateGenerationResponse = await self._music.EstimateGeneration(
            music_pb2.EstimateGenerationRequest(generation=request)
        )
        return response

    async def submit(self, request: music_pb2.GenerateRequest, *, webhook_url: str | None = None, webhook_secret: str | None = None) -> Job:
        """Leave songs to the server. They are made whether or not anyone waits.

        Args:
            request: With a request_id, the same call again is the same job; without, one is drawn.
            webhook_url: Called when the job ends.
            webhook_secret: Key of its signature.
        """
        submission = music_pb2.SubmitGenerationRequest(generation=request, webhook_url=webhook_url, webhook_secret=webhook_secret)
        submission.generation.request_id = request.request_id or secrets.token_hex(16)
        return Job.of(await self._music.SubmitGeneration(submission))

    async def job(self, name: str | Job) -> Job:
        """Where a job stands now."""
        return Job.of(await self._operations.GetOperation(operations_pb2.GetOperationRequest(name=job_name(name))))

    async def jobs(self, wanted: str = "") -> AsyncGenerator[Job, None]:
        """All jobs, the newest first.

        Args:
            wanted: Filter: "state = running", "done = true", joined by AND.
        """
        token = ""
        while True:
            request = operations_pb2.ListOperationsRequest(name="operations", filter=wanted, page_size=_PAGE_SIZE, page_token=token)
            page = await self._operations.ListOperations(request)
            for operation in page.operations:
                yield Job.of(operation)
            token = page.next_page_token
            if not token:
                return

    async def wait(self, name: str | Job, timeout: float | None = None) -> Job:
        """A job when it has ended, or after so many seconds as it stands then. A server that restarts meanwhile is waited for."""
        end = None if timeout is None else time.monotonic() + timeout

        async def ask() -> Job:
            request = operations_pb2.WaitOperationRequest(name=job_name(name))
            if end is not None:
                request.timeout.FromMilliseconds(max(0, round((end - time.monotonic()) * 1000)))
            return Job.of(await self._operations.WaitOperation(request))

        return await self._until_answered(ask)

    async def cancel(self, name: str | Job) -> None:
        """End a job."""
        await self._operations.CancelOperation(operations_pb2.CancelOperationRequest(name=job_name(name)))

    async def delete(self, name: str | Job) -> None:
        """Forget a job that has ended, with its songs."""
        await self._operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=job_name(name)))

    async def watch(self, name: str | Job, *, from_sequence: int = 1, audio: bool = True) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
        """Events of a job from a number on, then live until it ends; each once, in order, whatever becomes of connection and server.

        Args:
            name: Of the job.
            from_sequence: First event wanted, from 1.
            audio: False: leave the audio out.
        Raises:
            AcestepError: The job failed with it.
            StageUnavailable: The server was away for too long.
        """
        name, following, lost = job_name(name), from_sequence, False

        async def attempt() -> AsyncIterator[music_pb2.GenerateEvent]:
            nonlocal following, lost
            if lost:  # by the connection, or is it the job that failed so?
                job = await self.job(name)
                if job.error is not None and job.metadata.last_sequence < following:
                    raise _JobFailed(job.error)
            lost = True
            request = music_pb2.WatchGenerationRequest(name=name, from_sequence=following, skip_audio=not audio)
            async with aclosing(self._music.WatchGeneration(request)) as responses:
                async for response in responses:
                    following = response.event.sequence + 1
                    yield response.event

        async with aclosing(self._resumed(attempt)) as events:
            async for event in events:
                yield event

    async def result(
        self, name: str | Job, *, to: str | Path | None = None, on_progress: OnProgress | None = None, fetch: bool = True
    ) -> Result:
        """Wait for a job and fetch its songs.

        Args:
            name: Of the job.
            to: As of `generate`. A download that was interrupted is taken up by the next call.
            on_progress: Called with each step.
            fetch: False: leave the songs on the server; their content is empty.
        Raises:
            AcestepError: The job failed with it.
        """
        async with aclosing(self.watch(name, audio=False)) as events:
            async for event in events:
                if on_progress is not None and event.WhichOneof("event") == "progress":
                    on_progress(event.progress)
        outcome = (await self.job(name)).outcome()
        songs = []
        for info in outcome.songs:
            path = variant_path(Path(to) if to is not None else None, info.variant_index, len(outcome.songs))
            if not fetch:
                songs.append(Song(info, b""))
            elif path is None:
                content = b"".join([data async for data in self.read(info.name)])
                transfers.check(info.name, content, info.sha256)
                songs.append(Song(info, content))
            else:
                await transfers.to_file(self.read, info.name, path, info.sha256)
                write_receipt(path, info)
                songs.append(Song(info, path))
        return make_result(job_name(name).removeprefix(PREFIX), outcome, songs)

    async def upload(self, audio: str | Path | bytes) -> music_pb2.UploadAudioResponse:
        """Store an audio file, for `source(...)`. The same bytes are stored once.

        Args:
            audio: A file's path, or its bytes.
        """
        digest = await asyncio.to_thread(transfers.digest_of, audio)

        async def send() -> music_pb2.UploadAudioResponse:
            response: music_pb2.UploadAudioResponse = await self._music.UploadAudio(transfers.upload_requests(audio, digest))
            return response

        return await self._until_answered(send)

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Bytes of an upload or a song from a position on; they go on after a break where they stopped."""
        size: int | None = None

        async def attempt() -> AsyncIterator[bytes]:
            nonlocal offset, size
            if offset == size:
                return
            request = music_pb2.DownloadAudioRequest(name=name, offset=offset)
            async with aclosing(self._music.DownloadAudio(request)) as responses:
                async for response in responses:
                    transfers.check_position(name, response, offset, size)
                    size = response.size_bytes
                    offset += len(response.data)
                    yield response.data

        async with aclosing(self._resumed(attempt)) as pieces:
            async for piece in pieces:
                yield piece
        transfers.check_end(name, offset, size)

    async def download(self, name: str, to: str | Path) -> Path:
        """Write an upload or a song to a file, which appears when it is whole. What an interrupted call has left is taken up again.

        Args:
            name: "assets/..." or "operations/.../results/0".
            to: The file.
        Raises:
            BrokenTransfer: The bytes are not those that the server promised.
        """
        return await transfers.to_file(self.read, name, Path(to), await self._digest(name))

    async def capabilities(self) -> music_pb2.GetCapabilitiesResponse:
        """Everything that the server can do, and every limit."""
        response: music_pb2.GetCapabilitiesResponse = await self._music.GetCapabilities(music_pb2.GetCapabilitiesRequest())
        return response

    async def preview_lyrics(
        self, lyrics: str, *, options: encoder_pb2.LyricOptions | None = None, duration_seconds: float | None = None
    ) -> lyrics_pb2.PreviewResponse:
        """How lyrics are read, line by line, without making a song."""
        request = lyrics_pb2.PreviewRequest(lyrics=lyrics, lyric_options=options, duration_seconds=duration_seconds)
        response: lyrics_pb2.PreviewResponse = await self._lyrics.Preview(request)
        return response

    async def adapters(self) -> list[adapter_pb2.Adapter]:
        """What the adapter store has."""
        return list((await self._adapters.ListAdapters(adapter_pb2.ListAdaptersRequest())).adapters)

    async def load_adapter(self, name: str) -> adapter_pb2.Adapter:
        """Hold an adapter in memory."""
        adapter: adapter_pb2.Adapter = (await self._adapters.LoadAdapter(adapter_pb2.LoadAdapterRequest(name=name))).adapter
        return adapter

    async def unload_adapter(self, name: str) -> adapter_pb2.Adapter:
        """Free an adapter's memory."""
        adapter: adapter_pb2.Adapter = (await self._adapters.UnloadAdapter(adapter_pb2.UnloadAdapterRequest(name=name))).adapter
        return adapter

    async def _digest(self, name: str) -> str:
        """SHA-256 that a stored file must have."""
        folder, found, number = name.partition("/results/")
        if not found:
            return name.removeprefix("assets/")
        for song in (await self.job(folder)).outcome().songs:
            if str(song.variant_index) == number:
                return song.sha256
        raise NotFound("result", name)

    async def _resumed(self, attempt: Callable[[], AsyncIterator[_T]]) -> AsyncGenerator[_T, None]:
        """Items of attempts, each of which goes on where the one before lost the server."""
        patience = _Patience(self._reconnect_seconds)
        while True:
            try:
                async with aclosing(attempt()) as items:  # type: ignore[type-var]  # generators all
                    async for item in items:
                        patience.renew()
                        yield item
                return
            except StageUnavailable as error:
                await patience.wait_after(error)
            except _JobFailed as failure:
                raise failure.error from None

    async def _until_answered(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The answer to a call that may be made again and again."""
        patience = _Patience(self._reconnect_seconds)
        while True:
            try:
                return await call()
            except StageUnavailable as error:
                await patience.wait_after(error)


class _JobFailed(Exception):
    """Carries the error of a job past the place where the same error would mean that the server is away."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class _Patience:
    """How long a server may be away."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._away_since: float | None = None

    def renew(self) -> None:
        """It is there."""
        self._away_since = None

    async def wait_after(self, error: StageUnavailable) -> None:
        """Wait before the next attempt; raises the error when it has been away for too long."""
        now = time.monotonic()
        self._away_since = now if self._away_since is None else self._away_since
        if now - self._away_since >= self._seconds:
            raise error
        await asyncio.sleep(min(error.retry_after_seconds, _LONGEST_WAIT_SECONDS))
