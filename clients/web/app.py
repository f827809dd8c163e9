"""The web server: Gradio's page, the routes beside it, and a sign-in where the orchestrator wants credentials."""

import contextlib
import html
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from acestep_rpc.errors import AcestepError
from acestep_rpc.v1 import music_pb2
from clients.web.media import add_routes
from clients.web.page import HEAD, build_page, theme
from clients.web.runs import Runs
from clients.web.sessions import COOKIE, Sessions
from clients.web.song_cache import SongCache

_MAX_UPLOAD = "512mb"
_SIGN_IN = Path(__file__).with_name("sign_in.html")
_OPEN = ("/sign-in", "/sign-out", "/page/")  # paths that need no key
# The browser asks nobody but this server for anything.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "form-action 'self'; frame-ancestors 'self'"
)

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class WebApp:
    """An ASGI application.

    The page offers what the server can do, so it is built when the server has said so: at the start, or, where it speaks to nobody
    without a key, when the first one has signed in.

    Args:
        sessions: Who may see what.
        folder: For files on their way to the browser.
    """

    def __init__(self, sessions: Sessions, folder: Path) -> None:
        self._sessions = sessions
        self.runs = Runs()
        self._cache = SongCache(folder)
        self._front = FastAPI(openapi_url=None)
        self._page: FastAPI | None = None
        self._resources = contextlib.AsyncExitStack()
        add_routes(self._front, sessions, self.runs, self._cache)
        self._add_sign_in()

    async def open(self, capabilities: music_pb2.GetCapabilitiesResponse) -> None:
        """Build the page, unless it is there."""
        if self._page is not None:
            return
        app = FastAPI(openapi_url=None)
        self._page = gr.mount_gradio_app(
            app,
            build_page(capabilities, self._sessions, self.runs),
            "/",
            theme=theme(),
            head=HEAD,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            max_file_size=_MAX_UPLOAD,
            enable_monitoring=False,
            show_error=True,
        )
        await self._resources.enter_async_context(app.router.lifespan_context(app))

    async def close(self) -> None:
        """End what runs, then the connections."""
        await self.runs.close()
        await self._resources.aclose()
        await self._sessions.close()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if not path.startswith(_OPEN) and self._sessions.owner(Request(scope)) is None:
            denied = RedirectResponse("/sign-in", 303) if path == "/" else Response("not signed in", 401)
            await denied(scope, receive, _with_policy(send))
            return
        own = path.startswith((*_OPEN, "/media/"))
        app = self._front if own or self._page is None else self._page
        await app(scope, receive, _with_policy(send))

    def _add_sign_in(self) -> None:
        sessions = self._sessions

        @self._front.get("/sign-in")
        async def ask() -> HTMLResponse:
            return HTMLResponse(_SIGN_IN.read_text(encoding="utf-8"))

        @self._front.post("/sign-in")
        async def sign_in(request: Request) -> Response:
            key = str((await request.form()).get("key", "")).strip()
            try:
                cookie = await sessions.log_in(key)
                await self.open(await sessions.client(sessions.owner_of(cookie)).capabilities())
            except (AcestepError, ValueError) as error:
                said = f'<p role="alert">{html.escape(str(error))}</p>'
                return HTMLResponse(_SIGN_IN.read_text(encoding="utf-8").replace("<!--error-->", said), 401)
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
            return response

        @self._front.get("/sign-out")
        async def sign_out(request: Request) -> Response:
            sessions.log_out(request)
            response = RedirectResponse("/sign-in", 303)
            response.delete_cookie(COOKIE)
            return response


def _with_policy(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return sent


@contextlib.asynccontextmanager
async def web_app(sessions: Sessions, folder: Path) -> AsyncIterator[WebApp]:
    """An application for the length of the block."""
    app = WebApp(sessions, folder)
    try:
        yield app
    finally:
        await app.close()
