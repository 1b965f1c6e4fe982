"""How many sources a map finds, and whether it knows that nothing in the picture sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mm.metrics.boxes import SIDE, Boxes, pack
from mm.metrics.score_maps import PROTOCOLS, chunks, chunks_of, enlarge, grids_of
from mm.naming import known

NEIGHBOURS = 1.5  # cells: a peak's eight neighbours belong to it
CORRECT = 0.5  # cIoU from which a source counts as found (Mo & Morgado 2022)

Numbers = Sequence[float] | np.ndarray


def peaks(scores: np.ndarray, count: int, apart: float = NEIGHBOURS) -> np.ndarray:
    """The highest separate peaks of a map.

    A peak is a cell that none of its eight neighbours exceeds, and that is not as low as the map goes: a constant map
    has no peak. Going down from the highest, a peak too near to one already taken is left out. Of equal ones the first
    in reading order is taken first.

    Args:
        scores: (H, W) one map.
        count: at most so many.
        apart: cells; peaks whose distance is no larger are one.

    Returns:
        (k, 2) int64 rows and columns, highest first, k <= count.

    Raises:
        ValueError: not one map, a score that is not finite, or count below 1.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"peaks need one map (H, W) of finite scores: got shape {scores.shape}, or NaN or infinity.")
    if count < 1:
        raise ValueError(f"at least one peak must be asked for: got count={count}.")
    height, width = scores.shape
    padded = np.pad(scores, 1, constant_values=scores.min())  # (H + 2, W + 2)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(height, width, 9)  # (H, W, 9)
    candidates = np.argwhere((scores == around.max(-1)) & (scores > scores.min()))  # (m, 2) in reading order
    taken: list[np.ndarray] = []
    for place in candidates[np.argsort(-scores[tuple(candidates.T)], kind="stable")]:
        if all(np.hypot(*(place - other)) > apart for other in taken):
            taken.append(place)
        if len(taken) == count:
            break
    return np.array(taken, dtype=np.int64).reshape(-1, 2)


def found_sources(maps: Any, sources: Sequence[Boxes], apart: float = NEIGHBOURS) -> np.ndarray:
    """Whether the k highest peaks of a map find its k sources, each another one: (n,) float64, 0 or 1.

    A peak finds a source when its cell's centre lies in one of the source's boxes.

    Args:
        maps: (n, H, W) scores; see `mm.metrics.localisation.ious`.
        sources: of each image, a list per source: its boxes.
        apart: cells, as for `peaks`.

    Raises:
        ValueError: as for `mm.metrics.localisation.ious`, or an image without a source.
    """
    if silent := [image for image, boxes in enumerate(sources) if not len(boxes)]:
        raise ValueError(f"each image must have a source: image {silent[0]} has none. Leave silent images out.")
    images = iter(sources)
    return np.array(
        [float(_all_found(scores, next(images), apart)) for grids, _ in chunks(maps, sources) for scores in grids]
    )


def _all_found(scores: np.ndarray, sources: Boxes, apart: float) -> bool:
    places = peaks(scores, len(sources), apart)  # (k, 2)
    if len(places) < len(sources):
        return False
    inside = pack([[boxes] for boxes in sources]).contain_centres(*scores.shape)  # (k, H, W)
    hits = inside[:, places[:, 0], places[:, 1]]  # (k, k) sources, peaks
    finds: dict[int, int] = {}  # {peak: its source}

    def settle(source: int, tried: set[int]) -> bool:
        """Give a source a peak of its own; a peak's earlier source must then settle elsewhere."""
        for peak in np.flatnonzero(hits[source]).tolist():
            if peak not in tried:
                tried.add(peak)
                if peak not in finds or settle(finds[peak], tried):
                    finds[peak] = source
                    return True
        return False

    return all(settle(source, set()) for source in range(len(sources)))


