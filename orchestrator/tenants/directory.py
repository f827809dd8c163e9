"""The file of tenants: their limits, and digests of their API keys, never the keys. Read again when it changes.

alice.keys = ["sha256:9f86d0..."]        # `acestep keys new alice` makes a key and this line
alice.requests_per_minute = 60
["*"]                                    # for whoever has no value of its own
concurrent_requests = 4
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from acestep_rpc.api_keys import key_digest
from acestep_rpc.v1 import music_pb2
from acestep_rpc.watched_files import WatchedFiles

MAX_NAME_CHARACTERS = 128
EVERYBODY = "*"
PRIORITIES = {
    "batch": music_pb2.PRIORITY_BATCH,
    "normal": music_pb2.PRIORITY_NORMAL,
    "interactive": music_pb2.PRIORITY_INTERACTIVE,
}
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Limits:
    """What a tenant may use; None: as much as it likes."""

    requests_per_minute: float | None = None
    """Calls of any kind, health checks apart."""
    audio_seconds_per_day: float | None = None
    """Seconds of songs asked for from midnight to midnight, UTC."""
    concurrent_requests: int | None = None
    """Calls of Generate under way and jobs that have not ended."""
    max_priority: str | None = None
    """Highest class of its requests: batch, normal or interactive."""
    operator: bool = False
    """May load and unload adapters."""


_LIMITS = {field.name for field in fields(Limits)}


class Tenants:
    """Content of the file.

    Args:
        limits: Of each tenant, and of EVERYBODY.
        by_digest: From the SHA-256 of a key to its tenant.
    """

    def __init__(self, limits: Mapping[str, Limits], by_digest: Mapping[str, str]) -> None:
        self._limits = limits
        self._by_digest = by_digest

    def of_key(self, key: str) -> str | None:
        """The tenant whose key it is. The digest of a long random key is looked up: how long that takes tells nothing of the keys."""
        return self._by_digest.get(key_digest(key))

    def limits(self, name: str) -> Limits:
        """Of a tenant, whether it is in the file or not."""
        return self._limits.get(name) or self._limits[EVERYBODY]


NOBODY = Tenants({EVERYBODY: Limits()}, {})
"""A file that says nothing."""


def is_tenant(name: str) -> bool:
    """Whether text can name a tenant: 1 to 128 printable characters, and not EVERYBODY."""
    return 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable() and name != EVERYBODY


def watch_tenants(path: Path) -> WatchedFiles[Tenants]:
    """The file, followed.

    Raises:
        ValueError: It is not what it should be; the message says where.
        OSError: It cannot be read.
    """
    return WatchedFiles([path], lambda: read_tenants(path.read_text(encoding="utf-8"), str(path)))


def read_tenants(text: str, where: str) -> Tenants:
    """Read the content of the file.

    Args:
        text: TOML.
        where: Name for messages.
    Raises:
        ValueError: It is not what it should be.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: {error}") from error
    for_all = tables.pop(EVERYBODY, {})
    limits = {EVERYBODY: _limits(for_all, f'{where}: "{EVERYBODY}"')}
    by_digest: dict[str, str] = {}
    for name, table in tables.items():
        if not is_tenant(name) or not isinstance(table, dict):
            raise ValueError(f"{where}: {name!r} is no tenant with keys and limits")
        keys = table.get("keys", [])
        found = [_DIGEST.fullmatch(key) if isinstance(key, str) else None for key in keys] if isinstance(keys, list) else [None]
        for match in found:
            if match is None:
                raise ValueError(f'{where}: {name}.keys must be a list of "sha256:" and 64 hex digits')
            if by_digest.setdefault(match[1], name) != name:
                raise ValueError(f"{where}: {name} and {by_digest[match[1]]} have the same key")
        limits[name] = _limits(for_all | {key: value for key, value in table.items() if key != "keys"}, f"{where}: {name}")
    return Tenants(limits, by_digest)


def _limits(table: Any, where: str) -> Limits:
    wrong = set(table) - _LIMITS if isinstance(table, dict) else {table}
    if wrong:
        raise ValueError(f"{where} can have {', '.join(sorted(_LIMITS))}, and not {', '.join(map(repr, sorted(wrong)))}")
    limits = Limits(**table)
    for name in ("requests_per_minute", "audio_seconds_per_day", "concurrent_requests"):
        value = table.get(name, 1)
        kinds = int if name == "concurrent_requests" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
            raise ValueError(f"{where}.{name}={value!r} must be a {'whole ' if kinds is int else ''}number above 0")
    if limits.max_priority not in (None, *PRIORITIES):
        raise ValueError(f"{where}.max_priority={limits.max_priority!r} must be one of {', '.join(PRIORITIES)}")
    if not isinstance(limits.operator, bool):
        raise ValueError(f"{where}.operator={limits.operator!r} must be true or false")
    return limits
