"""Audio files of this machine to assets of the server."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from acestep_rpc.v1 import music_pb2
from clients.cli.failures import CommandFailed, ExitCode

_STORED = ("assets/", "operations/")
_READ_BYTES = 1 << 20


async def find_source(stub: Any, source: str) -> music_pb2.AudioSource:
    """What --from means: the name of an asset or a result as it is, a file uploaded.

    Args:
        stub: RemoteStub of MusicService.
        source: Path or name.
    Raises:
        CommandFailed: There is no such file.
        AcestepError: The server refuses it.
    """
    path = Path(source)
    if not path.is_file():
        if source.startswith(_STORED):
            return music_pb2.AudioSource(result=source) if source.startswith("operations/") else music_pb2.AudioSource(asset=source)
        raise CommandFailed(f"--from {source}: no such file", ExitCode.USAGE)
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)

    async def requests() -> AsyncIterator[music_pb2.UploadAudioRequest]:
        for piece in _pieces(path):
            yield music_pb2.UploadAudioRequest(data=piece, sha256=digest.hexdigest())

    response: music_pb2.UploadAudioResponse = await stub.UploadAudio(requests())
    return music_pb2.AudioSource(asset=response.name)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            yield data
