"""Calls on completion: kept in the database until they are delivered, signed as the Standard Webhooks specification wants it."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import random
import re
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

import acestep_rpc
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.telemetry import WEBHOOKS, log
from orchestrator.jobs.database import Database
from orchestrator.jobs.schema import now, webhooks

MAX_URL_CHARACTERS = 2048
SECRET_PREFIX = "whsec_"  # noqa: S105  # the convention's mark, no secret
_CALL_SECONDS = 10.0
_TAKEN_SECONDS = 60.0  # how long a call stays with a server that vanishes while it makes it
_MAX_RETRY_SECONDS = 3600.0
_CALLS_AT_A_TIME = 8
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GONE = 410


def check_secret(field: str, secret: str) -> None:
    """Raise InvalidRequest unless it is a key as "whsec_..."."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
        raise InvalidRequest(field, "(not shown)", f"{SECRET_PREFIX} and 24 to 64 bytes in base64")


def check_url(field: str, url: str, private_addresses: bool) -> None:
    """Raise InvalidRequest unless a webhook may go there, as far as its text tells; names are looked up at each call.

    Args:
        field: Name of the field.
        url: Where to.
        private_addresses: Whether it may lead into private networks.
    """
    if len(url) > MAX_URL_CHARACTERS or not re.fullmatch(r"[!-~]+", url):
        raise InvalidRequest(field, url, f"1 to {MAX_URL_CHARACTERS} printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(field, url, f"a URL ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidRequest(field, url, "an http or https URL with a host")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(field, "(not shown)", "a URL without user and password")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        local = parts.hostname.rstrip(".") == "localhost" or parts.hostname.rstrip(".").endswith(".localhost")
        allowed = not local
    else:
        allowed = is_public(address)
    if not (allowed or private_addresses):
        raise InvalidRequest(field, url, "a host outside of private, loopback and link-local addresses")


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address, and one that it carries inside, belongs to the public internet."""
    inner: ipaddress.IPv4Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def signed_headers(secret: str, call_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Headers of the Standard Webhooks specification.

    Args:
        secret: "whsec_..." .
        call_id: The same in every try.
        timestamp: Seconds since 1970, of this try.
        body: What is sent.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{call_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-id": call_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


class WebhookSender:
    """Makes the calls that are due. Several servers share them.

    Args:
        database: Has the calls.
        private_addresses: Whether they may lead into private networks.
        max_attempts: Tries of one call before it is dropped.
        retry_seconds: Wait after the first failure; doubles with each, to an hour, and is drawn between half of it and one and a half.
    """

    def __init__(self, database: Database, private_addresses: bool, max_attempts: int, retry_seconds: float) -> None:
        self._database = database
        self._private_addresses = private_addresses
        self._max_attempts = max_attempts
        self._retry_seconds = retry_seconds

    async def send_due(self) -> None:
        """Make every call that is due now."""
        async with asyncio.TaskGroup() as tasks:  # which a cancellation leaves only when all of them have let go of the database
            for _ in range(_CALLS_AT_A_TIME):
                tasks.create_task(self._send_in_turn())

    async def _send_in_turn(self) -> None:
        while (call := await self._take()) is not None:
            await self._send(call)

    async def _take(self) -> Row[Any] | None:
        due = select(webhooks.c.id).where(webhooks.c.next_attempt <= now()).order_by(webhooks.c.next_attempt).limit(1)
        statement = (
            update(webhooks)
            .where(webhooks.c.id == due.with_for_update(skip_locked=True).scalar_subquery())
            .values(attempt=webhooks.c.attempt + 1, next_attempt=now() + _TAKEN_SECONDS)
            .returning(webhooks)
        )

        async def transaction(connection: AsyncConnection) -> Row[Any] | None:
            row: Row[Any] | None = (await connection.execute(statement)).one_or_none()
            return row

        return await self._database.run(transaction)

    async def _send(self, call: Row[Any]) -> None:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                status = await _post(
                    call.url, signed_headers(call.secret, call.id, int(time.time()), call.body), call.body, self._private_addresses
                )
            problem = "" if 200 <= status < 300 else f"status {status}"
        except (OSError, EOFError, ValueError, InvalidRequest) as error:  # TimeoutError and TLS are OSErrors
            status, problem = 0, str(error) or type(error).__name__
        statement: Any = delete(webhooks)
        outcome = "delivered"
        if problem and (call.attempt >= self._max_attempts or status == _GONE):
            outcome = "dropped"
        elif problem:
            outcome = "postponed"
            seconds = min(self._retry_seconds * 2.0 ** (call.attempt - 1), _MAX_RETRY_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311
            statement = update(webhooks).values(next_attempt=now() + seconds)

        async def transaction(connection: AsyncConnection) -> None:
            await connection.execute(statement.where(webhooks.c.id == call.id, webhooks.c.attempt == call.attempt))

        await self._database.run(transaction)
        WEBHOOKS.labels(outcome).inc()
        log("webhook", job=call.job_id, attempt=call.attempt, outcome=outcome, problem=problem)


async def _post(url: str, headers: Mapping[str, str], body: bytes, private_addresses: bool) -> int:
    """POST once to the address that was checked, follow nothing; returns the status.

    Raises:
        InvalidRequest: It leads into a private network.
        OSError: Nobody answers, or TLS fails.
        ValueError: The answer is no HTTP.
        EOFError: The answer ends early.
    """
    check_url("webhook_url", url, private_addresses)
    parts = urlsplit(url)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not private_addresses and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
        raise InvalidRequest("webhook_url", url, "a host outside of private, loopback and link-local addresses")
    context = await asyncio.to_thread(ssl.create_default_context) if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        addresses[0], port, ssl=context, server_hostname=parts.hostname if context is not None else None
    )
    try:
        writer.write(_head(parts, headers, len(body)) + body)
        await writer.drain()
        line = (await reader.readuntil(b"\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise ValueError("the answer is no HTTP") from error
    finally:
        writer.close()
    match = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
    if match is None:
        raise ValueError("the answer is no HTTP")
    return int(match[1])


def _head(parts: SplitResult, headers: Mapping[str, str], length: int) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"host: {parts.netloc}", f"user-agent: acestep/{acestep_rpc.__version__}", "connection: close"]
    lines += ["content-type: application/json", f"content-length: {length}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
