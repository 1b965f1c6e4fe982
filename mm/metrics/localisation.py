"""How well score maps find what sounds, by the three published protocols, and what their rules allow at best.

A model scores the cells of a coarse grid. The map is enlarged to 224 x 224, scaled to 0..1, cut at a threshold, and
what lies above is compared with the consensus map g of `mm.metrics.boxes`:

    cIoU = sum of g over the prediction / (sum of g + predicted pixels where g is 0)        (Senocak et al. 2018)

cIoU@0.5 is the share of images with cIoU >= 0.5, AUC the area under that share over the thresholds 0, 0.05 .. 1.

- The published threshold is the median of the map: half of the pixels, however large the object. So a perfect map
  cannot pass some 50 % on VGG-SS (`upper_bound`), and every result belongs beside the maps of
  `mm.metrics.control_maps`.
- A map that is the same everywhere says nothing of the place: its prediction is every pixel, by every protocol and
  rule, and `evaluate` logs how many there are. EZ-VSL and SLAVC predict so too; LVS predicts every pixel where the
  constant is >= 0 and none where it is negative, an accident of its arithmetic. Here "the same" is judged on the given
  grid, for enlarging can leave a ripple of rounding, which would be scaled up to 0..1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mm.metrics.boxes import SIZES, Boxes, Drawn, empty_truths, size_names
from mm.metrics.score_maps import PROTOCOLS, Protocol, chunks, constant_maps, enlarge
from mm.naming import known

TOLERANCE = 15  # px around a peak within which the pointing game looks for the object (Zhang et al. 2018)
THRESHOLDS = 0.05 * np.arange(21)  # of the success curve

RULES = {
    "half": "the higher half of the pixels: the published rule",
    "fixed": "pixels that reach a value of the map scaled to 0..1",
    # The adaptive cIoU of Senocak et al. 2024 (arXiv 2407.13676; kaistmm/SSLalignment, test.py at e7ae3c5).
    "per_image": "as many pixels as the truth has; half of all where it has none",
}

log = logging.getLogger(__name__)


def ciou(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """cIoU of predictions: (...,) float64, 0 where nothing is true and nothing predicted.

    Args:
        mask: (..., H, W) bool, True = predicted.
        truth: (..., H, W) consensus map, 0..1.

    Raises:
        ValueError: shapes differ.
    """
    if mask.shape != truth.shape:
        raise ValueError(f"mask and truth must have one shape: got {mask.shape} and {truth.shape}.")
    found = np.where(mask, truth, 0).sum((-2, -1), dtype=np.float64)  # (...,)
    union = truth.sum((-2, -1), dtype=np.float64) + np.count_nonzero(mask & (truth == 0), (-2, -1))  # (...,)
    return found / np.where(union > 0, union, 1)


def ious(
    maps: Any, boxes: Sequence[Boxes], protocol: str = "hard_way", rule: str = "half", threshold: float = 0.5
) -> np.ndarray:
    """cIoU of each image: (n,) float64.

    Args:
        maps: (n, H, W) scores on a coarse grid, larger = more likely: an array, a tensor or a sequence of grids.
        boxes: of each image, a list per annotator; see `mm.metrics.boxes`.
        protocol: of `PROTOCOLS`.
        rule: of `RULES`.
        threshold: for the rule "fixed", in 0..1; the others have none.

    Raises:
        ValueError: no image, shapes or numbers that do not agree, a score that is not finite, a box that is not four
            finite numbers, an unknown protocol or rule, a threshold outside 0..1.
    """
    how = _checked(protocol, rule, threshold)
    return np.concatenate(
        [
            ciou(_predicted(enlarge(grids, how), constant_maps(grids), truths, how, rule, threshold), truths)
            for grids, drawn in chunks(maps, boxes)
            for truths in [drawn.consensus()]
        ]
    )


def success(ious: np.ndarray, threshold: float = 0.5) -> float:
    """The share of images whose cIoU is at least the threshold: cIoU@0.5, as all three evaluators count it.

    Args:
        ious: (n,) cIoU of each image.
        threshold: in 0..1.

    Raises:
        ValueError: no image.
    """
    return float((_some(ious) >= threshold).mean())


def success_curve(ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds 0, 0.05 .. 1 and the share of images whose cIoU reaches each: (21,), (21,).

    Args:
        ious: (n,) cIoU of each image.

    Raises:
        ValueError: no image.
    """
    return THRESHOLDS, (_some(ious)[:, None] >= THRESHOLDS).mean(0)  # (21,)


