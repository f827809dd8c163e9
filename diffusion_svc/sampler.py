"""The stage itself: songs under way and the forwards that advance them. Tensors in, tensors out; no gRPC, no event loop.

A song is a task's generator with what its evaluations need. `Sampler.tick` packs the rows that several songs wait for into one forward and
resumes each song with its own velocities. Nothing couples songs: the same song comes out alone and in company.
"""

import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep_rpc.errors import AcestepError, ShapeTooLarge, StageError
from diffusion_svc.adapters import Adaptation
from diffusion_svc.model.low_rank import Updates
from diffusion_svc.model.transformer import Context, Modulation, Row, Transformer
from diffusion_svc.sampling.guidance import Branch
from diffusion_svc.sampling.solvers import seeded_noise
from diffusion_svc.sampling.text_to_music import Evaluation, SamplingParams, Task, build_sampling_schedule, text_to_music

CACHED_SCHEDULES = 8  # schedules whose modulations are kept; 60 steps of the official model are 4 MB in float32


@dataclass(frozen=True)
class ConditionStates:
    """States of one prompt from the encoder stage, before the transformer's input layers.

    Attributes:
        text: [L_t, W_t].
        lyrics: [L_l, W_l].
        lyric_mask: [L_l] bool, true = attend.
        null_text: [L_t, W_t]; None: zeros.
        null_lyrics: [L_l, W_l]; None: no null branch.
        null_lyric_mask: [L_l] bool; None: lyric_mask.
    """

    text: Tensor
    lyrics: Tensor
    lyric_mask: Tensor
    null_text: Tensor | None = None
    null_lyrics: Tensor | None = None
    null_lyric_mask: Tensor | None = None


@dataclass(frozen=True)
class SamplingRequest:
    """One request: as many songs as seeds, under the same conditions."""

    conditions: ConditionStates
    params: SamplingParams
    seeds: tuple[int, ...]
    num_frames: int
    adaptation: Adaptation | None = None


@dataclass(eq=False)
class Song:
    """One generator under way.

    Attributes:
        task: Suspended at `pending`, or finished.
        contexts: Keys and values of each condition, shared by the songs of a request.
        modulations: One per timestep of the schedule.
        use_erg_diffusion: Weaken the null branch in the transformer.
        num_frames: T.
        updates: Low-rank updates of the request's adapters; None: none.
        pending: What the task waits for; None once it is finished.
        result: Final latents [8, 16, T], or the error that ended the song.
    """

    task: Task
    contexts: Mapping[Branch, Context]
    modulations: Sequence[Modulation]
    use_erg_diffusion: bool
    num_frames: int
    updates: Updates | None = None
    pending: Evaluation | None = None
    result: Tensor | AcestepError | None = None
    steps_done: int = 0
    evaluated_rows: int = 0
    device_seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """Evaluations of the schedule."""
        return len(self.modulations)

    @property
    def pending_rows(self) -> int:
        """Rows that the next forward takes for this song."""
        return len(self.pending.branches) if self.pending else 0


