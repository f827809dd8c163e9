"""Optimisers: AdamW as the reference has it, and Muon for the matrices of small models that train from nothing."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Muon(Optimizer):
    """Momentum whose update is made orthogonal, for weight matrices; 1 x 1 convolutions count as matrices.

    Args:
        params: Of two dimensions or more, all beyond the second of size 1.
        lr: Step length, in units of the update's spectral norm.
        momentum: Nesterov momentum.
        weight_decay: Decoupled.
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonalized(update).view_as(parameter), alpha=-group["lr"] * scale)
        return loss


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest matrices [..., R, C] with singular values near 1 (0.7 to 1.2), by Newton-Schulz iterations.

    In bfloat16, which is enough, but on CPUs that only emulate it: products of it are 25 times slower than of float32 there.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    emulated = matrices.device.type == "cpu" and not torch.cpu._is_amx_tile_supported()
    x = torch.Tensor.to(matrices.mT if tall else matrices, torch.float32 if emulated else torch.bfloat16)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return torch.Tensor.to(x.mT if tall else x, matrices.dtype)


class MuonAdamW(Optimizer):
    """Muon on the matrices of transformer blocks, AdamW on everything else, as one optimiser.

    Args:
        model: Its `transformer_blocks` have the matrices.
        lr: Of AdamW.
        muon_lr: Of Muon.
        betas: Of AdamW.
        weight_decay: Of AdamW.
    """

    def __init__(self, model: nn.Module, lr: float, muon_lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [parameter for name, parameter in trained if is_block_matrix(name, parameter)]
        others = [parameter for name, parameter in trained if not is_block_matrix(name, parameter)]
        self.parts: tuple[Optimizer, ...] = (Muon(matrices, muon_lr), AdamW(others, lr, betas=betas, weight_decay=weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        # Shared, so that a learning rate set here is seen there.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """States of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: the dense layers of the blocks, neither tables nor depthwise convolutions."""
    return name.startswith("transformer_blocks.") and name.endswith(".weight") and ".depth_conv." not in name
