"""Credentials of servers and clients from files that may be replaced at any time, and who a client's certificate says it is."""

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
from cryptography import x509

from acestep_rpc.errors import PermissionDenied
from acestep_rpc.telemetry import CERTIFICATE_EXPIRY
from acestep_rpc.watched_files import WatchedFiles

SYSTEM = Path("system")
"""Stands for the authorities that gRPC trusts by itself."""


@dataclass(frozen=True)
class ServerTls:
    """How a server proves who it is, and what it wants of clients.

    Args:
        cert: PEM, the server's certificate and what leads to its authority.
        key: PEM, its key.
        client_ca: PEM, authorities of client certificates: mutual TLS, every client needs one. None: clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class ClientTls:
    """How a client checks a server, and proves who it is.

    Args:
        ca: PEM, authorities of server certificates, or SYSTEM.
        cert: PEM, the client's certificate, for mutual TLS; None: it has none.
        key: PEM, its key.
        server_name: Name that the server's certificate must have, where it is not that of the target; empty: the target's.
    """

    ca: Path = SYSTEM
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Credentials that follow the files: a handshake gets what is in them then. Running connections stay.

    Raises:
        ValueError: They are no certificate and key that belong together.
        OSError: A file cannot be read.
    """
    paths = [tls.cert, tls.key, *([tls.client_ca] if tls.client_ca else [])]

    def read() -> grpc.ServerCertificateConfiguration:
        pair, authorities = _pair(tls.cert, tls.key, "server"), _authorities(tls.client_ca) if tls.client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], authorities)

    files = WatchedFiles(paths, read)
    used = files.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        current = files.current()
        if current is used:
            return None  # no change, in gRPC's words
        used = current
        return current

    return grpc.dynamic_ssl_server_credentials(used, changed, tls.client_ca is not None)  # type: ignore[arg-type]  # None may come


def watch_client(tls: ClientTls) -> WatchedFiles[grpc.ChannelCredentials]:
    """Credentials for new channels, another object whenever a file changed.

    Raises:
        ValueError: The files are no certificates, or the key is another one's.
        OSError: A file cannot be read.
    """
    assert (tls.cert is None) == (tls.key is None)

    def read() -> grpc.ChannelCredentials:
        authorities = _authorities(tls.ca) if tls.ca != SYSTEM else None
        key, chain = _pair(tls.cert, tls.key, "client") if tls.cert and tls.key else (None, None)
        return grpc.ssl_channel_credentials(authorities, key, chain)

    return WatchedFiles([path for path in (tls.ca, tls.cert, tls.key) if path and path != SYSTEM], read)


class Peer(Protocol):
    """A call that knows its connection."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What the handshake found."""


def check_client(context: Peer, allowed: Iterable[str]) -> None:
    """Raise PermissionDenied unless the client's certificate has one of the names.

    Args:
        context: Of the call.
        allowed: Subject alternative names: DNS names, URIs, addresses.
    """
    names = {name.decode("utf-8", "replace") for name in context.auth_context().get("x509_subject_alternative_name", ())}
    if names.isdisjoint(allowed):
        raise PermissionDenied("the client's certificate has no name that is let in here")


def _pair(cert: Path, key: Path, role: str) -> tuple[bytes, bytes]:
    """Key and certificate, checked: gRPC itself would only fail in the handshakes."""
    content = key.read_bytes(), cert.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{cert} and {key} are no certificate with its key: {error.reason or error}") from error
    ends = min(certificate.not_valid_after_utc for certificate in x509.load_pem_x509_certificates(content[1]))
    CERTIFICATE_EXPIRY.labels(role).set(ends.timestamp())
    return content


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _authorities(path: Path) -> bytes:
    content = path.read_bytes()
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} has no certificates in PEM: {error}") from error
    return content
