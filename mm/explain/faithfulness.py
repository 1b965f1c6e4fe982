"""Whether a map says what a model looks at: insertion and deletion, infidelity, and the test with random weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from mm.config import ConfigError
from mm.explain.layers import layer_of
from mm.explain.target import Target, checked, scores_of
from mm.modes import in_eval_mode

STEPS, CONTROLS = 32, 3  # points of a curve behind its first; random orders beside it
BLUR_PX, BLUR_DEVIATION_PX = 11, 5.0  # kernel and its deviation (Petsiuk et al. 2018, their code)

# Insertion and deletion ---------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """The target while the pixels of a map come or go, the most important first.

    Attributes:
        shares: (steps + 1,) of the pixels that have come or gone, 0..1.
        scores: (B, steps + 1) float32 target of each input.
        area: (B,) under the curve of each input, by trapezoids.
        control: (B,) mean area of random orders of the pixels.
    """

    shares: Tensor
    scores: Tensor
    area: Tensor
    control: Tensor


def insertion(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    maps: Tensor,
    steps: int = STEPS,
    fill: float | Literal["blur"] = "blur",
    controls: int = CONTROLS,
    seed: int = 0,
) -> Curve:
    """The target as the pixels come, the most important first; a faithful map has a large area (Petsiuk et al. 2018).

    Args:
        model: see `mm.explain.attribution`.
        inputs: (B, C, H, W).
        target: such as the probability of a class, lambda output: output.softmax(1)[:, k].
        maps: (B, H, W), the greater the more important; enlarge cells with `mm.explain.attribution.upsample`. Equal
            pixels come in a random order.
        steps: batches of pixels.
        fill: what stands where no pixel has come: a number in units of the inputs, or the blurred input.
        controls: random orders beside that of the map.
        seed: of the random orders, which are the same for all inputs.

    Raises:
        ValueError: see `mm.explain.attribution.saliency`; maps that are not finite or of another size than the inputs,
            or a number out of its range.
    """
    return _curve(model, inputs, target, maps, steps, fill, controls, seed, comes=True)


def deletion(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    maps: Tensor,
    steps: int = STEPS,
    fill: float | Literal["blur"] = 0.0,
    controls: int = CONTROLS,
    seed: int = 0,
) -> Curve:
    """The target as the pixels go, the most important first; a faithful map has a small area (Petsiuk et al. 2018).

    Args and errors are those of `insertion`; `fill` stands where a pixel has gone, 0 being the mean colour of
    normalised pictures.
    """
    return _curve(model, inputs, target, maps, steps, fill, controls, seed, comes=False)


def _curve(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    maps: Tensor,
    steps: int,
    fill: float | Literal["blur"],
    controls: int,
    seed: int,
    comes: bool,
) -> Curve:
    inputs = checked(inputs)
    count, _, *size = inputs.shape
    pixels = size[0] * size[1]
    if tuple(maps.shape) != (count, *size) or not bool(maps.isfinite().all()):
        raise ValueError(
            f"maps must be finite and of the inputs' size, {(count, *size)}: got {tuple(maps.shape)}, or values that "
            "are not. Enlarge the cells of a layer with mm.explain.attribution.upsample."
        )
    if not 1 <= steps <= pixels or controls < 1:
        raise ValueError(
            f"a curve takes 1..{pixels} steps, one pixel each at least, and a control or more: got {steps}, {controls}."
        )
    if fill != "blur" and (isinstance(fill, str) or not math.isfinite(fill)):
        raise ValueError(f"fill must be a finite number, or 'blur': got {fill!r}.")
    filled = blurred(inputs) if fill == "blur" else torch.full_like(inputs, fill)  # (B, C, H, W)
    before, after = (filled, inputs) if comes else (inputs, filled)
    shares = torch.linspace(0, 1, steps + 1)  # (steps + 1,)
    generator = torch.Generator().manual_seed(seed)

    def followed(values: Tensor) -> Tensor:
        """The target as the pixels change, those of the greatest of (B, H * W) values first: (B, steps + 1)."""
        chance = torch.randperm(pixels, generator=generator).to(values.device)  # (H * W,): the order of equal ones
        order = chance[values[:, chance].argsort(dim=1, descending=True, stable=True)]  # (B, H * W)
        rank = order.argsort(1).view(count, 1, *size)  # (B, 1, H, W)
        points = [scores_of(model, torch.where(rank < n, after, before), target, count) for n in numbers]
        return torch.stack(points, 1).float().cpu()  # (B, steps + 1)

    numbers = (shares * pixels).round().int().tolist()
    with in_eval_mode(model):
        scores = followed(maps.detach().to(inputs.device).flatten(1))  # (B, steps + 1)
        controlled = [followed(inputs.new_zeros(count, pixels)) for _ in range(controls)]
    areas = [torch.trapezoid(points, shares) for points in (scores, *controlled)]  # (B,) each
    return Curve(shares, scores, areas[0], torch.stack(areas[1:]).mean(0))


def blurred(inputs: Tensor) -> Tensor:
    """Inputs without their details, (B, C, H, W) -> the same: a Gaussian of BLUR_PX; edges are continued."""
    reach, channels = BLUR_PX // 2, inputs.shape[1]
    offsets = torch.arange(-reach, reach + 1, device=inputs.device, dtype=inputs.dtype)  # (BLUR_PX,)
    weights = (-0.5 * (offsets / BLUR_DEVIATION_PX).square()).exp()
    kernel = (weights / weights.sum()).expand(channels, 1, 1, -1)  # (C, 1, 1, BLUR_PX)
    x = functional.pad(inputs, (reach, reach, reach, reach), mode="replicate")  # (B, C, H + 10, W + 10)
    x = functional.conv2d(x, kernel, groups=channels)  # (B, C, H + 10, W)
    return functional.conv2d(x, kernel.transpose(2, 3), groups=channels)  # (B, C, H, W)


# Infidelity ---------------------------------------------------------------------------------------------------------


def infidelity(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    maps: Tensor,
    samples: int = 50,
    noise: float = 0.1,
    seed: int = 0,
    any_scale: bool = False,
) -> Tensor:
    """How far a map is from telling what a change of the input does to the target: (B,) (Yeh et al. 2019, eq. 1).

    It is the mean, over Gaussian noise that is taken from the input, of the squared difference between the noise times
    the map and the fall of the target. 0 is best, and is reached by the gradient of a linear model.

    Args:
        model: see `mm.explain.attribution`.
        inputs: (B, C, H, W).
        target: see `mm.explain.attribution`.
        maps: changes of the target per unit of the input, such as a gradient: (B, C, H, W), or (B, H, W) summed over
            the channels, which then all have the same noise.
        samples: of the noise.
        noise: its deviation, in units of the inputs.
        seed: of the noise, which is the same for all inputs.
        any_scale: each map is multiplied by what suits it best, as maps without a unit need it: Grad-CAM, occlusion.

    Raises:
        ValueError: see `mm.explain.attribution.saliency`; maps that are not finite or of another size than the inputs,
            or a number out of its range.
        mm.config.ConfigError: captum is missing.
    """
    try:
        from captum.metrics import infidelity as captum_infidelity
    except ImportError as error:
        raise ConfigError("infidelity needs captum, which is missing. Run: pip install 'mm[explain]'") from error
    inputs = checked(inputs)
    count, channels, *size = inputs.shape
    summed = tuple(maps.shape) == (count, *size)
    if not (summed or maps.shape == inputs.shape) or not bool(maps.isfinite().all()):
        raise ValueError(
            f"maps must be finite and of shape {tuple(inputs.shape)} or {(count, *size)}: got {tuple(maps.shape)}, or "
            "values that are not."
        )
    if samples < 1 or not 0 < noise < math.inf:
        raise ValueError(f"infidelity takes a sample or more and noise above 0: got {samples} and {noise}.")
    maps = maps.detach().to(inputs)
    shares = (maps[:, None] / channels).expand_as(inputs) if summed else maps  # (B, C, H, W)
    generator = torch.Generator().manual_seed(seed)

    def perturbed(x: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.randn(1 if summed else channels, *size, generator=generator).to(x)  # (1 or C, H, W)
        taken = (noise * drawn).expand_as(x)  # (B, C, H, W)
        return taken, x - taken

    with in_eval_mode(model):
        return captum_infidelity(
            lambda x: scores_of(model, x, target, count),
            perturbed,
            inputs,
            shares.contiguous(),
            n_perturb_samples=samples,
            max_examples_per_batch=count,  # one sample at a time, so that a target sees the B inputs in their order
            normalize=any_scale,
        )


# Random weights -----------------------------------------------------------------------------------------------------


class Randomised(NamedTuple):
    """How much of a map is left.

    Attributes:
        layer: whose weights became random, as those of all before it in the list.
        correlation: of the maps with the original ones: Spearman's, of absolute values, the mean over the inputs. That
            of a map that is equal everywhere is 0.
    """

    layer: str
    correlation: float


def randomised(
    model: nn.Module, method: Callable[[nn.Module], Tensor], layers: Sequence[str] | None = None, seed: int = 0
) -> list[Randomised]:
    """What becomes of maps as layer after layer gets random weights (Adebayo et al. 2018, section 3.1, cascading).

    Maps of a method that explains the model lose their likeness to the original ones; those of one that follows the
    input alone, such as an edge detector, keep it. The weights are drawn by each module's own `reset_parameters`, and
    without one from a Gaussian of their own mean and deviation. Afterwards the model is as it was, bit for bit.

    Args:
        model: any.
        method: from the model to maps (B, H, W); called once with the original weights and once after each layer.
        layers: dotted names in the order in which they become random, each with all that is inside; None = every module
            with weights of its own, from the last that the model defines to the first.
        seed: of the weights.

    Raises:
        ValueError: an unknown layer, nothing with weights, or maps that are not finite (B, H, W) of one shape.
    """
    if layers is None:
        modules_of = [(name or type(model).__name__, [module]) for name, module in model.named_modules()]
        parts = [part for part in reversed(modules_of) if _has_weights(part[1][0])]
    else:
        parts = [(name, list(filter(_has_weights, layer_of(model, name).modules()))) for name in layers]
    if not parts or not all(modules for _, modules in parts):
        empty = ", ".join(name for name, modules in parts if not modules)
        raise ValueError(f"layers that become random must have weights: got {empty or 'a model without any'}.")
    kept = [(tensor, tensor.detach().clone()) for tensor in itertools.chain(model.parameters(), model.buffers())]
    original = _magnitudes(method(model), "the original weights")  # (B, H * W)
    # Not the seeds themselves: a model that was built after torch.manual_seed(seed) would get its own weights again.
    seeds = np.random.SeedSequence(seed).generate_state(len(parts)).tolist()
    found = []
    try:
        for (name, modules), own in zip(parts, seeds, strict=True):
            with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
                torch.manual_seed(own)
                for module in modules:
                    _redraw(module)
            maps = _magnitudes(method(model), f"random {name}")  # (B, H * W)
            if maps.shape != original.shape:
                raise ValueError(f"maps must keep their shape: got {maps.shape} after {original.shape}.")
            pairs = zip(original, maps, strict=True)
            found.append(Randomised(name, float(np.mean([_correlation(one, other) for one, other in pairs]))))
    finally:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)
    return found


def _has_weights(module: nn.Module) -> bool:
    """Whether a module itself has what can be drawn anew; the statistics of a normalisation count."""
    return any(True for _ in module.parameters(recurse=False)) or (
        hasattr(module, "reset_parameters") and any(True for _ in module.buffers(recurse=False))
    )


def _redraw(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)  # of attention
    if reset is not None:
        reset()
        return
    for parameter in module.parameters(recurse=False):
        parameter.copy_(parameter.mean() + parameter.std(correction=0) * torch.randn_like(parameter))


def _magnitudes(maps: Tensor, of: str) -> np.ndarray:
    """Absolute values of maps (B, H, W), as (B, H * W)."""
    if maps.dim() != 3 or not maps.numel() or not bool(maps.isfinite().all()):
        raise ValueError(f"maps must be finite (B, H, W): got {tuple(maps.shape)}, or values that are not, of {of}.")
    return maps.detach().abs().flatten(1).double().cpu().numpy()


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps; 0 where one is equal everywhere."""
    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    return float(spearmanr(first, second).statistic)
