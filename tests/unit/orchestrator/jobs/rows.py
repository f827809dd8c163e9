"""Jobs without music."""

from typing import Any

from acestep_rpc.v1 import music_pb2
from orchestrator.jobs.job import Entry, Job, entry
from orchestrator.jobs.store import JobStore


def columns(job_id: str, **others: Any) -> dict[str, Any]:
    return {"id": job_id, "body_sha256": "0" * 64, "request": b"", "source_id": None, "audio_seconds": 0.0} | others


def accepted() -> Entry:
    return entry(music_pb2.GenerateEvent(accepted=music_pb2.Accepted(seeds=[1])))


def progress(step: int) -> Entry:
    return entry(music_pb2.GenerateEvent(progress=music_pb2.Progress(stage=music_pb2.STAGE_SAMPLE, step=step, total=9)))


def audio(data: bytes) -> Entry:
    return entry(music_pb2.GenerateEvent(audio_chunk=music_pb2.AudioChunk(data=data, last=True)))


def completed(size_bytes: int = 0) -> Entry:
    result = music_pb2.GenerateResult(songs=[music_pb2.Song(size_bytes=size_bytes)])
    return entry(music_pb2.GenerateEvent(completed=result))


async def add(store: JobStore, job_id: str, **others: Any) -> Job:
    return await store.add(columns(job_id, **others), accepted())


async def taken(store: JobStore) -> Job:
    job = await store.take()
    assert job is not None
    return job


async def finished(store: JobStore, job_id: str, size_bytes: int = 0, **others: Any) -> Job:
    await add(store, job_id, **others)
    await store.succeed(await taken(store), [completed(size_bytes)])
    return await store.get(job_id)
