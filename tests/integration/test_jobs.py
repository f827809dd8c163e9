"""Durable jobs as a client meets them, from one process and from four."""

import asyncio
import time

import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2
from tests.integration.requests import Answer, generate, song_request
from tests.integration.test_failures import LONG, steps_done, violations


@pytest.fixture
async def operations(system):
    async with connect(system.front.target) as channel:
        yield operations_pb2_grpc.OperationsStub(channel)


async def submit(stub, request, **fields):
    return await stub.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=request, **fields))


async def watch(stub, name, **fields):
    request = music_pb2.WatchGenerationRequest(name=name, **fields)
    return [response.event async for response in stub.WatchGeneration(request)]


async def get(operations, name):
    return await operations.GetOperation(operations_pb2.GetOperationRequest(name=name))


async def wait(operations, name, seconds=60.0):
    timeout = duration_pb2.Duration()
    timeout.FromMilliseconds(round(seconds * 1000))
    return await operations.WaitOperation(operations_pb2.WaitOperationRequest(name=name, timeout=timeout))


def metadata_of(operation):
    metadata = music_pb2.GenerationMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata


def result_of(operation):
    result = music_pb2.GenerateResult()
    assert operation.done
    assert operation.response.Unpack(result), operation
    return result


async def download(stub, name, offset=0):
    responses = stub.DownloadAudio(music_pb2.DownloadAudioRequest(name=name, offset=offset))
    return b"".join([response.data async for response in responses])


async def code_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def test_a_job_makes_the_song_of_a_call(system, music, operations):
    called = await generate(music, song_request(seeds=(5, 6)))
    operation = await submit(music, song_request(seeds=(5, 6), request_id="as-called"))
    assert operation.name == "operations/as-called"
    assert not operation.done
    answer = Answer(await watch(music, operation.name))
    assert [answer.file(0), answer.file(1)] == [called.file(0), called.file(1)]
    operation = await get(operations, operation.name)
    metadata = metadata_of(operation)
    assert (metadata.state, metadata.attempt, metadata.last_sequence) == (music_pb2.JOB_STATE_SUCCEEDED, 1, len(answer.events))
    assert metadata.create_time.ToNanoseconds() <= metadata.start_time.ToNanoseconds() < metadata.end_time.ToNanoseconds()
    result = result_of(operation)
    assert result == answer.result
    assert [song.name for song in result.songs] == ["operations/as-called/results/0", "operations/as-called/results/1"]
    file = await download(music, result.songs[1].name)
    assert file == called.file(1)
    assert await download(music, result.songs[1].name, offset=1000) == file[1000:]


async def test_a_watcher_that_comes_back_gets_exactly_what_it_missed(music):
    operation = await submit(music, song_request(steps=30, seconds=8.0))
    first = []
    call = music.WatchGeneration(music_pb2.WatchGenerationRequest(name=operation.name))
    async for response in call:
        first.append(response.event)
        if response.event.progress.stage == music_pb2.STAGE_SAMPLE:
            break
    call.cancel()
    rest = await watch(music, operation.name, from_sequence=first[-1].sequence + 1)
    everything = await watch(music, operation.name)
    assert first + rest == everything
    assert [event.sequence for event in everything] == list(range(1, len(everything) + 1))
    assert Answer(everything).file()
    for sequence in range(1, len(everything) + 2):
        assert await watch(music, operation.name, from_sequence=sequence) == everything[sequence - 1 :]
    silent = await watch(music, operation.name, skip_audio=True)
    assert silent == [event for event in everything if event.WhichOneof("event") != "audio_chunk"]


async def test_a_retry_with_the_same_id_is_the_same_operation_and_another_body_is_refused(music, operations):
    first = await submit(music, song_request(seeds=(), request_id="once"))
    done = await wait(operations, first.name)
    again = await submit(music, song_request(seeds=(), request_id="once"))
    assert again == done
    assert await code_of(submit(music, song_request(seeds=(1,), request_id="once"))) is grpc.StatusCode.ALREADY_EXISTS
    assert await code_of(generate(music, song_request(request_id="once", keep_results=True))) is grpc.StatusCode.ALREADY_EXISTS
    accepted = (await watch(music, first.name))[0].accepted
    assert [song.seed for song in result_of(done).songs] == list(accepted.seeds)


async def test_what_a_call_has_kept_is_an_operation_too(music, operations):
    request = song_request(request_id="kept-by-a-call", keep_results=True)
    answer = await generate(music, request)
    operation = await get(operations, "operations/kept-by-a-call")
    assert result_of(operation) == answer.result
    assert Answer(await watch(music, operation.name)).file() == answer.file()
    assert await submit(music, request) == operation
    assert await code_of(generate(music, request)) is grpc.StatusCode.ALREADY_EXISTS
    await operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=operation.name))
    assert await code_of(download(music, answer.result.songs[0].name)) is grpc.StatusCode.NOT_FOUND
    assert (await generate(music, request)).file() == answer.file()


async def test_cancelling_stops_the_steps_at_once(system, music, operations):
    operation = await submit(music, song_request(**LONG))
    call = music.WatchGeneration(music_pb2.WatchGenerationRequest(name=operation.name))
    async for response in call:
        if response.event.progress.stage == music_pb2.STAGE_SAMPLE:
            break
    await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    cancelled = await get(operations, operation.name)
    assert cancelled.done
    assert cancelled.error.code == grpc.StatusCode.CANCELLED.value[0]
    await asyncio.sleep(1.0)  # the forward that was under way
    steps = await steps_done(system)
    await asyncio.sleep(1.0)
    assert await steps_done(system) == steps
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in call:
            pass
    assert ended.value.code() is grpc.StatusCode.CANCELLED
    assert metadata_of(await get(operations, operation.name)).state == music_pb2.JOB_STATE_CANCELLED


