"""Lets callers in: finds out whose call it is, and leaves the name where everything else looks for it."""

import re
from typing import Any

from acestep_rpc.api_keys import PREFIX
from acestep_rpc.client_security import AUTHORIZATION_KEY
from acestep_rpc.errors import PermissionDenied, Unauthenticated
from acestep_rpc.telemetry import tenant
from orchestrator.jobs.database import Database
from orchestrator.settings import Settings
from orchestrator.tenants.directory import NOBODY, is_tenant, watch_tenants
from orchestrator.tenants.quotas import Quotas
from orchestrator.tenants.tokens import PublishedKeys, TokenRules, TokenVerifier

OPERATOR_METHODS = frozenset({"acestep_rpc.v1.AdapterService/LoadAdapter", "acestep_rpc.v1.AdapterService/UnloadAdapter"})
"""What concerns all tenants."""

_BEARER = re.compile(r"bearer +([!-~]+)", re.IGNORECASE)


def open_guard(settings: Settings, database: Database) -> "Guard":
    """The guard that the settings ask for.

    Args:
        settings: Of the orchestrator.
        database: Of the jobs.
    Raises:
        ValueError: The file of tenants or that of the issuer's keys is not what it should be.
    """
    try:
        tenants = watch_tenants(settings.tenants).current if settings.tenants is not None else lambda: NOBODY
        tokens = None
        if "jwt" in settings.authentication:
            rules = TokenRules(settings.jwt_issuer, settings.jwt_audience, settings.jwt_tenant_claim, settings.jwt_leeway_seconds)
            tokens = TokenVerifier(rules, PublishedKeys(settings.jwt_keys))
    except OSError as error:
        raise ValueError(f"cannot read the tenants or the keys of tokens: {error}") from error
    return Guard(Quotas(database, tenants), "keys" in settings.authentication, tokens)


class Guard:
    """Asked before each call of the public API.

    Args:
        quotas: Knows the tenants, counts their calls.
        keys: Whether API keys are good.
        tokens: Checks tokens; None: they are no good.
    """

    def __init__(self, quotas: Quotas, keys: bool, tokens: TokenVerifier | None) -> None:
        self.quotas = quotas
        """Of the tenants."""
        self._keys = keys
        self._tokens = tokens

    async def __call__(self, method: str, context: Any) -> None:
        """Set the tenant of the running call.

        Raises:
            Unauthenticated: Nobody is known by these credentials.
            PermissionDenied: The call is for operators.
            QuotaExceeded: The tenant called too often.
        """
        name = await self._who(context)
        if not is_tenant(name):
            raise Unauthenticated
        tenant.set(name)
        await self.quotas.count_call()
        if method in OPERATOR_METHODS and not self.quotas.limits().operator:
            raise PermissionDenied(f"{method} is for operators")

    async def _who(self, context: Any) -> str:
        given = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION_KEY]
        match = _BEARER.fullmatch(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
        if match is None:
            return ""
        credentials = match[1]
        if credentials.startswith(PREFIX):
            return self.quotas.tenants().of_key(credentials) or "" if self._keys else ""
        return await self._tokens.tenant(credentials) if self._tokens is not None else ""
