"""Runs that play their songs as they go: the same losses, crops and optimiser as the trainer's own."""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import load_trainable
from training.conditions import Conditions
from training.corpus.labels import SCORE_COLUMNS
from training.corpus.song import SONG_FRAMES
from training.flow_matching import flow_matching_losses, noise_levels
from training.optimizers import MuonAdamW
from training.streamed.__main__ import main
from training.streamed.learning import Learner, Optimizer
from training.streamed.run import FROZEN, Run, write_weights
from training.streamed.songs import LATENT_STEP, MAX_TAGS, NUM_CAPTIONS, Prepared, Store

CHECKPOINT = Path(str(resources.files("clients") / "checkpoint"))
CPU = torch.device("cpu")
BEAT_FRAMES = 4.5


def prepared(songs: int) -> list[Prepared]:
    """Songs of random numbers."""
    rng = np.random.default_rng(0)
    captions = np.full((NUM_CAPTIONS, MAX_TAGS), -1)
    captions[:, :3] = rng.integers(0, 5, (NUM_CAPTIONS, 3))
    return [
        Prepared(
            rng.integers(-20, 20, (SONG_FRAMES, 128)).astype(np.int8),
            rng.integers(0, 255, (SONG_FRAMES, len(SCORE_COLUMNS))).astype(np.uint8),
            captions,
            BEAT_FRAMES,
        )
        for _ in range(songs)
    ]


def store(songs: int, lyrics: bool) -> Store:
    """Songs of random numbers; the lyrics have two lines, in frames 0 to 99 and 200 to 299."""
    made = Store(songs, 5 if lyrics else 2, torch.stack([torch.full((len(SCORE_COLUMNS),), value) for value in (0.2, 0.4)]), CPU)
    made.add(prepared(songs))
    made.phones[:] = torch.from_numpy(np.random.default_rng(1).integers(0, 41, (songs, SONG_FRAMES)).astype(np.uint8))
    made.lyric_ids[:] = torch.tensor([1, 30, 31, 40, 41] if lyrics else [1, 6])
    made.lyric_from[:] = torch.tensor([-1, 0, 0, 200, 200] if lyrics else [-1, -1])
    made.lyric_to[:] = torch.tensor([2**20, 100, 100, 300, 300] if lyrics else [2**20, 2**20])
    return made


def test_crops_begin_with_a_bar_and_keep_the_lines_that_sound() -> None:
    songs = store(3, lyrics=True)
    crops = songs.draw(64, 32, torch.Generator().manual_seed(0))
    bar = 4 * BEAT_FRAMES
    first, second = set(), set()
    for crop in range(64):
        where = [
            (song, start)
            for song in range(3)
            for start in range(SONG_FRAMES - 31)
            if torch.equal(crops.latents[crop].flatten(0, 1).T, songs.latents[song, start : start + 32] * LATENT_STEP)
        ]
        ((_, start),) = where
        assert start in {int(np.ceil(bar * number)) for number in range(18)}
        assert crops.phones[crop].tolist() == songs.phones[where[0][0], start : start + 32].tolist()
        sounding = [1, *([30, 31] if start < 100 else []), *([40, 41] if start + 32 > 200 and start < 300 else [])]
        assert crops.lyric_ids[crop][crops.lyric_mask[crop]].tolist() == sounding
        first.add(start < 100)
        second.add(start + 32 > 200)
    assert first == second == {True, False}
    assert crops.lyric_ids.shape[1] == songs.longest(32) == 3


