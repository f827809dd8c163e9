"""Deployment settings: one frozen dataclass per service, from environment variables under one prefix."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from acestep_rpc.tls import ServerTls

T = TypeVar("T")


@dataclass(frozen=True)
class ServerSettings:
    """What every server has. A service's Settings adds its own fields."""

    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" in a container."""
    port: int = 0
    """Port of gRPC; 0 picks a free one."""
    metrics_port: int = -1
    """Port of the Prometheus metrics, on the same host; 0 picks a free one, -1 serves none."""
    drain_seconds: float = 30.0
    """How long running requests may take after SIGTERM."""
    stuck_seconds: float = 600.0
    """A device that is at one piece of work for longer is stuck: liveness fails, so that whoever watches restarts the server. 0: never."""
    ready_file: Path | None = None
    """File that receives {"port": ..., "metrics_port": ...} once the server admits requests."""
    tls_cert: Path | None = None
    """Certificate of the server in PEM, with its chain: gRPC over TLS. Followed while the server runs, as the next two are."""
    tls_key: Path | None = None
    """Its key."""
    tls_client_ca: Path | None = None
    """Authorities of clients' certificates: mutual TLS, whoever has none is refused."""
    tls_allowed_clients: tuple[str, ...] = ()
    """With mutual TLS: subject alternative names, separated by commas, one of which a client needs; empty: any will do."""
    max_concurrent_calls: int = 1024
    """Calls at a time; one more is refused. Health checks are not counted."""
    max_connection_age_seconds: float = 3600.0
    """After this time a connection takes no further calls and clients open a new one; 0: never."""
    max_connection_age_grace_seconds: float = 14400.0
    """How long calls of such a connection may go on."""

    @property
    def tls(self) -> ServerTls | None:
        """How the server proves who it is; None: it does not.

        Raises:
            SettingsError: A part is missing.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("TLS_CERT and TLS_KEY must be set together")
        if self.tls_cert is None and self.tls_client_ca is not None:
            raise SettingsError("TLS_CLIENT_CA must not be set without TLS_CERT and TLS_KEY")
        if self.tls_allowed_clients and self.tls_client_ca is None:
            raise SettingsError("TLS_ALLOWED_CLIENTS must not be set without TLS_CLIENT_CA: names that nobody vouches for mean nothing")
        if self.tls_cert is None or self.tls_key is None:
            return None
        return ServerTls(self.tls_cert, self.tls_key, self.tls_client_ca)


class SettingsError(ValueError):
    """An environment variable is unknown or has a bad value."""


def from_environment(settings_class: type[T], prefix: str, environ: Mapping[str, str]) -> T:
    """Read PREFIX + FIELD in upper case for each field.

    Args:
        settings_class: A frozen dataclass; fields are str, int, float, bool, Path, an optional of these, or tuple[str, ...] (commas).
        prefix: As "ACESTEP_ENCODER_".
        environ: Usually os.environ.
    Raises:
        SettingsError: A value does not parse, a required one is missing, or a name under the prefix is unknown.
    """
    assert dataclasses.is_dataclass(settings_class)
    hints = typing.get_type_hints(settings_class)
    known = {prefix + field.name.upper(): field for field in dataclasses.fields(settings_class)}
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(prefix):
            continue
        if name not in known:
            raise SettingsError(f"{name} is not a setting; known: {', '.join(sorted(known))}")
        field = known[name]
        try:
            values[field.name] = _parse(hints[field.name], text)
        except ValueError as error:
            raise SettingsError(f"{name}={text!r}: {error}") from error
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise SettingsError(f"{name} must be set")
    return settings_class(**values)


def _parse(kind: Any, text: str) -> Any:
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if isinstance(kind, types.UnionType):
        (kind,) = options
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return kind(text)
