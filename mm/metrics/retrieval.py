"""Retrieval metrics: where the items that belong to a query come in a ranking of all items of another modality.

Conventions, for every number here:

- A query's matches are the items with its owner; any number of them. Its rank is that of its best match, from 1.
- Equal scores share their places: every number is its expectation under a random order of equals. Constant vectors
  score exactly chance, a duplicated item half. So a rank may be a fraction.
- R@k is the share of queries with a match among the first k. MeanR is the mean of the ranks, MedR their median rounded
  down, as Faghri et al. 2018 count it. mAP@10 is the mean over queries of the sum of the precisions at the places of
  the matches among the first 10, divided by the matches there could be: min(matches, 10).
- Over random subsets (Salvador et al. 2017) MedR is the mean of their medians, which are not rounded.
- Shares lie in 0..1. rsum is the sum of all R@1, R@5 and R@10; the field prints it times 100.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mm.metrics.ranking import DEPTH, Ranks, checked, owner_codes, rank, ranks

__all__ = ["Ranks", "chance", "evaluate", "ranks"]

RECALLS = (1, 5, 10)
SUBSETS = 10  # that are drawn (im2recipe-Pytorch, scripts/rank.py)

Owners = Mapping[str, Sequence | np.ndarray]
Rows = dict[str, np.ndarray]  # {modality: positions}

log = logging.getLogger(__name__)


def evaluate(
    vectors: Mapping[str, Any],
    owners: Owners,
    folds: int | None = None,
    partial: bool = False,
    subset: int = 0,
) -> dict[str, float]:
    """Metrics of every ordered pair of modalities, as `image_to_text_R@1`, and `rsum` over all of them.

    Args:
        vectors: {modality: (n, D)} unit vectors, arrays or tensors.
        owners: {modality: (n,)} strings or integers; a query's matches are the items of equal owner.
        folds: split the owners, in their order of appearance in the first modality, into so many equal parts, rank
            within each and give the mean of the parts: 5 on the 5,000 test images of COCO is the "1k" protocol.
        partial: leave out queries that have no match in the other modality, and log how many; otherwise an error.
        subset: draw so many owners at random, ten times and always the same, rank within each draw and give the mean of
            the draws: 1,000 is the protocol of Recipe1M. 0 = all.

    Returns:
        {name: number}: R@1, R@5, R@10, MedR, MeanR and mAP@10 of each direction, and rsum.

    Raises:
        ValueError: shapes do not agree, a number is not finite (modality and row are named), a query has no match, or
            folds and subset do not fit the owners or each other.
    """
    arrays, codes = checked(vectors, owners)

    def both_ways(x: str, y: str, rows: Rows) -> tuple[Ranks, Ranks]:
        return rank(arrays[x][rows[x]], arrays[y][rows[y]], codes[x][rows[x]], codes[y][rows[y]])

    return _over_pairs(codes, folds, partial, subset, both_ways)


def chance(owners: Owners, folds: int | None = None, partial: bool = False, subset: int = 0) -> dict[str, float]:
    """What `evaluate` gives on average for vectors that know nothing: the same names, from the numbers of items alone.

    Args:
        owners: as for `evaluate`.
        folds: as for `evaluate`.
        partial: as for `evaluate`.
        subset: as for `evaluate`.
    """
    codes = owner_codes(owners)

    def both_ways(x: str, y: str, rows: Rows) -> tuple[Ranks, Ranks]:
        x_codes, y_codes = codes[x][rows[x]], codes[y][rows[y]]
        return _all_tied(x_codes, y_codes), _all_tied(y_codes, x_codes)

    return _over_pairs(codes, folds, partial, subset, both_ways)


def _all_tied(queries: np.ndarray, gallery: np.ndarray) -> Ranks:
    """Ranks of queries for which all items of the gallery are equal."""
    found = Ranks.empty(len(queries), levels=1)
    matches = np.bincount(gallery, minlength=queries.max() + 1)[queries]  # (n,)
    found.matches[0] = matches
    found.tied[0] = len(gallery) - matches
    found.total[:] = matches
    return found


def _over_pairs(
    codes: Rows,
    folds: int | None,
    partial: bool,
    subset: int,
    both_ways: Callable[[str, str, Rows], tuple[Ranks, Ranks]],
) -> dict[str, float]:
    """Rank every pair of modalities in every fold or subset and average over these."""
    if len(codes) < 2:
        raise ValueError(f"retrieval needs at least two modalities: got {list(codes)}.")
    if folds not in (None, 1) and subset:
        raise ValueError(f"an evaluation has folds or random subsets: got {folds} folds and subsets of {subset}.")
    results = []
    for rows in _subsets(codes, subset) if subset else _folds(codes, folds):
        result: dict[str, float] = {}
        for x, y in itertools.combinations(codes, 2):
            forth, back = both_ways(x, y, rows)
            for found, query, gallery in ((forth, x, y), (back, y, x)):
                result |= _summary(found, query, gallery, rows[query], partial, rounded=not subset)
        result["rsum"] = sum(value for name, value in result.items() if "_R@" in name)
        results.append(result)
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def _folds(codes: Rows, folds: int | None) -> list[Rows]:
    """The rows of each modality in each fold; owners are numbered by appearance, so a fold is a range of owners."""
    owners = int(max(code.max() for code in codes.values())) + 1
    folds = 1 if folds is None else folds
    if not 1 <= folds <= owners:
        raise ValueError(f"folds must lie between 1 and the number of owners, {owners}: got {folds}.")
    edges = np.linspace(0, owners, folds + 1).round()
    return [
        {name: np.flatnonzero((code >= low) & (code < high)) for name, code in codes.items()}
        for low, high in itertools.pairwise(edges)
    ]


def _subsets(codes: Rows, size: int) -> list[Rows]:
    """The rows of each modality in each random subset of the owners."""
    owners = int(max(code.max() for code in codes.values())) + 1
    if not 1 <= size <= owners:
        raise ValueError(f"a subset must have between 1 and {owners} owners, which is all: got {size}.")
    drawn = []
    for number in range(SUBSETS):
        chosen = np.zeros(owners, dtype=bool)  # (owners,)
        chosen[np.random.default_rng(number).choice(owners, size, replace=False)] = True
        drawn.append({name: np.flatnonzero(chosen[code]) for name, code in codes.items()})
    return drawn


def _summary(
    found: Ranks, query: str, gallery: str, rows: np.ndarray, partial: bool, rounded: bool
) -> dict[str, float]:
    """The metrics of one direction; `rows` are the places of its queries among all of their modality."""
    unanswered = np.flatnonzero(found.total == 0)
    if len(unanswered) == len(rows) or (len(unanswered) and not partial):
        raise ValueError(
            f"every {query} must have a match in {gallery}: row {rows[unanswered[0]] if len(rows) else 0} has none, "
            f"{len(unanswered)} of {len(rows)} in all. Check the owners; partial=True leaves such queries out."
        )
    if len(unanswered):
        log.warning("%d of %d %s queries have no match in %s: left out", len(unanswered), len(rows), query, gallery)
        found = found.only(found.total > 0)
    best = found.best()
    median = float(np.median(best))
    name = f"{query}_to_{gallery}"
    recalls = {f"{name}_R@{k}": float(found.recall(k).mean()) for k in RECALLS}
    return recalls | {
        f"{name}_MedR": float(np.floor(median)) if rounded else median,
        f"{name}_MeanR": float(best.mean()),
        f"{name}_mAP@{DEPTH}": float(found.average_precision().mean()),
    }
