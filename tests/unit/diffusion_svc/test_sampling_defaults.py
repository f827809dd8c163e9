import pytest

from acestep_rpc.v1 import sampling_pb2
from diffusion_svc.sampling_defaults import read_sampling_defaults
from diffusion_svc.weights import CheckpointError


def test_a_checkpoint_without_the_file_has_none(tmp_path):
    assert read_sampling_defaults(tmp_path) == sampling_pb2.SamplingParams()


def test_names_are_those_of_the_contract(tmp_path):
    (tmp_path / "sampling.json").write_text('{"infer_step": 30, "cfg_type": "CFG_TYPE_CFG", "omega_scale": 0, "use_erg_lyric": false}')
    read = read_sampling_defaults(tmp_path)
    assert (read.infer_step, read.cfg_type, read.omega_scale, read.use_erg_lyric) == (30, sampling_pb2.CFG_TYPE_CFG, 0, False)
    assert read.HasField("omega_scale")
    assert not read.HasField("guidance_scale")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "sampling.json"), ('{"steps": 30}', "steps"), ('{"infer_step": "many"}', "infer_step"), ('{"oss_steps": [1, 2]}', "oss_steps")],
)
def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(text, message, tmp_path):
    (tmp_path / "sampling.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_sampling_defaults(tmp_path)