def confidence(maps: Any, protocol: str = "slavc") -> np.ndarray:
    """How sure each map is that something in the picture sounds: (n,) the mean of its highest quarter of pixels.

    That of SLAVC (Mo & Morgado 2022), which first scales scores by bounds of the model; no ranking depends on it.

    Args:
        maps: as for `mm.metrics.localisation.ious`.
        protocol: of `PROTOCOLS`; it says how the map is enlarged.

    Raises:
        ValueError: as for `mm.metrics.localisation.ious`.
    """
    how = PROTOCOLS[known(protocol, PROTOCOLS, "protocol")]
    quarter = SIDE**2 // 4
    fine = (enlarge(grids, how).reshape(len(grids), -1) for grids in chunks_of(grids_of(maps)))  # (b, P) each
    return np.concatenate([np.partition(each, -quarter)[:, -quarter:].mean(1) for each in fine])  # (n,)


def detection(ious: Numbers, confidences: Numbers, negatives: Numbers) -> dict[str, float]:
    """Whether a confidence tells sounding pictures from silent ones and from sounds that are not in the picture.

    A positive is right when its confidence reaches the threshold and its cIoU is at least 0.5; one that reaches it at
    the wrong place is a false alarm, as is a negative.

    AP and max_F1 are SLAVC's (Mo & Morgado 2022; EvaluatorFull in utils.py at 05b429c), with what is its own: recall is
    right / (right + positives below the threshold), so positives at the wrong place are forgotten; precision is 1 where
    nothing reaches the threshold; AP looks at some 200 thresholds from the second highest confidence down, starts at
    the recall of the first one, and takes for each step the best precision from there on; max_F1 looks at some ten.

    AP_strict has recall = right / all positives, all thresholds, and the precision at each.

    Args:
        ious: (p,) cIoU of the positives.
        confidences: (p,) of the positives; see `confidence`.
        negatives: (q,) confidences of the negatives.

    Returns:
        {name: number}: AP, max_F1, AP_strict and AUROC.

    Raises:
        ValueError: numbers that do not agree, none, or one that is not finite.
    """
    ious, positives, negatives = np.asarray(ious), np.asarray(confidences), np.asarray(negatives)
    if ious.shape != positives.shape:
        raise ValueError(f"each positive must have a cIoU and a confidence: got {ious.shape} and {positives.shape}.")
    separated = auroc(positives, negatives)
    right = ious >= CORRECT
    correct, alarms = np.sort(positives[right]), np.sort(np.concatenate([positives[~right], negatives]))
    everything = np.sort(np.concatenate([positives, negatives]))
    positives = np.sort(positives)

    def at(thresholds: np.ndarray) -> tuple[np.ndarray, ...]:
        """Precision, SLAVC's recall and the right ones at each threshold."""
        found = len(correct) - np.searchsorted(correct, thresholds)  # (t,)
        false = len(alarms) - np.searchsorted(alarms, thresholds)  # (t,)
        missed = np.searchsorted(positives, thresholds)  # (t,)
        precision = np.where(found + false > 0, found / np.maximum(found + false, 1), 1)
        recall = np.where(found + missed > 0, found / np.maximum(found + missed, 1), 1)
        return precision, recall, found

    precision, recall, _ = at(everything[:-1][:: -max(1, len(everything) // 200)])
    best = np.maximum.accumulate(precision[::-1])[::-1]  # (t,)
    ap = float((best[:-1] * np.diff(recall)).sum())
    precision, recall, _ = at(everything[:: max(1, len(everything) // 10)])
    f1 = 2 * recall * precision / np.where(recall + precision > 0, recall + precision, 1)  # (t,)
    precision, _, found = at(np.unique(everything)[::-1])
    strict = float((precision * np.diff(found, prepend=0)).sum()) / len(positives)
    return {"AP": ap, "max_F1": float(f1.max()), "AP_strict": strict, "AUROC": separated}


def auroc(positives: Numbers, negatives: Numbers) -> float:
    """The probability that a positive scores higher than a negative; equal scores count half.

    Args:
        positives: (p,) scores.
        negatives: (q,) scores.

    Raises:
        ValueError: none of either, or one that is not finite.
    """
    positives, negatives = np.asarray(positives), np.sort(negatives)
    for name, scores in (("positives", positives), ("negatives", negatives)):
        if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
            raise ValueError(f"{name} must be finite scores (n,), at least one: got {scores}.")
    lower = np.searchsorted(negatives, positives, "left")  # (p,) negatives below each
    upper = np.searchsorted(negatives, positives, "right")  # (p,)
    return float((lower + upper).mean() / 2 / len(negatives))
