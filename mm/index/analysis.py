"""What a space of embeddings is like: pure functions over vectors and labels.

The graph of neighbours is what takes time: it is computed once, by `neighbours`, and handed to all that need it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import faiss
import numpy as np
from scipy import sparse, stats
from scipy.sparse import csgraph

from mm.index.products import best, k_best

BLOCK = 4096  # vectors looked at together where all at once would take a multiple of their memory
MOST_PAIRED = 10_000  # vectors of which all pairs are looked at; of more, so many are drawn
HUB = 2.0  # times the mean: how often an item must be among the k nearest of others to be a hub
SHRINKAGE = 0.01  # of the mean variance, added to every direction's: there may be more directions than vectors
EQUAL = 1e-12  # squared distance of unit vectors that differ by the rounding of float32 alone
EQUAL_FAR = 1e-6  # relative: two neighbours that are as far as that are equal to one another


class Graph(NamedTuple):
    """The k nearest others of n items.

    Attributes:
        rows: (n, k) int64 positions, the nearest first.
        cosines: (n, k) float32.
    """

    rows: np.ndarray
    cosines: np.ndarray


class Hubness(NamedTuple):
    """How unevenly items are neighbours of others (Radovanovic et al. 2010).

    Attributes:
        occurrences: (n,) int64 N_k, how often an item is among the k nearest of others.
        skewness: of N_k. 0 = even; retrieval suffers above about 1.
        hubs: (h,) int64 items with N_k above HUB times their mean, the greatest first.
        antihubs: share of the items that are nobody's neighbour.
        top_percent: share of all places among the neighbours that the most frequent hundredth of the items takes.
    """

    occurrences: np.ndarray
    skewness: float
    hubs: np.ndarray
    antihubs: float
    top_percent: float


def neighbours(vectors: np.ndarray, k: int) -> Graph:
    """The k nearest others of every item, exactly; of equal vectors the earlier ones come first.

    Args:
        vectors: (n, D) float32 unit vectors.
        k: 1..n - 1.

    Raises:
        ValueError: fewer than k others.
    """
    n = len(vectors)
    if not 1 <= k < n:
        raise ValueError(f"k must lie in 1..{n - 1}, the number of others: got {k}. Take a smaller k or more items.")
    cosines, rows = k_best(vectors, k + 1, vectors, None)  # (n, k + 1), (n, k + 1)
    own = rows == np.arange(n)[:, None]  # (n, k + 1)
    own[:, -1] |= ~own.any(axis=1)  # more than k others are equal to it: the last one goes
    return Graph(rows[~own].reshape(n, k), cosines[~own].reshape(n, k))


def nearest(queries: np.ndarray, answers: np.ndarray, k: int) -> Graph:
    """The k nearest of other vectors (m, D) to each of (n, D), exactly: positions among those others.

    Raises:
        ValueError: fewer than k of them.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"k must lie in 1..{len(answers)}, the number of answers: got {k}. Take a smaller k.")
    cosines, rows = k_best(queries, k, answers, None)  # (n, k), (n, k)
    return Graph(rows, cosines)


def joined(graphs: Sequence[Graph], starts: Sequence[int], k: int) -> Graph:
    """The k nearest of all, from graphs of the same n items over parts that begin at these positions."""
    rows = np.concatenate([graph.rows + start for graph, start in zip(graphs, starts, strict=True)], axis=1)
    cosines = np.concatenate([graph.cosines for graph in graphs], axis=1)  # (n, all k)
    found, positions = best(cosines, rows, k)  # (n, k), (n, k)
    return Graph(positions, found)


def purity(
    graph: Graph, labels: Sequence[Hashable], others: Sequence[Hashable] | None = None
) -> tuple[np.ndarray, float]:
    """Share of its neighbours that have an item's own label, and what random neighbours would give on average.

    Args:
        graph: of n items.
        labels: of these; None = not known.
        others: of the items that the graph leads to, where they are not the same ones.

    Returns:
        (n,) float64 shares among the neighbours whose label is known, NaN where that of the item or of all its
        neighbours is not; and chance.

    Raises:
        ValueError: not as many labels as items, or no two of a known label that could be neighbours.
    """
    numbers: dict[Hashable, int] = {}
    own = _codes(labels, len(graph.rows), numbers)  # (n,)
    its = own if others is None else _codes(others, len(others), numbers)  # (m,)
    sizes, its_sizes = (np.bincount(code[code >= 0], minlength=len(numbers)) for code in (own, its))  # (labels,)
    alike = sizes * (its_sizes - (others is None))  # (labels,) pairs
    pairs = int(sizes.sum()) * (int(its_sizes.sum()) - (others is None))
    if pairs < 1:
        raise ValueError("purity takes items of known labels that could be neighbours: there are none.")
    known = its[graph.rows] >= 0  # (n, k)
    right = (its[graph.rows] == own[:, None]) & known  # (n, k)
    counted = np.where(own >= 0, known.sum(axis=1), 0)  # (n,)
    shares = np.full(len(own), np.nan)
    np.divide(right.sum(axis=1), counted, out=shares, where=counted > 0)
    return shares, float(alike.sum() / pairs)


