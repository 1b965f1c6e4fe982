"""Class activation maps, the boxes around what they light, and how well those boxes find what is there.

Boxes are [left, top, right, bottom] as shares of the width and height. The cells of a heat map lie over the whole
picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from mm.explain.attribution import upsample
from mm.explain.layers import activations, layer_of
from mm.explain.target import Target, checked, columns_of
from mm.modes import in_eval_mode

THRESHOLD = 0.2  # of the maximum, above which a cell is lit (Zhou et al. 2016, section 3.1)
FOUND = 0.5  # IoU from which a box is found (Russakovsky et al. 2015, section 4.2)
AROUND = np.ones((3, 3), bool)  # cells that touch at a side or a corner are connected
ROUNDING = 1e-4  # of the largest output, by which it may differ from the mean over the places times the weights

Box = tuple[float, float, float, float]


class Found(NamedTuple):
    """How well the boxes of n heat maps find what is there, and how well a box in the middle would.

    Attributes:
        ious: (n,) float64 IoU of each heat map's box with the true box that it fits best; 0 where there is no box.
        share: of the n with an IoU of FOUND or more.
        control: the same share of one box in the middle, whose width and height are the means of the true boxes'.
    """

    ious: np.ndarray
    share: float
    control: float


def cam(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    layer: str | nn.Module,
    head: str | nn.Module,
    norm: str | nn.Module | None = None,
) -> Tensor:
    """What each place of a layer adds to an output: (B, H', W') float32 cells (Zhou et al. 2016, eq. 1 and 2).

    The output must be a linear layer of the mean over the layer's places: then the mean of the map, and the bias,
    give the output. A norm may stand between the two, for each input is divided by a number of its own: the map is in
    units of the output, and the norm's bias through the head joins the head's. It is tried on the inputs, and refused
    where it is not so.

    Args:
        model: see `mm.explain.attribution`.
        inputs: (B, C, H, W).
        target: an int, or int64 (B,).
        layer: whose places are meant: dotted name or module.
        head: the nn.Linear: dotted name or module.
        norm: the nn.LayerNorm before it; None = there is none.

    Raises:
        ValueError: a head or a norm that is none, an output that is not their result of the mean over the places; or
            see `mm.explain.layers.activations`.
    """
    inputs, linear = checked(inputs), layer_of(model, head)
    scaled = None if norm is None else layer_of(model, norm)
    grid = activations(model, inputs, layer)  # (B, C', H', W')
    if not isinstance(linear, nn.Linear) or linear.in_features != grid.shape[1]:
        raise ValueError(
            f"the head must be an nn.Linear of the layer's {grid.shape[1]} channels: got {linear}. Use grad_cam."
        )
    if scaled is not None and not isinstance(scaled, nn.LayerNorm):
        raise ValueError(f"the norm before the head must be an nn.LayerNorm: got {scaled}. Use grad_cam.")
    with in_eval_mode(model):
        output = model(inputs.clone())  # (B, K)
        columns = columns_of(target, output, len(inputs))  # (B,)
        means = grid.mean((2, 3)).to(linear.weight)  # (B, C')
        expected = linear(means if scaled is None else scaled(means))  # (B, K)
        if output.shape != expected.shape:
            raise ValueError(f"the head must give the output, {tuple(output.shape)}: it gives {tuple(expected.shape)}.")
        furthest, largest = float((output - expected).abs().max()), float(expected.abs().max())
        if not furthest <= ROUNDING * largest:
            raise ValueError(
                "a class activation map takes an output that is the head's result of the mean over the layer's places: "
                f"got one that differs by {furthest:.3g}, of {largest:.3g} at most. Give the last layer before the "
                "mean, or use grad_cam."
            )
        weights = linear.weight[columns].float()  # (B, C')
        if scaled is not None:
            weights = weights if scaled.weight is None else weights * scaled.weight  # (B, C')
            spread = (means.var(1, correction=0) + scaled.eps).sqrt()  # (B,)
            weights = (weights - weights.mean(1, keepdim=True)) / spread[:, None]  # (B, C')
        return torch.einsum("bchw,bc->bhw", grid, weights)  # (B, H', W')


# Boxes --------------------------------------------------------------------------------------------------------------


def box_of(heat: np.ndarray | Tensor, threshold: float = THRESHOLD, size: tuple[int, int] | None = None) -> Box | None:
    """The box around the largest part of a heat map above a share of its maximum (Zhou et al. 2016, section 3.1).

    A part is of cells that touch at a side or a corner. Of equally large ones the part with the highest cell counts,
    then the first in reading order.

    Args:
        heat: (H, W).
        threshold: share of the maximum, in 0..1 without 1.
        size: (h, w) px to which the map is enlarged first, bilinearly; None = its cells as they are.

    Returns:
        Left, top, right, bottom, as shares of the width and height; None where nothing is above 0.

    Raises:
        ValueError: a map that is not finite (H, W), or a threshold beyond 0..1.
    """
    values = _map(heat)
    if not 0 <= threshold < 1:
        raise ValueError(f"a threshold must be a share of the maximum, at least 0 and below 1: got {threshold}.")
    if size is not None:
        values = upsample(torch.from_numpy(values)[None], size)[0].numpy()  # (h, w)
    highest = values.max()
    if not highest > 0:
        return None
    parts, _ = ndimage.label(values > threshold * highest, AROUND)  # (h, w)
    boxes = ndimage.find_objects(parts)
    inside = [parts[box] == 1 + number for number, box in enumerate(boxes)]
    best = max(range(len(boxes)), key=lambda n: (inside[n].sum(), values[boxes[n]][inside[n]].max(), -n))
    rows, columns = boxes[best]
    height, width = values.shape
    return columns.start / width, rows.start / height, columns.stop / width, rows.stop / height


def box_scores(
    heats: Sequence[np.ndarray | Tensor] | np.ndarray | Tensor,
    boxes: Sequence[Any] | np.ndarray,
    threshold: float = THRESHOLD,
    size: tuple[int, int] | None = None,
) -> Found:
    """The boxes of heat maps against the true ones, beside a box in the middle that looks at nothing.

    Args:
        heats: n maps (H, W).
        boxes: the true box of each, (4,), or several of them, (m, 4).
        threshold: see `box_of`.
        size: see `box_of`.

    Raises:
        ValueError: not as many boxes as maps, none, boxes that are no shares of the picture, or see `box_of`.
    """
    truth = [_boxes(each) for each in boxes]
    if len(heats) != len(truth) or not truth:
        raise ValueError(f"every heat map must have its true boxes: got {len(heats)} maps and boxes of {len(truth)}.")
    found = [box_of(heat, threshold, size) for heat in heats]
    ious = np.array([0.0 if box is None else _ious(box, true).max() for box, true in zip(found, truth, strict=True)])
    every = np.concatenate(truth)  # (m, 4)
    across, down = (every[:, 2:] - every[:, :2]).mean(axis=0).tolist()
    middle = (0.5 - across / 2, 0.5 - down / 2, 0.5 + across / 2, 0.5 + down / 2)
    control = np.array([_ious(middle, true).max() for true in truth])  # (n,)
    return Found(ious, float((ious >= FOUND).mean()), float((control >= FOUND).mean()))


def peaks_inside(
    heats: Sequence[np.ndarray | Tensor] | np.ndarray | Tensor, places: Sequence[Any] | np.ndarray
) -> np.ndarray:
    """Whether the centre of each map's highest cell lies where it should (the pointing game, Zhang et al. 2016).

    Args:
        heats: n maps (H, W).
        places: of each, a box (4,), several (m, 4), or a mask of any size, (h, w) bool.

    Returns:
        (n,) float64, 1 or 0; of equally high cells the share that lies inside, so that a constant map scores as chance.

    Raises:
        ValueError: not as many places as maps, or none; maps that are not finite (H, W); boxes that are no shares.
    """
    if len(heats) != len(places) or not len(heats):
        raise ValueError(f"every heat map must have its place: got {len(heats)} maps and {len(places)} places.")
    return np.array([_peak_inside(_map(heat), place) for heat, place in zip(heats, places, strict=True)])


def _peak_inside(values: np.ndarray, place: Any) -> float:
    rows, columns = np.nonzero(values == values.max())  # (k,) each
    y, x = (rows + 0.5) / values.shape[0], (columns + 0.5) / values.shape[1]  # (k,) each
    mask = _array(place)
    if mask.dtype == bool:
        if mask.ndim != 2 or not mask.size:
            raise ValueError(f"a mask must be (h, w) bool: got {mask.shape}.")
        return float(mask[(y * mask.shape[0]).astype(int), (x * mask.shape[1]).astype(int)].mean())
    left, top, right, bottom = _boxes(place).T[:, :, None]  # (m, 1) each
    return float(((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(axis=0).mean())


def _ious(box: Box, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with others: (m, 4) -> (m,)."""
    mine = np.array(box)
    common = (
        (np.minimum(mine[2:], others[:, 2:]) - np.maximum(mine[:2], others[:, :2])).clip(min=0).prod(axis=1)
    )  # (m,)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)  # (m,)
    return common / ((mine[2:] - mine[:2]).prod() + areas - common)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _map(heat: Any) -> np.ndarray:
    """A heat map as (H, W) floats.

    Raises:
        ValueError: it is none.
    """
    values = _array(heat)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"a heat map must be finite (H, W): got {values.shape}, or values that are not.")
    return values.astype(np.float64)


def _boxes(boxes: Any) -> np.ndarray:
    """True boxes as (m, 4) float64.

    Raises:
        ValueError: they are no shares of a picture.
    """
    corners = np.atleast_2d(_array(boxes).astype(np.float64))  # (m, 4)
    fit = corners.ndim == 2 and corners.shape[1] == 4 and len(corners) > 0
    if not fit or not ((corners[:, :2] < corners[:, 2:]) & (corners[:, :2] >= 0) & (corners[:, 2:] <= 1)).all():
        raise ValueError(
            "a true box must be left < right, top < bottom in shares 0..1 of the picture: got "
            f"{_array(boxes).tolist()}. Divide pixels by the width and height."
        )
    return corners
