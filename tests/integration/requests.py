"""Requests and what comes back."""

import hashlib
from dataclasses import dataclass, field

from acestep_rpc.v1 import music_pb2, sampling_pb2

FRAME_SECONDS = 4096 / 44100


def song_request(seconds: float = 2.0, steps: int = 4, seeds: tuple[int, ...] = (7,), **fields) -> music_pb2.GenerateRequest:
    request = music_pb2.GenerateRequest(
        prompt=music_pb2.Prompt(tags="funk, bass, 105 bpm", lyrics="[verse]\nhello world\nwe sing"),
        sampling=sampling_pb2.SamplingParams(infer_step=steps),
        seeds=seeds,
        text_to_music=music_pb2.TextToMusic(duration_seconds=seconds),
    )
    request.MergeFrom(music_pb2.GenerateRequest(**fields))
    return request


@dataclass
class Answer:
    """Everything a call of Generate sent."""

    events: list[music_pb2.GenerateEvent] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") for event in self.events]

    def progress(self, stage: int) -> list[music_pb2.Progress]:
        return [event.progress for event in self.events if event.WhichOneof("event") == "progress" and event.progress.stage == stage]

    @property
    def result(self) -> music_pb2.GenerateResult:
        assert self.kinds[-1] == "completed"
        return self.events[-1].completed

    def file(self, variant_index: int = 0) -> bytes:
        """The file of a variant, checked for gaps and against its digest."""
        data = b""
        for event in self.events:
            chunk = event.audio_chunk
            if event.WhichOneof("event") == "audio_chunk" and chunk.variant_index == variant_index and not chunk.HasField("preview_step"):
                assert chunk.offset == len(data)
                data += chunk.data
        song = self.result.songs[variant_index]
        assert song.size_bytes == len(data)
        assert song.sha256 == hashlib.sha256(data).hexdigest()
        return data

    def previews(self) -> dict[tuple[int, int], bytes]:
        """Files of previews by variant and step, checked for gaps and their ends."""
        files: dict[tuple[int, int], bytes] = {}
        ended = []
        for event in self.events:
            chunk = event.audio_chunk
            if event.WhichOneof("event") == "audio_chunk" and chunk.HasField("preview_step"):
                key = (chunk.variant_index, chunk.preview_step)
                assert chunk.offset == len(files.get(key, b""))
                files[key] = files.get(key, b"") + chunk.data
                ended += [key] if chunk.last else []
        assert ended == list(files)
        return files


async def generate(stub, request: music_pb2.GenerateRequest, **call) -> Answer:
    return Answer([event async for event in stub.Generate(request, **call)])
