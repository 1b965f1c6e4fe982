"""Where partners stand among all answers, by the products of all pairs; equals share their places.

`mm.metrics.ranking` evaluates models so. An index has no need of all its figures, and may not import it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SCORES = 2**24  # at a time: 64 MB
STEP = 32  # sides of a product are multiples of this: at ragged edges a BLAS may round equal rows differently


class Ranks(NamedTuple):
    """Where the nearest partners of Q queries stand among all answers.

    Figures are expected values over the orders in which equals may come (McSherry and Najork 2008).

    Attributes:
        above: (Q,) int64 answers that are nearer.
        equal: (Q,) int64 answers, no partners, that are as near.
        partners: (Q,) int64 partners that are as near: the nearest one and its equals.
    """

    above: np.ndarray
    equal: np.ndarray
    partners: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """(Q,) float64 expected place of the first partner, from 1 on."""
        return self.above + (self.equal + self.partners + 1) / (self.partners + 1)  # (Q,)

    def recall(self, k: int) -> float:
        """Share of the queries that have a partner among the k nearest: hypergeometric where k falls among equals."""
        missed = np.ones(len(self.above))  # (Q,) chance that no partner is among the places so far
        for drawn in range(k):
            others = np.maximum(self.equal - drawn, 0)  # (Q,) that are left
            share = others / np.maximum(self.equal + self.partners - drawn, 1)  # (Q,)
            missed *= np.where(drawn < k - self.above, share, 1)
        return float(1 - missed.mean())


def ranks(queries: np.ndarray, answers: np.ndarray, codes: np.ndarray, its: np.ndarray) -> Ranks:
    """How many answers stand before each query's nearest partner, and with it.

    Args:
        queries: (Q, D) unit vectors.
        answers: (m, D).
        codes: (Q,) int64; a partner has the same code.
        its: (m,) int64 of the answers.

    Raises:
        ValueError: a query has no partner; the row is named.
    """
    order = np.argsort(its, kind="stable")  # (m,)
    first, last = (np.searchsorted(its[order], codes, side) for side in ("left", "right"))  # (Q,), (Q,)
    if (first == last).any():
        raise ValueError(f"a rank takes a partner among the answers: row {int((first == last).argmax())} has none.")
    above, equal, partners = np.empty((3, len(queries)), np.int64)  # (Q,) each
    columns = _padded(answers).T  # (D, m + rest)
    block = max(STEP, SCORES // columns.shape[1] // STEP * STEP)
    for start in range(0, len(queries), block):
        scores = _padded(queries[start : start + block]) @ columns  # (b + rest, m + rest)
        for row, of_row in enumerate(scores[: len(queries) - start, : len(answers)], start):
            mine = of_row[order[first[row] : last[row]]]  # (p,)
            own = mine.max()
            above[row] = np.count_nonzero(of_row > own)
            partners[row] = np.count_nonzero(mine == own)
            equal[row] = np.count_nonzero(of_row == own) - partners[row]
    return Ranks(above, equal, partners)


def _padded(vectors: np.ndarray) -> np.ndarray:
    """A copy of vectors (n, D) with zeros below up to a multiple of STEP."""
    return np.pad(vectors, ((0, -len(vectors) % STEP), (0, 0)))  # (n + rest, D)
