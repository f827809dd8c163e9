"""Snapshots of songs as messages and back, each field checked, and what binds them to their request. No mathematics."""

import hashlib
import math
from collections.abc import Sequence

import torch

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.server import MAX_MESSAGE_BYTES
from acestep_rpc.telemetry import SNAPSHOT_BYTES, SNAPSHOTS
from acestep_rpc.torch_tensor import pack, unpack
from acestep_rpc.v1 import diffusion_pb2
from diffusion_svc.adapters import Adaptation
from diffusion_svc.places import Snapshot
from diffusion_svc.sampler import SamplingRequest, SongSnapshot
from diffusion_svc.sampling.guidance import MOMENTUM, TARGET_MOMENTUM
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.sampling.solvers import TRIAL_SLOPE, TRIAL_START
from diffusion_svc.sampling.state import LATENTS, RESULT, TaskState
from diffusion_svc.tasks import Edit, Extend, Repaint, build_task_schedule, windows_of

FORMAT_VERSION = 1
_WITHOUT_EFFECT = ("priority", "tenant", "snapshot", "snapshot_seconds", "preview_steps", "preview_window")  # on the result of a request
_OTHER_BYTES = 64 * 1024  # of a request: those fields, and what frames the snapshot


class SnapshotMessages:
    """Snapshots of one request as messages. Slow for its loop: they are megabytes.

    Args:
        model_digest: Of the weights.
    """

    def __init__(self, model_digest: str) -> None:
        self._model_digest = model_digest
        self._digest = b""
        self._room = 0

    def bind(self, request: diffusion_pb2.SampleRequest, adaptation: Adaptation | None) -> None:
        """Take the request that they are of, before all else.

        Args:
            request: As it came.
            adaptation: Its adapters as they are on this replica.
        """
        shaping = diffusion_pb2.SampleRequest()
        shaping.CopyFrom(request)
        for name in _WITHOUT_EFFECT:
            shaping.ClearField(name)
        data = shaping.SerializeToString(deterministic=True)
        facts = f"{FORMAT_VERSION} {self._model_digest} {adaptation.key if adaptation else ()}\n"
        self._digest = hashlib.sha256(facts.encode() + data).digest()
        self._room = MAX_MESSAGE_BYTES - len(data) - _OTHER_BYTES

    def write(self, snapshot: Snapshot) -> diffusion_pb2.SampleSnapshot:
        """What is sent; without the songs if it could not come back with its request in one message."""
        message = diffusion_pb2.SampleSnapshot(step=snapshot.step, draining=snapshot.draining)
        if snapshot.songs is None:
            return message
        songs = [_pack_song(song) for song in snapshot.songs]
        packed = diffusion_pb2.SamplingSnapshot(
            format_version=FORMAT_VERSION, request_digest=self._digest, songs=songs, songs_digest=_songs_digest(songs)
        )
        if (size := packed.ByteSize()) > self._room:
            SNAPSHOTS.labels("too_large").inc()
            return message
        SNAPSHOTS.labels("sent").inc()
        SNAPSHOT_BYTES.observe(size)
        message.snapshot.CopyFrom(packed)
        return message

    def read(self, message: diffusion_pb2.SamplingSnapshot, request: SamplingRequest) -> list[SongSnapshot]:
        """The songs of a message, on the CPU.

        Args:
            message: From the wire.
            request: That it came with.
        Raises:
            InvalidRequest: It is damaged, of another request or other weights, or no place where the request can be. All fields are named
                "snapshot...": the request itself is fine, and can be sampled from its beginning.
        """
        if message.format_version != FORMAT_VERSION:
            raise InvalidRequest("snapshot.format_version", message.format_version, str(FORMAT_VERSION))
        if message.request_digest != self._digest:
            allowed = f"{self._digest.hex()}, of this request with the weights and adapters of this replica"
            raise InvalidRequest("snapshot.request_digest", message.request_digest.hex(), allowed)
        if len(message.songs) != len(request.seeds):
            raise InvalidRequest("snapshot.songs", len(message.songs), f"{len(request.seeds)}, one a seed")
        if message.songs_digest != (found := _songs_digest(message.songs)):
            raise InvalidRequest("snapshot.songs_digest", message.songs_digest.hex(), f"{found.hex()}, of the songs that came")
        songs = [_read_song(song, f"snapshot.songs[{index}]", request) for index, song in enumerate(message.songs)]
        SNAPSHOTS.labels("resumed").inc()
        return songs


def _songs_digest(songs: Sequence[diffusion_pb2.SongSnapshot]) -> bytes:
    digest = hashlib.sha256()
    for song in songs:
        data = song.SerializeToString(deterministic=True)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _pack_song(song: SongSnapshot) -> diffusion_pb2.SongSnapshot:
    return diffusion_pb2.SongSnapshot(
        timestep_index=song.state.index,
        window=song.state.window,
        noise_draws=song.state.draws,
        tensors={name: pack(tensor) for name, tensor in song.state.tensors.items()},
        latents=None if song.result is None else pack(song.result),
        forwards=song.forwards_done,
        evaluated_rows=song.evaluated_rows,
        device_seconds=song.device_seconds,
    )


def _read_song(message: diffusion_pb2.SongSnapshot, field: str, request: SamplingRequest) -> SongSnapshot:
    if not (math.isfinite(message.device_seconds) and message.device_seconds >= 0):
        raise InvalidRequest(f"{field}.device_seconds", message.device_seconds, "0 or more")
    state, result = TaskState(), None
    if message.HasField("latents"):
        result = unpack(message.latents, f"{field}.latents", (torch.float32,), (8, 16, request.task.num_frames))
    else:
        state = _read_state(message, field, request)
    return SongSnapshot(state, result, message.forwards, message.evaluated_rows, message.device_seconds)


def _read_state(message: diffusion_pb2.SongSnapshot, field: str, request: SamplingRequest) -> TaskState:
    spec, windows = request.task, windows_of(request.task)
    evaluations = len(build_task_schedule(spec, request.params).timesteps)
    most_draws = 1 + evaluations * (spec.window.n_avg if isinstance(spec, Edit) else 1)
    for name, value, most in (
        ("timestep_index", message.timestep_index, evaluations - 1),
        ("window", message.window, len(windows) - 1),
        ("noise_draws", message.noise_draws, most_draws),
    ):
        if value > most:
            raise InvalidRequest(f"{field}.{name}", value, f"0 to {most}" if most >= 0 else "none: this request has nothing to go on with")
    required = {LATENTS}
    if isinstance(spec, Repaint | Extend):
        required.add(RESULT)
    if request.params.scheduler_type is SchedulerType.HEUN and message.timestep_index % 2:
        required |= {TRIAL_START, TRIAL_SLOPE}
    names = set(message.tensors)
    if not required <= names <= required | {MOMENTUM, TARGET_MOMENTUM}:
        allowed = f"{', '.join(sorted(required))}, and perhaps {MOMENTUM} and {TARGET_MOMENTUM}"
        raise InvalidRequest(f"{field}.tensors", ", ".join(sorted(names)), allowed)
    start, stop = windows[message.window]
    tensors = {}
    for name in sorted(names):
        frames = spec.num_frames if name == RESULT else stop - start
        tensors[name] = unpack(message.tensors[name], f"{field}.tensors.{name}", (torch.float32,), (8, 16, frames))
    return TaskState(message.timestep_index, message.window, message.noise_draws, tensors)
