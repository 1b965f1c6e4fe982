"""Where the matches of every query stand among all items, counted tile by tile of the score matrix."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DEPTH = 10  # places that the average precision looks at
TILE = (512, 2560)  # scores computed at a time, unless the items of one owner are more
STEP = 32  # tiles are multiples of this: at ragged edges a BLAS may round equal rows differently, and ties would break


@dataclass
class Ranks:
    """How the matches of n queries stand in their rankings, level by level; a level is one score of a match.

    Attributes:
        above: (levels, n) int64, other items that score higher than the level.
        tied: (levels, n) int64, other items at the level.
        before: (levels, n) int64, matches that score higher.
        matches: (levels, n) int64, matches at the level; 0 = the query has no such level.
        total: (n,) int64, matches in all; 0 = the query cannot be answered.
    """

    above: np.ndarray
    tied: np.ndarray
    before: np.ndarray
    matches: np.ndarray
    total: np.ndarray

    @classmethod
    def empty(cls, queries: int, levels: int) -> Ranks:
        """Nothing counted yet."""
        above, tied, before, matches = np.zeros((4, levels, queries), np.int64)
        return cls(above, tied, before, matches, np.zeros(queries, np.int64))

    def only(self, queries: np.ndarray) -> Ranks:
        """The same for some of the queries, given as a mask or as positions."""
        above, tied, before, matches = self.above, self.tied, self.before, self.matches
        return Ranks(above[:, queries], tied[:, queries], before[:, queries], matches[:, queries], self.total[queries])

    def best(self) -> np.ndarray:
        """(n,) float64 expected rank of the best match, from 1; NaN for a query without a match."""
        matches = np.where(self.total > 0, self.matches[0], np.nan)  # (n,)
        return self.above[0] + (matches + self.tied[0] + 1) / (matches + 1)  # (n,)

    def recall(self, k: int) -> np.ndarray:
        """(n,) float64 probability of a match among the first k: hypergeometric where k falls into a tie."""
        places = k - self.above[0]  # (n,) of the tie that lie within k
        missed = np.ones(len(self.total))  # (n,)
        for drawn in range(k):
            others = np.maximum(self.tied[0] - drawn, 0)  # (n,)
            miss = others / np.maximum(self.tied[0] + self.matches[0] - drawn, 1)  # (n,)
            missed *= np.where(drawn < places, miss, 1)
        return np.where(self.total > 0, 1 - missed, 0)  # (n,)

    def average_precision(self) -> np.ndarray:
        """(n,) float64 expected average precision over the first 10 places."""
        start = self.above + self.before  # (levels, n)
        size = self.matches + self.tied  # (levels, n)
        share = self.matches / np.maximum(size, 1)  # (levels, n) of a place of the level to hold a match
        fellows = (self.matches - 1) / np.maximum(size - 1, 1)  # (levels, n) the same for another, once one does
        total = np.zeros(len(self.total))  # (n,)
        for place in range(DEPTH):
            earlier = place - start  # (levels, n) places of the level before this one
            found = (self.before + 1 + earlier * fellows) * share  # (levels, n)
            total += np.where((earlier >= 0) & (earlier < size), found, 0).sum(axis=0) / (place + 1)  # (n,)
        return total / np.clip(self.total, 1, DEPTH)  # (n,)


def ranks(a: Any, b: Any, owner_a: Sequence | np.ndarray, owner_b: Sequence | np.ndarray) -> tuple[Ranks, Ranks]:
    """Rank all of `b` for every row of `a` by inner product, and all of `a` for every row of `b`.

    Both directions come from one pass of matrix products over tiles; memory is one tile and a copy of the vectors. The
    items are laid out by owner so that all matches fall into the tiles on the diagonal: these come first and give every
    match its score, the others then only count. A match is compared with scores of the same kind of product.

    Args:
        a: (n, D) vectors, float32 or float64; unit length for the cosine.
        b: (m, D) vectors.
        owner_a: (n,) strings or integers.
        owner_b: (m,) strings or integers.

    Returns:
        The ranks for the n rows of `a`, and for the m rows of `b`.

    Raises:
        ValueError: shapes do not agree, or a number is not finite (the row is named).

    >>> forth, back = ranks(np.eye(3), np.eye(3)[[0, 0, 2]], ["x", "y", "z"], ["x", "y", "z"])
    >>> forth.best().tolist(), back.best().tolist()
    ([1.5, 2.0, 1.0], [1.0, 2.5, 1.0])
    """
    vectors, owners = checked({"a": a, "b": b}, {"a": owner_a, "b": owner_b})
    return rank(vectors["a"], vectors["b"], owners["a"], owners["b"])


def checked(
    vectors: Mapping[str, Any], owners: Mapping[str, Sequence | np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Matrices of one width and one floating type, and an integer for every owner, equal where owners are equal.

    Raises:
        ValueError: shapes or names do not agree, or a number is not finite (modality and row are named).
    """
    if set(vectors) != set(owners):
        raise ValueError(f"vectors and owners must name the same modalities: got {list(vectors)} and {list(owners)}.")
    arrays = {}
    for name, values in vectors.items():
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
        if array.ndim != 2 or len(array) == 0:
            raise ValueError(f"{name}: vectors must be a matrix with at least one row: got {array.shape}.")
        if len(array) != len(owners[name]):
            raise ValueError(
                f"{name}: every row needs one owner: got {len(array)} rows and {len(owners[name])} owners."
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{name}: vectors must be finite: row {bad[0]} is not, nor are {len(bad) - 1} others. "
                "Ranks of such vectors mean nothing; look for a diverged run or an empty input."
            )
        arrays[name] = array
    widths = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"vectors of all modalities must have one width: got {widths}.")
    dtype = np.result_type(np.float32, *arrays.values())
    return {name: array.astype(dtype, copy=False) for name, array in arrays.items()}, owner_codes(owners)


