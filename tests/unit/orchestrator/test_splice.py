import numpy as np
import pytest

from acestep_rpc.errors import StageError
from acestep_rpc.v1 import tensor_pb2, vae_pb2
from orchestrator.audio import Waveform, read_waveform
from orchestrator.splice import FADE_SECONDS, Splice

RATE = 8000
FADE = int(FADE_SECONDS * RATE)
SAMPLES = 3 * RATE
SOURCE = np.random.default_rng(0).standard_normal((SAMPLES, 2)).astype(np.float32)
NEW = np.random.default_rng(1).standard_normal((2, SAMPLES + 500)).astype(np.float32)  # decoded: up to a frame longer


def spliced(regions: list[tuple[float, float]], size: int = 1111, new: Waveform = NEW) -> tuple[Waveform, Splice]:
    splice = Splice(SOURCE, regions, RATE, RATE)
    pieces: list[Waveform] = []
    for start in range(0, new.shape[1], size):
        part = new[:, start : start + size]
        waveform = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=part.shape, data=part.tobytes())
        piece = splice.apply(
            vae_pb2.DecodeLatentsResponse(waveform=waveform, start_sample=start, total_samples=new.shape[1], sample_rate=RATE)
        )
        assert piece.start_sample == sum(earlier.shape[1] for earlier in pieces)
        assert piece.total_samples == SAMPLES
        pieces.append(read_waveform(piece))
    return np.concatenate(pieces, axis=1), splice


@pytest.mark.parametrize("regions", [[(1.0, 2.0)], [(0.5, 0.6), (2.0, 2.5)], [(0.0, 1.0)], [(2.0, 3.05)], [(1.5, 2.0), (1.0, 1.5)]])
def test_outside_the_regions_every_bit_is_the_sources(regions: list[tuple[float, float]]) -> None:
    result, splice = spliced(regions)
    new = np.zeros(SAMPLES, dtype=bool)
    for start, end in regions:
        new[int(start * RATE) : int(end * RATE)] = True
    assert result.shape == (2, SAMPLES)
    assert result[:, ~new].tobytes() == np.ascontiguousarray(SOURCE.T[:, ~new]).tobytes()
    assert splice.kept_snr_db() == "infinite"


def test_between_the_fades_every_bit_is_new() -> None:
    result, _ = spliced([(1.0, 2.0)])
    inner = slice(RATE + FADE, 2 * RATE - FADE)
    assert result[:, inner].tobytes() == np.ascontiguousarray(NEW[:, inner]).tobytes()


def test_fades_have_equal_power() -> None:
    rising = slice(RATE, RATE + FADE)
    angle = (np.arange(FADE) + 0.5) / FADE * np.pi / 2
    expected = np.cos(angle) * SOURCE.T[:, rising] + np.sin(angle) * NEW[:, rising]
    np.testing.assert_allclose(spliced([(1.0, 2.0)])[0][:, rising], expected, atol=1e-6)


def test_the_ends_of_the_song_and_regions_that_touch_have_no_fades() -> None:
    assert np.array_equal(spliced([(0.0, 1.5), (1.5, 3.0)])[0], NEW[:, :SAMPLES])


@pytest.mark.parametrize("size", [37, 5000, 100_000])
def test_pieces_of_any_size_give_the_same_song(size: int) -> None:
    regions = [(0.3, 0.4), (1.0, 1.2)]
    assert np.array_equal(spliced(regions, size)[0], spliced(regions)[0])


def test_a_song_shorter_than_its_source_is_an_error() -> None:
    with pytest.raises(StageError, match="for a source of"):
        spliced([(1.0, 2.0)], new=NEW[:, :100])


def test_a_song_without_a_kept_part_has_no_figure_for_it() -> None:
    assert spliced([(0.0, 3.0)])[1].kept_snr_db() is None