def auc(ious: np.ndarray) -> float:
    """Area under `success_curve`, by trapezia.

    Args:
        ious: (n,) cIoU of each image.

    Raises:
        ValueError: no image.
    """
    thresholds, shares = success_curve(ious)
    return float(np.trapezoid(shares, thresholds))


def upper_bound(truths: np.ndarray, rule: str = "half") -> np.ndarray:
    """The best cIoU that a rule allows for each truth: (n,) float64.

    By "half", exactly half of the pixels are predicted, the truth first. The other rules allow a perfect prediction:
    1, and 0 where nothing is true. A map in which many pixels equal the median escapes the first bound by `hard_way`.

    Args:
        truths: (n, H, W) consensus maps.
        rule: of `RULES`.

    Raises:
        ValueError: an unknown rule.
    """
    flat = np.asarray(truths).reshape(len(truths), -1)  # (n, P)
    true = np.count_nonzero(flat, 1)  # (n,)
    if known(rule, RULES, "rule") != "half":
        return (true > 0).astype(np.float64)
    half = flat.shape[1] // 2
    total = flat.sum(1, dtype=np.float64)  # (n,)
    found = total.copy()
    for row in np.flatnonzero(true > half):
        found[row] = np.partition(flat[row], -half)[-half:].sum(dtype=np.float64)
    return found / (total + np.maximum(half - true, 0))  # (n,)


def top1(maps: Any, boxes: Sequence[Boxes]) -> np.ndarray:
    """Whether the centre of the highest cell lies in a box of any annotator: (n,) float64.

    Cells that share the highest score share the place: the value is the share of them that are right.

    Args:
        maps: as for `ious`.
        boxes: as for `ious`.

    Raises:
        ValueError: as for `ious`.
    """
    return np.concatenate([_top1(grids, drawn) for grids, drawn in chunks(maps, boxes)])


def pointing_game(maps: Any, boxes: Sequence[Boxes], protocol: str = "hard_way") -> np.ndarray:
    """Whether a true pixel lies less than 15 pixels from the peak of the enlarged map: (n,) float64.

    Zhang et al. 2018, with the inequality of its published code (facebookresearch/TorchRay); they play it at the
    picture's own size. Pixels that share the peak share the place, as in `top1`.

    Args:
        maps: as for `ious`.
        boxes: as for `ious`.
        protocol: of `PROTOCOLS`; it says how the map is enlarged.

    Raises:
        ValueError: as for `ious`.
    """
    how = PROTOCOLS[known(protocol, PROTOCOLS, "protocol")]
    parts = chunks(maps, boxes)
    return np.concatenate([_pointing(enlarge(grids, how), constant_maps(grids), drawn) for grids, drawn in parts])


