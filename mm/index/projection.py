"""Maps: vectors of many numbers as points of two, by PCA, t-SNE and UMAP. A map shows who is near, not how far apart.

umap-learn is an extra and is imported when it is first asked for: that takes seconds, and its first call compiles.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from mm.index.analysis import EQUAL, Graph

PERPLEXITY = 30.0  # about how many neighbours t-SNE keeps near (van der Maaten and Hinton 2008)
LEAST = 3  # points of a map
ITERATIONS = 10  # of the randomised SVD: more than its default, where many directions vary alike


def pca(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """The two directions in which vectors (n, D) differ most: (n, 2) float32, the first axis varying more.

    By randomised SVD (Halko et al. 2011), whose start the seed draws.

    Raises:
        ValueError: fewer than three vectors, of fewer than two numbers, or all equal.
    """
    _check(vectors)
    model = PCA(2, svd_solver="randomized", iterated_power=ITERATIONS, random_state=seed)
    return model.fit_transform(vectors).astype(np.float32)  # (n, 2)


def variance_share(vectors: np.ndarray, points: np.ndarray) -> float:
    """Share of the variance of vectors (n, D) that lies in the plane of their principal components (n, 2)."""
    return float(points.var(axis=0, dtype=np.float64).sum() / vectors.var(axis=0, dtype=np.float64).sum())


def tsne(vectors: np.ndarray, seed: int = 0, perplexity: float = PERPLEXITY) -> np.ndarray:
    """t-SNE of unit vectors (n, D), from their principal components on: (n, 2) float32.

    Source: van der Maaten 2014 (Barnes-Hut), as scikit-learn has it.

    Raises:
        ValueError: as of `pca`, or a perplexity that is not below the number of vectors.
    """
    _check(vectors)
    if not 0 < perplexity < len(vectors):
        raise ValueError(
            f"perplexity must lie between 0 and {len(vectors)}, the number of vectors: got {perplexity:g}. "
            f"Take {widest_perplexity(len(vectors)):g} or less."
        )
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, method="barnes_hut")
    return model.fit_transform(vectors).astype(np.float32)  # (n, 2)


def widest_perplexity(n: int) -> float:
    """The perplexity for n vectors: PERPLEXITY, or a third of the others where there are fewer."""
    return min(PERPLEXITY, max((n - 1) // 3, 1))


def umap(vectors: np.ndarray, graph: Graph, seed: int = 0) -> np.ndarray:
    """UMAP of unit vectors (n, D) over the neighbours that are known already: (n, 2) float32.

    Args:
        vectors: (n, D), which decide where the points start.
        graph: k neighbours of each; k + 1, with itself, is UMAP's n_neighbors.
        seed: of the start and of the steps.

    Raises:
        ValueError: as of `pca`, a graph of other vectors, or umap-learn is not installed.
    """
    _check(vectors)
    n, k = graph.rows.shape
    if n != len(vectors):
        raise ValueError(f"the graph must be that of the vectors: got {n} items and {len(vectors)} vectors.")
    with _own_threads(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its other methods, not used here, would take
        try:
            from umap import UMAP
        except ImportError as error:
            raise ValueError('a map by UMAP takes umap-learn: pip install "mm[explain]".') from error
        own = np.arange(n)[:, None]  # (n, 1)
        rows = np.concatenate([own, graph.rows], axis=1).astype(np.int32)  # (n, k + 1)
        squares = (2 - 2 * graph.cosines).clip(min=0)  # (n, k) of unit vectors
        distances = np.concatenate([np.zeros((n, 1)), np.sqrt(squares)], axis=1).astype(np.float32)  # (n, k + 1)
        model = UMAP(
            n_neighbors=k + 1,
            precomputed_knn=(rows, distances),
            init="spectral" if n > 2 * k + 2 else "random",  # of a few points the graph has no spectrum
            random_state=seed,
            n_jobs=1,  # one result for a seed
        )
        return model.fit_transform(np.asarray(vectors, np.float32)).astype(np.float32)  # (n, 2)


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Afterwards torch has as many threads as before: numba's set those of OpenMP for the whole process."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check(vectors: np.ndarray) -> None:
    """Refuse what has no map.

    Raises:
        ValueError: see `pca`.
    """
    if vectors.ndim != 2 or len(vectors) < LEAST or vectors.shape[1] < 2:
        raise ValueError(f"a map takes {LEAST} vectors of two numbers at least: got the shape {vectors.shape}.")
    if not np.square(vectors - vectors[0]).sum(axis=1).max() > EQUAL:
        raise ValueError("a map takes vectors that differ: all are equal.")
