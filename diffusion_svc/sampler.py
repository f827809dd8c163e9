"""The stage itself: songs under way and the forwards that advance them. Tensors in, tensors out; no gRPC, no event loop.

A song is a task's generator with what its evaluations need. `Sampler.tick` packs the rows that several songs wait for into one forward,
whatever their lengths, and resumes each song with its own velocities. Nothing couples songs: the same song comes out alone and in company.
"""

import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acestep_rpc.errors import AcestepError, ShapeTooLarge, StageError
from acestep_rpc.work import NOTHING, Work, totals_left
from diffusion_svc.adapters import Adaptation
from diffusion_svc.branch_prompts import BranchPrompt, branch_prompts
from diffusion_svc.model.low_rank import Updates
from diffusion_svc.model.transformer import Context, Modulation, Row, Transformer
from diffusion_svc.previews import Preview, build_estimates
from diffusion_svc.sampling.denoising import Evaluation, Task
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.guidance import Branch
from diffusion_svc.sampling.params import SamplingParams
from diffusion_svc.sampling.solvers import NoiseSource, seeded_noise
from diffusion_svc.song_work import song_work
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
        adaptation: Adapters that act; None: none.
        preview: What to estimate on the way; None: nothing.
    """

    conditions: ConditionStates
    params: SamplingParams
    seeds: tuple[int, ...]
    task: TaskSpec
    adaptation: Adaptation | None = None
    preview: Preview | None = None


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
        work_left: Work before each of its forwards, and after the last.
        estimates: What is taken of it on the way.
        pending: What the task waits for; empty once it is finished.
        rows: Rows that answer it, each once.
        answers: For each that is pending, which of the rows.
        result: Final latents [8, 16, T], or the error that ended the song.
    """

    task: Task
    contexts: Mapping[Branch, Context]
    modulations: Sequence[Modulation]
    weaken_null: bool
    num_windows: int = 1
    updates: Updates | None = None
    work_left: Sequence[Work] = (NOTHING,)
    estimates: Estimates = NO_ESTIMATES
    pending: Sequence[Evaluation] = ()
    rows: Sequence[Row] = ()
    answers: Sequence[int] = ()
    result: Tensor | AcestepError | None = None
    steps_done: int = 0
    forwards_done: int = 0
    evaluated_rows: int = 0
    device_seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """Evaluations of the schedule, for each window."""
        return len(self.modulations) * self.num_windows

    @property
    def num_frames(self) -> int:
        """Length of the latents that wait to be evaluated; they are there."""
        return self.rows[0].num_frames

    @property
    def step_size(self) -> int:
        """Rows x frames that the next forward takes for this song."""
        return sum(row.num_frames for row in self.rows)

    @property
    def step_work(self) -> Work:
        """What the next forward takes for this song."""
        if not self.rows:
            return NOTHING
        tokens = sum(row.num_frames * row.context.keys[0].shape[2] for row in self.rows)
        return Work(1, len(self.rows), self.step_size, tokens)

    @property
    def remaining_work(self) -> Work:
        """What all forwards to the end take for this song."""
        return self.work_left[min(self.forwards_done, len(self.work_left) - 1)] if self.pending else NOTHING

    def wait_for(self, pending: Sequence[Evaluation]) -> None:
        """Take the evaluations to make next, and the rows that make them.

        Two evaluations are one row where they would compute the same: the conditions of both branches are the same tensors and the latents
        are equal. Without lyrics that holds for the full and the tags-only branch of double conditions in every guided step; in an edit
        whose prompts have null conditions alike, for the null branches of its first step, when source and result are still the same.
        """
        self.pending = pending
        self.steps_done = pending[0].window * len(self.modulations) + pending[0].timestep_index if pending else self.total_steps
        rows: list[Row] = []
        answers: list[int] = []
        for evaluation in pending:
            row = self._row(evaluation)
            same = next((index for index, other in enumerate(rows) if _same(row, other)), len(rows))
            answers.append(same)
            if same == len(rows):
                rows.append(row)
        self.rows, self.answers = rows, answers

    def _row(self, evaluation: Evaluation) -> Row:
        return Row(
            latents=evaluation.latents,
            modulation=self.modulations[evaluation.timestep_index],
            context=self.contexts[evaluation.branch],
            weakened=self.weaken_null and evaluation.branch is Branch.NULL,
            updates=self.updates,
        )


def _same(row: Row, other: Row) -> bool:
    """Whether two rows of a song give the same velocity."""
    if row.context is not other.context or row.weakened is not other.weakened or row.modulation is not other.modulation:
        return False
    return row.latents is other.latents or torch.equal(row.latents, other.latents)


