"""What in an input a score came from: maps by gradients, by occlusion, and over the cells of a layer.

A model takes one float tensor `inputs` (B, C, H, W), normalised pictures or spectrograms (B, 1, F, N). What is
explained is a number for each of them, the target: a column of the output (an int, or a tensor of B of them), any
function of the output that gives (B,), or None where the output is (B,) already. A function sees the output of the B
inputs in their order, also where a method runs changed copies of them.

Models are explained in eval mode. They come back as they were: modes, gradients, hooks, random numbers. Parameters may
be frozen. Maps are float32 on the inputs' device, as they come out: no sign is dropped and nothing is scaled, unless a
method says so.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.config import ConfigError
from mm.explain.layers import grid_of, last, layer_of
from mm.explain.rectified import check_rectifiers, rewritten
from mm.explain.target import Target, checked, explaining, gradient_of, hooked, scores_of, with_gradient
from mm.naming import known

MODES = ("nearest", "bilinear", "bicubic")  # in which cells become areas

Mode = Literal["nearest", "bilinear", "bicubic"]
Pair = int | tuple[int, int]

# Gradients of the input ---------------------------------------------------------------------------------------------


def saliency(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    """How much a small change of a place changes the score: (B, H, W), 0 or more (Simonyan et al. 2014, section 3).

    It is the largest absolute gradient over the channels.

    Raises:
        ValueError: inputs that are no finite floats (B, C, H, W), a target that does not fit the output, or a score
            without a gradient.
    """
    with explaining(model):
        return strongest(_gradient(model, checked(inputs), target))


def smooth_grad(
    model: nn.Module, inputs: Tensor, target: Target, samples: int = 25, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """Saliency of the mean gradient over noisy copies: (B, H, W), 0 or more (Smilkov et al. 2017, section 3.2).

    Args:
        model: see the head of this file.
        inputs: (B, C, H, W).
        target: see the head of this file.
        samples: copies.
        noise: deviation, as a share of each input's range.
        seed: of the noise; all inputs have the same, so that a map does not depend on the rest of the batch.

    Raises:
        ValueError: see `saliency`; fewer samples than 1, or noise below 0.
    """
    inputs = checked(inputs)
    if samples < 1 or not 0 <= noise < math.inf:
        raise ValueError(f"smooth_grad takes one sample or more and noise of 0 or more: got {samples} and {noise}.")
    generator = torch.Generator().manual_seed(seed)
    with explaining(model):
        deviation = noise * (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3)))[:, None, None, None]  # (B, 1, 1, 1)
        total = torch.zeros_like(inputs)
        for _ in range(samples):
            drawn = torch.randn(inputs.shape[1:], generator=generator).to(inputs)  # (C, H, W)
            total += _gradient(model, inputs + deviation * drawn, target)
        return strongest(total / samples)


def integrated_gradients(
    model: nn.Module, inputs: Tensor, target: Target, baseline: float = 0.0, steps: int = 50
) -> Tensor:
    """What each place adds to the score: (B, H, W), whose sum nears f(x) - f(baseline) (Sundararajan et al. 2017).

    Args:
        model: see the head of this file.
        inputs: (B, C, H, W).
        target: see the head of this file.
        baseline: the value everywhere of the input that shows nothing; 0 is the mean colour of normalised pictures.
        steps: of the Gauss-Legendre rule, B inputs at a time.

    Raises:
        ValueError: see `saliency`; fewer steps than 1, a baseline that is not finite, or captum is missing.
    """
    inputs, methods = checked(inputs), _captum()
    if steps < 1 or not math.isfinite(baseline):
        raise ValueError(f"integrated_gradients takes a step or more and a finite baseline: got {steps}, {baseline}.")

    def scored(x: Tensor) -> Tensor:
        return with_gradient(scores_of(model, x, target, len(inputs)))

    with explaining(model):
        method = methods.IntegratedGradients(scored)
        shares = method.attribute(inputs, baselines=baseline, n_steps=steps, internal_batch_size=len(inputs))
    return shares.detach().sum(1).float()  # (B, H, W)


# Gradients through rewritten ReLUs ----------------------------------------------------------------------------------


def deconvnet(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    """The gradient, where every ReLU passes back what is above 0, whatever it saw: (B, C, H, W).

    Source: Zeiler and Fergus 2014, section 2.1; Springenberg et al. 2015, section 3.4. Without any ReLU it is the plain
    gradient.

    Raises:
        ValueError: see `saliency`; or the network rectifies elsewhere than in its modules nn.ReLU.
    """
    return _rewritten(model, inputs, target, guided=False)


def guided_backprop(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    """The gradient, where every ReLU passes back what is above 0 if what it saw was above 0: (B, C, H, W).

    Source: Springenberg et al. 2015, section 3.4. Without any ReLU it is the plain gradient.

    Raises:
        ValueError: see `deconvnet`.
    """
    return _rewritten(model, inputs, target, guided=True)


def _rewritten(model: nn.Module, inputs: Tensor, target: Target, guided: bool) -> Tensor:
    """The gradient where every ReLU has another way back: (B, C, H, W)."""
    inputs = checked(inputs)
    with explaining(model), rewritten(model, guided):
        x = inputs.clone().requires_grad_()
        scores = with_gradient(scores_of(model, x, target, len(x)))
        check_rectifiers(scores, x)
        return gradient_of(scores, x).float()


def guided_grad_cam(model: nn.Module, inputs: Tensor, target: Target, cells: Tensor) -> Tensor:
    """Guided backpropagation times Grad-CAM above 0, bilinearly enlarged: (B, C, H, W) (Selvaraju et al. 2017).

    Args:
        model: see the head of this file.
        inputs: (B, C, H, W).
        target: see the head of this file.
        cells: (B, H', W') of `grad_cam`.

    Raises:
        ValueError: see `deconvnet`; cells that are not (B, H', W').
    """
    gradient = guided_backprop(model, inputs, target)  # (B, C, H, W)
    if cells.dim() != 3 or len(cells) != len(inputs):
        raise ValueError(f"the cells must be those of grad_cam, ({len(inputs)}, H', W'): got {tuple(cells.shape)}.")
    return gradient * upsample(cells.clamp_min(0), (inputs.shape[2], inputs.shape[3]))[:, None]


# Occlusion ----------------------------------------------------------------------------------------------------------


def occlusion(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    window: Pair,
    stride: Pair,
    fill: float = 0.0,
    at_once: int = 16,
) -> Tensor:
    """By how much the score falls when a window is covered: (B, H, W) (Zeiler and Fergus 2014, section 4.2).

    A place has the mean over all windows that cover it. The windows start at the first row and column; the last ones
    are cut off at the edge.

    Args:
        model: see the head of this file.
        inputs: (B, C, H, W).
        target: see the head of this file.
        window: px of a side, or (h, w).
        stride: px from one window to the next, or (h, w); at most the window.
        fill: value that covers.
        at_once: positions of the window in one batch of the model, each with all B inputs.

    Raises:
        ValueError: see `saliency`; a window beyond the input, a stride that leaves gaps, no position at once, a fill
            that is not finite, or captum is missing.
    """
    inputs, methods = checked(inputs), _captum()
    count, channels, *size = inputs.shape
    window, stride = _pair(window), _pair(stride)
    rows, columns = positions((size[0], size[1]), window, stride)
    if at_once < 1 or not math.isfinite(fill):
        raise ValueError(f"occlusion takes a position at once or more and a finite fill: got {at_once}, {fill}.")
    with explaining(model):
        falls = methods.Occlusion(lambda x: scores_of(model, x, target, count)).attribute(
            inputs,
            (channels, *window),
            strides=(channels, *stride),
            baselines=fill,
            perturbations_per_eval=min(at_once, rows * columns),
        )
    return falls.detach()[:, 0].float()  # (B, H, W): all channels have the same


def positions(size: tuple[int, int], window: Pair, stride: Pair) -> tuple[int, int]:
    """How many windows lie below and beside one another over an input of (H, W) px.

    Raises:
        ValueError: a window beyond the input, or a stride that is none or leaves gaps.
    """
    window, stride = _pair(window), _pair(stride)
    if not all(1 <= least <= side for least, side in zip(window, size, strict=True)):
        raise ValueError(f"a window must lie within the input of {size} px: got {window}. Take a smaller one.")
    if not all(1 <= step <= side for step, side in zip(stride, window, strict=True)):
        raise ValueError(f"a stride must be 1 px up to the window of {window}: got {stride}. Take a smaller one.")
    rows, columns = (1 + -(-(size[side] - window[side]) // stride[side]) for side in (0, 1))
    return rows, columns


def _pair(sides: Pair) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides


# Layers -------------------------------------------------------------------------------------------------------------


def grad_cam(model: nn.Module, inputs: Tensor, target: Target, layer: str | nn.Module) -> Tensor:
    """A layer's channels, each times its mean gradient, summed: (B, H', W') cells (Selvaraju et al. 2017, eq. 1 and 2).

    The ReLU of the paper is left to the caller: `.clamp_min(0)`. The map is 0 everywhere where the target does not
    depend on the places, as at the last block of a transformer of which the class token alone is read: take a layer
    before. Layers and tokens are as in `mm.explain.layers.activations`.

    Args:
        model: see the head of this file.
        inputs: (B, C, H, W).
        target: see the head of this file.
        layer: dotted name or module.

    Raises:
        ValueError: see `saliency` and `mm.explain.layers.activations`.
    """
    inputs, module = checked(inputs), layer_of(model, layer)
    kept: list[Any] = []

    def cut(module: nn.Module, given: Any, output: Any) -> Tensor | None:
        """The gradient stops at the layer; what follows may write into its copy."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kept[:] = [output]
            return None
        kept[:] = [output.detach().requires_grad_()]
        return kept[0].clone()

    with explaining(model), hooked([module], cut):
        scores = scores_of(model, inputs, target, len(inputs))
        output = last(kept, layer)
        grid = grid_of(output, inputs, layer).detach().float()  # (B, C', H', W')
        slopes = grid_of(gradient_of(scores, output), inputs, layer).float().mean((2, 3))  # (B, C')
    return torch.einsum("bchw,bc->bhw", grid, slopes)  # (B, H', W')


