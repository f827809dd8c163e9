"""Uploads by content and kept songs by request, with their latents, in any store that fsspec opens. Knows neither gRPC nor codecs."""

import asyncio
import contextlib
import hashlib
import io
import re
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from acestep_rpc.errors import InvalidRequest, NotFound
from acestep_rpc.telemetry import tenant

READ_BYTES = 1 << 20
_FOLDER = r"operations/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(/attempts/[0-9]{1,9})?"
_NAME = re.compile(rf"assets/[0-9a-f]{{64}}|{_FOLDER}/results/[0-9]{{1,2}}|{_FOLDER}/previews/[0-9]{{1,2}}-[0-9]{{1,3}}")


class AssetStore:
    """Uploads under their SHA-256, so that the same bytes are one asset, and songs under the names of their requests.

    Each tenant (acestep_rpc.telemetry.tenant of the running task) has a folder of its own, and no name leads out of it.

    Args:
        url: Folder or fsspec URL, as "/var/lib/acestep" or "s3://bucket/prefix".
    """

    def __init__(self, url: str) -> None:
        self._files: Any
        self._files, self._root = fsspec.core.url_to_fs(url)

    async def add(self, file: Path, sha256: str) -> str:
        """Store a file; returns its name, "assets/<sha256>"."""
        name = f"assets/{sha256}"
        await asyncio.to_thread(self._put, file, f"{name}/audio")
        return name

    async def add_audio(self, name: str, file: Path) -> None:
        """Store the file of a name that is not made of its content."""
        await asyncio.to_thread(self._put, file, f"{_checked(name)}/audio")

    async def add_preview(self, name: str, data: bytes) -> None:
        """Store what is heard of an unfinished song."""
        await asyncio.to_thread(self._write, f"{_checked(name)}/audio", io.BytesIO(data))

    async def size(self, name: str) -> int:
        """Bytes of an asset.

        Raises:
            NotFound: There is none of that name.
        """
        try:
            info = await asyncio.to_thread(self._files.info, self._path(f"{_checked(name)}/audio"))
        except FileNotFoundError:
            raise NotFound(_kind(name), name) from None
        return int(info["size"])

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Bytes of an asset from an offset on, at most READ_BYTES at a time.

        Raises:
            NotFound: There is none of that name.
            InvalidRequest: The offset is behind its end.
        """
        size = await self.size(name)
        if offset > size:
            raise InvalidRequest("offset", offset, f"0 to {size}")
        file = await asyncio.to_thread(self._files.open, self._path(f"{name}/audio"), "rb")
        try:
            await asyncio.to_thread(file.seek, offset)
            while data := await asyncio.to_thread(file.read, READ_BYTES):
                yield data
        finally:
            await asyncio.to_thread(file.close)

    async def read_range(self, name: str, offset: int, size: int) -> bytes:
        """So many bytes of an asset from an offset on.

        Raises:
            NotFound: There is none of that name.
        """
        path = self._path(f"{_checked(name)}/audio")
        try:
            data: bytes = await asyncio.to_thread(self._files.cat_file, path, offset, offset + size)
        except FileNotFoundError:
            raise NotFound(_kind(name), name) from None
        return data

    async def remove(self, folder: str) -> None:
        """Remove all that a job has, or one attempt at it, or the previews of that; nothing to do where there is nothing.

        Args:
            folder: As "operations/a", "operations/a/attempts/1" or "operations/a/attempts/1/previews".
        """
        assert re.fullmatch(rf"{_FOLDER}(/previews)?", folder)
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(self._files.rm, self._path(folder), recursive=True)

    async def record(self, name: str, key: str) -> bytes | None:
        """What `add_record` stored for this asset under this key; None: nothing."""
        try:
            data: bytes = await asyncio.to_thread(self._files.cat_file, self._path(f"{_checked(name)}/{key}"))
        except FileNotFoundError:
            return None
        return data

    async def add_record(self, name: str, key: str, data: bytes) -> None:
        """Keep something beside the file of an asset.

        Args:
            name: Of the asset.
            key: Digest of the codec, for what it made of an upload; "latents" and "song" of a result. Not "audio".
            data: The record.
        """
        await asyncio.to_thread(self._write, f"{_checked(name)}/{key}", io.BytesIO(data))

    def _path(self, relative: str) -> str:
        return f"{self._root}/{_folder()}{relative}"

    def _put(self, source: Path, relative: str) -> None:
        if not self._files.exists(self._path(relative)):
            with source.open("rb") as data:
                self._write(relative, data)

    def _write(self, relative: str, data: BinaryIO) -> None:
        """Write a file that appears whole, or not at all."""
        path = self._path(relative)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        target = self._files.open(path, "wb", autocommit=False)
        try:
            shutil.copyfileobj(data, target, READ_BYTES)
            target.close()
        except BaseException:
            target.discard()
            raise
        target.commit()


def _folder() -> str:
    """Of the running task's tenant: its name may hold what no file system takes, or differ from another in upper case only."""
    name = tenant.get()
    return f"tenants/{hashlib.sha256(name.encode()).hexdigest()[:32]}/" if name else ""


def _checked(name: str) -> str:
    """The name, if it can be one: it becomes part of a path."""
    if not _NAME.fullmatch(name):
        raise NotFound(_kind(name), name)
    return name


def _kind(name: str) -> str:
    return "result" if name.startswith("operations/") else "asset"
