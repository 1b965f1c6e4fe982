"""The layers of a model: by name, what they give, and their places as a grid."""

from __future__ import annotations

import contextlib
import difflib
import math
from typing import Any

from torch import Tensor, nn

from mm.explain.target import checked, hooked
from mm.modes import in_eval_mode

NEAREST = 3  # names that an unknown layer is answered with


def layer_of(model: nn.Module, layer: str | nn.Module) -> nn.Module:
    """The layer of a dotted name such as "layer4.1", or the module itself.

    Raises:
        ValueError: the model has no such layer; the nearest names are told.
    """
    layers = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, nn.Module):
        if all(module is not layer for module in layers.values()):
            raise ValueError(f"a layer must be part of the model: got a {type(layer).__name__} that is not.")
        return layer
    if layer not in layers:
        near = difflib.get_close_matches(layer, layers, n=NEAREST) or [name for name in layers if "." not in name]
        raise ValueError(f"the model has no layer {layer!r}. Did you mean one of: {', '.join(near)}?")
    return layers[layer]


def layers_with_maps(model: nn.Module, inputs: Tensor) -> dict[str, tuple[int, int, int]]:
    """Layers that `activations` and `grad_cam` take, in the order in which they end: {dotted name: (C', H', W')}.

    Raises:
        ValueError: inputs that are no finite floats (B, C, H, W).
    """
    inputs = checked(inputs)
    names = {module: name for name, module in model.named_modules() if name}
    found: dict[str, tuple[int, int, int]] = {}

    def note(module: nn.Module, given: Any, output: Any) -> None:
        found.pop(names[module], None)  # the last call counts
        with contextlib.suppress(ValueError):  # not all layers have one
            _, channels, height, width = grid_of(output, inputs, names[module]).shape
            found[names[module]] = (channels, height, width)

    with in_eval_mode(model), hooked(names, note):
        model(inputs.clone())
    return found


def activations(model: nn.Module, inputs: Tensor, layer: str | nn.Module) -> Tensor:
    """What a layer gives: (B, C', H', W'); of a layer that runs several times, what it gave last.

    Of a square input tokens (B, N, D) of a square become a grid, without the class token if it comes first.

    Raises:
        ValueError: an unknown layer, one that does not run, or one whose output is no grid; inputs that do not fit.
    """
    inputs, module = checked(inputs), layer_of(model, layer)
    kept: list[Any] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        kept[:] = [output.detach().clone() if isinstance(output, Tensor) else output]  # the next may write into it

    with in_eval_mode(model), hooked([module], keep):
        model(inputs.clone())
    return grid_of(last(kept, layer), inputs, layer).float()


def tokens_to_grid(tokens: Tensor) -> Tensor:
    """Tokens of a square, row by row, (B, N, D) or with the class token first (B, 1 + N, D) -> (B, D, side, side).

    Raises:
        ValueError: they are of no square.
    """
    first = _first_place(tokens.shape[1])
    if first is None:
        raise ValueError(f"tokens must be those of a square, with or without a class token: got {tokens.shape[1]}.")
    side = math.isqrt(tokens.shape[1])
    return tokens[:, first:].transpose(1, 2).unflatten(2, (side, side))  # (B, D, side, side)


def _first_place(tokens: int) -> int | None:
    """How many tokens come before those of a square, 0 or 1; None where they are of none."""
    return next((first for first in (0, 1) if math.isqrt(tokens - first) ** 2 == tokens - first > 0), None)


def grid_of(output: Any, inputs: Tensor, layer: str | nn.Module) -> Tensor:
    """What a layer gave of inputs (B, C, H, W), grid or tokens, as (B, C', H', W').

    Raises:
        ValueError: it is neither.
    """
    count = len(inputs)
    if isinstance(output, Tensor) and output.is_floating_point() and output.numel() and output.shape[:1] == (count,):
        if output.dim() == 4:
            return output
        square = inputs.shape[2] == inputs.shape[3]
        if output.dim() == 3 and square and _first_place(output.shape[1]) is not None:
            return tokens_to_grid(output)
    came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(
        f"{_said(layer)} must give floats (B, C, H, W), or of square inputs tokens (B, N, D) of a square, for {count} "
        f"inputs: got {came}. `layers_with_maps` lists the layers that do."
    )


def last(kept: list[Any], layer: str | nn.Module) -> Any:
    """What was kept of a layer's last call."""
    if not kept:
        raise ValueError(f"{_said(layer)} must run, and the model did not call it. `layers_with_maps` lists others.")
    return kept[0]


def _said(layer: str | nn.Module) -> str:
    return f"layer {layer!r}" if isinstance(layer, str) else f"the given {type(layer).__name__}"
