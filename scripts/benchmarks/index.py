"""The index: exact search, what "auto" makes of clustered vectors, and filters."""

from collections.abc import Iterator

import numpy as np

from benchmarks.result import Result, alternate
from mm.index import Hits, Index

OVERHEAD = 1 / 1.05  # ratio of the times when ours is 5 % longer
LEAST_RECALL = 0.99  # recall@10 that "auto" promises
RANK = 32  # dimensions in which a cluster spreads
TENTHS = 10  # values of the metadata that is filtered by


def unit_rows(rows: int, dim: int, seed: int) -> np.ndarray:
    """(rows, dim) float32 random unit vectors."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def clustered(rows: int, dim: int, centres: int, seed: int = 0) -> np.ndarray:
    """(rows, dim) float32 unit vectors about random centres, as far from them as these are from 0.

    Each cluster spreads in RANK directions of its own, so that neither fewer dimensions nor fewer clusters would do.
    """
    rng = np.random.default_rng(seed)
    middles = unit_rows(centres, dim, seed + 1)
    which = rng.integers(0, centres, rows)  # (rows,)
    vectors = middles[which]  # (rows, dim)
    for centre in range(centres):
        members = np.flatnonzero(which == centre)  # (m,)
        directions = rng.standard_normal((RANK, dim), np.float32) / np.float32(dim**0.5)
        vectors[members] += rng.standard_normal((len(members), RANK), np.float32) @ directions / np.float32(RANK**0.5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def clustered_index(queries: int, items: int, dim: int, centres: int) -> tuple[Index, np.ndarray]:
    """An index of clustered vectors, each with a metadata "tenth", and queries (Q, dim) that it does not hold."""
    vectors = clustered(items + queries, dim, centres)
    metadata = [{"tenth": row % TENTHS} for row in range(items)]
    return Index.build(vectors[queries:], range(items), metadata), vectors[:queries]


def missed(found: Hits, right: Hits) -> float:
    """Share of the right answers that were not found."""
    shares = [len(set(ours) & set(best)) / len(best) for ours, best in zip(found.ids, right.ids, strict=True)]
    return 1 - float(np.mean(shares))


def bench_flat(queries: int = 1000, items: int = 100_000, dim: int = 256, k: int = 10) -> Iterator[Result]:
    """Exact search against numpy, and against FAISS without ids, checks and ties."""
    import faiss

    wanted, stored = unit_rows(queries, dim, 0), unit_rows(items, dim, 1)
    index = Index.build(stored, range(items), factory="exact")
    flat = faiss.IndexFlatIP(dim)
    flat.add(stored)

    def with_numpy() -> np.ndarray:
        found = []
        for block in np.array_split(wanted, max(queries // 100, 1)):
            scores = block @ stored.T  # (q, items)
            best = np.argpartition(-scores, k - 1)[:, :k]  # (q, k)
            order = np.argsort(-np.take_along_axis(scores, best, 1))  # (q, k)
            found.append(np.take_along_axis(best, order, 1))
        return np.concatenate(found)  # (Q, k)

    jobs = (lambda: index.search(wanted, k).ids, lambda: flat.search(wanted, k)[1])
    setting = f"{queries} queries, {items} items, D = {dim}, k = {k}"
    for name, goal, repeats, ours, plain in (
        ("index, numpy", 4.0, 3, jobs[0], with_numpy),
        ("index, raw FAISS", OVERHEAD, 5, *jobs),
    ):
        cpu, _, (found, expected) = alternate(repeats, ours, plain)
        checks = {"answers that differ": (int((np.array(found) != expected).sum()), 0)}
        yield Result(name, "CPU s", *cpu, goal, checks, setting)


def bench_auto(
    queries: int = 1000, items: int = 200_000, dim: int = 256, centres: int = 2000, k: int = 10, repeats: int = 5
) -> Iterator[Result]:
    """What "auto" builds against exact search, asked with vectors that had no part in building it."""
    index, wanted = clustered_index(queries, items, dim, centres)
    jobs = (lambda: index.search(wanted, k), lambda: index.search(wanted, k, exact=True))
    cpu, _, (found, right) = alternate(repeats, *jobs)
    checks = {"share missed": (missed(found, right), 1 - LEAST_RECALL)}
    setting = f"{queries} queries, {items} items in {centres} clusters, D = {dim}, k = {k}: {index.built}"
    yield Result("index, auto", "CPU s", *cpu, 5.0, checks, setting)


def bench_filter(
    queries: int = 1000, items: int = 200_000, dim: int = 256, centres: int = 500, k: int = 10, repeats: int = 5
) -> Iterator[Result]:
    """Search with a filter that keeps a tenth against search without.

    Four times as many answers as are wanted are kept of each cluster. Where a filter leaves fewer than k items near a
    query, the rest of the k best lie anywhere, and only a search through all that it keeps can find them.
    """
    index, wanted = clustered_index(queries, items, dim, centres)
    tenth = {"tenth": 0}
    jobs = (lambda: index.search(wanted, k, tenth), lambda: index.search(wanted, k))
    cpu, _, (found, _) = alternate(repeats, *jobs)
    checks = {"share missed": (missed(found, index.search(wanted, k, tenth, exact=True)), 1 - LEAST_RECALL)}
    setting = f"{queries} queries, a tenth of {items} items in {centres} clusters, D = {dim}, k = {k}: {index.built}"
    yield Result("index, filter", "CPU s", *cpu, 0.5, checks, setting)
