"""The largest inner products of queries with vectors, by products of matrices, block by block."""

from __future__ import annotations

import math

import numpy as np

SCORES = 2**21  # at a time: 8 MB, which stay in the cache until they have been looked at
QUERIES = 1024  # of them at most
BLOCK = SCORES // QUERIES  # vectors; more where there are fewer queries
GROUP = 256  # scores of which the largest is looked at first
MOST_RESULTS = 4_000_000  # held at a time
RISING = 4  # times k: of a block in which so many are better, only the k best are kept at once
NO_SCORE = -math.inf  # of a place without an answer


def k_best(
    queries: np.ndarray, k: int, vectors: np.ndarray, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors with the largest inner products; among equal ones the lower positions come first and win.

    Products of equal vectors are equal for most widths. Where a single query meets the end of a block, the last bit
    may differ.

    Args:
        queries: (Q, D) float32.
        k: 1..number of candidates.
        vectors: (n, D) float32.
        allowed: (m,) int64 ascending positions of the candidates; None = all.

    Returns:
        (Q, k) float32 scores and (Q, k) int64 positions.
    """
    scores, positions = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for some in query_slices(np.arange(len(queries)), max(k, BLOCK)):
        scores[some], positions[some] = _k_best(queries[some], k, vectors, allowed)
    return scores, positions


def _k_best(
    queries: np.ndarray, k: int, vectors: np.ndarray, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `k_best`, for so many queries that the k best of all have room."""
    candidates = len(vectors) if allowed is None else len(allowed)
    # Selected vectors are copied together, so that no more of them are taken at a time.
    block = BLOCK if allowed is not None else max(BLOCK, SCORES // len(queries) // GROUP * GROUP)
    block = min(block, -(-candidates // GROUP) * GROUP)
    buffer = np.empty((len(queries), block), np.float32)  # (Q, block)
    copied = np.empty(
        (0 if allowed is None else BLOCK, vectors.shape[1]), np.float32
    )  # once, for its pages come slowly
    first: list[np.ndarray] = []
    found, end = None, 0
    while end < candidates:
        start, end = end, min(end + (BLOCK if found is None else block), candidates)
        if allowed is None:
            some = vectors[start:end]  # (m, D)
        else:
            some = vectors.take(allowed[start:end], axis=0, out=copied[: end - start], mode="clip")  # (m, D)
        scores = buffer[:, : end - start]  # (Q, m)
        with np.errstate(invalid="ignore"):  # which OpenBLAS 0.3.31 flagged once, of small integers
            np.matmul(queries, some.T, out=scores)
        if found is not None:
            buffer[:, end - start :] = NO_SCORE
            found.see(buffer, start)
        else:  # too few as yet to leave any out
            first.append(scores.copy())
            if end >= k:
                seen = np.concatenate(first, axis=1)  # (Q, end)
                found = _Found(*best_of_many(seen, np.broadcast_to(np.arange(end), seen.shape), k))
    assert found is not None
    best_scores, positions = found.merged()
    return best_scores, positions if allowed is None else allowed[positions]


class _Found:
    """The k best so far, and what is better than the last of them since these were sorted."""

    def __init__(self, scores: np.ndarray, positions: np.ndarray):
        self.scores, self.positions = scores, positions  # (Q, k), (Q, k)
        self.least = scores[:, -1:]  # (Q, 1)
        self.better: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # rows, scores, positions
        self.waiting = 0

    def see(self, scores: np.ndarray, start: int) -> None:
        """Look at scores (Q, block) of the positions from `start` on."""
        groups = scores.reshape(len(scores), -1, GROUP)  # (Q, groups, GROUP)
        rows, group = np.nonzero(groups.max(axis=2) > self.least)  # (g,), (g,)
        if not len(rows):
            return
        likely = groups[rows, group]  # (g, GROUP)
        of_group, at = np.nonzero(likely > self.least[rows])  # (b,), (b,): equal ones came later, and lose
        if len(at) > RISING * self.scores.size:
            k, positions = self.scores.shape[1], np.arange(start, start + scores.shape[1])  # (block,)
            seen, its = best_of_many(scores, np.broadcast_to(positions, scores.shape), k)  # (Q, <= k), (Q, <= k)
            found, at = self.merged()  # (Q, k), (Q, k)
            self.scores, self.positions = best(np.hstack([found, seen]), np.hstack([at, its]), k)
            self.least = self.scores[:, -1:]
            return
        self.better.append((rows[of_group], likely[of_group, at], start + group[of_group] * GROUP + at))
        self.waiting += len(at)
        if self.waiting > self.scores.size:
            self.merged()

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q, k) scores and positions of the k best."""
        if self.better:
            rows, scores, positions = map(np.concatenate, zip(*self.better, strict=True))  # (b,) each
            order = np.lexsort((positions, -scores, rows))  # (b,)
            rows, scores, positions = rows[order], scores[order], positions[order]
            place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # (b,) of each among those of its row
            Q, k = self.scores.shape
            kept = place < k
            width = k + int(place[kept].max()) + 1
            all_scores, all_positions = np.full((Q, width), NO_SCORE, np.float32), np.zeros((Q, width), np.int64)
            all_scores[:, :k], all_positions[:, :k] = self.scores, self.positions
            all_scores[rows[kept], k + place[kept]] = scores[kept]
            all_positions[rows[kept], k + place[kept]] = positions[kept]
            self.scores, self.positions = best(all_scores, all_positions, k)
            self.least = self.scores[:, -1:]
            self.better, self.waiting = [], 0
        return self.scores, self.positions


def query_slices(rows: np.ndarray, width: int) -> list[np.ndarray]:
    """Rows in parts of at most QUERIES that have at most MOST_RESULTS results together, `width` each."""
    number = max(-(-len(rows) // QUERIES), -(-len(rows) * width // MOST_RESULTS))
    return np.array_split(rows, min(len(rows), number)) if len(rows) else []


def best(scores: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best (Q, k) of each row (Q, m): falling scores, rising positions among equal ones."""
    order = np.lexsort((positions, -scores))[:, :k]  # (Q, k)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def best_of_many(scores: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `best`; where there are many candidates, only those that can be among the k best are sorted."""
    if scores.shape[1] <= 4 * k:
        return best(scores, positions, k)
    likely = np.argpartition(-scores, k, axis=1)[:, : k + 1]  # (Q, k + 1)
    found, at = best(np.take_along_axis(scores, likely, 1), np.take_along_axis(positions, likely, 1), k + 1)
    tied = np.flatnonzero((found[:, k - 1] == found[:, k]) & (found[:, k] > NO_SCORE))  # equals may have been left out
    found, at = found[:, :k], at[:, :k]
    found[tied], at[tied] = best(scores[tied], positions[tied], k)
    return found, at