def hubness(graph: Graph, items: int | None = None) -> Hubness:
    """Which items are neighbours of many, and which of none; `items` = how many the graph leads to, n by default."""
    n = len(graph.rows) if items is None else items
    occurrences = np.bincount(graph.rows.ravel(), minlength=n)  # (n,)
    order = np.argsort(-occurrences, kind="stable")  # (n,)
    falling, mean = occurrences[order], graph.rows.size / n
    skewness = float(stats.skew(occurrences)) if np.ptp(occurrences) else 0.0
    top = float(falling[: -(-n // 100)].sum() / graph.rows.size)
    return Hubness(occurrences, skewness, order[falling > HUB * mean], float((occurrences == 0).mean()), top)


def modality_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Distance between the means of two clouds of unit vectors, (n, D) and (m, D) (Liang et al. 2022, section 2)."""
    return float(np.linalg.norm(first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)))


def spread(vectors: np.ndarray) -> float:
    """Root of the mean squared distance of vectors (n, D) from their mean."""
    mean = vectors.mean(axis=0, dtype=np.float64)  # (D,)
    squares = sum(float(np.square(some - mean).sum()) for some in _blocks(vectors))
    return float(np.sqrt(squares / len(vectors)))


def separability(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """How well a plane tells two clouds (n, D) and (m, D) apart: the mean of both shares on its right side.

    Fisher's discriminant of one half, asked with the other; of each cloud at most MOST_PAIRED are drawn with the seed.
    0.5 = not at all, 1 = always.

    Raises:
        ValueError: a cloud of fewer than two, or all vectors are equal.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"telling clouds apart takes two vectors of each: got {len(first)} and {len(second)}.")
    chance = np.random.default_rng(seed)
    drawn = [cloud[chance.permutation(len(cloud))[:MOST_PAIRED]].astype(np.float64) for cloud in (first, second)]
    seen, asked = ([cloud[half::2] for cloud in drawn] for half in (0, 1))
    means = [cloud.mean(axis=0) for cloud in seen]  # (D,), (D,)
    within = sum((cloud - mean).T @ (cloud - mean) / len(cloud) for cloud, mean in zip(seen, means, strict=True)) / 2
    variance = np.trace(within) / len(within) or float(np.linalg.norm(means[0] - means[1])) ** 2
    if not variance > 0:
        raise ValueError("telling clouds apart takes vectors that differ: all are equal.")
    ridge = SHRINKAGE * variance * np.eye(len(within))  # (D, D)
    direction = np.linalg.solve(within + ridge, means[0] - means[1])  # (D,)
    middle = (means[0] + means[1]) / 2 @ direction
    sides = [cloud @ direction - middle for cloud in asked]  # (n,), (m,)
    right = [(side > 0).mean() + (side == 0).mean() / 2 for side in (sides[0], -sides[1])]
    return float(np.mean(right))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of partners, row by row of (n, D) and (n, D) (Wang and Isola 2020, eq. 1, alpha = 2).

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"partners stand in equal rows: got shapes {first.shape} and {second.shape}.")
    pairs = zip(_blocks(first), _blocks(second), strict=True)
    return sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs) / len(first)


