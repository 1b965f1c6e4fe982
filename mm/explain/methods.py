"""Methods by name: from a network and what it sees to a heat map, and to the pictures that show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mm.explain import attribution as by
from mm.explain.attribution import Target, strongest
from mm.explain.cam import THRESHOLD, box_of, cam
from mm.explain.fields import receptive_field
from mm.explain.layers import activations, layers_with_maps
from mm.explain.patches import filters
from mm.explain.pictures import Cell, as_pixels, coloured, heated, stretched
from mm.explain.visualise import visualise
from mm.naming import known

Method = Callable[[nn.Module, Tensor, Target, str], Tensor]

WINDOWS, OVERLAP = 6, 3  # occlusion covers a sixth of each side, and moves on by a third of that
MOST_CHANNELS = 23  # of a layer that are drawn beside the picture


def occluded(net: nn.Module, seen: Tensor, target: Target, layer: str) -> Tensor:
    """`occlusion` by a window that is a sixth as high and as wide as the input: (B, H, W)."""
    rows, columns = (max(side // WINDOWS, 1) for side in seen.shape[2:])
    strides = (max(rows // OVERLAP, 1), max(columns // OVERLAP, 1))
    return by.occlusion(net, seen, target, (rows, columns), strides)


def looked(net: nn.Module, seen: Tensor, target: Target, layer: str) -> Tensor:
    """`grad_cam` with each cell where it looks: (B, H', W')."""
    return centred(by.grad_cam(net, seen, target, layer), net, seen, layer)


GRADIENTS: dict[str, Method] = {  # (B, C, H, W): they have colours
    "deconvnet": lambda net, seen, target, layer: by.deconvnet(net, seen, target),
    "guided_backprop": lambda net, seen, target, layer: by.guided_backprop(net, seen, target),
    "guided_grad_cam": lambda net, seen, target, layer: by.guided_grad_cam(
        net, seen, target, looked(net, seen, target, layer)
    ),
}
HEAT: dict[str, Method] = {  # (B, H, W), of the input's size or of the cells of a layer
    "occlusion": occluded,
    "saliency": lambda net, seen, target, layer: by.saliency(net, seen, target),
    "smooth_grad": lambda net, seen, target, layer: by.smooth_grad(net, seen, target),
    "integrated_gradients": lambda net, seen, target, layer: by.integrated_gradients(net, seen, target),
    "grad_cam": looked,
    **{name: lambda *given, method=method: strongest(method(*given)) for name, method in GRADIENTS.items()},
}
OTHERS = ("activations", "filters", "visualise")  # what a network is like, rather than where it looked
METHODS = (*HEAT, "cam", *OTHERS)
LAYERED = ("grad_cam", "guided_grad_cam", "cam", "activations")  # take a layer with a map
PIXELS = tuple(method for method in HEAT if method not in LAYERED)  # of any input
METHOD = "integrated_gradients"  # unless another is chosen: it works for every network and finds the object most times


class Explained(NamedTuple):
    """What a method gives of one input.

    Attributes:
        heat: (H, W) float32 on the CPU, of the input's size or of cells; None of a method that has none.
        cells: pictures of it, the input first.
    """

    heat: Tensor | None
    cells: list[Cell]


def explain(
    method: str,
    net: nn.Module,
    seen: Tensor,
    target: Target,
    shown: np.ndarray,
    layer: str = "",
    head: Sequence[str] = (),
    flipped: bool = False,
) -> Explained:
    """Explain one input.

    Args:
        method: one of `METHODS`.
        net: see `mm.explain.attribution`.
        seen: (1, C, H, W).
        target: see `mm.explain.attribution`.
        shown: (h, w, 3) uint8, the input as people see it.
        layer: see `layer_for`; of filters a convolution, "" = the first.
        head: of cam, see `heat_of`.
        flipped: `shown` has the first row of `seen` at the bottom: a spectrogram.

    Raises:
        ValueError: an unknown method, or see the method.
    """
    known(method, METHODS, "method")
    own = Cell("input", shown)
    if method == "filters":
        kernels = filters(net, layer or None)  # (K, 1 or 3, h, w)
        return Explained(None, [Cell(f"filter {k}", as_pixels(up(one, flipped))) for k, one in enumerate(kernels)])
    if method == "visualise":
        found = visualise(net, target, (seen.shape[1], seen.shape[2], seen.shape[3]))
        title = f"score {found.scores[0]:.3g} to {found.scores[-1]:.3g}"
        return Explained(None, [own, Cell(title, stretched(up(found.image[0], flipped)))])
    layer = layer_for(method, net, seen, layer)
    if method == "activations":
        maps = up(centred(activations(net, seen, layer)[0], net, seen, layer), flipped)  # (C', H', W')
        order = maps.mean(dim=(1, 2)).argsort(descending=True)[:MOST_CHANNELS].tolist()
        return Explained(None, [own, *(heated(shown, maps[k], f"channel {k}") for k in order)])
    if method in GRADIENTS:
        gradient = up(GRADIENTS[method](net, seen, target, layer)[0], flipped)  # (C, H, W)
        heat = strongest(gradient[None])[0]  # (H, W)
        cells = [heated(shown, heat, "its strength")]
        if len(gradient) in (1, 3):  # else its channels are no colours
            cells.insert(0, coloured(gradient, method))
        return Explained(up(heat, flipped), [own, *cells])
    heat = heat_of(method, net, seen, target, layer, head)[0].cpu()  # (H, W)
    return Explained(heat, [own, heated(shown, up(heat, flipped), method)])


def heat_of(method: str, net: nn.Module, seen: Tensor, target: Target, layer: str, head: Sequence[str] = ()) -> Tensor:
    """The heat map of a method: (B, H, W), of the input's size or of the cells of the layer.

    Args:
        method: one of `HEAT`, or "cam".
        net: see `mm.explain.attribution`.
        seen: (B, C, H, W).
        target: see `mm.explain.attribution`.
        layer: dotted name.
        head: of cam: dotted names of the linear layer over the mean of the layer's places, and of the norm between them
            if there is one.

    Raises:
        ValueError: an unknown method, cam without a head; or see the method.
    """
    known(method, (*HEAT, "cam"), "method with a heat map")
    if method != "cam":
        return HEAT[method](net, seen, target, layer)
    if not head or not isinstance(target, int):
        raise ValueError(
            "cam takes an output that one linear layer gives from the mean over the places: here there is more between "
            "them. Use grad_cam."
        )
    return centred(cam(net, seen, target, layer, *head), net, seen, layer)


def boxed(
    explained: Explained, size: tuple[int, int], flipped: bool = False, threshold: float = THRESHOLD
) -> Explained:
    """The same with the box of the heat, enlarged to a size, in every picture of it (Zhou et al. 2016, section 3.2)."""
    if explained.heat is None or (box := box_of(explained.heat, threshold, size)) is None:
        return explained
    left, top, right, bottom = box
    shown = (left, 1 - bottom, right, 1 - top) if flipped else box
    return explained._replace(cells=[cell._replace(boxes=[shown]) for cell in explained.cells])


def layer_for(method: str, net: nn.Module, seen: Tensor, layer: str = "", within: str = "") -> str:
    """The layer that a method is to take: the one that is asked for, or else `last_layer`; "" = it takes none.

    Raises:
        ValueError: a layer is asked for, and the method takes none; or see `last_layer`.
    """
    if method in LAYERED:
        return layer or last_layer(net, seen, within)
    if layer:
        raise ValueError(f"a layer is for {', '.join(LAYERED)} and filters: got {layer!r} with {method}. Leave it out.")
    return ""


def last_layer(net: nn.Module, seen: Tensor, within: str = "") -> str:
    """The name of the last layer with a map of several cells, of those whose names begin so.

    Raises:
        ValueError: there is none.
    """
    maps = layers_with_maps(net, seen).items()
    names = [name for name, (_, rows, columns) in maps if rows * columns > 1 and name.startswith(within)]
    if not names:
        raise ValueError("this network has no layer with a map of several cells: take a method without a layer.")
    return names[-1]


def centred(maps: Tensor, net: nn.Module, seen: Tensor, layer: str) -> Tensor:
    """Maps (..., H', W') of a layer, moved so that each cell lies where it looks; what lies at the edges goes on.

    Drawn over the whole input, a cell lies elsewhere than what it sees: a convolution of stride s that is padded alike
    on both sides looks at the first of the s pixels of its cell, and cells at the end may reach beyond the input.
    """
    field = receptive_field(net, (seen.shape[1], seen.shape[2], seen.shape[3]), layer)
    for axis in (-2, -1):
        cells, pixels, stride = maps.shape[axis], seen.shape[axis], field.stride[axis]
        if not stride:  # every cell sees everything
            continue
        first = field.start[axis] + (field.size[axis] - 1) / 2  # px, the middle of what the first cell sees
        middles = (torch.arange(cells, device=maps.device) + 0.5) * pixels / cells - 0.5  # (cells,) px, as drawn
        at = ((middles - first) / stride).clamp(0, cells - 1)  # (cells,)
        before = at.floor().long()  # (cells,)
        share = (at - before).view(-1, *[1] * (-1 - axis))  # (cells, 1) or (cells,)
        after = (before + 1).clamp_max(cells - 1)
        maps = torch.lerp(maps.index_select(axis, before), maps.index_select(axis, after), share)
    return maps


def up(maps: Tensor, flipped: bool) -> Tensor:
    """Maps (..., H, W) with the row first that is shown at the top, on the CPU."""
    return (maps.flip(-2) if flipped else maps).cpu()
