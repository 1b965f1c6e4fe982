"""What a network would see most of: an input that raises a score, climbed from noise by the gradient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mm.explain.target import Target, explaining, gradient_of, scores_of, with_gradient

NOISE = 0.1  # deviation of what the climb starts from; normalised pictures have about 1


class Visualised(NamedTuple):
    """An input that raises a score.

    Attributes:
        image: (1, C, H, W) float32, normalised as the model takes it.
        scores: (steps + 1,) float32, the target before the first step and after each.
    """

    image: Tensor
    scores: Tensor


def visualise(
    model: nn.Module,
    target: Target,
    size: tuple[int, int, int],
    steps: int = 60,
    rate: float = 0.05,
    seed: int = 0,
    decay: float = 0.1,
    variation: float = 1.0,
    jitter: int = 0,
    low: float | Tensor = -math.inf,
    high: float | Tensor = math.inf,
) -> Visualised:
    """Climb from noise to an input that the target scores high (Simonyan et al. 2014, eq. 1), by Adam.

    What rises is the score, less `decay` times the mean square of all values, less `variation` times the mean squared
    difference of neighbours (Mahendran and Vedaldi 2015, section 3, with beta = 2).

    Args:
        model: takes (1, C, H, W), see `mm.explain.attribution`.
        target: of one input; a class's score rather than its probability, which rises by lowering the others.
        size: (C, H, W).
        steps: of Adam.
        rate: of Adam: about what a value moves in a step.
        seed: of the noise and of the jitter.
        decay: 0 = values as large as it likes.
        variation: 0 = neighbours as different as it likes.
        jitter: before each step the image is moved around by up to so many pixels along either axis (Mordvintsev et al.
            2015), so that nothing hangs on one place; 0 = not.
        low: least value, of all channels or (C,) of each, such as that of black.
        high: greatest value, likewise.

    Raises:
        ValueError: a number out of its range, a target that does not fit, a score without a gradient or not finite.
    """
    channels, *sides = size
    if min(size) < 1 or len(sides) != 2 or steps < 1 or not 0 < rate < math.inf:
        raise ValueError(f"a climb takes (C, H, W), a step and a rate above 0: got {size}, {steps} and {rate}.")
    if not (0 <= decay < math.inf and 0 <= variation < math.inf) or not 0 <= jitter < min(sides):
        raise ValueError(
            f"decay and variation must be 0 or more, jitter 0..{min(sides) - 1} px: got {decay}, {variation}, {jitter}."
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    least, most = (_bound(one, channels).to(like) for one in (low, high))  # (C, 1, 1)
    if not bool((least < most).all()):
        raise ValueError(f"low must be less than high in every channel: got {low} and {high}.")
    generator = torch.Generator().manual_seed(seed)
    with explaining(model):
        noise = NOISE * torch.randn(1, *size, generator=generator)  # (1, C, H, W)
        image = noise.to(like).clamp(least, most).requires_grad_()  # (1, C, H, W)
        adam, scores = torch.optim.Adam([image], lr=rate), []
        for _ in range(steps):
            scores.append(scores_of(model, image.detach(), target, 1))
            shifts = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
            score = with_gradient(scores_of(model, image.roll(shifts, (2, 3)), target, 1))  # (1,)
            image.grad = gradient_of(_roughness(image, decay, variation) - score, image)
            adam.step()
            image.data.clamp_(least, most)
        scores.append(scores_of(model, image.detach(), target, 1))
    return Visualised(image.detach().float(), torch.cat(scores).detach().float().cpu())


def _roughness(image: Tensor, decay: float, variation: float) -> Tensor:
    """What an image pays for its values and for the differences of its neighbours."""
    differences = [image.diff(dim=axis).square() for axis in (2, 3) if image.shape[axis] > 1]
    return decay * image.square().mean() + variation * sum((d.mean() for d in differences), image.new_zeros(()))


def _bound(value: float | Tensor, channels: int) -> Tensor:
    """A number, or one for each channel, as (C, 1, 1).

    Raises:
        ValueError: it is neither.
    """
    bound = torch.as_tensor(value, dtype=torch.float32)
    if bound.shape not in ((), (channels,)):
        raise ValueError(f"low and high must be one number, or one for each of {channels} channels: got {value}.")
    return bound.expand(channels)[:, None, None]  # (C, 1, 1)