class Sampler:
    """Starts and advances songs on one device. Not thread-safe: one worker thread owns it.

    Args:
        model: The transformer, in evaluation mode.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self._modulations: OrderedDict[Hashable, list[Modulation]] = OrderedDict()

    @torch.inference_mode()
    def start(self, request: SamplingRequest) -> list[Song]:
        """Project the conditions, once for all songs and steps, and run each song to its first evaluation.

        Raises:
            ShapeTooLarge: The device has no memory for the conditions.
        """
        schedule = build_sampling_schedule(request.params)
        try:
            contexts = self._project(request)
        except torch.OutOfMemoryError as error:
            raise ShapeTooLarge(f"the conditions do not fit: {error}", device=str(self.model.device)) from error
        adaptation = request.adaptation
        modulations = self._modulate(schedule.timesteps, adaptation)
        updates = adaptation.updates if adaptation else None
        songs = []
        for seed in request.seeds:
            noise = seeded_noise(seed, (8, 16, request.num_frames), self.model.device)
            task = text_to_music(request.params, schedule, noise)
            song = Song(task, contexts, modulations, request.params.use_erg_diffusion, request.num_frames, updates)
            self._resume(song, None)
            songs.append(song)
        return songs

    @torch.inference_mode()
    def tick(self, songs: Sequence[Song]) -> int:
        """Evaluate what songs of one length wait for, in one forward, and resume them.

        A song that the device cannot hold, even alone, ends with ShapeTooLarge; the others go on.

        Args:
            songs: Each with a pending evaluation, all with the same number of frames.
        Returns:
            Rows in the forward.
        """
        rows = [row for song in songs for row in self._rows(song)]
        started = time.perf_counter()
        try:
            velocities = self.model(rows)
        except torch.OutOfMemoryError as error:
            if len(songs) > 1:
                return sum(self.tick([song]) for song in songs)
            songs[0].result = ShapeTooLarge(
                f"{len(rows)} rows of {songs[0].num_frames} frames do not fit: {error}", device=str(self.model.device)
            )
            songs[0].pending = None
            return len(rows)
        seconds_per_row = (time.perf_counter() - started) / len(rows)
        answers = iter(velocities)
        for song in songs:
            assert song.pending is not None
            song.evaluated_rows += song.pending_rows
            song.device_seconds += song.pending_rows * seconds_per_row
            self._resume(song, {branch: next(answers) for branch in song.pending.branches})
        return len(rows)

    def _rows(self, song: Song) -> list[Row]:
        evaluation = song.pending
        assert evaluation is not None
        return [
            Row(
                latents=evaluation.latents,
                modulation=song.modulations[evaluation.timestep_index],
                context=song.contexts[branch],
                weakened=song.use_erg_diffusion and branch is Branch.NULL,
                updates=song.updates,
            )
            for branch in evaluation.branches
        ]

    def _resume(self, song: Song, velocities: dict[Branch, Tensor] | None) -> None:
        try:
            song.pending = next(song.task) if velocities is None else song.task.send(velocities)
            song.steps_done = song.pending.timestep_index
        except StopIteration as stop:
            song.pending = None
            song.steps_done = song.total_steps
            latents: Tensor = stop.value
            song.result = latents.cpu() if bool(torch.isfinite(latents).all()) else StageError("the sampled latents are not finite")

    def _project(self, request: SamplingRequest) -> dict[Branch, Context]:
        states, model = request.conditions, self.model
        updates = request.adaptation.updates if request.adaptation else None

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(model.device, model.dtype)

        def project(text: Tensor, lyrics: Tensor, lyric_mask: Tensor) -> Context:
            conditions = model.embed_conditions(move(text)[None], move(lyrics)[None], updates=updates)[0]
            if bool(lyric_mask.all()):
                return model.project_context(conditions, updates=updates)
            mask = torch.cat([torch.ones(1 + len(text), dtype=torch.bool), lyric_mask]).to(model.device)
            return model.project_context(conditions, mask, updates)

        contexts = {Branch.FULL: project(states.text, states.lyrics, states.lyric_mask)}
        guidance = request.params.guidance
        if guidance.active:
            assert states.null_lyrics is not None
            null_text = torch.zeros_like(states.text) if states.null_text is None else states.null_text
            null_mask = states.lyric_mask if states.null_lyric_mask is None else states.null_lyric_mask
            contexts[Branch.NULL] = project(null_text, states.null_lyrics, null_mask)
            if guidance.double_condition:
                contexts[Branch.TEXT_ONLY] = project(states.text, states.null_lyrics, states.lyric_mask)
        return contexts

    def _modulate(self, timesteps: tuple[float, ...], adaptation: Adaptation | None) -> list[Modulation]:
        key = (timesteps, adaptation.key if adaptation else ())
        found = self._modulations.pop(key, None)
        if found is None:
            at = torch.tensor(timesteps, dtype=torch.float32, device=self.model.device)
            found = self.model.modulate(at, adaptation.updates if adaptation else None)
        self._modulations[key] = found
        if len(self._modulations) > CACHED_SCHEDULES:
            self._modulations.popitem(last=False)
        return found
