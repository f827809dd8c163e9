import asyncio
import contextlib
from pathlib import Path

import pytest

from acestep_rpc.errors import AlreadyExists, NotFound
from acestep_rpc.v1 import music_pb2, tensor_pb2, vae_pb2
from orchestrator.assets import AssetStore
from orchestrator.results import Results, is_result

LATENTS = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[8, 16, 1], data=bytes(512))


@pytest.fixture
def assets(tmp_path: Path) -> AssetStore:
    return AssetStore(str(tmp_path))


async def keep(assets: AssetStore, request_id: str) -> music_pb2.Song:
    song = music_pb2.Song(sample_rate=48000, channels=2, duration_seconds=0.09)
    with contextlib.closing(Results(assets).open(request_id, 3)) as writer:
        for data in (b"RI", b"FF"):
            writer.write(music_pb2.AudioChunk(data=data))
        await writer.finish(song, LATENTS)
    return song


async def test_a_kept_song_is_there_with_file_account_and_latents(assets: AssetStore) -> None:
    song = await keep(assets, "take.1")
    assert song.name == "operations/take.1/results/3"
    assert is_result(song.name)
    assert [piece async for piece in assets.read(song.name)] == [b"RIFF"]
    assert music_pb2.Song.FromString(await assets.record(song.name, "song") or b"") == song
    assert vae_pb2.EncodeAudioResponse.FromString(await assets.record(song.name, "latents") or b"").latents == LATENTS


async def test_a_name_is_used_once(assets: AssetStore) -> None:
    results = Results(assets)
    await results.claim("a")
    with contextlib.closing(results.open("a", 0)) as writer:
        await writer.finish(music_pb2.Song(), LATENTS)
    with pytest.raises(AlreadyExists, match="operations/a/results/0"):
        await results.claim("a")
    await results.claim("b")


async def test_what_was_not_finished_is_not_kept(assets: AssetStore, tmp_path: Path) -> None:
    with contextlib.closing(Results(assets).open("a", 0)) as writer:
        writer.write(music_pb2.AudioChunk(data=b"x"))
    assert not await asyncio.to_thread(lambda: list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    "name", ["operations/../results/0", "operations/a/b/results/0", "operations/a/results/../0", "operations/a/results/100"]
)
async def test_path_tricks_in_names_are_not_found(assets: AssetStore, name: str) -> None:
    with pytest.raises(NotFound, match="result"):
        await assets.size(name)
