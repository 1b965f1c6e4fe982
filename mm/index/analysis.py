"""What a space of embeddings is like: pure functions over vectors and labels.

The graph of neighbours is what takes time: it is computed once, by `neighbours`, and handed to all that need it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import faiss
import numpy as np
from scipy import sparse, stats
from scipy.sparse import csgraph

from mm.index.products import k_best

MOST_PAIRED = 10_000  # vectors of which all pairs are looked at; of more, so many are drawn
HUB = 2.0  # times k: how often an item must be among the k nearest of others to be a hub; k is the mean
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
        occurrences: (n,) int64 N_k, how often an item is among the k nearest of others; k on average.
        skewness: of N_k. 0 = even; retrieval suffers above about 1.
        hubs: (h,) int64 items with N_k above HUB times k, the greatest first.
        antihubs: share of the items that are nobody's neighbour.
    """

    occurrences: np.ndarray
    skewness: float
    hubs: np.ndarray
    antihubs: float


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


def purity(graph: Graph, labels: Sequence[Hashable]) -> tuple[np.ndarray, float]:
    """Share of its neighbours that have an item's own label, and what random neighbours would give on average.

    Returns:
        (n,) float64 shares, and chance.
    """
    codes = _codes(labels, len(graph.rows))  # (n,)
    sizes = np.bincount(codes)  # (labels,)
    chance = float((sizes * (sizes - 1)).sum() / (len(codes) * (len(codes) - 1)))
    return (codes[graph.rows] == codes[:, None]).mean(axis=1), chance


def hubness(graph: Graph) -> Hubness:
    """Which items are neighbours of many, and which of none."""
    n, k = graph.rows.shape
    occurrences = np.bincount(graph.rows.ravel(), minlength=n)  # (n,)
    order = np.argsort(-occurrences, kind="stable")  # (n,)
    skewness = float(stats.skew(occurrences)) if np.ptp(occurrences) else 0.0
    return Hubness(occurrences, skewness, order[occurrences[order] > HUB * k], float((occurrences == 0).mean()))


def modality_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Distance between the means of two clouds of unit vectors, (n, D) and (m, D) (Liang et al. 2022, section 2)."""
    return float(np.linalg.norm(first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of partners, row by row of (n, D) and (n, D) (Wang and Isola 2020, eq. 1, alpha = 2).

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"partners stand in equal rows: got shapes {first.shape} and {second.shape}.")
    return float(np.square(first - second, dtype=np.float64).sum(axis=1).mean())


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
    others = vectors[graph.rows[:, :2]]  # (n, 2, D): a cosine would round small distances away
    squares = np.square(others - vectors[:, None], dtype=np.float64).sum(axis=2)  # (n, 2)
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
    x, y = (vectors - vectors.mean(axis=0, dtype=np.float64) for vectors in (first, second))  # (n, D), (n, E)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    if not scale > 0:
        raise ValueError("a space in which all items are equal is like none: cka takes items that differ.")
    return float(np.linalg.norm(y.T @ x) ** 2 / scale)


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


def _codes(labels: Sequence[Hashable], n: int) -> np.ndarray:
    """(n,) int64 numbers of labels.

    Raises:
        ValueError: not as many labels as items.
    """
    if len(labels) != n:
        raise ValueError(f"every item must have a label: got {len(labels)} labels of {n} items.")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
