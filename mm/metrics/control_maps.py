"""Score maps that see and hear nothing: what any localiser must beat.

On the boxes of VGG-SS, whole image, centre disc and mean prior reach cIoU@0.5 of 21.95, 34.10 and 34.45 per cent by
the official rule, which is where well-known papers stand. The same map for all images is returned as a view.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mm.metrics.boxes import SIDE


def whole_image(n: int, grid: tuple[int, int] = (7, 7)) -> np.ndarray:
    """(n, H, W) constant maps, whose prediction is every pixel.

    Args:
        n: images.
        grid: H, W.
    """
    return np.broadcast_to(np.float32(1), (n, *grid))


def centre_disc(n: int) -> np.ndarray:
    """(n, 224, 224) maps that fall with the distance from pixel (112, 112); their highest half is a disc.

    That is half a pixel from the centre, as drawing by whole pixels has it. Around the very centre the disc scores
    33.95 on VGG-SS: so little moves that number.

    Args:
        n: images.
    """
    offset = np.arange(SIDE) - SIDE // 2  # (side,)
    return np.broadcast_to(-np.hypot(offset[:, None], offset).astype(np.float32), (n, SIDE, SIDE))


def mean_prior(truths: Iterable[np.ndarray], n: int) -> np.ndarray:
    """(n, side, side) the mean of consensus maps, of other images where it is to be a fair control.

    Args:
        truths: maps of one shape, as of `mm.metrics.boxes.consensus_map`; a generator will do.
        n: images.

    Raises:
        ValueError: no map.
    """
    total, count = np.zeros(()), 0
    for truth in truths:
        total, count = total + truth, count + 1
    if not count:
        raise ValueError("a mean prior needs at least one consensus map: got none.")
    return np.broadcast_to((total / count).astype(np.float32), (n, *total.shape))


def random(n: int, grid: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """(n, H, W) maps of independent uniform scores.

    Args:
        n: images.
        grid: H, W.
        generator: of the numbers.
    """
    return generator.random((n, *grid), dtype=np.float32)
