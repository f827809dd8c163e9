"""Guidance: which branches a step evaluates, and how their velocities are combined. One object per song."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional as F

from acestep_rpc.work import CFG_STAR_ZERO_STEPS, guided_range

APG_MOMENTUM = -0.75
APG_NORM_THRESHOLD = 2.5
MOMENTUM, TARGET_MOMENTUM = "momentum", "target_momentum"


class Branch(Enum):
    """A condition that the network is evaluated under."""

    FULL = "full"
    TEXT_ONLY = "text_only"
    NULL = "null"
    TARGET = "target"  # of an edit, whose source has FULL and NULL
    TARGET_NULL = "target_null"


class CfgType(Enum):
    """Rule that combines the full and the null velocity."""

    CFG = "cfg"
    APG = "apg"
    CFG_STAR = "cfg_star"


@dataclass(frozen=True)
class GuidanceParams:
    """Guidance of a request; names, ranges and defaults are those of SamplingParams."""

    guidance_scale: float
    cfg_type: CfgType
    guidance_interval: float
    guidance_interval_decay: float
    min_guidance_scale: float
    guidance_scale_text: float
    guidance_scale_lyric: float

    @property
    def active(self) -> bool:
        """False at scale 0 and 1: only the full condition is evaluated, whatever the other scales say."""
        return self.guidance_scale not in (0.0, 1.0)

    @property
    def double_condition(self) -> bool:
        """Tags and lyrics weighted apart; takes the place of cfg_type and ignores the decay."""
        return self.active and self.guidance_scale_text > 1.0 and self.guidance_scale_lyric > 1.0


def cfg(full: Tensor, null: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale (c - u)."""
    return null + scale * (full - null)


def cfg_star(full: Tensor, null: Tensor, scale: float) -> Tensor:
    """CFG-Zero*: the null velocity is first scaled to the projection of the full one on it."""
    song = (-3, -2, -1)
    alpha = (full * null).sum(song, keepdim=True) / (null.square().sum(song, keepdim=True) + 1e-8)
    return cfg(full, alpha * null, scale)


def double_condition(full: Tensor, text_only: Tensor, null: Tensor, text_scale: float, lyric_scale: float) -> Tensor:
    """(1 - a) u + (a - b) l + b c with a for the tags and b for the lyrics."""
    return (1 - text_scale) * null + (text_scale - lyric_scale) * text_only + lyric_scale * full


class MomentumBuffer:
    """Running difference of the full and the null velocity over the guided evaluations of one song.

    Args:
        momentum: Share of the past.
        kept: Where it keeps the sum; None: nobody else wants to know.
        name: Under which name.
    """

    def __init__(self, momentum: float = APG_MOMENTUM, kept: dict[str, Tensor] | None = None, name: str = MOMENTUM) -> None:
        self._momentum = momentum
        self._kept = {} if kept is None else kept
        self._name = name

    @property
    def running(self) -> Tensor | float:
        """The sum."""
        return self._kept.get(self._name, 0.0)

    def update(self, difference: Tensor) -> Tensor:
        """Add a difference and return the sum."""
        running = self._kept[self._name] = difference + self._momentum * self.running
        return running


def apg(
    full: Tensor,
    null: Tensor,
    scale: float,
    buffer: MomentumBuffer | None,
    eta: float = 0.0,
    norm_threshold: float = APG_NORM_THRESHOLD,
) -> Tensor:
    """Adaptive projected guidance: momentum, a cap on the norm, and the part along the full velocity removed.

    Args:
        full: Velocity under the full condition, [..., 16, T]; norms run over the last two axes.
        null: Velocity under the null condition.
        scale: Guidance scale.
        buffer: Momentum of this song; None: none.
        eta: Share of the parallel part that is kept.
        norm_threshold: Cap; <= 0: none.
    Source: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models, 2024.
    """
    dims = (-2, -1)
    difference = full - null
    if buffer is not None:
        difference = buffer.update(difference)
    if norm_threshold > 0:
        norm = difference.norm(p=2, dim=dims, keepdim=True)
        difference = difference * torch.clamp(norm_threshold / norm, max=1.0)
    # float64 where the device has it: a projection of nearly parallel tensors.
    wide = torch.float32 if full.device.type == "mps" else torch.float64
    direction = F.normalize(full.to(wide).flatten(-2), dim=-1).view_as(full)
    parallel = (difference.to(wide) * direction).sum(dims, keepdim=True) * direction
    orthogonal = (difference.to(wide) - parallel).to(full.dtype)
    return full + (scale - 1) * (orthogonal + eta * parallel.to(full.dtype))


class Guidance:
    """Guidance over the evaluations of one song.

    Args:
        params: Of the request.
        num_steps: N of the schedule.
        kept: Where the momentum of APG is kept; None: nobody else wants to know.
    """

    def __init__(self, params: GuidanceParams, num_steps: int, kept: dict[str, Tensor] | None = None) -> None:
        self._params = params
        self._range = guided_range(num_steps, params.guidance_interval) if params.active else range(0)
        self._buffer = MomentumBuffer(kept=kept)

    def branches(self, index: int) -> Sequence[Branch]:
        """Conditions to evaluate at an evaluation index; none where the velocity is zero whatever they give."""
        if index not in self._range:
            return (Branch.FULL,)
        if self._params.double_condition:
            return (Branch.FULL, Branch.TEXT_ONLY, Branch.NULL)
        if self._params.cfg_type is CfgType.CFG_STAR and index <= CFG_STAR_ZERO_STEPS:
            return ()
        return (Branch.FULL, Branch.NULL)

    def scale(self, index: int) -> float:
        """Guidance scale at a guided index: constant, or falling towards the minimum."""
        params = self._params
        if params.guidance_interval_decay <= 0 or len(self._range) <= 1:
            return params.guidance_scale
        progress = (index - self._range.start) / (len(self._range) - 1)
        return params.guidance_scale - (params.guidance_scale - params.min_guidance_scale) * progress * params.guidance_interval_decay

    def combine(self, index: int, velocities: Mapping[Branch, Tensor]) -> Tensor:
        """The velocity to follow, from those of `branches(index)`, which are not none."""
        full = velocities[Branch.FULL]
        if Branch.NULL not in velocities:
            return full
        null, params = velocities[Branch.NULL], self._params
        if params.double_condition:
            return double_condition(full, velocities[Branch.TEXT_ONLY], null, params.guidance_scale_text, params.guidance_scale_lyric)
        match params.cfg_type:
            case CfgType.CFG:
                return cfg(full, null, self.scale(index))
            case CfgType.CFG_STAR:
                return cfg_star(full, null, self.scale(index))
            case CfgType.APG:
                return apg(full, null, self.scale(index), self._buffer)
