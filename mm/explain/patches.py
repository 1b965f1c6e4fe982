"""What excites a unit of a network: the patches of inputs that do so most, and the filters of the first layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mm.explain.attribution import normalise
from mm.explain.fields import BoxPx, Field, receptive_field
from mm.explain.layers import activations, layer_of


class Patch(NamedTuple):
    """The part of an input that excites a unit.

    Attributes:
        item: running number of the input.
        activation: of the unit at its strongest place.
        box_px: (left, top, right, bottom) of what that place sees of the input, the last two exclusive.
        place: (row, column) of the layer's map; of equally strong ones the first.
    """

    item: int
    activation: float
    box_px: BoxPx
    place: tuple[int, int]


def strongest_patches(
    model: nn.Module, batches: Iterable[Tensor], layer: str | nn.Module, unit: int, top: int = 9
) -> list[Patch]:
    """The inputs that excite a unit of a layer most, each with the part that does, the strongest first.

    Each input counts with its strongest place alone, so that one of them does not fill the list. Of equally strong ones
    the earlier come first. Of fewer inputs than `top`, all are told.

    Args:
        model: takes (B, C, H, W).
        batches: (B, C, H, W) each, of any B, H and W; inputs are numbered from 0 on.
        layer: dotted name or module, see `mm.explain.attribution.activations`.
        unit: channel of the layer.
        top: patches, at most.

    Raises:
        ValueError: no inputs, no such layer or unit, activations that are not finite, or fewer patches than 1.
    """
    if top < 1:
        raise ValueError(f"the number of patches must be at least 1: got {top}.")
    fields: dict[torch.Size, Field] = {}
    best: list[Patch] = []
    count = 0
    for inputs in batches:
        maps = activations(model, inputs, layer)  # (B, C', H', W')
        if not 0 <= unit < maps.shape[1]:
            raise ValueError(f"the unit must be one of 0..{maps.shape[1] - 1} of layer {layer!r}: got {unit}.")
        strengths, places = maps[:, unit].flatten(1).cpu().sort(descending=True, stable=True)  # (B, H' * W')
        if not bool(strengths.isfinite().all()):
            raise ValueError(f"activations must be finite: those of inputs {count}..{count + len(inputs) - 1} are not.")
        size = inputs.shape[1:]
        if size not in fields:
            fields[size] = receptive_field(model, (size[0], size[1], size[2]), layer)
        for item, (strength, place) in enumerate(zip(strengths[:, 0].tolist(), places[:, 0].tolist(), strict=True)):
            row, column = divmod(place, maps.shape[3])
            box = fields[size].box(row, column)
            left, above, right, below = (min(max(edge, 0), size[2 - k % 2]) for k, edge in enumerate(box))
            best.append(Patch(count + item, strength, (left, above, right, below), (row, column)))
        count += len(inputs)
        best = sorted(best, key=lambda patch: (-patch.activation, patch.item))[:top]
    if not best:
        raise ValueError("the strongest patches are those of one input at least: got none.")
    return best


def filters(model: nn.Module, layer: str | nn.Module | None = None) -> Tensor:
    """The filters of a convolution as pictures, each from 0, its least weight, to 1: (out, 1 or 3, h, w) float32.

    Args:
        model: any.
        layer: dotted name or module; None = the first nn.Conv2d of the model.

    Raises:
        ValueError: no convolution, or its filters take more channels than a picture has.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    conv = layer_of(model, layer) if layer is not None else found[0][1] if found else None
    if not isinstance(conv, nn.Conv2d) or conv.weight.shape[1] not in (1, 3):
        came = "no nn.Conv2d" if conv is None else conv
        near = ", ".join(name for name, one in found if one.weight.shape[1] in (1, 3)) or "none of this model"
        raise ValueError(f"filters are pictures of an nn.Conv2d over 1 or 3 channels, here {near}: got {came}.")
    weights = conv.weight.detach().float()  # (out, 1 or 3, h, w)
    return normalise(weights.flatten(1)[:, None]).view_as(weights)
