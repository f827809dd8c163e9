import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from acestep_rpc.errors import InvalidRequest, NotFound, ShapeTooLarge
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.torch_tensor import pack, unpack
from acestep_rpc.v1 import diffusion_pb2, encoder_pb2, music_pb2, sampling_pb2, stage_pb2, tensor_pb2
from diffusion_svc.adapters import AdapterStore
from diffusion_svc.batcher import Batcher
from diffusion_svc.budget import Budget
from diffusion_svc.sampler import Sampler
from diffusion_svc.scheduling import Priority, Terms
from diffusion_svc.servicer import DiffusionServicer, StageServicer, choose_dtype, read_terms
from diffusion_svc.weights import model_digest
from tests import tiny

BUDGET = Budget(160, 0.1)


def request(message: diffusion_pb2.SampleRequest | None = None, /, **changes) -> diffusion_pb2.SampleRequest:
    message = message or text_to_music_request()
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


def text_to_music_request() -> diffusion_pb2.SampleRequest:
    states = tiny.conditions()
    return diffusion_pb2.SampleRequest(
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
    batcher = Batcher(Sampler(model), worker, BUDGET, max_requests=4)
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
    ({"text_to_music": None}, "task"),
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


SOURCE = pack(tiny.latents(24))
TASKS = {
    "retake": diffusion_pb2.RetakeSampling(duration_seconds=2.3, retake_variances=[0.1, 0.9], retake_seeds=[7, 8]),
    "repaint": diffusion_pb2.RepaintSampling(
        source=SOURCE,
        regions=[{"start_seconds": 0.5, "end_seconds": 1.0}, {"start_seconds": 1.5, "end_seconds": 1.8}],
        retake_variance=0.8,
        retake_seeds=[7, 8],
    ),
    "extend": diffusion_pb2.ExtendSampling(source=SOURCE, left_seconds=1.0, right_seconds=0.5, retake_seeds=[7, 8]),
    "edit": diffusion_pb2.EditSampling(
        source=SOURCE, target=request().conditioning, edit_n_min=0.0, edit_n_max=0.7, edit_n_avg=2, retake_seeds=[7, 8]
    ),
    "audio_to_audio": diffusion_pb2.AudioToAudioSampling(source=SOURCE, ref_audio_strength=0.5),
}


def task_request(task: str, **changes) -> diffusion_pb2.SampleRequest:
    """The request of a task; changes to the task are named by its name and two underscores, as everywhere."""
    message = request()
    getattr(message, task).CopyFrom(TASKS[task])
    return request(message, **changes)


@pytest.mark.parametrize(("task", "frames"), [("retake", 24), ("repaint", 24), ("extend", 39), ("edit", 24), ("audio_to_audio", 24)])
async def test_every_task_ends_with_latents_of_its_length(stub, task, frames):
    *progress, last = [event async for event in stub.Sample(task_request(task))]
    assert progress[-1].progress.step == progress[-1].progress.total_steps
    songs = [unpack(latents, "latents", (torch.float32,), (8, 16, frames)) for latents in last.result.latents]
    assert len(songs) == 2
    assert not torch.equal(*songs)
    if task == "repaint":
        assert torch.equal(songs[0][..., :5], tiny.latents(24)[..., :5])
    if task == "extend":
        assert torch.equal(songs[0][..., 10:34], tiny.latents(24))


async def test_a_task_without_an_evaluation_ends_too(stub):
    (last,) = [event async for event in stub.Sample(task_request("repaint", repaint__retake_variance=0.0))]
    assert list(last.result.latents) == [SOURCE, SOURCE]


async def test_a_step_with_more_rows_than_the_budget_runs_alone(stub):
    *progress, _ = [event async for event in stub.Sample(task_request("edit", edit__edit_n_avg=5))]
    assert max(event.progress.batch_rows for event in progress) == 20


async def test_priority_and_tenant_are_taken_and_checked(stub):
    expected = await latents(stub, request())
    assert await latents(stub, request(priority=music_pb2.PRIORITY_BATCH, tenant="studio")) == expected
    for field, value in (("priority", 9), ("tenant", "x" * 129)):
        with pytest.raises(InvalidRequest) as refused:
            await latents(stub, request(**{field: value}))
        assert refused.value.violations[0][0] == field


def test_the_turn_of_a_request():
    assert read_terms(request(), None) == Terms(Priority.NORMAL, math.inf, "")
    terms = read_terms(request(priority=music_pb2.PRIORITY_INTERACTIVE, tenant="studio"), 5.0)
    assert (terms.priority, terms.tenant) == (Priority.INTERACTIVE, "studio")
    assert terms.deadline == pytest.approx(time.monotonic() + 5, abs=1)


HEUN, PINGPONG = sampling_pb2.SCHEDULER_TYPE_HEUN, sampling_pb2.SCHEDULER_TYPE_PINGPONG
BAD_TASKS = [
    ("retake", {"retake__duration_seconds": 0.0}, "retake.duration_seconds"),
    ("retake", {"retake__retake_variances": [0.5]}, "retake.retake_variances"),
    ("retake", {"retake__retake_variances": [0.5, 1.1]}, "retake.retake_variances"),
    ("retake", {"retake__retake_variances": [0.5, float("nan")]}, "retake.retake_variances"),
    ("retake", {"retake__retake_seeds": [1]}, "retake.retake_seeds"),
    ("retake", {"retake__retake_seeds": [1, 2**32]}, "retake.retake_seeds"),
    ("repaint", {"repaint__source": None}, "repaint.source.data_type"),
    ("repaint", {"repaint__source": pack(torch.zeros(8, 16))}, "repaint.source.shape"),
    ("repaint", {"repaint__source": pack(torch.zeros(8, 15, 24))}, "repaint.source.shape"),
    ("repaint", {"repaint__source": pack(torch.zeros(8, 16, 0))}, "repaint.source"),
    ("repaint", {"repaint__source": pack(torch.zeros(8, 16, 2584))}, "repaint.source"),
    ("repaint", {"repaint__source": pack(torch.full((8, 16, 24), torch.inf))}, "repaint.source.data"),
    ("repaint", {"repaint__source": pack(torch.zeros(8, 16, 24, dtype=torch.int64))}, "repaint.source.data_type"),
    ("repaint", {"repaint__regions": None}, "repaint.regions"),
    ("repaint", {"repaint__retake_variance": -0.1}, "repaint.retake_variance"),
    ("repaint", {"repaint__retake_seeds": []}, "repaint.retake_seeds"),
    ("repaint", {"params__scheduler_type": HEUN}, "params.scheduler_type"),
    ("repaint", {"params__scheduler_type": PINGPONG}, "params.scheduler_type"),
    ("extend", {"extend__left_seconds": -1.0}, "extend.left_seconds"),
    ("extend", {"extend__left_seconds": float("nan")}, "extend.left_seconds"),
    ("extend", {"extend__retake_seeds": [1, 2, 3]}, "extend.retake_seeds"),
    ("extend", {"params__scheduler_type": HEUN}, "params.scheduler_type"),
    ("edit", {"edit__target": None}, "edit.target.text_hidden_states.data_type"),
    ("edit", {"edit__target__null_lyric_hidden_states": None}, "edit.target.null_lyric_hidden_states"),
    ("edit", {"edit__edit_n_avg": 0}, "edit.edit_n_avg"),
    ("edit", {"edit__edit_n_avg": 17}, "edit.edit_n_avg"),
    ("edit", {"edit__edit_n_min": -0.5}, "edit.edit_n_min"),
    ("edit", {"edit__edit_n_max": 1.5}, "edit.edit_n_max"),
    ("edit", {"edit__retake_seeds": [1]}, "edit.retake_seeds"),
    ("audio_to_audio", {"audio_to_audio__ref_audio_strength": 1.5}, "audio_to_audio.ref_audio_strength"),
    ("audio_to_audio", {"audio_to_audio__source": None}, "audio_to_audio.source.data_type"),
    ("audio_to_audio", {"params__oss_steps": [1, 2]}, "params.oss_steps"),
]


@pytest.mark.parametrize(
    ("task", "changes", "field"), BAD_TASKS, ids=[f"{field}-{number}" for number, (_, _, field) in enumerate(BAD_TASKS)]
)
async def test_a_bad_field_of_a_task_is_named(stub, task, changes, field):
    with pytest.raises(InvalidRequest) as caught:
        await anext(stub.Sample(task_request(task, **changes)))
    assert [name for name, _ in caught.value.violations] == [field]


@pytest.mark.parametrize(
    "regions", [[(1.0, 1.0)], [(1.5, 1.0)], [(-0.1, 1.0)], [(0.5, 9.0)], [(0.5, 0.52)], [(0.0, 1.0), (0.9, 2.0)], [(float("nan"), 1.0)]]
)
async def test_defect_19_a_region_outside_the_source_or_without_length_is_refused(stub, regions):
    message = task_request("repaint")
    message.repaint.ClearField("regions")
    for start, end in regions:
        message.repaint.regions.add(start_seconds=start, end_seconds=end)
    with pytest.raises(InvalidRequest, match=r"repaint\.regions"):
        await anext(stub.Sample(message))


async def test_more_than_720_seconds_in_all_are_refused_and_not_cut(stub):
    for changes in ({"extend__left_seconds": 719.0}, {"extend__right_seconds": 719.0}):
        with pytest.raises(InvalidRequest, match="at most 7749"):
            await anext(stub.Sample(task_request("extend", **changes)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"params__scheduler_type": HEUN}, "params.scheduler_type"),
        ({"params__cfg_type": sampling_pb2.CFG_TYPE_CFG}, "params.cfg_type"),
        ({"params__guidance_interval_decay": 0.5}, "params.guidance_interval_decay"),
        ({"params__guidance_scale_text": 3.0, "params__guidance_scale_lyric": 3.0}, "params.guidance_scale_text"),
        ({"params__oss_steps": [1, 2]}, "params.oss_steps"),
    ],
)
async def test_defect_21_an_edit_refuses_what_it_would_ignore(stub, changes, field):
    with pytest.raises(InvalidRequest, match=field):
        await anext(stub.Sample(task_request("edit", **changes)))


