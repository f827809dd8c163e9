"""What each branch of a request attends to. Branches that attend to the same can share keys and values, and rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_svc.sampling.guidance import Branch, GuidanceParams
from diffusion_svc.tasks import ConditionStates, Edit, TaskSpec


@dataclass(frozen=True)
class BranchPrompt:
    """What one branch attends to: text [L_t, W_t], lyrics [L_l, W_l] and their mask [L_l]."""

    text: Tensor
    lyrics: Tensor
    lyric_mask: Tensor

    def equals(self, other: "BranchPrompt") -> bool:
        """Whether all that is attended to is equal and at equal positions."""
        return (
            torch.equal(self.text, other.text)
            and torch.equal(self.lyric_mask.nonzero(), other.lyric_mask.nonzero())
            and torch.equal(self.lyrics[self.lyric_mask], other.lyrics[other.lyric_mask])
        )


def branch_prompts(states: ConditionStates, task: TaskSpec, guidance: GuidanceParams) -> dict[Branch, BranchPrompt]:
    """Of every branch that a request evaluates.

    Args:
        states: Of the request's prompt.
        task: Its task; an edit brings a second prompt.
        guidance: Its guidance; with it, the states have a null branch.
    """
    prompts = {Branch.FULL: _full(states)}
    if guidance.active:
        prompts[Branch.NULL] = _null(states)
    if guidance.double_condition:
        assert states.null_lyrics is not None
        prompts[Branch.TEXT_ONLY] = BranchPrompt(states.text, states.null_lyrics, states.lyric_mask)
    if isinstance(task, Edit):
        prompts[Branch.TARGET] = _full(task.target)
        if guidance.active:
            prompts[Branch.TARGET_NULL] = _null(task.target)
    return prompts


def _full(states: ConditionStates) -> BranchPrompt:
    return BranchPrompt(states.text, states.lyrics, states.lyric_mask)


def _null(states: ConditionStates) -> BranchPrompt:
    assert states.null_lyrics is not None
    text = torch.zeros_like(states.text) if states.null_text is None else states.null_text
    return BranchPrompt(text, states.null_lyrics, states.lyric_mask if states.null_lyric_mask is None else states.null_lyric_mask)
