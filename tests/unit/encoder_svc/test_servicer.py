import asyncio
import json
import shutil

import grpc.aio
import pytest
import torch
from prometheus_client import REGISTRY
from safetensors.torch import save_file

from acestep_rpc.errors import InvalidRequest, NotFound
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.server import serve
from acestep_rpc.torch_tensor import unpack
from acestep_rpc.v1 import encoder_pb2, encoder_pb2_grpc, lyrics_pb2, stage_pb2
from encoder_svc.servicer import load
from encoder_svc.settings import Settings

FLOAT32 = (torch.float32,)


@pytest.fixture
async def stubs(checkpoint):
    registrations = await load(Settings(checkpoint=checkpoint, device="cpu", dtype="float32"))
    return {registration.full_name: InProcessStub(registration.servicer) for registration in registrations}


@pytest.fixture
def encode(stubs):
    return stubs["acestep_rpc.v1.EncoderService"].EncodePrompt


def request(tags="pop", lyrics="[Verse]\n\noh +", **fields):
    return encoder_pb2.EncodePromptRequest(tags=tags, lyrics=lyrics, **fields)


async def test_a_prompt_becomes_states_and_lines(encode):
    response = await encode(request(null_condition=encoder_pb2.NULL_CONDITION_MASKED))
    conditioning = response.conditioning
    assert unpack(conditioning.text_hidden_states, "text", FLOAT32, (5, 24)).shape == (5, 24)
    lyrics = unpack(conditioning.lyric_hidden_states, "lyrics", FLOAT32, (None, 16))
    assert unpack(conditioning.lyric_attention_mask, "mask", (torch.bool,), (len(lyrics),)).all()
    assert not unpack(conditioning.null_lyric_attention_mask, "null mask", (torch.bool,), (len(lyrics),)).any()
    assert not conditioning.HasField("null_text_hidden_states")
    assert [line.line_number for line in response.lines] == [1, 2, 3]
    assert 1 + sum(line.token_count for line in response.lines) == len(lyrics)
    assert response.lines[0].normalized_text == "[verse]"
    assert list(response.lines[2].unknown_characters) == ["+"]


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("UNSPECIFIED", set()),
        ("ZEROS", {"null_lyric_hidden_states"}),
        ("WEAKENED_LYRICS", {"null_lyric_hidden_states"}),
        ("WEAKENED", {"null_lyric_hidden_states", "null_text_hidden_states"}),
        ("MASKED", {"null_lyric_hidden_states", "null_lyric_attention_mask"}),
    ],
)
async def test_each_null_condition_sends_its_own_states(encode, name, present):
    response = await encode(request(null_condition=encoder_pb2.NullCondition.Value(f"NULL_CONDITION_{name}")))
    fields = {field.name for field, _ in response.conditioning.ListFields()}
    assert fields == {"text_hidden_states", "lyric_hidden_states", "lyric_attention_mask"} | present


@pytest.mark.parametrize("name", ["ZEROS", "WEAKENED_LYRICS", "MASKED"])
@pytest.mark.parametrize("negative_tags", ["rock", ""])
async def test_negative_tags_are_the_text_of_the_null_branch(encode, name, negative_tags):
    null_condition = encoder_pb2.NullCondition.Value(f"NULL_CONDITION_{name}")
    plain = (await encode(request(null_condition=null_condition))).conditioning
    steered = (await encode(request(null_condition=null_condition, negative_tags=negative_tags))).conditioning
    assert steered.null_text_hidden_states == (await encode(request(tags=negative_tags))).conditioning.text_hidden_states
    steered.ClearField("null_text_hidden_states")
    assert steered == plain


async def test_nothing_at_all_is_a_valid_prompt(encode):
    response = await encode(request(tags="", lyrics=""))
    assert list(response.conditioning.text_hidden_states.shape) == [1, 24]
    assert response.conditioning.lyric_attention_mask.data == b"\0"
    assert not response.lines


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tags": "a" * 300}, "prompt.tags"),
        ({"tags": "a\0b"}, "prompt.tags"),
        ({"lyrics": "\n" * 5000}, "prompt.lyrics"),
        ({"lyrics": "мир"}, "prompt.lyrics"),
        ({"lyric_options": encoder_pb2.LyricOptions(language="de")}, "lyric_options.language"),
        ({"lyric_options": encoder_pb2.LyricOptions(language="")}, "lyric_options.language"),
        ({"lyric_options": encoder_pb2.LyricOptions(on_line_error=9)}, "lyric_options.on_line_error"),
        ({"lyric_options": encoder_pb2.LyricOptions(lyric_rules=9)}, "lyric_options.lyric_rules"),
        ({"null_condition": 9}, "null_condition"),
        ({"negative_tags": "noise"}, "null_condition"),
        ({"negative_tags": "noise", "null_condition": encoder_pb2.NULL_CONDITION_WEAKENED}, "null_condition"),
        ({"negative_tags": "a" * 300, "null_condition": encoder_pb2.NULL_CONDITION_ZEROS}, "prompt.negative_tags"),
        ({"negative_tags": "a\0", "null_condition": encoder_pb2.NULL_CONDITION_ZEROS}, "prompt.negative_tags"),
        ({"adapters": [{"name": "../rap"}]}, "adapters[0].name"),
        ({"adapters": [{"name": "rap"}, {"name": "rap"}]}, "adapters[1].name"),
        ({"adapters": [{"name": "rap", "scale": -3.1}]}, "adapters[0].scale"),
        ({"adapters": [{"name": f"a{index}"} for index in range(9)]}, "adapters"),
    ],
)
async def test_bad_input_is_refused_by_field(encode, fields, field):
    with pytest.raises(InvalidRequest) as caught:
        await encode(request(**fields))
    assert caught.value.violations[0][0] == field