def owner_codes(owners: Mapping[str, Sequence | np.ndarray]) -> dict[str, np.ndarray]:
    """{modality: (n,) int64}: owners numbered in their order of appearance; 1 and "1" are different owners."""
    table: dict[Hashable, int] = {}
    codes = {}
    for name, values in owners.items():
        plain = values.tolist() if hasattr(values, "tolist") else values
        codes[name] = np.array([table.setdefault(value, len(table)) for value in plain], np.int64)
    return codes


def rank(a: np.ndarray, b: np.ndarray, owner_a: np.ndarray, owner_b: np.ndarray) -> tuple[Ranks, Ranks]:
    """`ranks` of checked input: matrices of one type and integer owners from 0."""
    owners = int(max(owner_a.max(), owner_b.max())) + 1
    counts = np.stack([np.bincount(owner, minlength=owners) for owner in (owner_a, owner_b)])  # (2, owners)
    group, shape = _groups(counts)
    levels = np.clip(counts.max(axis=1), 1, DEPTH)  # (2,) no more than there are matches
    rows = _Side(a, owner_a, group, shape[0], levels[1])
    columns = _Side(b, owner_b, group, shape[1], levels[0])
    product = np.empty(shape, a.dtype)  # one buffer for all tiles: fresh pages would cost as much as the products
    for diagonal in (True, False):
        for i in range(len(rows.start) - 1):
            for j in [i] if diagonal else [j for j in range(len(columns.start) - 1) if j != i]:
                here, there = rows.span(i), columns.span(j)
                if here.start == here.stop or there.start == there.stop:
                    continue
                # The product may read on into the next group; what is not of this tile is left out of the view.
                np.matmul(rows.tile(i), columns.tile(j).T, out=product)  # (R, C)
                scores = product[: here.stop - here.start, : there.stop - there.start]  # (r, c)
                if diagonal:
                    at = np.nonzero(rows.owner[here, None] == columns.owner[there])
                    rows.place(here.start, at[0], scores[at])
                    columns.place(there.start, at[1], scores[at])
                    scores[at] = -np.inf  # matches are no rivals
                rows.count(here, scores, axis=1)
                columns.count(there, scores, axis=0)
    return rows.ranks(), columns.ranks()


