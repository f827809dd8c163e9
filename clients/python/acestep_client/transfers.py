"""Files on their way to and from a server, checked by size and digest. Knows no connection: who calls brings the stream."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

from acestep_client.errors import BrokenTransfer
from acestep_rpc.v1 import music_pb2

_PIECE_BYTES = 1 << 20

Read = Callable[[str, int], AsyncGenerator[bytes, None]]
"""Bytes of a name from a position on."""


def pieces(audio: str | Path | bytes) -> Iterator[bytes]:
    """A file's bytes in order."""
    if isinstance(audio, bytes):
        yield from (audio[start : start + _PIECE_BYTES] for start in range(0, len(audio), _PIECE_BYTES))
        return
    with Path(audio).open("rb") as file:
        while data := file.read(_PIECE_BYTES):
            yield data


def digest_of(audio: str | Path | bytes) -> str:
    """SHA-256, hex."""
    digest = hashlib.sha256()
    for piece in pieces(audio):
        digest.update(piece)
    return digest.hexdigest()


async def upload_requests(audio: str | Path | bytes, sha256: str) -> AsyncIterator[music_pb2.UploadAudioRequest]:
    """What an upload sends."""
    for piece in pieces(audio):
        yield music_pb2.UploadAudioRequest(data=piece, sha256=sha256)


async def to_file(read: Read, name: str, path: Path, sha256: str) -> Path:
    """Write a stored file; what an interrupted call left of the same content is kept and continued.

    Raises:
        BrokenTransfer: The digest is another one; what was written is removed.
    """
    partial = path.with_name(f".{path.name}.{sha256[:16]}.part")  # named by content: never the beginning of another song
    with partial.open("ab") as file:
        async with aclosing(read(name, file.tell())) as received:
            async for data in received:
                file.write(data)
    if (actual := digest_of(partial)) != sha256:
        partial.unlink()
        raise BrokenTransfer(f"{path}: SHA-256 of the download is {actual}, the server promised {sha256}; it was removed")
    return partial.replace(path)


def check(name: str, content: bytes, sha256: str) -> None:
    """Raise BrokenTransfer unless the bytes have the digest."""
    if (actual := digest_of(content)) != sha256:
        raise BrokenTransfer(f"{name}: SHA-256 of what was received is {actual}, the server promised {sha256}")


def check_position(name: str, response: music_pb2.DownloadAudioResponse, offset: int, size: int | None) -> None:
    """Raise BrokenTransfer unless a piece continues what is there."""
    if response.offset != offset or size not in (None, response.size_bytes):
        raise BrokenTransfer(
            f"{name}: the server sent bytes from {response.offset} on of {response.size_bytes}; {offset} of {size or 'some'} are here"
        )


def check_end(name: str, offset: int, size: int | None) -> None:
    """Raise BrokenTransfer unless all bytes are there."""
    if size is not None and offset != size:
        raise BrokenTransfer(f"{name}: the server sent {offset} of {size} bytes")
