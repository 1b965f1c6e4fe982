"""Muon: matrices move in all their directions alike, not only in those in which the gradient is large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

MOMENTUM = 0.95  # Jordan 2024
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW, for what is no matrix: torch's own defaults
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of a x + b x^3 + c x^5, five times (Jordan 2024)
RMS = 0.2  # of an update, about that of AdamW's, so that its learning rates and decays hold (Liu et al. 2025, eq. 4)


class Muon(Optimizer):
    """Momentum made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon) for matrices, AdamW for the rest.

    A kernel of a convolution is the matrix of its output channels by all that one of them sees. `torch.optim.Muon`
    takes neither kernels nor the rest, and one matrix after the other; here matrices of one shape go together.

    Args:
        groups: of parameters; with "orthogonal": True those that move by orthogonal steps.
        lr: learning rate of both.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float):
        defaults = {"lr": lr, "weight_decay": 0.0, "orthogonal": False, "fused": True}  # fused: "step" is on the device
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; the loss of a closure, which makes the gradients, is returned."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonal"]:
                for alike in by_shape(moving):
                    self._orthogonal_step(alike, group["lr"], group["weight_decay"])
            elif moving:
                self._adamw_step(moving, group["lr"], group["weight_decay"])
        return loss

    def _orthogonal_step(self, alike: list[Tensor], lr: float, weight_decay: float) -> None:
        ahead = []  # Nesterov's momentum: where it will be after this gradient once more
        for parameter in alike:
            gradient = parameter.grad
            assert gradient is not None  # step() leaves out what has none
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
            momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
            ahead.append(gradient.lerp(momentum, MOMENTUM).flatten(1))
        moves = orthogonal(torch.stack(ahead))  # (M, rows, columns)
        scale = lr * RMS * max(moves.shape[1:]) ** 0.5
        for parameter, move in zip(alike, moves, strict=True):
            parameter.mul_(1 - lr * weight_decay).sub_(move.to(parameter.dtype).view_as(parameter), alpha=scale)

    def _adamw_step(self, moving: list[Tensor], lr: float, weight_decay: float) -> None:
        for parameter in moving:
            state = self.state[parameter]
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        states = [self.state[parameter] for parameter in moving]
        adamw(
            moving,
            [parameter.grad for parameter in moving if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=weight_decay,
            eps=EPSILON,
            maximize=False,
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """(M, rows, columns) -> the nearest orthogonal ones, roughly: their singular values lie between 0.5 and 1.3.

    bfloat16 is enough, for five steps of Newton and Schulz do not converge anyway.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices  # (M, fewer, more)
    x = x.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)  # (M, fewer, more)
    for _ in range(5):
        gram = x @ x.mT  # (M, fewer, fewer)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # (M, fewer, more)
    return x.mT.contiguous() if matrices.shape[1] > matrices.shape[2] else x  # (M, rows, columns)


def by_shape(parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Those whose matrices have one shape, together."""
    alike: dict[tuple[int, int], list[Tensor]] = {}
    for parameter in parameters:
        alike.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
    return alike.values()


def matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that are maps from one space to another: no tables of words, whose rows have no common step."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if parameter.ndim >= 2 and id(parameter) not in tables and min(len(parameter), parameter[0].numel()) > 1:
            yield parameter
