import asyncio
import dataclasses
import io
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep_rpc.admission import Backlog, Memory
from acestep_rpc.cost import CostModel
from acestep_rpc.errors import InvalidRequest, Overloaded, ShapeTooLarge, StageError
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.settings import SettingsError, from_environment
from acestep_rpc.torch_tensor import pack, unpack
from acestep_rpc.v1 import stage_pb2, tensor_pb2, vae_pb2
from vae_svc.codec import PIECE_LATENTS, Codec, num_samples
from vae_svc.costs import CodecCosts, measure_costs
from vae_svc.servicer import VaeServicer, choose_dtype, load
from vae_svc.settings import PREFIX, Settings
from vae_svc.weights import load_codec

SETTINGS = Settings(checkpoint=Path(), max_latent_frames=1000, max_file_bytes=400_000, max_duration_seconds=5.0)
COSTS = {
    "decode": CostModel([({"songs": 1.0, "frames": 10.0}, 0.1)]),
    "encode_audio": CostModel([({"files": 1.0, "seconds": 1.0}, 0.1)]),
    "bytes_per_frame": 100,
}


@pytest.fixture(scope="module")
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield executor


def servicer(codec: Codec, worker: ThreadPoolExecutor, settings: Settings = SETTINGS, memory_bytes: int = 2**40) -> VaeServicer:
    backlog, memory = Backlog("vae", settings.max_requests), Memory(memory_bytes, "cpu")
    return VaeServicer(codec, worker, settings, CodecCosts(**COSTS), backlog, memory)


@pytest.fixture
def stub(codec: Codec, worker: ThreadPoolExecutor) -> InProcessStub:
    return InProcessStub(servicer(codec, worker))


async def decode(stub: InProcessStub, request: vae_pb2.DecodeLatentsRequest) -> list[vae_pb2.DecodeLatentsResponse]:
    return [response async for response in stub.DecodeLatents(request)]


def request(latents: torch.Tensor, **fields: int) -> vae_pb2.DecodeLatentsRequest:
    return vae_pb2.DecodeLatentsRequest(latents=pack(latents), **fields)


def waveform_of(responses: list[vae_pb2.DecodeLatentsResponse]) -> torch.Tensor:
    return torch.cat([unpack(response.waveform, "waveform", (torch.float32,), (2, None)) for response in responses], dim=-1)


def wav(seconds: float = 1.0, channels: int = 2, rate: int = 44100) -> bytes:
    data = 0.1 * np.random.default_rng(0).standard_normal((int(seconds * rate), channels)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, data, rate, format="WAV")
    return file.getvalue()


def upload(content: bytes, size: int = 10_000) -> list[vae_pb2.EncodeAudioRequest]:
    return [vae_pb2.EncodeAudioRequest(data=content[start : start + size]) for start in range(0, len(content), size)]


async def test_decode_streams_the_waveform_with_positions(stub, codec, latents):
    responses = await decode(stub, request(latents(PIECE_LATENTS + 20)))
    waveform = waveform_of(responses)
    total = num_samples(PIECE_LATENTS + 20, 48000)
    assert torch.equal(waveform, torch.cat(list(codec.decode(latents(PIECE_LATENTS + 20), 48000)), dim=-1))
    assert {(response.total_samples, response.sample_rate) for response in responses} == {(total, 48000)}
    starts = [response.start_sample for response in responses]
    widths = [response.waveform.shape[1] for response in responses]
    assert starts == [sum(widths[:index]) for index in range(len(widths))]
    assert max(len(response.waveform.data) for response in responses) <= 2**20


async def test_several_workers_decode_side_by_side_what_one_does(codec, latents):
    lengths = (PIECE_LATENTS + 20, 5, 40, PIECE_LATENTS + 20)
    with ThreadPoolExecutor(max_workers=3) as workers:
        stub = InProcessStub(servicer(codec, workers))
        answers = await asyncio.gather(*(decode(stub, request(latents(length))) for length in lengths))
    for length, answer in zip(lengths, answers, strict=True):
        assert torch.equal(waveform_of(answer), torch.cat(list(codec.decode(latents(length), 48000)), dim=-1))


