import asyncio
import hashlib
from pathlib import Path

import pytest

from acestep_rpc.errors import InvalidRequest, NotFound
from orchestrator.assets import READ_BYTES, AssetStore

DATA = bytes(range(256)) * 10_000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> AssetStore:
    return AssetStore(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(DATA)
    return path


async def read(store: AssetStore, name: str, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in store.read(name, offset)])


async def test_a_file_comes_back_under_the_name_of_its_content(store, file):
    name = await store.add(file, DIGEST)
    assert name == f"assets/{DIGEST}"
    assert await store.size(name) == len(DATA)
    assert await read(store, name) == DATA


async def test_the_same_bytes_are_one_asset_even_at_once(store, file):
    names = await asyncio.gather(*(store.add(file, DIGEST) for _ in range(5)))
    assert len(set(names)) == 1
    assert await read(store, names[0]) == DATA


@pytest.mark.parametrize("offset", [0, 1, READ_BYTES, len(DATA) - 1, len(DATA)])
async def test_reading_goes_on_from_any_byte(store, file, offset):
    name = await store.add(file, DIGEST)
    assert await read(store, name, offset) == DATA[offset:]


async def test_an_offset_behind_the_end_is_refused(store, file):
    name = await store.add(file, DIGEST)
    with pytest.raises(InvalidRequest, match=f"0 to {len(DATA)}"):
        await read(store, name, len(DATA) + 1)


async def test_latents_are_kept_by_codec(store, file):
    name = await store.add(file, DIGEST)
    await store.add_record(name, "c0dec", b"latents")
    assert await store.record(name, "c0dec") == b"latents"
    assert await store.record(name, "other") is None


@pytest.mark.parametrize(
    "name", ["", "assets/", "assets/../../secret", f"assets/{DIGEST}/audio", f"/assets/{DIGEST}", f"assets/{DIGEST.upper()}"]
)
async def test_what_cannot_be_a_name_is_not_found(store, file, name):
    await store.add(file, DIGEST)
    with pytest.raises(NotFound):
        await store.size(name)
    with pytest.raises(NotFound):
        await store.record(name, "c0dec")


async def test_an_unknown_asset_is_not_found(store):
    with pytest.raises(NotFound):
        await store.size(f"assets/{DIGEST}")
