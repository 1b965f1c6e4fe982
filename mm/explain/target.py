"""What is explained, a number for each input, and the state in which a model is while it is explained."""

from __future__ import annotations

import contextlib
import numbers
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mm.modes import in_eval_mode

Target = int | Tensor | Callable[[Any], Tensor] | None
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NO_GRADIENT = (
    "the target must follow from what is explained by a gradient, and does not: the model does not use it, or detaches "
    "it, or runs a part under torch.no_grad()."
)


ONE = threading.RLock()  # models are explained one after another: what is put back must be what was there


@contextlib.contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """Eval mode in which inputs may have a gradient and parameters have none; afterwards all is as it was."""
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with ONE, in_eval_mode(model), torch.inference_mode(False), torch.enable_grad(), _with_a_way_back(model):
        try:
            for parameter in training:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in training:
                parameter.requires_grad_(True)


def _with_a_way_back(model: nn.Module) -> contextlib.AbstractContextManager:
    """cuDNN has no gradient through recurrent layers in eval mode: without it, torch has one."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()


@contextlib.contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    """Hooks on what modules give in this thread, for a while; what a hook gives stands for it."""
    thread = threading.get_ident()

    def own(module: nn.Module, given: Any, output: Any) -> Any:
        return hook(module, given, output) if threading.get_ident() == thread else None

    handles = [module.register_forward_hook(own) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def checked(inputs: Tensor) -> Tensor:
    """The inputs of a model, without their own graph.

    Raises:
        ValueError: they are no finite floats (B, C, H, W), or none.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point() or not inputs.numel():
        raise ValueError(
            f"inputs must be a tensor of floats (B, C, H, W): got {_came(inputs)}. Normalise pictures first."
        )
    if wrong := int((~inputs.isfinite()).sum()):
        raise ValueError(f"inputs must be finite: got {wrong} of {inputs.numel()} values that are not.")
    return inputs.detach()


def scores_of(model: nn.Module, inputs: Tensor, target: Target, count: int) -> Tensor:
    """The target of each input: (P*B, C, H, W) -> (P*B,).

    Args:
        model: see `mm.explain.attribution`.
        inputs: P times a batch, one copy after the other.
        target: see `mm.explain.attribution`.
        count: B.

    Raises:
        ValueError: a target that does not fit the output, or scores that are not finite.
    """
    output = model(inputs.clone())  # it may write into its input
    copies = len(inputs) // count
    if copies == 1:
        return _one_each(output, target, count)
    if not isinstance(output, Tensor) or len(output) != len(inputs):
        raise ValueError(
            f"copies of a batch at once need an output that is a tensor of as many rows, {len(inputs)}: got "
            f"{_came(output)}. Give at_once=1."
        )
    return torch.cat([_one_each(part, target, count) for part in output.split(count)])


def _one_each(output: Any, target: Target, count: int) -> Tensor:
    """The target in the output of B inputs: (B,)."""
    if target is None:
        scores = output
    elif callable(target):
        scores = target(output)
    else:
        columns = columns_of(target, output, count)  # (B,)
        scores = output.gather(1, columns[:, None])[:, 0]  # (B,)
    if not isinstance(scores, Tensor) or scores.shape != (count,) or not scores.is_floating_point():
        raise ValueError(
            f"{'without a target, the output' if target is None else 'a target'} must give a float for each of the "
            f"{count} inputs: got {_came(scores)}. Give the number of an output, or a function that gives ({count},)."
        )
    if not bool(scores.isfinite().all()):
        raise ValueError(f"the scores of the inputs must be finite: got {scores.tolist()}.")
    return scores


def columns_of(target: Target, output: Any, count: int) -> Tensor:
    """The columns of an output (B, K) that a target means: (B,) int64.

    Raises:
        ValueError: it is no number, not one for each of B inputs, or beyond the output.
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != count:
        raise ValueError(
            f"numbers as target take an output of ({count}, K): got {_came(output)}. Give a function of the output, or "
            "None where it has one number for each input."
        )
    if isinstance(target, numbers.Integral) and not isinstance(target, bool):
        columns = torch.full((count,), int(target), device=output.device)  # (B,)
    elif isinstance(target, Tensor) and target.shape == (count,) and target.dtype in INTEGERS:
        columns = target.to(output.device, torch.int64)  # (B,)
    else:
        raise ValueError(f"a target must be an int, or int64 ({count},), one for each input: got {_came(target)}.")
    if len(wrong := columns[(columns < 0) | (columns >= output.shape[1])]):
        raise ValueError(f"a target must lie in 0..{output.shape[1] - 1}, the numbers of the outputs: got {wrong[0]}.")
    return columns


def with_gradient(scores: Tensor) -> Tensor:
    """Scores that have a gradient.

    Raises:
        ValueError: they have none.
    """
    if not scores.requires_grad:
        raise ValueError(NO_GRADIENT)
    return scores


def gradient_of(scores: Tensor, at: Tensor) -> Tensor:
    """The gradient of each score by what belongs to it: (B,), (B, ...) -> (B, ...).

    Raises:
        ValueError: it has none.
    """
    (gradient,) = torch.autograd.grad(with_gradient(scores).sum(), at, allow_unused=True)
    if gradient is None:
        raise ValueError(NO_GRADIENT)
    return gradient


def _came(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