async def test_decode_takes_a_rate_and_bfloat16(stub, latents):
    (response,) = await decode(stub, request(latents(2).bfloat16(), sample_rate=22050))
    assert (response.sample_rate, response.total_samples) == (22050, 4096)


async def test_no_latents_give_an_empty_stream(stub):
    assert await decode(stub, request(torch.zeros(8, 16, 0))) == []


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (request(torch.zeros(8, 15, 4)), "latents.shape"),
        (request(torch.zeros(1, 8, 16, 4)), "latents.shape"),
        (request(torch.zeros(8, 16, 1001)), "latents.shape"),
        (request(torch.zeros(8, 16, 4, dtype=torch.float16)), "latents.data_type"),
        (request(torch.full((8, 16, 4), torch.nan)), "latents.data"),
        (request(torch.full((8, 16, 4), -torch.inf)), "latents.data"),
        (vae_pb2.DecodeLatentsRequest(), "latents.data_type"),
        (
            vae_pb2.DecodeLatentsRequest(latents=tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[8, 16, 4], data=b"123")),
            "latents.data",
        ),
        (request(torch.zeros(8, 16, 4), sample_rate=7999), "sample_rate"),
        (request(torch.zeros(8, 16, 4), sample_rate=0), "sample_rate"),
        (request(torch.zeros(8, 16, 4), sample_rate=192001), "sample_rate"),
    ],
)
async def test_bad_latents_are_refused_by_field(stub, message, field):
    with pytest.raises(InvalidRequest) as caught:
        await decode(stub, message)
    assert caught.value.violations[0][0] == field
    assert await decode(stub, request(torch.zeros(8, 16, 1)))  # and it goes on serving


async def test_a_waveform_that_is_not_finite_is_an_error_not_silence(checkpoint, worker):
    broken = load_codec(checkpoint, torch.device("cpu"), torch.float32).codec
    broken.vocoder.head.conv_post.bias.fill_(torch.nan)
    with pytest.raises(StageError, match="not finite"):
        await decode(InProcessStub(servicer(broken, worker)), request(torch.zeros(8, 16, 4)))


async def test_concurrent_decodes_advance_in_turn(stub, latents):
    order: list[str] = []

    async def follow(name: str) -> None:
        seen = 0
        async for response in stub.DecodeLatents(request(latents(3 * PIECE_LATENTS), sample_rate=8000)):
            seen += response.waveform.shape[1]
            order.append(name)
        assert seen == num_samples(3 * PIECE_LATENTS, 8000)

    await asyncio.gather(follow("a"), follow("b"))
    assert sorted(order[:2]) == sorted(order[2:4]) == ["a", "b"]


async def test_cancelling_stops_after_the_piece_under_way(stub, codec, latents):
    pieces = 0

    def count(*_: object) -> None:
        nonlocal pieces
        pieces += 1

    handle = codec.vocoder.register_forward_hook(count)
    stream = stub.DecodeLatents(request(latents(7 * PIECE_LATENTS)))
    await anext(stream)
    await stream.aclose()
    await decode(stub, request(torch.zeros(8, 16, 1)))  # the worker is free when this is done
    handle.remove()
    assert pieces <= 3  # the one that was read, perhaps the next, and the other request's


@pytest.mark.parametrize("rate", [48_000, 44_100, 32_000, 16_000])
@pytest.mark.parametrize("frames", [1, 2, 5])
async def test_a_decoded_song_has_as_many_frames_when_it_comes_back(stub, rate, frames):
    song = waveform_of(await decode(stub, request(torch.randn(8, 16, frames), sample_rate=rate)))
    content = io.BytesIO()
    soundfile.write(content, song.T.numpy(), rate, format="WAV", subtype="FLOAT")
    response = await stub.EncodeAudio(upload(content.getvalue(), 10**6))
    assert list(response.latents.shape) == [8, 16, frames]


