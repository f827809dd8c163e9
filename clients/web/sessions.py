"""Who is at the page: one client of the server for everybody, or, where the server wants credentials, one for each that logged in."""

import hashlib
import secrets
from collections.abc import Callable
from typing import Protocol

from acestep_client import AsyncClient

COOKIE = "acestep_session"
EVERYBODY = "everybody"
_MAX_SESSIONS = 10000


class WithCookies(Protocol):
    """A request of a browser."""

    @property
    def cookies(self) -> dict[str, str]:
        """By name."""


class Sessions:
    """Clients by the cookie of a browser.

    Args:
        connect: Gives the client of an API key.
        shared: The client of everybody; None: each browser logs in.
    """

    def __init__(self, connect: Callable[[str], AsyncClient], shared: AsyncClient | None) -> None:
        self._connect = connect
        self._shared = shared
        self._clients: dict[str, AsyncClient] = {}  # by owner
        self._owners: dict[str, str] = {}  # by cookie

    @property
    def need_login(self) -> bool:
        """Nobody sees anything without a key."""
        return self._shared is None

    def owner(self, request: WithCookies) -> str | None:
        """Who asks; None: nobody that is known. Two browsers with one key are one owner."""
        if self._shared is not None:
            return EVERYBODY
        return self._owners.get(request.cookies.get(COOKIE, ""))

    def owner_of(self, cookie: str) -> str:
        """Whose session a cookie is."""
        return self._owners[cookie]

    def client(self, owner: str) -> AsyncClient:
        """The client of an owner."""
        return self._shared if self._shared is not None else self._clients[owner]

    async def log_in(self, api_key: str) -> str:
        """The cookie of a new session.

        Raises:
            AcestepError: The server does not take the key.
        """
        owner = hashlib.sha256(api_key.encode()).hexdigest()
        client = self._clients.get(owner) or self._connect(api_key)
        try:
            await client.capabilities()
        except BaseException:
            if owner not in self._clients:
                await client.close()
            raise
        self._clients[owner] = client
        while len(self._owners) >= _MAX_SESSIONS:
            del self._owners[next(iter(self._owners))]
        cookie = secrets.token_urlsafe(32)
        self._owners[cookie] = owner
        return cookie

    def log_out(self, request: WithCookies) -> None:
        """Forget a session."""
        self._owners.pop(request.cookies.get(COOKIE, ""), None)

    async def close(self) -> None:
        """End all connections."""
        for client in [*self._clients.values(), *([self._shared] if self._shared is not None else [])]:
            await client.close()
