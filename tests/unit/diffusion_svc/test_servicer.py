import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from acestep_rpc.errors import InvalidRequest, NotFound, ShapeTooLarge, Unimplemented
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.torch_tensor import pack, unpack
from acestep_rpc.v1 import diffusion_pb2, encoder_pb2, sampling_pb2, stage_pb2, tensor_pb2
from diffusion_svc.adapters import AdapterStore
from diffusion_svc.batcher import Batcher
from diffusion_svc.sampler import Sampler
from diffusion_svc.servicer import DiffusionServicer, StageServicer, choose_dtype, num_frames
from diffusion_svc.weights import model_digest
from tests import tiny


def request(**changes) -> diffusion_pb2.SampleRequest:
    states = tiny.conditions()
    message = diffusion_pb2.SampleRequest(
        conditioning=encoder_pb2.Conditioning(
            text_hidden_states=pack(states.text),
            lyric_hidden_states=pack(states.lyrics),
            lyric_attention_mask=pack(states.lyric_mask),
            null_lyric_hidden_states=pack(states.null_lyrics),
        ),
        params=sampling_pb2.SamplingParams(
            infer_step=3,
            guidance_scale=5.0,
            scheduler_type=sampling_pb2.SCHEDULER_TYPE_EULER,
            cfg_type=sampling_pb2.CFG_TYPE_APG,
            omega_scale=10.0,
            guidance_interval=0.5,
            guidance_interval_decay=0.0,
            min_guidance_scale=3.0,
            guidance_scale_text=0.0,
            guidance_scale_lyric=0.0,
            use_erg_tag=True,
            use_erg_lyric=True,
            use_erg_diffusion=True,
        ),
        seeds=[1, 2],
        text_to_music=diffusion_pb2.TextToMusicSampling(duration_seconds=1.0),
    )
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = message
        for parent in parents:
            target = getattr(target, parent)
        if value is None:
            target.ClearField(name)
        elif isinstance(value, list):
            target.ClearField(name)
            getattr(target, name).extend(value)
        elif isinstance(value, tensor_pb2.Tensor):
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)
    return message


def adapted(*selections: tuple[str, float | None]) -> diffusion_pb2.SampleRequest:
    message = request()
    message.adapters.extend(sampling_pb2.AdapterSelection(name=name, scale=scale) for name, scale in selections)
    return message


@pytest.fixture
def worker():
    return ThreadPoolExecutor(max_workers=1)


@pytest.fixture
def store(tmp_path):
    """Folder of two adapters: a good one and one for another network."""
    for name, inputs in (("rap", 16), ("misfit", 17)):
        (tmp_path / name).mkdir()
        path = "transformer_blocks.0.attn.to_v"
        tensors = {f"{path}.lora_A.weight": torch.full((2, inputs), 0.1), f"{path}.lora_B.weight": torch.full((16, 2), 0.1)}
        save_file(tensors, tmp_path / name / "pytorch_lora_weights.safetensors")
    return tmp_path


@pytest.fixture
def stub(worker, store):
    model = tiny.transformer()
    batcher = Batcher(Sampler(model), worker, max_rows=16, max_requests=4)
    return InProcessStub(DiffusionServicer(batcher, model.config, AdapterStore(store, model, 4), worker))


async def latents(stub, message: diffusion_pb2.SampleRequest) -> list[bytes]:
    events = [event async for event in stub.Sample(message)]
    return [tensor.data for tensor in events[-1].result.latents]


async def test_progress_then_one_latent_tensor_a_seed(stub):
    *progress, last = [event async for event in stub.Sample(request())]
    assert [event.progress.step for event in progress] == [2, 4, 6]
    assert len(last.result.latents) == 2
    for latents in last.result.latents:
        assert unpack(latents, "latents", (torch.float32,), (8, 16, 10)).isfinite().all()


BAD = [
    ({"text_to_music__duration_seconds": float("nan")}, "duration_seconds"),
    ({"text_to_music__duration_seconds": 10_000.0}, "duration_seconds"),
    ({"seeds": []}, "seeds"),
    ({"seeds": [2**32]}, "seeds"),
    ({"params__guidance_scale": float("nan")}, "guidance_scale"),
    ({"params__omega_scale": None}, "omega_scale"),
    ({"params__infer_step": 0}, "infer_step"),
    ({"params__scheduler_type": 0}, "scheduler_type"),
    ({"params__cfg_type": 99}, "cfg_type"),
    ({"params__guidance_interval": 1.5}, "guidance_interval"),
    ({"params__oss_steps": [3, 2]}, "oss_steps"),
    ({"params__oss_steps": [1, 2], "params__scheduler_type": sampling_pb2.SCHEDULER_TYPE_HEUN}, "oss_steps"),
    ({"conditioning__null_lyric_hidden_states": None}, "null_lyric_hidden_states"),
    ({"conditioning__text_hidden_states": pack(torch.zeros(3, 13))}, "text_hidden_states.shape"),
    ({"conditioning__text_hidden_states": pack(torch.zeros(0, 12))}, "text_hidden_states"),
    ({"conditioning__text_hidden_states": pack(torch.zeros(300, 12))}, "text_hidden_states"),
    ({"conditioning__lyric_hidden_states": pack(torch.full((5, 20), torch.nan))}, "lyric_hidden_states.data"),
    ({"conditioning__lyric_attention_mask": pack(torch.ones(4, dtype=torch.bool))}, "lyric_attention_mask.shape"),
    ({"conditioning__lyric_attention_mask": pack(torch.ones(5))}, "lyric_attention_mask.data_type"),
    ({"conditioning__text_hidden_states__data": b"short"}, "text_hidden_states.data"),
]