async def test_lyric_options_change_how_lines_are_read(encode):
    lyrics = "[Verse 1]\nhello \u0007 world\nwe sing"
    with pytest.raises(InvalidRequest, match="line 2"):
        await encode(request(lyrics=lyrics))
    options = encoder_pb2.LyricOptions(on_line_error=encoder_pb2.LINE_ERROR_POLICY_SKIP, tag_normalization=True)
    tag, skipped, sung = (await encode(request(lyrics=lyrics, lyric_options=options))).lines
    assert (tag.normalized_text, list(tag.warnings)) == ("[verse]", ["'[Verse 1]' is read as [verse]"])
    assert (skipped.token_count, skipped.language_reason) == (0, "cannot be read")
    assert skipped.warnings[0].startswith("left out: control characters")
    assert (sung.normalized_text, sung.syllables) == ("we sing", 2)


async def test_revised_rules_are_the_default_and_named(encode):
    assert (await encode(request())).lyric_rules == encoder_pb2.LYRIC_RULES_REVISED
    options = encoder_pb2.LyricOptions(lyric_rules=encoder_pb2.LYRIC_RULES_REFERENCE)
    assert (await encode(request(lyric_options=options))).lyric_rules == encoder_pb2.LYRIC_RULES_REFERENCE


async def test_a_preview_accounts_for_lines_and_says_whether_they_fit(stubs):
    preview = stubs["acestep_rpc.v1.LyricsService"].Preview
    lyrics = "[verse]\nhello world\nwe sing"
    response = await preview(lyrics_pb2.PreviewRequest(lyrics=lyrics))
    assert [line.normalized_text for line in response.lines] == ["[verse]", "hello world", "we sing"]
    assert response.token_count == 1 + sum(line.token_count for line in response.lines)
    assert response.syllables == 5
    assert response.singability == lyrics_pb2.SINGABILITY_UNSPECIFIED
    hints = {0.5: lyrics_pb2.SINGABILITY_TOO_DENSE, 2.0: lyrics_pb2.SINGABILITY_FITS, 60.0: lyrics_pb2.SINGABILITY_TOO_SPARSE}
    for seconds, hint in hints.items():
        response = await preview(lyrics_pb2.PreviewRequest(lyrics=lyrics, duration_seconds=seconds))
        assert (response.singability, response.syllables_per_second) == (hint, 5 / seconds)
    with pytest.raises(InvalidRequest, match="duration_seconds"):
        await preview(lyrics_pb2.PreviewRequest(lyrics=lyrics, duration_seconds=0))


async def test_adapters_of_the_store_are_applied(checkpoint, tmp_path):
    store = tmp_path / "adapters"
    for name, inputs in (("rap", 16), ("misfit", 17)):
        (store / name).mkdir(parents=True)
        path = "lyric_encoder.encoders.0.self_attn.linear_v"
        tensors = {f"{path}.lora_A.weight": torch.full((2, inputs), 0.1), f"{path}.lora_B.weight": torch.randn(16, 2)}
        save_file(tensors, store / name / "pytorch_lora_weights.safetensors")
    registrations = await load(Settings(checkpoint=checkpoint, device="cpu", dtype="float32", adapters=store))
    stubs = {registration.full_name: InProcessStub(registration.servicer) for registration in registrations}
    encode = stubs["acestep_rpc.v1.EncoderService"].EncodePrompt
    base = await encode(request())
    adapted = await encode(request(adapters=[{"name": "rap"}]))
    assert adapted != base
    assert adapted.lines == base.lines
    assert await encode(request(adapters=[{"name": "rap", "scale": 1.0}])) == adapted
    assert await encode(request(adapters=[{"name": "rap", "scale": 0.0}])) == base
    assert await encode(request()) == base
    with pytest.raises(InvalidRequest, match=r"adapters: misfit/.*linear_v.lora_A.weight has shape \[2, 17\]"):
        await encode(request(adapters=[{"name": "misfit"}]))
    with pytest.raises(NotFound, match="jazz"):
        await encode(request(adapters=[{"name": "jazz"}]))
    description = await stubs["acestep_rpc.v1.StageService"].Describe(stage_pb2.DescribeRequest())
    assert description.features["adapters"] == "misfit,rap"


