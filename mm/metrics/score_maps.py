"""Score maps of models, read some at a time and enlarged as each published evaluator does it.

Maps are taken as float32, as models give them: (n, H, W) on a coarse grid, larger = more likely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from mm.metrics.boxes import SIDE, Boxes, Drawn, pack

CHUNK = 32  # images worked on at a time: under 100 MB at 224 x 224, however many there are


class Protocol(NamedTuple):
    """What differs between the published evaluators.

    Attributes:
        mode: of interpolation, from the grid to 224 x 224.
        align_corners: whether the centres of the corner cells lie on the corner pixels; else cells have a width.
        above: a pixel must lie above the threshold, or at the peak; else at the threshold will do. So half of the
            pixels are 25,087 or 25,088 where no two are equal, and everything or little where many equal the median.
        from_peak: scaled as 1 - (peak - score) / range, not (score - least) / range, which rounds otherwise.
    """

    mode: str
    align_corners: bool
    above: bool
    from_peak: bool


PROTOCOLS = {
    # LVS (Chen et al. 2021), test.py at 8fe8cbb. cv2.resize there, equal but for the last digits of float32.
    "hard_way": Protocol("bilinear", align_corners=False, above=True, from_peak=True),
    # EZ-VSL (Mo & Morgado 2022, "Localizing Visual Sounds the Easy Way"), test.py at 95ff5bf.
    "ez_vsl": Protocol("bilinear", align_corners=True, above=False, from_peak=False),
    # SLAVC (Mo & Morgado 2022, "A Closer Look ..."), test.py at 05b429c with --relative_prediction.
    "slavc": Protocol("bicubic", align_corners=True, above=False, from_peak=False),
}


def _array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def grids_of(maps: Any) -> np.ndarray:
    """(n, H, W) of whatever was given."""
    if not isinstance(maps, torch.Tensor | np.ndarray):
        if len(shapes := {tuple(np.shape(each)) for each in maps}) > 1:
            raise ValueError(f"maps must be grids of one shape: got {sorted(shapes)}.")
        maps = [_array(each) for each in maps]
    maps = _array(maps)
    if maps.ndim and not len(maps):
        raise ValueError("at least one image is needed: got no map.")
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"maps must be (n, H, W), a grid of scores per image: got {maps.shape}.")
    return maps


def chunks_of(maps: np.ndarray) -> Iterator[np.ndarray]:
    """(b, H, W) float32 at a time."""
    for first in range(0, len(maps), CHUNK):
        with np.errstate(over="ignore", invalid="ignore"):  # said below, with the number of the map
            grids = np.array(maps[first : first + CHUNK], dtype=np.float32)  # (b, H, W)
            finite = np.isfinite(np.ptp(grids, (1, 2)))  # (b,) a map with NaN or infinity has no finite range
        if not finite.all():
            raise ValueError(
                f"scores must be finite, and so must their range in float32: those of map {first + finite.argmin()} "
                "are not. Look for NaN in the model's output."
            )
        yield grids


def chunks(maps: Any, boxes: Sequence[Boxes]) -> Iterator[tuple[np.ndarray, Drawn]]:
    """(b, H, W) float32 maps and their boxes at a time."""
    maps = grids_of(maps)
    if len(maps) != len(boxes):
        raise ValueError(f"every map must have its boxes: got {len(maps)} maps and the boxes of {len(boxes)} images.")
    drawn, first = pack(boxes), 0
    for grids in chunks_of(maps):
        yield grids, drawn.part(first, first + len(grids))
        first += len(grids)


def enlarge(grids: np.ndarray, how: Protocol) -> np.ndarray:
    """(b, 224, 224) float32."""
    planes = torch.from_numpy(grids)[:, None]  # (b, 1, H, W)
    fine = functional.interpolate(planes, (SIDE, SIDE), mode=how.mode, align_corners=how.align_corners)
    return fine[:, 0].numpy()  # (b, 224, 224)


def constant_maps(grids: np.ndarray) -> np.ndarray:
    """(b,) bool: maps that are the same everywhere."""
    return np.ptp(grids, (1, 2)) == 0