@pytest.mark.parametrize(("changes", "field"), BAD, ids=[f"{field}-{number}" for number, (_, field) in enumerate(BAD)])
async def test_a_bad_field_is_named_and_the_stage_serves_on(stub, changes, field):
    with pytest.raises(InvalidRequest, match=field):
        await anext(stub.Sample(request(**changes)))
    assert [event async for event in stub.Sample(request())][-1].HasField("result")


async def test_what_is_not_built_says_so(stub):
    with pytest.raises(Unimplemented, match="text_to_music"):
        await anext(stub.Sample(request(text_to_music=None)))


async def test_adapters_change_their_request_and_no_other(stub):
    base = await latents(stub, request())
    company = await asyncio.gather(*(latents(stub, message) for message in (adapted(("rap", 2.0)), request(), adapted(("rap", None)))))
    assert company[1] == base
    assert len({tuple(result) for result in company}) == 3
    assert await latents(stub, adapted(("rap", 1.0))) == company[2]
    assert await latents(stub, adapted(("rap", 0.0))) == base


BAD_ADAPTERS = [
    ([("../rap", 1.0)], r"adapters\[0\].name"),
    ([("", 1.0)], r"adapters\[0\].name"),
    ([("rap", 1.0), ("rap", 0.5)], r"adapters\[1\].name"),
    ([("rap", 3.5)], r"adapters\[0\].scale"),
    ([("rap", float("nan"))], r"adapters\[0\].scale"),
    ([(f"a{index}", 1.0) for index in range(9)], "at most 8"),
    ([("misfit", 1.0)], r"adapters: misfit/.*transformer_blocks.0.attn.to_v.lora_A.weight has shape \[2, 17\]"),
]


@pytest.mark.parametrize(("selections", "message"), BAD_ADAPTERS, ids=[message for _, message in BAD_ADAPTERS])
async def test_bad_adapters_are_refused_with_the_reason(stub, selections, message):
    with pytest.raises(InvalidRequest, match=message):
        await latents(stub, adapted(*selections))


async def test_an_adapter_that_is_not_there_is_not_found(stub):
    with pytest.raises(NotFound) as caught:
        await latents(stub, adapted(("jazz", 1.0)))
    assert (caught.value.resource_type, caught.value.name) == ("adapter", "jazz")


async def test_adapters_are_loaded_by_the_worker_thread(stub, worker):
    gate = threading.Event()
    worker.submit(gate.wait)
    sampling = asyncio.create_task(latents(stub, adapted(("rap", 1.0))))
    await asyncio.sleep(0.05)  # the loop is free although the worker is not
    assert not sampling.done()
    gate.set()
    assert len(await sampling) == 2


async def test_more_positions_than_the_checkpoint_has_are_refused(worker):
    model = tiny.transformer()
    object.__setattr__(model.config, "max_position", 8)
    batcher = Batcher(Sampler(model), worker, 16, 4)
    stub = InProcessStub(DiffusionServicer(batcher, model.config, AdapterStore(None, model, 4), worker))
    with pytest.raises(ShapeTooLarge, match="8 positions"):
        await anext(stub.Sample(request()))


async def test_the_stage_describes_itself(store):
    model = tiny.transformer()
    stub = InProcessStub(StageServicer(model, model_digest(model), AdapterStore(store, model, 4)))
    described = await stub.Describe(stage_pb2.DescribeRequest())
    assert described.stage == "diffusion"
    assert described.dtype == "float32"
    assert described.limits["max_duration_seconds"] == 240
    assert len(described.model_digest) == 64
    assert described.features["adapters"] == "misfit,rap"
    (store / "rap").rename(store / "jazz")
    assert (await stub.Describe(stage_pb2.DescribeRequest())).features["adapters"] == "jazz,misfit"


@pytest.mark.parametrize(("seconds", "frames"), [(240.0, 2583), (60.0, 645), (30.0, 322), (10.0, 107), (2.3, 24)])
def test_seconds_become_frames_towards_zero(seconds, frames):
    assert num_frames(seconds) == frames


def test_dtype_names_are_checked():
    assert choose_dtype("float32", torch.device("cpu")) is torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ValueError, match="float16"):
        choose_dtype("float16", torch.device("cpu"))