async def test_options_that_change_nothing_are_accepted(encode):
    options = encoder_pb2.LyricOptions(
        language="en",
        on_line_error=encoder_pb2.LINE_ERROR_POLICY_FAIL,
        lyric_rules=encoder_pb2.LYRIC_RULES_REVISED,
        tag_normalization=False,
    )
    asked, unsaid = await encode(request(lyric_options=options)), await encode(request())
    assert (asked.conditioning, asked.lyric_rules) == (unsaid.conditioning, unsaid.lyric_rules)
    assert [line.language_reason for line in asked.lines if line.language] == ["requested"] * 2


async def test_a_replica_goes_on_after_errors_and_serves_many_at_once(encode):
    with pytest.raises(InvalidRequest):
        await encode(request(lyrics="мир"))
    expected = await encode(request())
    assert all(response == expected for response in await asyncio.gather(*(encode(request()) for _ in range(8))))


async def test_the_stage_describes_itself(stubs):
    description = await stubs["acestep_rpc.v1.StageService"].Describe(stage_pb2.DescribeRequest())
    assert (description.stage, description.dtype, description.device) == ("encoder", "float32", "cpu")
    assert len(description.model_digest) == 64
    assert description.limits == {
        "max_prompt_tokens": 256,
        "max_prompt_characters": 16384,
        "max_lyric_tokens": 4096,
        "max_lyric_characters": 65536,
        "max_adapters": 8,
    }
    assert description.features["lyric_languages"] == "en"
    assert description.features["adapters"] == ""
    assert "[pre-chorus]" in description.features["structure_tags"].split(",")
    assert description.versions["torch"] == torch.__version__


async def test_the_status_tells_the_load(stubs):
    statuses = stubs["acestep_rpc.v1.StageService"].WatchStatus(stage_pb2.WatchStatusRequest())
    assert await anext(statuses) == stage_pb2.WatchStatusResponse()
    await statuses.aclose()


async def test_it_serves_over_the_network(checkpoint):
    settings = Settings(checkpoint=checkpoint, device="cpu", dtype="float32")
    server = await serve(settings, lambda: load(settings))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            response = await encoder_pb2_grpc.EncoderServiceStub(channel).EncodePrompt(request())
    finally:
        await server.stop()
    assert len(response.lines) == 3


async def test_negative_tags_too_are_put_into_the_checkpoints_words(checkpoint, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    (copy / "umt5-base" / "known_tags.json").write_text(json.dumps({"groups": [["pop", "rock"]], "synonyms": {"metal": "rock"}}))
    registrations = await load(Settings(checkpoint=copy, device="cpu", dtype="float32"))
    known = InProcessStub(registrations[0].servicer)
    response = await known.EncodePrompt(request(null_condition=encoder_pb2.NULL_CONDITION_ZEROS, negative_tags="metal"))
    assert (response.tags, list(response.tag_warnings)) == ("pop", ["negative tags: the tag 'metal' is read as 'rock'"])
    rock = await known.EncodePrompt(request(tags="rock"))
    assert response.conditioning.null_text_hidden_states == rock.conditioning.text_hidden_states


async def test_prompts_are_priced_and_what_the_cache_knows_teaches_nothing(stubs, encode):
    def learned() -> float:
        return REGISTRY.get_sample_value("acestep_cost_error_ratio_count", {"stage": "encoder"}) or 0

    described = await stubs["acestep_rpc.v1.StageService"].Describe(stage_pb2.DescribeRequest())
    costs = {cost.name: dict(cost.coefficients) for cost in described.costs}
    assert costs.keys() == {"encode", "text_tokens", "lyric_tokens"}
    assert sum(costs["encode"].values()) > 0
    assert described.backlog_seconds == 0
    count = learned()
    for _ in range(3):
        await encode(request())
    assert learned() == count + 1


async def test_too_many_prompts_are_refused(checkpoint):
    registrations = await load(Settings(checkpoint=checkpoint, device="cpu", dtype="float32", max_requests=2))
    encode = InProcessStub(registrations[0].servicer).EncodePrompt
    results = await asyncio.gather(*(encode(request(tags=f"pop {number}")) for number in range(5)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["EncodePromptResponse"] * 2 + ["Overloaded"] * 3
