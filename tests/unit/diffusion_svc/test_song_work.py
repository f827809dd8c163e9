"""What is counted before is what is evaluated then."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from acestep_rpc.work import NOTHING, Work
from diffusion_svc.sampler import Sampler
from tests import tiny
from tests.unit.diffusion_svc.test_batch_invariance import MODEL, random_request


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_forwards_of_any_task_solver_and_guidance_are_counted_before_the_first(seed):
    randoms = random.Random(seed)
    request = random_request(randoms, randoms.randint(1, 40), 10, None)
    sampler = Sampler(MODEL)
    (song,) = sampler.start(request)
    while song.pending:
        before = song.remaining_work
        step = song.step_work
        sampler.tick([song])
        after = song.remaining_work
        assert before.forwards - after.forwards == 1
        assert (before.rows - after.rows, before.row_frames - after.row_frames) == (step.rows, step.row_frames)
        assert before.row_frame_tokens - after.row_frame_tokens >= step.row_frame_tokens  # counted with the longest condition
    assert song.remaining_work == NOTHING
    assert song.work_left[0].rows == song.evaluated_rows
    assert song.work_left[0].forwards == song.forwards_done


def test_the_work_of_a_plain_song():
    (song,) = Sampler(MODEL).start(tiny.sampling_request(num_frames=9, params=tiny.sampling_params(4)))
    assert song.remaining_work == Work(4, 6, 54, 54 * 9)  # two of four steps are guided; a speaker, 3 tokens of text, 5 of lyrics
