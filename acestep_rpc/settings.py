"""Deployment settings: one frozen dataclass per service, from environment variables under one prefix."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
    ready_file: Path | None = None
    """File that receives {"port": ..., "metrics_port": ...} once the server admits requests."""


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