class Sampler:
    """Starts and advances songs on one device. Not thread-safe: one worker thread owns it.

    Args:
        model: The transformer, in evaluation mode.
        share_products: As in `Transformer.forward`.
    """

    def __init__(self, model: Transformer, share_products: bool | None = None) -> None:
        self.model = model
        self._share_products = share_products
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
        work_left = totals_left(song_work(spec, request.params, contexts, weaken_null))
        songs = []
        for variant, seed in enumerate(request.seeds):
            estimates = build_estimates(request.preview, spec, schedule)
            task = build_task(spec, variant, seed, request.params, schedule, self._noise_of, estimates)
            song = Song(task, contexts, modulations, weaken_null, len(windows_of(spec)), updates, work_left, estimates)
            self.resume(song, None)
            songs.append(song)
        return songs

    @torch.inference_mode()
    def tick(self, songs: Sequence[Song]) -> int:
        """Evaluate what songs wait for, in one forward, and resume them.

        Songs that the device cannot hold together are evaluated in halves. One that it cannot hold alone ends with ShapeTooLarge; the
        others go on.

        Args:
            songs: Each with a pending evaluation, of any lengths.
        Returns:
            Rows in the forward.
        """
        rows = [row for song in songs for row in song.rows]
        started = time.perf_counter()
        try:
            velocities = self.model(rows, self._share_products)
        except torch.OutOfMemoryError as error:
            if len(songs) > 1:
                return self.tick(songs[: len(songs) // 2]) + self.tick(songs[len(songs) // 2 :])
            self._end(songs[0], self._too_large(songs[0], error))
            return len(rows)
        seconds_per_frame = (time.perf_counter() - started) / sum(song.step_size for song in songs)
        of_row = iter(velocities)
        for song in songs:
            song.evaluated_rows += len(song.rows)
            song.forwards_done += 1
            song.device_seconds += song.step_size * seconds_per_frame
            own = [next(of_row) for _ in song.rows]
            self.resume(song, [own[index] for index in song.answers])
        return len(rows)

    def _too_large(self, song: Song, error: torch.OutOfMemoryError) -> ShapeTooLarge:
        return ShapeTooLarge(f"{len(song.rows)} rows of {song.num_frames} frames do not fit: {error}", device=str(self.model.device))

    def resume(self, song: Song, velocities: Sequence[Tensor] | None) -> None:
        """Let a song go on to its next evaluations or its end, with the velocities of the last ones; None starts it."""
        try:
            song.wait_for(next(song.task) if velocities is None else song.task.send(velocities))
        except StopIteration as stop:
            latents: Tensor = stop.value
            finite = bool(torch.isfinite(latents).all())
            self._end(song, latents.cpu() if finite else StageError("the sampled latents are not finite"))

    def _end(self, song: Song, result: Tensor | AcestepError) -> None:
        song.wait_for(())
        song.result = result

    def _on_device(self, spec: TaskSpec) -> TaskSpec:
        if isinstance(spec, TextToMusic | Retake):
            return spec
        return replace(spec, source=spec.source.to(self.model.device, torch.float32))

    def _noise_of(self, seed: int, num_frames: int) -> NoiseSource:
        return seeded_noise(seed, (8, 16, num_frames), self.model.device)

    def _project(self, request: SamplingRequest) -> dict[Branch, Context]:
        """Keys and values of each branch; branches under the same conditions have the same."""
        updates = request.adaptation.updates if request.adaptation else None
        known: list[tuple[BranchPrompt, Context]] = []
        contexts = {}
        for branch, prompt in branch_prompts(request.conditions, request.task, request.params.guidance).items():
            context = next((context for other, context in known if prompt.equals(other)), None)
            if context is None:
                context = self._project_prompt(prompt, updates)
                known.append((prompt, context))
            contexts[branch] = context
        return contexts

    def _project_prompt(self, prompt: BranchPrompt, updates: Updates | None) -> Context:
        model = self.model
        text, lyrics = prompt.text.to(model.device, model.dtype), prompt.lyrics.to(model.device, model.dtype)
        conditions = model.embed_conditions(text[None], lyrics[None], updates=updates)[0]
        if bool(prompt.lyric_mask.all()):
            return model.project_context(conditions, updates=updates)
        mask = torch.cat([torch.ones(1 + len(text), dtype=torch.bool), prompt.lyric_mask]).to(model.device)
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
