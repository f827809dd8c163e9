import shutil
from pathlib import Path

import pytest
import torch

from tests.unit.training.tiny_run import write_dataset
from training.batches import Bucket, MicroBatches, Numbers, collate, mixed_seed
from training.shards import DatasetError, PreparedSong, ShardedDataset, write_manifest, write_shard

BUCKETS = (Bucket(8, 3), Bucket(16, 2))


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_dataset(tmp_path / "songs")


def song(key: str, num_frames: int, **fields: object) -> PreparedSong:
    ramp = torch.arange(num_frames, dtype=torch.float32).expand(8, 16, num_frames).contiguous()
    values = {"texts": (torch.zeros(2, 4),), "captions": ("a",), "lyric_ids": torch.arange(10), "speaker": torch.zeros(3)} | fields
    return PreparedSong(key, ramp, **values)  # type: ignore[arg-type]


def dataset_of(folder: Path, *songs: PreparedSong) -> ShardedDataset:
    write_manifest(folder, [write_shard(folder, songs)], {})
    return ShardedDataset(folder)


def test_a_batch_is_a_function_of_seed_and_number(folder):
    first, again = (MicroBatches(ShardedDataset(folder), BUCKETS, 3)[5] for _ in range(2))
    assert first.keys == again.keys
    assert torch.equal(first.latents, again.latents)
    others = [MicroBatches(ShardedDataset(folder), BUCKETS, 4)[5], MicroBatches(ShardedDataset(folder), BUCKETS, 3)[6]]
    assert all(other.keys != first.keys or other.latents.shape != first.latents.shape for other in others)


def test_every_bucket_and_every_song_comes_up(folder):
    batches = MicroBatches(ShardedDataset(folder), BUCKETS, 0)
    drawn = [batches[number] for number in range(30)]
    assert {(batch.latents.shape[-1] <= 8, len(batch.latents)) for batch in drawn} == {(True, 3), (False, 2)}
    assert {key for batch in drawn for key in batch.keys} == set(ShardedDataset(folder).keys)
    assert {caption for batch in drawn for caption in batch.captions} == {"one", "two"}


def test_crops_begin_where_the_song_allows(tmp_path):
    dataset = dataset_of(tmp_path / "songs", song("a", 40, crop_starts=torch.tensor([0, 7, 20, 38])))
    starts = {int(MicroBatches(dataset, [Bucket(16, 1)], 0)[number].latents[0, 0, 0, 0]) for number in range(40)}
    assert starts == {0, 7, 20}


def test_a_crop_is_a_stretch_of_the_song_with_its_features(tmp_path):
    features = {"mert": torch.arange(80.0)[:, None]}
    dataset = dataset_of(tmp_path / "songs", song("a", 40, features=features))
    crop = dataset.read(0, 0, 10, 8)
    assert crop.latents[0, 0].tolist() == list(range(10, 18))
    assert crop.features["mert"][:, 0].tolist() == list(range(20, 36))


def test_short_songs_are_padded_and_masked(tmp_path):
    batch = collate(0, [song("a", 12), song("b", 7, lyric_ids=torch.arange(4))])
    assert batch.frame_mask is not None
    assert batch.frame_mask.sum(1).tolist() == [12, 7]
    assert not batch.latents[1, ..., 7:].any()
    assert batch.conditions.lyric_mask.sum(1).tolist() == [10, 4]


def test_a_crop_keeps_the_lines_that_sound_in_it(tmp_path):
    lines = torch.tensor([[0, 10, 2, 5], [10, 20, 5, 8], [20, 30, 8, 10]])
    dataset = dataset_of(tmp_path / "songs", song("a", 40, lyric_lines=lines))
    assert dataset.read(0, 0, 12, 6).lyric_ids.tolist() == [0, 1, 5, 6, 7]
    assert dataset.read(0, 0, 8, 6).lyric_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert dataset.read(0, 0, 32, 6).lyric_ids.tolist() == [0, 1]


def test_a_damaged_shard_is_named_and_passed_over(folder, caplog):
    damaged = sorted(folder.glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    dataset = ShardedDataset(folder)
    batches = MicroBatches(dataset, [Bucket(8, 2)], 0)
    assert all(len(batches[number].keys) == 2 for number in range(6))
    assert damaged.name in caplog.text


def test_a_dataset_of_damaged_shards_stops_with_the_reasons(folder):
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"(?s)no song can be read:\n.*song song 0: "):
        MicroBatches(ShardedDataset(folder), BUCKETS, 0)[0]


def test_a_folder_without_songs_is_refused(tmp_path, folder):
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        ShardedDataset(tmp_path / "missing")
    shutil.copytree(folder, tmp_path / "empty")
    write_manifest(tmp_path / "empty", [], {})
    with pytest.raises(DatasetError, match="lists no songs"):
        ShardedDataset(tmp_path / "empty")


def test_equal_songs_make_equal_files(tmp_path):
    first, second = (write_shard(tmp_path / name, [song("a", 12), song("b", 9)]) for name in ("one", "two"))
    assert first == second


def test_processes_share_the_numbers_of_one():
    whole = list(Numbers(12))
    assert sorted([*Numbers(12, 0, 2), *Numbers(12, 1, 2)]) == whole
    assert list(Numbers(12, 1, 2, done=2)) == [5, 7, 9, 11]
    assert len(Numbers(12, 1, 2, done=2)) == 6


def test_seeds_of_neighbours_differ():
    seeds = {mixed_seed(seed, number, purpose) for seed in range(4) for number in range(50) for purpose in range(3)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)