def _groups(counts: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Pack owners into groups whose items of both sides fit one tile.

    Args:
        counts: (2, owners) items of each owner on each side.

    Returns:
        (owners,) int64 group of each owner, and the tile's shape: rows and columns, multiples of STEP.
    """
    room_a, room_b = np.minimum(np.maximum(TILE, counts.max(axis=1)), counts.sum(axis=1)).tolist()
    group = np.zeros(counts.shape[1], np.int64)
    filled_a = filled_b = current = 0
    # Owners of one side only come last, so that their groups have no items of the other side, and no tiles.
    order = np.lexsort((counts[0] == 0, counts[1] == 0))
    for owner, (more_a, more_b) in zip(order.tolist(), counts.T[order].tolist(), strict=True):
        filled_a, filled_b = filled_a + more_a, filled_b + more_b
        if filled_a > room_a or filled_b > room_b:
            filled_a, filled_b, current = more_a, more_b, current + 1
        group[owner] = current
    return group, (-(-room_a // STEP) * STEP, -(-room_b // STEP) * STEP)


class _Side:
    """One of the two sets of items, laid out by group and owner: as queries they keep counts, as items they are scored.

    Args:
        vectors: (n, D).
        owner: (n,) int64.
        group: (owners,) int64 group of each owner.
        extent: rows of a tile on this side.
        levels: scores of matches that a query keeps.
    """

    def __init__(self, vectors: np.ndarray, owner: np.ndarray, group: np.ndarray, extent: int, levels: int):
        self.order = np.lexsort((owner, group[owner]))  # (n,)
        self.owner = owner[self.order]  # (n,)
        self.start = np.searchsorted(group[self.owner], np.arange(group.max() + 2))  # (groups + 1,)
        self.extent = extent
        self.vectors = np.zeros((len(vectors) + extent, vectors.shape[1]), vectors.dtype)  # (n + extent, D)
        np.take(vectors, self.order, axis=0, out=self.vectors[: len(vectors)])
        self.level = np.zeros((levels, len(vectors)), vectors.dtype)  # (levels, n) scores
        self.counts = Ranks.empty(len(vectors), levels)

    def span(self, group: int) -> slice:
        """The rows of a group."""
        return slice(int(self.start[group]), int(self.start[group + 1]))

    def tile(self, group: int) -> np.ndarray:
        """(extent, D) the rows of a group and whatever follows."""
        return self.vectors[self.start[group] : self.start[group] + self.extent]  # (extent, D)

    def place(self, first: int, row: np.ndarray, scores: np.ndarray) -> None:
        """Set the levels of a group from all of its matches.

        Args:
            first: first row of the group.
            row: (pairs,) row of each match within the group.
            scores: (pairs,).
        """
        best_first = np.lexsort((-scores, row))  # (pairs,)
        row, scores = row[best_first] + first, scores[best_first]
        is_new = np.ones(len(row), bool)
        is_new[1:] = (row[1:] != row[:-1]) | (scores[1:] != scores[:-1])
        at = np.flatnonzero(is_new)  # (levels of all rows,) where in the pairs each level begins
        matches = np.diff(at, append=len(row))
        before = at - np.searchsorted(row, row[at])
        row, scores = row[at], scores[at]
        level = np.arange(len(row)) - np.searchsorted(row, row)
        np.add.at(self.counts.total, row, matches)
        kept = level < len(self.level)
        where = level[kept], row[kept]
        self.level[where] = scores[kept]
        self.counts.matches[where] = matches[kept]
        self.counts.before[where] = before[kept]

    def count(self, here: slice, scores: np.ndarray, axis: int) -> None:
        """Add a tile's rivals to the counts of the queries `here`; `axis` is that of the rivals."""
        c = self.counts
        for level in range(len(self.level)):
            alive = c.matches[level, here] > 0  # (r,)
            if level:  # only places that the average precision looks at; the best match is followed all the way
                alive &= c.above[level, here] + c.before[level, here] < DEPTH
            queries = np.flatnonzero(alive)
            if len(queries) == 0:
                return
            mine = scores if len(queries) == len(alive) else np.take(scores, queries, axis=1 - axis)
            where = level, queries + here.start
            bound = np.expand_dims(self.level[where], axis)
            c.above[where] += _tally(mine > bound, axis)
            equal = mine == bound
            if equal.any():
                c.tied[where] += _tally(equal, axis)

    def ranks(self) -> Ranks:
        """The counts in the order in which the items came."""
        return self.counts.only(np.argsort(self.order))


def _tally(is_true: np.ndarray, axis: int) -> np.ndarray:
    """How many are true along an axis; several times faster than the sum of booleans."""
    return np.add.reduce(is_true.view(np.uint8), axis=axis, dtype=np.uint32)
