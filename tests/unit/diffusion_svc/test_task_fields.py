import pytest

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import diffusion_pb2
from diffusion_svc.task_fields import num_frames, read_task
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


@pytest.mark.parametrize("left", [0, 1, 7, 30, 90, 200])
@pytest.mark.parametrize("right", [0, 1, 7, 30, 90, 200])
def test_an_extension_has_the_promised_length(left, right):
    source = tiny.latents(21)
    message = diffusion_pb2.ExtendSampling(source=pack(source), left_seconds=left, right_seconds=right, retake_seeds=[1])
    request = diffusion_pb2.SampleRequest(seeds=[1], extend=message)
    if left + right == 0 or num_frames(left) + num_frames(right) + 21 > 2583:
        with pytest.raises(InvalidRequest, match="extend"):
            read_task(request, tiny.sampling_params(), None)
        return
    spec = read_task(request, tiny.sampling_params(), None)
    assert isinstance(spec, Extend)
    assert (spec.left, spec.right) == (num_frames(left), num_frames(right))
    assert spec.num_frames == spec.left + 21 + spec.right
