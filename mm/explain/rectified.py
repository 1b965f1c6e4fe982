"""ReLUs with another way back, and a look for those that would be missed."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from mm.explain.target import hooked

RECTIFIERS = {  # node of a gradient's graph -> the function behind it, and what holds where it cuts, which must be 0
    "ReluBackward0": ("relu", ""),
    "ThresholdBackward0": ("threshold", ""),
    "LeakyReluBackward0": ("leaky_relu", ""),
    "LeakyReluBackward1": ("leaky_relu_", ""),
    "PreluKernelBackward0": ("prelu", ""),
    "RreluWithNoiseBackward0": ("rrelu", ""),
    "HardtanhBackward0": ("relu6", "_saved_min_val"),
    "ClampMinBackward0": ("clamp_min", "_saved_min"),
    "ClampBackward1": ("clamp", "_saved_min"),
    "MaximumBackward0": ("maximum", ""),
}


class Rectified(torch.autograd.Function):
    """A ReLU that passes back what is above 0; if guided, only where it saw what is above 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, guided: bool) -> Tensor:
        """ReLU."""
        rectified = x.clamp_min(0)
        ctx.guided = guided
        ctx.save_for_backward(rectified > 0)  # what follows may write into the output itself
        return rectified

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The other way back."""
        passed = gradients[0].clamp_min(0)
        return passed * ctx.saved_tensors[0] if ctx.guided else passed, None


@contextlib.contextmanager
def rewritten(model: nn.Module, guided: bool) -> Iterator[None]:
    """Every module nn.ReLU of a model is `Rectified`, for a while.

    Each call has its own way back: hooks on modules, as in captum 0.9, mix up the calls of one module on two branches.
    """
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    in_place = [relu.inplace for relu in relus]
    with hooked(relus, lambda module, given, output: Rectified.apply(given[0], guided)):
        try:
            for relu in relus:
                relu.inplace = False  # the hook needs what it was given
            yield
        finally:
            for relu, flag in zip(relus, in_place, strict=True):
                relu.inplace = flag


def check_rectifiers(scores: Tensor, x: Tensor) -> None:
    """Reject rectifications on the way from x to scores that are not `Rectified`.

    Not seen are those that are written as a choice, torch.where(x > 0, x, 0), or as a product, x * (x > 0).

    Raises:
        ValueError: there are.
    """
    if found := _rectifiers(scores, x):
        calls = ", ".join(f"{name}, called {count} times" for name, count in sorted(found.items()))
        raise ValueError(
            "guided backpropagation and deconvnet rewrite modules nn.ReLU, and would be silently wrong where a model "
            f"rectifies otherwise: got {calls} outside nn.ReLU. Use nn.ReLU modules, or a method such as saliency."
        )


def _rectifiers(scores: Tensor, x: Tensor) -> Counter[str]:
    """How many there are of each kind."""
    users: defaultdict[Any, list[Any]] = defaultdict(list)  # of what a node gives
    nodes: set[Any] = {scores.grad_fn}
    ahead = list(nodes)
    while ahead:
        node = ahead.pop()
        for source, _ in node.next_functions:
            users[source].append(node)
            if source is not None and source not in nodes:
                nodes.add(source)
                ahead.append(source)
    ahead, on_the_way = [get_gradient_edge(x).node], set[Any]()
    while ahead:
        node = ahead.pop()
        if node not in on_the_way:
            on_the_way.add(node)
            ahead.extend(users[node])
    found: Counter[str] = Counter()
    for node in on_the_way:
        function, cut = RECTIFIERS.get(node.name(), ("", ""))
        if function and (not cut or getattr(node, cut) == 0):
            found[f"{function} ({node.name()})"] += 1
    return found
