import itertools

import pytest
import torch

from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import diffusion_pb2
from acestep_rpc.work import WINDOW_FRAMES, extension_windows
from diffusion_svc.sampler import Sampler
from diffusion_svc.task_fields import MAX_FRAMES, num_frames, read_task
from diffusion_svc.tasks import Extend, Repaint, Retake
from tests import tiny


def read_repaint(frames, *regions):
    message = diffusion_pb2.RepaintSampling(source=pack(tiny.latents(frames)), retake_variance=0.5, retake_seeds=[1])
    for start, end in regions:
        message.regions.add(start_seconds=start, end_seconds=end)
    return read_task(diffusion_pb2.SampleRequest(seeds=[1], repaint=message), tiny.sampling_params(), None)


@pytest.mark.parametrize(("seconds", "frames"), [(240.0, 2583), (60.0, 645), (30.0, 322), (10.0, 107), (2.3, 24)])
def test_seconds_become_frames_towards_zero(seconds, frames):
    assert num_frames(seconds) == frames


def test_boundaries_that_were_computed_from_frames_give_those_frames_back():
    for frames in range(3, 200):
        last = frames - 1
        assert read_repaint(frames, (4096 / 44100, last * 4096 / 44100)).regions == ((1, last),)
        assert isinstance(read_repaint(frames, (0.0, frames * 4096 / 44100)), Retake)


def test_a_region_may_end_with_the_audio_which_is_up_to_a_frame_longer_than_the_latents():
    assert read_repaint(20, (1.0, 20.9 * 4096 / 44100)).regions == ((10, 20),)


def test_regions_in_any_order_that_touch_are_fine():
    spec = read_repaint(30, (2.0, 2.5), (0.5, 1.0), (1.0, 1.5))
    assert isinstance(spec, Repaint)
    assert spec.regions == ((5, 10), (10, 16), (21, 26))


GRID = [0, 1, 7, 30, 90, 200]


@pytest.mark.parametrize("source_seconds", [2, 30, 239])
def test_defects_15_and_16_extensions_of_any_size_have_the_promised_length_and_keep_the_source(source_seconds):
    sampler, frames = Sampler(tiny.transformer(num_layers=1)), num_frames(source_seconds)
    source, params = tiny.latents(frames), tiny.sampling_params(1, guidance=tiny.guidance_params(guidance_scale=1.0))
    for left, right in itertools.product(GRID, GRID):
        message = diffusion_pb2.ExtendSampling(source=pack(source), left_seconds=left, right_seconds=right, retake_seeds=[1])
        request = diffusion_pb2.SampleRequest(seeds=[1], extend=message)
        spec = read_task(request, params, None)
        assert isinstance(spec, Extend)
        assert (spec.left, spec.right) == (num_frames(left), num_frames(right))
        (result,) = tiny.sample(tiny.sampling_request(task=spec, params=params), sampler)
        assert result.shape[-1] == num_frames(left) + frames + num_frames(right)
        assert torch.equal(result[..., spec.left : spec.left + frames], source)
        assert result.isfinite().all()
        assert (result.abs().amax(dim=(0, 1)) > 0).all(), "a frame that was never made would be 0"


@pytest.mark.parametrize("source_seconds", [0.1, 2, 30, 120, 239, 240, 500])
def test_each_window_of_an_extension_fits_and_overlaps_what_is_known(source_seconds):
    frames = num_frames(source_seconds)
    for left, right in itertools.product(map(num_frames, [0, 0.1, 7, 90, 200, 240, 600]), repeat=2):
        windows = extension_windows(frames, left, right)
        known_start, known_stop = left, left + frames
        for start, stop in windows:
            assert 0 <= start < stop <= left + frames + right
            assert stop - start <= MAX_FRAMES == WINDOW_FRAMES
            overlap = min(stop, known_stop) - max(start, known_start)
            assert overlap >= min(MAX_FRAMES // 2, known_stop - known_start)
            assert start < known_start or stop > known_stop
            known_start, known_stop = min(start, known_start), max(stop, known_stop)
        assert (known_start, known_stop) == (0, left + frames + right)
        if left + frames + right <= MAX_FRAMES:
            assert len(windows) == (left + right > 0)