async def test_defect_24_an_edit_window_that_ends_before_its_start_is_refused(stub):
    with pytest.raises(InvalidRequest, match=r"edit\.edit_n_max: 0\.3 is not allowed; allowed: 0\.8 to 1"):
        await anext(stub.Sample(task_request("edit", edit__edit_n_min=0.8, edit__edit_n_max=0.3)))


async def test_regions_that_cover_the_source_are_a_retake_and_may_use_any_solver(stub):
    message = task_request("repaint", params__scheduler_type=HEUN)
    message.repaint.ClearField("regions")
    message.repaint.regions.add(start_seconds=0.0, end_seconds=24 * 4096 / 44100)
    covered = [event async for event in stub.Sample(message)][-1]
    retaken = task_request("retake", retake__retake_variances=[0.8, 0.8], params__scheduler_type=HEUN)
    assert covered.result.latents == [event async for event in stub.Sample(retaken)][-1].result.latents


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
    batcher = Batcher(Sampler(model), worker, BUDGET, 4)
    stub = InProcessStub(DiffusionServicer(batcher, model.config, AdapterStore(None, model, 4), worker))
    with pytest.raises(ShapeTooLarge, match="8 positions"):
        await anext(stub.Sample(request()))


async def test_the_stage_describes_itself(store):
    model = tiny.transformer()
    batcher = Batcher(Sampler(model), ThreadPoolExecutor(max_workers=1), Budget(100, 0.5), max_requests=4)
    stub = InProcessStub(
        StageServicer(model, model_digest(model), AdapterStore(store, model, 4), sampling_pb2.SamplingParams(infer_step=7), batcher)
    )
    described = await stub.Describe(stage_pb2.DescribeRequest())
    assert described.stage == "diffusion"
    assert described.dtype == "float32"
    assert described.limits["max_duration_seconds"] == 240
    assert described.features["tasks"] == "text_to_music,retake,repaint,extend,edit,audio_to_audio"
    assert described.sampling_defaults == sampling_pb2.SamplingParams(infer_step=7)
    assert len(described.model_digest) == 64
    assert described.features["adapters"] == "misfit,rap"
    assert [(cost.name, dict(cost.coefficients)) for cost in described.costs] == [("forward", {"row_frames": pytest.approx(0.005)})]
    assert (described.limits["forward_row_frames"], described.backlog_seconds) == (100, 0)
    (store / "rap").rename(store / "jazz")
    assert (await stub.Describe(stage_pb2.DescribeRequest())).features["adapters"] == "jazz,misfit"


def test_dtype_names_are_checked():
    assert choose_dtype("float32", torch.device("cpu")) is torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ValueError, match="float16"):
        choose_dtype("float16", torch.device("cpu"))