def uniformity(vectors: np.ndarray, seed: int = 0) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of unit vectors (n, D) (Wang and Isola 2020, eq. 2, t = 2).

    0 where all are equal; about -4 where they spread evenly in many dimensions. Of more than MOST_PAIRED vectors, so
    many are drawn with the seed.
    """
    if len(vectors) < 2:
        raise ValueError(f"uniformity takes two vectors at least: got {len(vectors)}.")
    if len(vectors) > MOST_PAIRED:
        vectors = vectors[np.random.default_rng(seed).choice(len(vectors), MOST_PAIRED, replace=False)]
    n, total = len(vectors), 0.0
    for start in range(0, n, 1000):
        cosines = vectors[start : start + 1000] @ vectors.T  # (b, n)
        total += np.exp(4 * (cosines - 1), dtype=np.float64).sum()  # d^2 = 2 - 2 cos
    return float(np.log((total - n) / (n * (n - 1))))  # without each with itself


def intrinsic_dimension(vectors: np.ndarray, graph: Graph) -> float:
    """Dimension of the surface that the items lie on, from their two nearest others (TwoNN, Facco et al. 2017, eq. 3).

    Items with an equal other say nothing, nor do those whose two nearest are equal: they are left out.

    Raises:
        ValueError: a graph of one neighbour, or every item has an equal other.
    """
    if graph.rows.shape[1] < 2:
        raise ValueError("the intrinsic dimension takes two neighbours of each item: the graph has one. Take k=2.")
    two = zip(_blocks(vectors), _blocks(graph.rows[:, :2]), strict=True)
    squares = np.concatenate(  # of differences, for a cosine would round small distances away
        [np.square(vectors[rows] - some[:, None], dtype=np.float64).sum(axis=2) for some, rows in two]
    )  # (n, 2)
    squares = squares[(squares[:, 0] > EQUAL) & (squares[:, 1] > squares[:, 0] * (1 + EQUAL_FAR))]  # (m, 2)
    logs = np.log(squares[:, 1] / squares[:, 0]) / 2  # (m,)
    if not logs.sum() > 0:
        raise ValueError("the intrinsic dimension takes items that differ from their neighbours: none does.")
    return float(len(logs) / logs.sum())  # the maximum likelihood of Facco's law


def duplicates(graph: Graph, cosine: float) -> list[np.ndarray]:
    """Groups of items that are as near to one another as this, directly or through others; the largest first.

    Returns:
        Ascending positions of each group of two or more. Of items with more than k such others, links to the k nearest
        count.
    """
    rows, place = np.nonzero(graph.cosines >= cosine)  # (p,), (p,)
    n = len(graph.rows)
    links = sparse.coo_array((np.ones(len(rows), bool), (rows, graph.rows[rows, place])), shape=(n, n))
    _, group = csgraph.connected_components(links, directed=False)  # (n,)
    order = np.argsort(group, kind="stable")  # (n,)
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted((one for one in groups if len(one) > 1), key=lambda one: (-len(one), one[0]))


def overlap(first: Graph, second: Graph) -> float:
    """Share of an item's k neighbours in one space that are so in another too; k / (n - 1) by chance.

    Raises:
        ValueError: the graphs are of different items or numbers of neighbours.
    """
    if first.rows.shape != second.rows.shape:
        raise ValueError(f"graphs must have one shape (n, k): got {first.rows.shape} and {second.rows.shape}.")
    n, k = first.rows.shape
    both = np.sort(np.concatenate([first.rows, second.rows], axis=1), axis=1)  # (n, 2k)
    return float((both[:, 1:] == both[:, :-1]).sum() / (n * k))


def cka(first: np.ndarray, second: np.ndarray) -> float:
    """Likeness in 0..1 of two spaces of the same n items, (n, D) and (n, E), under any rotation (linear CKA).

    Source: Kornblith et al. 2019, section 3.

    Raises:
        ValueError: different numbers of items, or a space in which all items are equal.
    """
    if len(first) != len(second):
        raise ValueError(f"both spaces must have the same items: got {len(first)} and {len(second)}.")
    means = [vectors.mean(axis=0, dtype=np.float64) for vectors in (first, second)]  # (D,), (E,)
    xx, yy, yx = 0.0, 0.0, 0.0
    for a, b in zip(_blocks(first), _blocks(second), strict=True):
        x, y = a - means[0], b - means[1]  # (b, D), (b, E)
        xx, yy, yx = xx + x.T @ x, yy + y.T @ y, yx + y.T @ x  # (D, D), (E, E), (E, D)
    scales = np.linalg.norm(xx), np.linalg.norm(yy)
    if not min(scales) > len(first) * EQUAL:
        raise ValueError("a space in which all items are equal is like none: cka takes items that differ.")
    return float(np.linalg.norm(yx) ** 2 / (scales[0] * scales[1]))


def clusters(vectors: np.ndarray, number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """k-means of unit vectors (n, D) by the cosine.

    Returns:
        (n,) int64 cluster of each item, and (clusters,) int64 medoids: the item nearest to each centre. Clusters that
        ended empty are left out, and the others numbered by their size, the largest first.

    Raises:
        ValueError: fewer items than clusters.
    """
    if not 1 <= number <= len(vectors):
        raise ValueError(f"the number of clusters must lie in 1..{len(vectors)}, that of the items: got {number}.")
    vectors = np.ascontiguousarray(vectors, np.float32)
    means = faiss.Kmeans(vectors.shape[1], number, seed=seed + 1, spherical=True, min_points_per_centroid=1)
    means.train(vectors)
    assert means.centroids is not None
    cosines, nearest = k_best(vectors, 1, means.centroids, None)  # (n, 1), (n, 1)
    found, code, sizes = np.unique(nearest[:, 0], return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")  # (clusters,)
    cluster = np.argsort(order)[code]  # (n,)
    best = np.lexsort((-cosines[:, 0], cluster))  # (n,)
    return cluster, best[np.searchsorted(cluster[best], np.arange(len(found)))]


def _codes(labels: Sequence[Hashable], n: int, numbers: dict[Hashable, int]) -> np.ndarray:
    """(n,) int64 numbers of labels, to which new ones are added; -1 for None.

    Raises:
        ValueError: not as many labels as items.
    """
    if len(labels) != n:
        raise ValueError(f"every item must have a label: got {len(labels)} labels of {n} items.")
    return np.array([-1 if one is None else numbers.setdefault(one, len(numbers)) for one in labels], np.int64)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """At most BLOCK rows at a time."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
