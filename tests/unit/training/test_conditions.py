import torch

from training.conditions import Conditions, drop_conditions


def conditions(items: int) -> Conditions:
    return Conditions(
        text=torch.ones(items, 3, 4),
        text_mask=torch.ones(items, 3, dtype=torch.int64),
        speaker=torch.ones(items, 5),
        lyric_ids=torch.ones(items, 6, dtype=torch.int64),
        lyric_mask=torch.ones(items, 6, dtype=torch.int64),
    )


def drop(items: int, seed: int, **probabilities: float) -> Conditions:
    return drop_conditions(conditions(items), torch.Generator().manual_seed(seed), **probabilities)


def test_dropped_text_keeps_its_mask():
    dropped = drop(4, 0, text=1, speaker=0, lyrics=0)
    assert not dropped.text.any()
    assert dropped.text_mask.all()
    assert dropped.speaker.all()
    assert dropped.lyric_ids.all()


def test_dropped_lyrics_lose_ids_and_mask():
    dropped = drop(4, 0, text=0, speaker=0, lyrics=1)
    assert not dropped.lyric_ids.any()
    assert not dropped.lyric_mask.any()
    assert dropped.text.all()


def test_dropped_speaker_is_zeros_and_still_attended():
    dropped = drop(4, 0, text=0, speaker=1, lyrics=0)
    assert not dropped.speaker.any()
    assert dropped.mask[:, 0].all()


def test_conditions_are_dropped_as_often_as_asked_and_independently():
    dropped = drop(20_000, 1)
    lost = torch.stack([~dropped.text.any(2).any(1), ~dropped.speaker.any(1), ~dropped.lyric_mask.any(1)]).double()
    torch.testing.assert_close(lost.mean(1), torch.tensor([0.15, 0.5, 0.15]).double(), atol=0.012, rtol=0)
    off_diagonal = torch.corrcoef(lost) - torch.eye(3)
    assert off_diagonal.abs().max() < 0.03


def test_same_seed_drops_the_same():
    first, again, other = drop(50, 7), drop(50, 7), drop(50, 8)
    assert torch.equal(first.speaker, again.speaker)
    assert not torch.equal(first.speaker, other.speaker)


def test_probabilities_do_not_shift_the_draws_of_others():
    assert torch.equal(drop(50, 7, text=0).speaker, drop(50, 7, text=1).speaker)


def test_given_conditions_are_not_changed():
    given = conditions(3)
    drop_conditions(given, torch.Generator(), text=1, speaker=1, lyrics=1)
    assert given.text.all()
    assert given.lyric_mask.all()


def test_mask_covers_speaker_text_and_lyrics_in_order():
    given = conditions(1)
    given.text_mask[0, 2] = 0
    given.lyric_mask[0, 0] = 0
    assert given.mask.tolist() == [[True, True, True, False, False, True, True, True, True, True]]