# Maps ---------------------------------------------------------------------------------------------------------------


def upsample(maps: Tensor, size: tuple[int, int], mode: Mode = "bilinear") -> Tensor:
    """Cells as areas of a picture (align_corners=False), and no value is scaled: (B, H', W') -> (B, h, w).

    Args:
        maps: (B, H', W').
        size: (h, w) px.
        mode: "nearest", "bilinear" or "bicubic", which may go beyond the values of the cells.

    Raises:
        ValueError: an unknown mode, maps that are not (B, H', W'), or a size below 1 px.
    """
    known(mode, MODES, "mode")
    if maps.dim() != 3 or not maps.numel() or len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"maps must be (B, H, W), drawn at (h, w) of 1 px or more: got {tuple(maps.shape)} at {tuple(size)}."
        )
    if mode == "nearest":
        return functional.interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]  # (B, h, w)
    return functional.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]  # (B, h, w)


def normalise(maps: Tensor) -> Tensor:
    """Each map from 0, its least value, to 1, its greatest; a constant map is 0: (B, H, W) -> (B, H, W).

    Raises:
        ValueError: maps that are not (B, H, W), or not finite.
    """
    if maps.dim() != 3 or not maps.numel() or not bool(maps.isfinite().all()):
        raise ValueError(f"maps must be finite (B, H, W): got {tuple(maps.shape)}, or values that are not.")
    least, greatest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)  # (B, 1, 1)
    return (maps - least) / (greatest - least).clamp_min(torch.finfo(maps.dtype).tiny)  # no eps: maps may be faint


def strongest(gradients: Tensor) -> Tensor:
    """The largest absolute value over the channels: (B, C, H, W) -> (B, H, W)."""
    return gradients.abs().amax(1).float()


# ---------------------------------------------------------------------------------------------------------------------


def _gradient(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    """The gradient of each input's score by its own values: (B, C, H, W)."""
    x = inputs.clone().requires_grad_()
    return gradient_of(scores_of(model, x, target, len(x)), x)


def _captum() -> ModuleType:
    """captum's methods, an extra, imported where they are used."""
    try:
        import captum.attr
    except ImportError as error:
        raise ConfigError(
            "integrated gradients and occlusion need captum, which is not installed. Run: pip install 'mm[explain]'"
        ) from error
    return captum.attr