def evaluate(
    maps: Any, boxes: Sequence[Boxes], protocol: str = "hard_way", rule: str = "half", threshold: float = 0.5
) -> dict[str, float]:
    """All metrics of positive pairs, as shares in 0..1.

    Args:
        maps: as for `ious`.
        boxes: as for `ious`.
        protocol: as for `ious`.
        rule: as for `ious`.
        threshold: as for `ious`.

    Returns:
        {name: share}: cIoU@0.5, AUC, top1, pointing; upper_bound@0.5 and upper_bound_AUC, the same of the best maps
        that the rule allows; cIoU@0.5/small, /medium, /large, /huge where such objects occur. An image without a true
        pixel counts as missed; their number and the first of them are logged.

    Raises:
        ValueError: as for `ious`.
    """
    how = _checked(protocol, rule, threshold)
    parts = []
    for grids, drawn in chunks(maps, boxes):
        fine, constant, truths = enlarge(grids, how), constant_maps(grids), drawn.consensus()
        found = ciou(_predicted(fine, constant, truths, how, rule, threshold), truths)
        areas = truths.sum((1, 2), dtype=np.float64)  # (b,)
        pointing = _pointing(fine, constant, drawn)
        parts.append([found, upper_bound(truths, rule), _top1(grids, drawn), pointing, areas, constant])
    found, best, top, pointing, areas, constant = map(np.concatenate, zip(*parts, strict=True))  # (n,) each
    if constant.any():
        log.warning("%d of %d maps are constant: their prediction is every pixel", constant.sum(), len(constant))
    if len(empty := empty_truths(boxes)):
        first = ", ".join(map(str, empty[:5]))
        log.warning("%d of %d images have no true pixel and count as missed: images %s", len(empty), len(boxes), first)
    sizes = size_names(areas)
    return {
        "cIoU@0.5": success(found),
        "AUC": auc(found),
        "top1": float(top.mean()),
        "pointing": float(pointing.mean()),
        "upper_bound@0.5": success(best),
        "upper_bound_AUC": auc(best),
        **{f"cIoU@0.5/{size}": success(found[sizes == size]) for size in SIZES if size in sizes},
    }


def _some(ious: np.ndarray) -> np.ndarray:
    if not len(ious):
        raise ValueError("at least one image is needed: got no cIoU.")
    return np.asarray(ious)


def _checked(protocol: str, rule: str, threshold: float) -> Protocol:
    known(rule, RULES, "rule")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in 0..1, as the scaled map does: got {threshold}.")
    return PROTOCOLS[known(protocol, PROTOCOLS, "protocol")]


def _predicted(
    fine: np.ndarray, constant: np.ndarray, truths: np.ndarray, how: Protocol, rule: str, threshold: float
) -> np.ndarray:
    """(b, 224, 224) bool prediction of enlarged maps."""
    low, peak = fine.min((1, 2), keepdims=True), fine.max((1, 2), keepdims=True)  # (b, 1, 1) each
    constant = constant | (low == peak)[:, 0, 0]  # (b,)
    spread = np.where(low < peak, peak - low, 1)  # (b, 1, 1)
    scaled = 1 - (peak - fine) / spread if how.from_peak else (fine - low) / spread  # (b, 224, 224)
    if rule == "fixed":
        mask = scaled >= threshold
    else:
        flat = scaled.reshape(len(scaled), -1)  # (b, P)
        pixels = flat.shape[1]
        count = np.full(len(flat), pixels // 2)  # (b,) to predict
        if rule == "per_image":
            true = np.count_nonzero(truths, (1, 2))  # (b,)
            count = np.where(true > 0, true, count)
        places = pixels - count  # (b,) of the threshold among the sorted scores, from 0
        cuts = [np.partition(row, place)[place] for row, place in zip(flat, places, strict=True)]
        cut = np.array(cuts)[:, None, None]  # (b, 1, 1)
        mask = (scaled > cut) | (scaled == 1) if how.above else scaled >= cut
    mask[constant] = True
    return mask


def _top1(grids: np.ndarray, drawn: Drawn) -> np.ndarray:
    highest = grids == grids.max((1, 2), keepdims=True)  # (b, H, W)
    return _share(highest, drawn.contain_centres(*grids.shape[1:]))


def _pointing(fine: np.ndarray, constant: np.ndarray, drawn: Drawn) -> np.ndarray:
    highest = (fine == fine.max((1, 2), keepdims=True)) | constant[:, None, None]  # (b, 224, 224)
    return _share(highest, drawn.near(TOLERANCE))


def _share(highest: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(b,) share of the highest places that are right."""
    return np.count_nonzero(highest & right, (1, 2)) / np.count_nonzero(highest, (1, 2))