async def test_deleting_removes_the_songs_and_only_of_what_has_ended(music, operations):
    running = await submit(music, song_request(**LONG))
    delete = operations_pb2.DeleteOperationRequest(name=running.name)
    assert await code_of(operations.DeleteOperation(delete)) is grpc.StatusCode.FAILED_PRECONDITION
    await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=running.name))
    await operations.DeleteOperation(delete)
    assert await code_of(get(operations, running.name)) is grpc.StatusCode.NOT_FOUND
    assert await code_of(operations.DeleteOperation(delete)) is grpc.StatusCode.NOT_FOUND

    done = await wait(operations, (await submit(music, song_request())).name)
    (song,) = result_of(done).songs
    assert await download(music, song.name)
    await operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=done.name))
    assert await code_of(download(music, song.name)) is grpc.StatusCode.NOT_FOUND
    assert await code_of(watch(music, done.name)) is grpc.StatusCode.NOT_FOUND
    extend = music_pb2.Extend(source=music_pb2.AudioSource(result=song.name), left_seconds=1.0)
    assert await code_of(submit(music, song_request(extend=extend))) is grpc.StatusCode.NOT_FOUND


async def test_a_jobs_song_is_the_source_of_another_job(music, operations):
    (song,) = result_of(await wait(operations, (await submit(music, song_request(seconds=3.0))).name)).songs
    regions = [music_pb2.TimeRange(start_seconds=1.0, end_seconds=2.0)]
    repaint = music_pb2.Repaint(source=music_pb2.AudioSource(result=song.name), regions=regions)
    second = await submit(music, song_request(repaint=repaint))
    (repainted,) = result_of(await wait(operations, second.name)).songs
    before, after = await download(music, song.name), await download(music, repainted.name)
    assert repainted.size_bytes == len(after)
    half_second = 48000 * 4 // 2
    assert before[44 : 44 + half_second] == after[44 : 44 + half_second]
    assert before != after


async def test_a_bad_field_is_named_at_submission(music):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await submit(music, song_request(steps=300, seeds=(2**33,)))
    assert {name.partition("[")[0] for name in violations(refused.value)} == {"sampling.infer_step", "seeds"}
    for fields, field in (
        ({"webhook_url": "http://127.0.0.1/", "webhook_secret": "whsec_" + "A" * 32}, "webhook_url"),
        ({"webhook_url": "https://example.com/", "webhook_secret": "secret"}, "webhook_secret"),
        ({"webhook_url": "https://example.com/"}, "webhook_secret"),
        ({"webhook_secret": "whsec_" + "A" * 32}, "webhook_secret"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await submit(music, song_request(), **fields)
        assert set(violations(refused.value)) == {field}


async def test_what_only_the_encoder_can_refuse_is_the_operations_error(music, operations):
    request = song_request()
    request.prompt.lyrics = "hello\n你好，世界"
    operation = await wait(operations, (await submit(music, request)).name)
    assert operation.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await watch(music, operation.name)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert any(name.startswith("prompt.lyrics") for name in violations(failed.value))
    assert metadata_of(operation).attempt == 1


async def test_waiting_ends_with_the_job_or_with_the_time(music, operations):
    operation = await submit(music, song_request(**LONG))
    start = time.monotonic()
    assert not (await wait(operations, operation.name, seconds=0.5)).done
    assert 0.4 < time.monotonic() - start < 10
    await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    assert (await operations.WaitOperation(operations_pb2.WaitOperationRequest(name=operation.name))).done


async def test_pages_list_every_job_once_the_newest_first(music, operations):
    names = [(await submit(music, song_request(**LONG))).name for _ in range(5)]
    for name in names:
        await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=name))
    listed, token, pages = [], "", 0
    while token or not pages:
        request = operations_pb2.ListOperationsRequest(
            name="operations", filter="state = cancelled AND done=true", page_size=2, page_token=token
        )
        page = await operations.ListOperations(request)
        assert len(page.operations) <= 2
        listed += [operation.name for operation in page.operations]
        token, pages = page.next_page_token, pages + 1
    assert listed[:5] == names[::-1]
    assert len(set(listed)) == len(listed)
    for wanted, is_listed in (("state = succeeded", False), ("done = false", False), ("", True)):
        page = await operations.ListOperations(operations_pb2.ListOperationsRequest(filter=wanted, page_size=1000))
        assert (names[0] in {operation.name for operation in page.operations}) == is_listed


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filter": "state = done"}, "filter"),
        ({"filter": "name = x"}, "filter"),
        ({"filter": "done = true OR done = false"}, "filter"),
        ({"page_size": -1}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_token": "WzEsICJhIiwgImIiXQ=="}, "page_token"),
        ({"name": "songs"}, "name"),
    ],
)
async def test_a_bad_list_is_refused_by_name(operations, fields, field):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await operations.ListOperations(operations_pb2.ListOperationsRequest(**fields))
    assert set(violations(refused.value)) == {field}


@pytest.mark.parametrize("name", ["operations/nobody", "operations/", "nobody", "operations/a/results/0", "operations/../x"])
async def test_unknown_operations_are_not_found(music, operations, name):
    assert await code_of(get(operations, name)) is grpc.StatusCode.NOT_FOUND
    assert await code_of(watch(music, name)) is grpc.StatusCode.NOT_FOUND
    assert await code_of(wait(operations, name)) is grpc.StatusCode.NOT_FOUND
    for method, request in (
        ("CancelOperation", operations_pb2.CancelOperationRequest),
        ("DeleteOperation", operations_pb2.DeleteOperationRequest),
    ):
        assert await code_of(getattr(operations, method)(request(name=name))) is grpc.StatusCode.NOT_FOUND