def test_losses_are_those_of_the_trainer() -> None:
    model = load_trainable(CHECKPOINT).eval()
    tags = torch.randn(5, model.config.text_embedding_dim, generator=torch.Generator().manual_seed(1))
    groups = [store(2, lyrics=True).draw(2, 16, torch.Generator().manual_seed(2)), store(2, lyrics=False).draw(3, 16, torch.Generator())]
    with torch.no_grad():
        found = Learner(model, tags, seed=5)(groups, 0.3, 2.0, 0.3)
        draws = torch.Generator().manual_seed(5)
        kept = torch.rand(5, 2, generator=draws) >= 0.1
        sigmas = noise_levels()[(1000 * (torch.randn(5, generator=draws) + 0.3).sigmoid()).long()]
        both = {name: torch.cat([getattr(group, name) for group in groups]) for name in ("latents", "score", "phones", "captions")}
        noise = torch.randn(both["latents"].shape, generator=draws)
        present = both["captions"] >= 0
        masks, ids = (
            torch.cat([nn.functional.pad(getattr(group, name), (0, 3 - getattr(group, name).shape[1])) for group in groups])
            for name in ("lyric_mask", "lyric_ids")
        )
        conditions = Conditions(
            tags[both["captions"].clamp_min(0)] * present[..., None] * kept[:, :1, None],
            present.float(),
            torch.zeros(5, model.config.speaker_embedding_dim),
            ids * kept[:, 1:],
            (masks & kept[:, 1:]).float(),
        )
        phones = nn.functional.one_hot(both["phones"], 41).float()
        targets = [list(both["score"]), list(phones)]
        expected = flow_matching_losses(
            model, both["latents"], conditions, targets, {"score": 2.0, "phones": 0.3}, noise, sigmas, velocity=True
        )
    wanted = torch.stack([expected.total, expected.denoising, *expected.projections.values()])
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)


def pack() -> dict[str, Tensor]:
    """Two sung songs of random numbers, as a pack holds them."""
    sung = store(2, lyrics=True)
    names = ("latents", "score", "phones", "captions", "bar_frames", "lyric_ids", "lyric_from", "lyric_to")
    width = load_trainable(CHECKPOINT).config.text_embedding_dim
    return {name: getattr(sung, name) for name in names} | {
        "statistics": sung.statistics,
        "instrumental_ids": torch.tensor([1, 6]),
        "tags": torch.randn(5, width, generator=torch.Generator().manual_seed(1)),
    }


def test_a_step_follows_its_controls() -> None:
    options = argparse.Namespace(frames=64, songs=4, seed=0, checkpoint_dir=CHECKPOINT, learning_rate=1e-3, muon_learning_rate=0.02)
    run = Run(options, CPU, pack())
    run.played.add(prepared(3))
    start = run.copy()

    run.seconds_of_steps([16])  # tries, and changes nothing
    run.begin()
    assert all(torch.equal(now, before) for now, before in zip(run.parameters, start, strict=True))
    assert run.sums.eq(0).all()

    run.control(share=0.0, multiplier=1.0, average=0.1)
    run.step(16)
    frozen = [name.startswith(FROZEN) for name in run.names]
    moved = [not torch.equal(now, before) for now, before in zip(run.parameters, start, strict=True)]
    assert any(moved)
    assert not any(still and has_moved for still, has_moved in zip(frozen, moved, strict=True))
    for averaged, now, before in zip(run.averaged, run.parameters, start, strict=True):
        torch.testing.assert_close(averaged, torch.lerp(before, now, 0.1))

    run.restore(start)
    assert all(torch.equal(now, before) for now, before in zip(run.parameters + run.averaged, start * 2, strict=True))


class Two(nn.Module):
    """Matrices of two shapes in blocks, and a layer beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 4), nn.Conv1d(4, 6, 1)])
        self.proj = nn.Linear(4, 4)


def test_optimizer_is_muon_and_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = Two(), Two()
    theirs.load_state_dict(ours.state_dict())
    optimizer, reference = Optimizer(ours, 1e-2, 0.05), MuonAdamW(theirs, 1e-2, 0.05, (0.9, 0.95), 0.01)
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        torch.testing.assert_close(optimizer.step(torch.ones(())), norm)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other)


def test_weights_come_back_as_a_checkpoint(tmp_path: Path) -> None:
    model = load_trainable(CHECKPOINT)
    names = [name for name, _ in model.named_parameters()]
    tensors = [parameter + 1 for parameter in model.parameters()]
    write_weights(tmp_path, "final", names, tensors)
    sizes = [path.stat().st_size for path in tmp_path.glob("final.*.safetensors")]
    assert max(sizes) < 0.51 * sum(sizes)

    joined = tmp_path / "joined"
    assert main(["join", "--run", str(tmp_path), "--checkpoint_dir", str(CHECKPOINT), "--output", str(joined)]) == 0
    for (name, found), expected in zip(load_trainable(joined).named_parameters(), tensors, strict=True):
        assert torch.equal(found, expected.half().float()), name
    assert (joined / "lyric_vocab.json").exists()
