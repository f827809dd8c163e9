"""What a request asks for, and the generator that does it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from acestep_rpc.work import context_windows, extension_windows, merge_spans
from diffusion_svc.sampling.audio_to_audio import audio_to_audio, build_reference_schedule
from diffusion_svc.sampling.denoising import Task
from diffusion_svc.sampling.edit import EditWindow, edit
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.params import SamplingParams, build_sampling_schedule
from diffusion_svc.sampling.repaint import build_mask, extend, extension_noise_frames, repaint
from diffusion_svc.sampling.schedule import Schedule, build_schedule
from diffusion_svc.sampling.solvers import NoiseSource
from diffusion_svc.sampling.text_to_music import retake, text_to_music


@dataclass(frozen=True)
class ConditionStates:
    """States of one prompt from the encoder stage, before the transformer's input layers.

    Attributes:
        text: [L_t, W_t].
        lyrics: [L_l, W_l].
        lyric_mask: [L_l] bool, true = attend.
        null_text: [L_t, W_t], with negative tags of a length of their own; None: zeros.
        null_lyrics: [L_l, W_l]; None: no null branch.
        null_lyric_mask: [L_l] bool; None: lyric_mask.
    """

    text: Tensor
    lyrics: Tensor
    lyric_mask: Tensor
    null_text: Tensor | None = None
    null_lyrics: Tensor | None = None
    null_lyric_mask: Tensor | None = None

    @property
    def text_tokens(self) -> int:
        """Of the longest branch."""
        return max(len(self.text), 0 if self.null_text is None else len(self.null_text))


@dataclass(frozen=True)
class TextToMusic:
    """Songs from noise."""

    num_frames: int


@dataclass(frozen=True)
class Retake:
    """Songs near those of the seeds; one variance and one second seed a song."""

    num_frames: int
    variances: tuple[float, ...]
    retake_seeds: tuple[int, ...]


@dataclass(frozen=True)
class Repaint:
    """New music in some ranges of frames, sorted, ends excluded; one second seed a song.

    Attributes:
        feather: Frames over which the edges of a region are soft.
        context: Frames around a region that are computed with it; None: the whole song.
    """

    source: Tensor
    regions: tuple[tuple[int, int], ...]
    variance: float
    retake_seeds: tuple[int, ...]
    feather: float = 0.0
    context: int | None = None

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Frames that are computed, window by window."""
        return [(0, self.num_frames)] if self.context is None else context_windows(self.num_frames, self.regions, self.context)

    @property
    def num_frames(self) -> int:
        """Length of the result."""
        return self.source.shape[-1]


@dataclass(frozen=True)
class Extend:
    """So many new frames on each side; one second seed a song."""

    source: Tensor
    left: int
    right: int
    retake_seeds: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """Length of the result."""
        return self.left + self.source.shape[-1] + self.right

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Frames that are computed, window by window."""
        return extension_windows(self.source.shape[-1], self.left, self.right)


@dataclass(frozen=True)
class Edit:
    """From the request's prompt to the target; all noise is of the second seeds, one a song."""

    source: Tensor
    target: ConditionStates
    window: EditWindow
    retake_seeds: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """Length of the result."""
        return self.source.shape[-1]


@dataclass(frozen=True)
class AudioToAudio:
    """Songs that follow a reference, 0 to 1."""

    source: Tensor
    strength: float

    @property
    def num_frames(self) -> int:
        """Length of the result."""
        return self.source.shape[-1]


TaskSpec = TextToMusic | Retake | Repaint | Extend | Edit | AudioToAudio


def windows_of(spec: TaskSpec) -> list[tuple[int, int]]:
    """Frames [start, stop) of the song that are computed, one window after another."""
    return spec.windows if isinstance(spec, Repaint | Extend) else [(0, spec.num_frames)]


def build_task_schedule(spec: TaskSpec, params: SamplingParams) -> Schedule:
    """Noise levels of a task."""
    match spec:
        case AudioToAudio():
            return build_reference_schedule(params, spec.strength)
        case Edit():
            return build_schedule(params.infer_step)
        case _:
            return build_sampling_schedule(params)


def build_task(
    spec: TaskSpec,
    variant: int,
    seed: int,
    params: SamplingParams,
    schedule: Schedule,
    noise_of: Callable[[int, int], NoiseSource],
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """The generator of one song.

    Args:
        spec: What to do; its source is where the noise is.
        variant: Which song of the request, 0-based.
        seed: Of the song.
        params: Of the request.
        schedule: From `build_task_schedule`.
        noise_of: Noise of a seed, so many frames long.
        estimates: What to take of the song on the way.
    """
    if isinstance(spec, TextToMusic):
        return text_to_music(params, schedule, noise_of(seed, spec.num_frames), estimates)
    if isinstance(spec, AudioToAudio):
        return audio_to_audio(params, schedule, spec.source, spec.strength, noise_of(seed, spec.num_frames), estimates)
    retake_seed = spec.retake_seeds[variant]
    match spec:
        case Retake(num_frames=frames):
            return retake(params, schedule, spec.variances[variant], noise_of(seed, frames), noise_of(retake_seed, frames), estimates)
        case Repaint(num_frames=frames):
            mask = build_mask(frames, merge_spans(spec.regions), spec.feather).to(spec.source.device)
            noises = noise_of(seed, frames), noise_of(retake_seed, frames)
            return repaint(params, schedule, spec.source, mask, spec.variance, *noises, spec.windows, estimates)
        case Extend():
            frames = spec.source.shape[-1]
            retake_noise = noise_of(retake_seed, extension_noise_frames(frames, spec.left, spec.right))
            return extend(params, schedule, spec.source, spec.left, spec.right, noise_of(seed, frames), retake_noise, estimates)
        case Edit():
            return edit(params, schedule, spec.source, spec.window, noise_of(retake_seed, spec.num_frames), estimates)
