"""Routes of the page beside Gradio's: audio, pictures and downloads of songs, and the files of the page itself."""

import json
from pathlib import Path

import soundfile
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from acestep_client import AsyncClient
from acestep_rpc.errors import AcestepError, InvalidRequest, NotFound, Unauthenticated
from clients.web import library
from clients.web.analysis import describe, mel_picture, read_audio
from clients.web.runs import Runs
from clients.web.sessions import Sessions
from clients.web.song_cache import FORMATS, SongCache, extension, media_type

STATIC = Path(__file__).parent / "static"
_STATUS = {InvalidRequest: 400, Unauthenticated: 401, NotFound: 404}
_KEPT = {"Cache-Control": "private, max-age=3600"}


def add_routes(app: FastAPI, sessions: Sessions, runs: Runs, cache: SongCache) -> None:
    """Add them to an application."""

    def who(request: Request) -> tuple[str, AsyncClient]:
        owner = sessions.owner(request)
        if owner is None:
            raise Unauthenticated
        return owner, sessions.client(owner)

    async def fetched(request: Request, name: str) -> Path:
        owner, client = who(request)
        return await cache.fetch(owner, client, name)

    @app.exception_handler(AcestepError)
    async def tell(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, _STATUS.get(type(error), 502))

    @app.exception_handler(soundfile.LibsndfileError)
    async def tell_of_file(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 415)

    @app.get("/media/runs/{request_id}/{variant_index}")
    async def growing(request: Request, request_id: str, variant_index: int) -> StreamingResponse:
        owner, _ = who(request)
        run = runs.get(owner, request_id)
        if run is None:
            raise NotFound("run", request_id)
        return StreamingResponse(run.bytes_of(variant_index), media_type="audio/wav", headers={"Cache-Control": "no-store"})

    @app.get("/media/peaks/{name:path}")
    async def peaks(request: Request, name: str) -> JSONResponse:
        path = await fetched(request, name)
        return JSONResponse(await run_in_threadpool(describe, path), headers=_KEPT)

    @app.get("/media/mel/{name:path}")
    async def mel(request: Request, name: str) -> Response:
        path = await fetched(request, name)
        picture = await run_in_threadpool(lambda: mel_picture(*read_audio(path)))
        return Response(picture, media_type="image/png", headers=_KEPT)

    @app.get("/media/audio/{name:path}")
    async def audio(request: Request, name: str) -> FileResponse:
        path = await fetched(request, name)
        return FileResponse(path, media_type=media_type(path), headers=_KEPT)

    @app.get("/media/download/{name:path}")
    async def download(request: Request, name: str, format: str = "") -> FileResponse:  # noqa: A002  # its name in the address
        owner, client = who(request)
        if not format:  # as it was made, byte for byte
            path = await cache.fetch(owner, client, name)
            return FileResponse(path, media_type=media_type(path), filename=f"{_stem(name)}.{extension(path)}")
        path = await cache.converted(owner, client, name, format)
        return FileResponse(path, media_type=FORMATS[format][1], filename=f"{_stem(name)}.{FORMATS[format][0]}")

    @app.get("/media/receipt/{name:path}")
    async def receipt(request: Request, name: str) -> Response:
        _, client = who(request)
        content = json.dumps((await library.take(client, name)).receipt, indent=2, ensure_ascii=False) + "\n"
        headers = {"Content-Disposition": f'attachment; filename="{_stem(name)}_input_params.json"'}
        return Response(content, media_type="application/json", headers=headers)

    app.mount("/page", StaticFiles(directory=STATIC))


def _stem(name: str) -> str:
    """A file name for a song, as "1f0c_0"."""
    return name.removeprefix("operations/").removeprefix("assets/").replace("/results/", "_").replace("/", "_")[:64]