@pytest.mark.parametrize("size", [1000, 7, 10**6])
async def test_encode_gives_the_latents_of_the_file(stub, codec, tmp_path, size):
    content = wav(0.3, rate=32000)
    response = await stub.EncodeAudio(upload(content, size))
    waveform, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    latents = unpack(response.latents, "latents", (torch.float32,), (8, 16, None))
    assert torch.equal(latents, codec.encode(torch.from_numpy(waveform.T.copy()), 32000))
    assert (response.duration_seconds, response.sample_rate, response.channels) == (0.3, 32000, 2)


async def test_mono_is_reported_as_one_channel(stub):
    response = await stub.EncodeAudio(upload(wav(0.2, channels=1)))
    assert response.channels == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"nothing that anyone could play", "data"),
        (wav(0.5, channels=3), "3 channels"),
        (wav(5.1, channels=1, rate=8000), "at most 5 seconds"),
        (wav(1.0)[:-1000], "cut off"),
    ],
    ids=["empty", "no audio", "three channels", "too long", "cut off"],
)
async def test_bad_files_are_refused_and_the_server_goes_on(stub, content, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        await stub.EncodeAudio(upload(content))
    assert caught.value.violations[0][0] == "data"
    assert (await stub.EncodeAudio(upload(wav(0.2)))).sample_rate == 44100


async def test_the_byte_limit_holds_while_the_file_comes_in(stub):
    sent = 0

    async def endless() -> AsyncIterator[vae_pb2.EncodeAudioRequest]:
        nonlocal sent
        while True:
            sent += 50_000
            yield vae_pb2.EncodeAudioRequest(data=bytes(50_000))

    with pytest.raises(InvalidRequest, match="at most 400000 bytes"):
        await stub.EncodeAudio(endless())
    assert sent == 450_000


async def test_load_serves_the_codec_and_describes_it(checkpoint):
    settings = Settings(checkpoint=checkpoint, device="cpu", dtype="float32")
    registrations = await load(settings)
    assert [registration.full_name for registration in registrations] == ["acestep_rpc.v1.VaeService", "acestep_rpc.v1.StageService"]
    description = await InProcessStub(registrations[1].servicer).Describe(stage_pb2.DescribeRequest())
    assert dict(description.features) == {"vocoder": "ADaMoSHiFiGANV1"}
    assert (description.stage, description.dtype, description.device) == ("vae", "float32", "cpu")
    assert description.model_digest == load_codec(checkpoint, torch.device("cpu"), torch.float32).model_digest
    assert dict(description.limits) == {
        "max_file_bytes": 256 * 2**20,
        "max_duration_seconds": 600.0,
        "max_channels": 2,
        "max_latent_frames": 24 * 2583,
        "decode_margin_seconds": 6 * 4096 / 44100,
    }
    assert await decode(InProcessStub(registrations[0].servicer), request(torch.zeros(8, 16, 1)))


def test_auto_is_bfloat16_only_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_dtype("auto", torch.device("cpu"), 1024) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_dtype("auto", torch.device("cpu"), 1024) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cpu"), 128) == torch.float32
    assert choose_dtype("auto", torch.device("cuda"), 128) == torch.bfloat16


def test_an_unknown_type_stops_the_start():
    with pytest.raises(ValueError, match="float16"):
        choose_dtype("float16", torch.device("cpu"), 1024)


def test_settings_come_from_the_environment():
    settings = from_environment(Settings, PREFIX, {"ACESTEP_VAE_CHECKPOINT": "/models", "ACESTEP_VAE_MAX_DURATION_SECONDS": "30"})
    assert (settings.checkpoint, settings.max_duration_seconds) == (Path("/models"), 30.0)
    with pytest.raises(SettingsError, match="ACESTEP_VAE_CHECKPOINT must be set"):
        from_environment(Settings, PREFIX, {})


def read_requests(content: bytes, **first: int) -> list[vae_pb2.ReadAudioRequest]:
    return [vae_pb2.ReadAudioRequest(data=content[:100], **first), vae_pb2.ReadAudioRequest(data=content[100:])]


@pytest.mark.parametrize("channels", [1, 2])
async def test_a_file_read_at_its_own_rate_comes_sample_for_sample(stub, channels):
    content = wav(0.6, channels, 48000) if channels == 2 else wav(1.5, channels, 48000)
    responses = [response async for response in stub.ReadAudio(iter(read_requests(content)))]
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert [response.start_sample for response in responses] == [index * (1 << 17) for index in range(len(responses))]
    assert {response.total_samples for response in responses} == {len(samples)}
    assert torch.equal(waveform_of(responses), torch.from_numpy(samples.T.copy()).expand(2, -1))


async def test_a_file_read_at_another_rate_is_resampled(stub):
    responses = [response async for response in stub.ReadAudio(iter(read_requests(wav(1.0), sample_rate=192000)))]
    assert len(responses) == 2
    assert waveform_of(responses).shape == (2, 192000)
    assert {response.sample_rate for response in responses} == {192000}


@pytest.mark.parametrize(
    ("content", "rate", "field"), [(b"", 48000, "data"), (b"no audio" * 50, 48000, "data"), (wav(), 7999, "sample_rate")]
)
async def test_what_cannot_be_read_is_refused(stub, content, rate, field):
    with pytest.raises(InvalidRequest, match=field):
        await anext(stub.ReadAudio(iter(read_requests(content, sample_rate=rate))))


async def test_a_decode_is_priced_and_its_price_is_learned(codec, worker, latents):
    model = CostModel([({"songs": 1.0, "frames": 10.0}, 1e-3)])
    backlog = Backlog("vae", 8)
    stub = InProcessStub(VaeServicer(codec, worker, SETTINGS, CodecCosts(**COSTS | {"decode": model}), backlog, Memory(2**40, "cpu")))
    for _ in range(16):
        pieces = stub.DecodeLatents(request(latents(4)))
        await anext(pieces)
        assert 0 <= backlog.seconds <= model.predict({"songs": 1.0, "frames": 4.0})
        async for _ in pieces:
            pass
    assert backlog.seconds == 0
    assert model.predict({"songs": 1.0, "frames": 4.0}) > 1e-3


async def test_too_many_decodes_are_refused_and_told_when_to_come_back(codec, worker, latents):
    stub = InProcessStub(servicer(codec, worker, dataclasses.replace(SETTINGS, max_requests=1)))
    first = stub.DecodeLatents(request(latents(PIECE_LATENTS + 20)))
    await anext(first)
    with pytest.raises(Overloaded) as caught:
        await decode(stub, request(latents(2)))
    assert caught.value.retry_after_seconds >= 1
    await first.aclose()
    assert await decode(stub, request(latents(2)))


async def test_songs_that_memory_does_not_hold_together_are_decoded_one_after_another(codec, worker, latents):
    stub = InProcessStub(servicer(codec, worker, memory_bytes=100 * (PIECE_LATENTS + 30)))
    first = stub.DecodeLatents(request(latents(PIECE_LATENTS + 20)))
    await anext(first)
    second = asyncio.create_task(decode(stub, request(latents(20))))
    await asyncio.sleep(0.1)
    assert not second.done()
    async for _ in first:
        pass
    assert await second
    with pytest.raises(ShapeTooLarge):
        await decode(stub, request(latents(PIECE_LATENTS + 31)))


async def test_what_the_codec_costs_is_measured_at_the_start(codec):
    costs = measure_costs(codec)
    assert costs.decode.predict({"songs": 1.0, "frames": 100.0}) > 0
    assert costs.encode_audio.predict({"files": 1.0, "seconds": 10.0}) > 0
    assert costs.bytes_per_frame > 8 * 16 * 4
