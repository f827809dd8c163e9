"""The stage itself: songs under way and the forwards that advance them. Tensors in, tensors out; no gRPC, no event loop.

A song is a task's generator with what its evaluations need. `Sampler.tick` packs the rows that several songs wait for into one forward and
resumes each song with its own velocities. Nothing couples songs: the same song comes out alone and in company.
"""

import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acestep_rpc.errors import AcestepError, ShapeTooLarge, StageError
from diffusion_svc.adapters import Adaptation
from diffusion_svc.model.low_rank import Updates
from diffusion_svc.model.transformer import Context, Modulation, Row, Transformer
from diffusion_svc.sampling.denoising import Evaluation, Task
from diffusion_svc.sampling.guidance import Branch
from diffusion_svc.sampling.params import SamplingParams
from diffusion_svc.sampling.solvers import NoiseSource, seeded_noise
from diffusion_svc.tasks import ConditionStates, Edit, Retake, TaskSpec, TextToMusic, build_task, build_task_schedule, windows_of

CACHED_SCHEDULES = 8  # schedules whose modulations are kept; 60 steps of the official model are 4 MB in float32


@dataclass(frozen=True)
class SamplingRequest:
    """One request: as many songs as seeds, under the same conditions.

    Attributes:
        conditions: Of the prompt; for an edit, of what the source sings.
        params: Sampling parameters.
        seeds: One a song.
        task: What is sampled; its source, if it has one, is on any device.
    """

    conditions: ConditionStates
    params: SamplingParams
    seeds: tuple[int, ...]
    task: TaskSpec
    adaptation: Adaptation | None = None


@dataclass(eq=False)
class Song:
    """One generator under way.

    Attributes:
        task: Suspended at `pending`, or finished.
        contexts: Keys and values of each condition, shared by the songs of a request.
        modulations: One per timestep of the schedule.
        weaken_null: Weaken the null branch in the transformer.
        num_windows: Parts that the task computes one after another, each over the whole schedule.
        updates: Low-rank updates of the request's adapters; None: none.
        pending: What the task waits for; empty once it is finished.
        result: Final latents [8, 16, T], or the error that ended the song.
    """

    task: Task
    contexts: Mapping[Branch, Context]
    modulations: Sequence[Modulation]
    weaken_null: bool
    num_windows: int = 1
    updates: Updates | None = None
    pending: Sequence[Evaluation] = ()
    result: Tensor | AcestepError | None = None
    steps_done: int = 0
    evaluated_rows: int = 0
    device_seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """Evaluations of the schedule, for each window."""
        return len(self.modulations) * self.num_windows

    @property
    def num_frames(self) -> int:
        """Length of the latents that wait to be evaluated; they are there."""
        return self.pending[0].latents.shape[-1]

    @property
    def pending_rows(self) -> int:
        """Rows that the next forward takes for this song."""
        return len(self.pending)


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
        spec = self._on_device(request.task)
        schedule = build_task_schedule(spec, request.params)
        try:
            contexts = self._project(request)
        except torch.OutOfMemoryError as error:
            raise ShapeTooLarge(f"the conditions do not fit: {error}", device=str(self.model.device)) from error
        adaptation = request.adaptation
        modulations = self._modulate(schedule.timesteps, adaptation)
        updates = adaptation.updates if adaptation else None
        weaken_null = request.params.use_erg_diffusion and not isinstance(spec, Edit)
        songs = []
        for variant, seed in enumerate(request.seeds):
            task = build_task(spec, variant, seed, request.params, schedule, self._noise_of)
            song = Song(task, contexts, modulations, weaken_null, len(windows_of(spec)), updates)
            self.resume(song, None)
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
            songs[0].pending = ()
            return len(rows)
        seconds_per_row = (time.perf_counter() - started) / len(rows)
        answers = iter(velocities)
        for song in songs:
            song.evaluated_rows += song.pending_rows
            song.device_seconds += song.pending_rows * seconds_per_row
            self.resume(song, [next(answers) for _ in song.pending])
        return len(rows)

    def _rows(self, song: Song) -> list[Row]:
        return [
            Row(
                latents=evaluation.latents,
                modulation=song.modulations[evaluation.timestep_index],
                context=song.contexts[evaluation.branch],
                weakened=song.weaken_null and evaluation.branch is Branch.NULL,
                updates=song.updates,
            )
            for evaluation in song.pending
        ]

    def resume(self, song: Song, velocities: Sequence[Tensor] | None) -> None:
        """Let a song go on to its next evaluations or its end, with the velocities of the last ones; None starts it."""
        try:
            song.pending = next(song.task) if velocities is None else song.task.send(velocities)
            song.steps_done = song.pending[0].window * len(song.modulations) + song.pending[0].timestep_index
        except StopIteration as stop:
            song.pending = ()
            song.steps_done = song.total_steps
            latents: Tensor = stop.value
            song.result = latents.cpu() if bool(torch.isfinite(latents).all()) else StageError("the sampled latents are not finite")

    def _on_device(self, spec: TaskSpec) -> TaskSpec:
        if isinstance(spec, TextToMusic | Retake):
            return spec
        return replace(spec, source=spec.source.to(self.model.device, torch.float32))

    def _noise_of(self, seed: int, num_frames: int) -> NoiseSource:
        return seeded_noise(seed, (8, 16, num_frames), self.model.device)

    def _project(self, request: SamplingRequest) -> dict[Branch, Context]:
        updates = request.adaptation.updates if request.adaptation else None
        guidance = request.params.guidance
        states = request.conditions
        contexts = {Branch.FULL: self._project_full(states, updates)}
        if guidance.active:
            contexts[Branch.NULL] = self._project_null(states, updates)
        if guidance.double_condition:
            assert states.null_lyrics is not None
            contexts[Branch.TEXT_ONLY] = self._project_states(states.text, states.null_lyrics, states.lyric_mask, updates)
        if isinstance(request.task, Edit):
            contexts[Branch.TARGET] = self._project_full(request.task.target, updates)
            if guidance.active:
                contexts[Branch.TARGET_NULL] = self._project_null(request.task.target, updates)
        return contexts

    def _project_full(self, states: ConditionStates, updates: Updates | None) -> Context:
        return self._project_states(states.text, states.lyrics, states.lyric_mask, updates)

    def _project_null(self, states: ConditionStates, updates: Updates | None) -> Context:
        assert states.null_lyrics is not None
        text = torch.zeros_like(states.text) if states.null_text is None else states.null_text
        mask = states.lyric_mask if states.null_lyric_mask is None else states.null_lyric_mask
        return self._project_states(text, states.null_lyrics, mask, updates)

    def _project_states(self, text: Tensor, lyrics: Tensor, lyric_mask: Tensor, updates: Updates | None) -> Context:
        model = self.model
        text, lyrics = text.to(model.device, model.dtype), lyrics.to(model.device, model.dtype)
        conditions = model.embed_conditions(text[None], lyrics[None], updates=updates)[0]
        if bool(lyric_mask.all()):
            return model.project_context(conditions, updates=updates)
        mask = torch.cat([torch.ones(1 + len(text), dtype=torch.bool), lyric_mask]).to(model.device)
        return model.project_context(conditions, mask, updates)

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
