"""Bearer tokens of an identity provider: JWTs, checked against its published keys."""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from acestep_rpc.errors import StageUnavailable, Unauthenticated
from acestep_rpc.telemetry import log

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: whoever can check a token must not be able to make one."""

REFRESH_SECONDS = 300.0
"""Age at which keys are fetched again."""
_MAX_AGE_SECONDS = 24 * 3600.0  # age at which keys that cannot be fetched again count no more
_MIN_SECONDS = 5.0  # between two fetches, whatever tokens come
_FETCH_SECONDS = 5.0
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenRules:
    """What a good token says.

    Args:
        issuer: Its `iss`.
        audience: In its `aud`.
        tenant_claim: The claim that names the tenant.
        leeway_seconds: By how much clocks may differ.
    """

    issuer: str
    audience: str
    tenant_claim: str = "sub"
    leeway_seconds: float = 60.0


class PublishedKeys:
    """The provider's JSON Web Key Set, cached and fetched again: when it is old, and when a token names a key that is not in it.

    Args:
        source: URL (http or https) or path of a file.
        min_seconds: Between two fetches.
    Raises:
        ValueError: A file has no keys in it. A URL that does not answer is asked again later.
        OSError: A file cannot be read.
    """

    def __init__(self, source: str, min_seconds: float = _MIN_SECONDS) -> None:
        self._source = source
        self._min_seconds = min_seconds
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        if not _is_url(source):
            self._keys, self._fetched = _read(source), time.monotonic()

    async def get(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key of an id; without one the only key there is. None: there is no such key.

        Raises:
            StageUnavailable: No keys could be had, or not for a day.
        """
        key, age = self._find(key_id), time.monotonic() - self._fetched
        if key is None or age > REFRESH_SECONDS:
            self._fetch()
            if self._fetching is not None and (key is None or age > _MAX_AGE_SECONDS):
                await asyncio.shield(self._fetching)
            key = self._find(key_id)
        if time.monotonic() - self._fetched > _MAX_AGE_SECONDS:
            raise StageUnavailable("the keys of the tokens' issuer cannot be had", self._min_seconds)
        return key

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id or "")

    def _fetch(self) -> None:
        """Begin to fetch, if nobody does and the last time is long enough ago."""
        if self._fetching is None and time.monotonic() - self._tried >= self._min_seconds:
            self._tried = time.monotonic()
            self._fetching = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        try:
            self._keys, self._fetched = await asyncio.to_thread(_read, self._source), time.monotonic()
        except (OSError, ValueError) as error:
            log("token_keys_not_fetched", level=logging.ERROR, source=self._source, error=str(error))
        finally:
            self._fetching = None


class TokenVerifier:
    """Checks tokens.

    Args:
        rules: What they must say.
        keys: Whose signatures count.
    """

    def __init__(self, rules: TokenRules, keys: PublishedKeys) -> None:
        self._rules = rules
        self._keys = keys

    async def tenant(self, token: str) -> str:
        """Whom a token stands for.

        Raises:
            Unauthenticated: It is not good; why, only the log says.
            StageUnavailable: Nothing can be said, for there are no keys.
        """
        rules = self._rules
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._keys.get(key_id)
            if key is None:
                raise jwt.InvalidKeyError("no key of that id")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=rules.audience,
                issuer=rules.issuer,
                leeway=rules.leeway_seconds,
                options={"require": ["exp", "iss", "aud", rules.tenant_claim]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log("token_refused", level=logging.WARNING, reason=f"{type(error).__name__}: {error}")
            raise Unauthenticated from None
        return str(claims[rules.tenant_claim]) if isinstance(claims[rules.tenant_claim], str) else ""


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _read(source: str) -> dict[str, jwt.PyJWK]:
    if _is_url(source):
        with urllib.request.urlopen(source, timeout=_FETCH_SECONDS) as response:  # noqa: S310  # http or https, and the operator's choice
            text: bytes = response.read(_MAX_BYTES)
    else:
        text = Path(source).read_bytes()
    try:
        published = jwt.PyJWKSet.from_dict(json.loads(text)).keys
    except (jwt.PyJWTError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{source} is no JSON Web Key Set: {error}") from error
    return {key.key_id or "": key for key in published if key.public_key_use in (None, "sig")}
