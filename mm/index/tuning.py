"""Build an approximate index and measure how it must be asked: recall against exact search, on held-out queries."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mm.index.approximate import Approximate
from mm.index.exact import ExactVectors, unit_vectors
from mm.index.products import NO_SCORE
from mm.index.setting import WIDE, Setting, Trial, fetched, quickest

EXACT = ("exact", "Flat")  # factories that need nothing beside the exact vectors
EXACT_UP_TO = 100_000  # items that "auto" searches exactly
NAMED_TARGET = 0.95  # recall@10 of a type that was asked for
AUTO_TARGET = 0.995  # of "auto", which promises 0.99: the rest is for the chance in what is held out
K = 10  # answers per query while measuring
HELD_OUT = 1000  # queries, of which at most one in ten items
RERANKS = (1, 2, 4, 8, 16, 32)  # candidates per answer
GAIN = 0.001  # recall; where twice the candidates bring less, still more are not tried
WIDE_QUERIES = 300  # of them, asked with a filter
TIMED = 100  # queries timed together; the quickest such part counts, for other jobs slow down the others
ALONE, MANY = 5, 500  # queries timed one by one, and together, by exact search
ADDED = 65_536  # vectors copied together on the way into an index
SAME_SCORE = 1e-6  # two ways of computing one cosine differ by less

log = logging.getLogger(__name__)


class Tried(NamedTuple):
    """A trial by its two numbers."""

    recall: float
    ms: float
    effort: int
    rerank: int


class Sample:
    """Queries and how good their k best answers are, among vectors.

    Args:
        vectors: what is searched.
        keys: (n,) int64 of their items.
        queries: (Q, D) float32.
        k: answers per query.
        allowed: (m,) int64 ascending positions of what may be an answer; None = all.
        own: (Q,) int64 the position of each query where it is an item, which is then no answer to itself.
    """

    def __init__(
        self,
        vectors: ExactVectors,
        keys: np.ndarray,
        queries: np.ndarray,
        k: int,
        allowed: np.ndarray | None = None,
        own: np.ndarray | None = None,
    ):
        candidates = len(vectors) if allowed is None else len(allowed)
        self.vectors, self.keys, self.queries, self.allowed, self.own = vectors, keys, queries, allowed, own
        self.candidates = candidates
        self.extra = own is not None
        self.k = min(k, candidates - self.extra)
        found, self.exact_many_ms = _timed(self._exact, len(queries), MANY)
        self.least = -np.partition(-np.concatenate(found), self.k - 1, axis=1)[:, self.k - 1] - SAME_SCORE  # (Q,)

    def recall(self, scores: np.ndarray) -> float:
        """Share of the right answers among answers with these scores (Q, k); equally good ones are right."""
        return float(np.minimum((scores >= self.least[:, None]).sum(axis=1), self.k).mean() / self.k)

    def measure(self, approximate: Approximate, effort: int, rerank: int) -> Tried:
        """Ask an index all the queries, for as many candidates as a search would: some of its rows may be dead."""
        k = self.k + self.extra
        fetch = fetched(k, rerank, self.candidates / len(approximate))

        def answer(some: np.ndarray) -> np.ndarray:
            queries = self.queries[some]  # (q, D)
            found = approximate.reranked(queries, k, fetch, effort, self.allowed, self.vectors, self.keys)
            return self._others(found[0], found[1], some)  # (q, k)

        scores, ms = _timed(answer, len(self.queries), TIMED)
        return Tried(self.recall(np.concatenate(scores)), ms, effort, rerank)

    def exact_ms(self) -> float:
        """CPU milliseconds of exact search for one query alone."""
        return _timed(self._exact, min(len(self.queries), ALONE), 1)[1]

    def _exact(self, some: np.ndarray) -> np.ndarray:
        """(q, k) scores, and one more where queries are items, of exact search with some of the queries."""
        scores, positions = self.vectors.nearest(self.queries[some], self.k + self.extra, self.allowed)
        return self._others(scores, positions, some)

    def _others(self, scores: np.ndarray, positions: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Scores (q, k) of some of the queries, without those of the queries themselves."""
        return scores if self.own is None else np.where(positions == self.own[some, None], NO_SCORE, scores)


def automatic(items: int, dim: int) -> str:
    """The factory that "auto" stands for, above EXACT_UP_TO.

    4-bit codes of two numbers each, scanned in registers: even all lists together take a seventh of the time of exact
    search, so that recall never has to be given up; most queries need a few lists. docs/index.md compares.
    """
    return f"IVF{lists_for(items)},PQ{dim // 2 if dim % 2 == 0 else dim}x4fs"


def lists_for(items: int) -> int:
    """How many lists suit so many items: the power of two nearest to the square root."""
    return 2 ** round(math.log2(items) / 2)


def least_items(factory: str, dim: int) -> float:
    """From how many items on a factory stands for more than exact search; infinity = never.

    Raises:
        ValueError: FAISS has no such index for this width and inner products.
    """
    if factory in EXACT:
        return math.inf
    if factory == "auto":
        return EXACT_UP_TO + 1
    wanted = Approximate(dim, factory).training_vectors
    return max(10, min(math.ceil(wanted / 0.9), wanted + HELD_OUT))  # one in ten is held out


def some_of(items: int) -> np.ndarray:
    """(Q,) ascending positions of items to ask with."""
    return np.sort(np.random.default_rng(0).choice(items, min(items, HELD_OUT), replace=False))


def asked(vectors: ExactVectors, queries: Any, self_queries: bool = False) -> np.ndarray:
    """(Q, D) float32 queries to measure with.

    Raises:
        ValueError: none, or no vectors to find, or one of the queries is among these, unless `self_queries`.
    """
    rows = unit_vectors(queries, vectors.dim, "queries")  # (Q, D)
    if not len(rows) or not len(vectors):
        raise ValueError(f"recall takes queries and items: got {len(rows)} queries for {len(vectors)} items.")
    if not self_queries:
        _, nearest = vectors.nearest(rows, 1, None)  # (Q, 1)
        same = (vectors.get(nearest[:, 0]) == rows).all(axis=1)  # (Q,)
        if same.any():
            raise ValueError(
                f"queries must not be items, which find themselves: {same.sum()} of {len(same)} are, first row "
                f"{same.argmax()}. Take vectors that were not added; recall(self_queries=True) takes them all the same."
            )
    return rows


def build(factory: str, vectors: ExactVectors, keys: np.ndarray) -> tuple[Approximate, list[Trial]] | None:
    """Train, fill and measure an index of items; None where exact search must or should do, which is logged.

    Args:
        factory: "auto", "exact" or what FAISS takes.
        vectors: of the n items.
        keys: (n,) int64 of the items.

    Raises:
        ValueError: FAISS cannot build such an index; its reason is given.
    """
    is_auto = factory == "auto"
    if (least := least_items(factory, vectors.dim)) > len(vectors):
        if least < math.inf and not is_auto:
            log.warning(
                "%s needs at least %d items, of which some are held out to measure it: there are %d. They are "
                "searched exactly until there are more and compact() is called.",
                *(factory, least, len(vectors)),
            )
        return None
    factory = automatic(len(vectors), vectors.dim) if is_auto else factory
    approximate = Approximate(vectors.dim, factory)
    held = min(len(vectors) // 10, HELD_OUT)
    chance = np.random.default_rng(0)
    queries = np.sort(chance.choice(len(vectors), held, replace=False))  # (Q,)
    rest = np.delete(np.arange(len(vectors)), queries)  # (n - Q,)
    train = chance.choice(rest, min(len(rest), approximate.most_training_vectors), replace=False)
    log.info("building %s over %d items", factory, len(vectors))
    approximate.train(vectors.get(np.sort(train)))
    for some in np.split(rest, range(ADDED, len(rest), ADDED)):
        approximate.add(vectors.get(some), keys[some])
    sample = Sample(vectors, keys, vectors.get(queries), K, allowed=rest)
    trials, reached = tune(approximate, sample, AUTO_TARGET if is_auto else NAMED_TARGET)
    assert approximate.setting is not None
    if is_auto and not (reached and approximate.setting.ms < approximate.setting.exact_many_ms):
        log.warning("%s does not pay on these %d items: they are searched exactly", factory, len(vectors))
        return None
    approximate.add(vectors.get(queries), keys[queries])
    return approximate, trials


def tune(approximate: Approximate, sample: Sample, target: float) -> tuple[list[Trial], bool]:
    """Try settings on a sample, and set the one that takes the least time of those that reach a recall.

    Returns:
        The trials that no other one beats in both recall and time, the quickest first, and whether one reaches it; if
        none does, the best is set.
    """
    tried = list(_sweep(approximate, sample, approximate.efforts, RERANKS))
    front: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.ms, -one.recall)):
        if not front or one.recall > front[-1].recall:
            front.append(one)
    chosen = quickest(front, target)
    wide = _wide(approximate, sample, chosen)
    exact = (sample.exact_ms(), sample.exact_many_ms, len(sample.vectors))
    approximate.setting = Setting(sample.k, *_asked(chosen), *_asked(wide), *exact)
    reached = chosen.recall >= target
    if not reached:
        log.warning(
            "no setting of %s reaches recall@%d %.3f: the best, %.3f in %.3g ms per query, is set",
            *(approximate.factory, sample.k, target, chosen.recall, chosen.ms),
        )
    name = approximate.effort_name
    return [
        Trial(one.recall, one.ms, ({name: one.effort} if name else {}) | {"rerank": one.rerank}) for one in front
    ], reached


def _sweep(approximate: Approximate, sample: Sample, efforts: Sequence[int], reranks: Sequence[int]) -> Iterator[Tried]:
    """Trials of growing effort, as long as they find more."""
    for effort in efforts:
        before = 0.0
        for rerank in reranks:
            tried = sample.measure(approximate, effort, rerank)
            yield tried
            if tried.recall < before + GAIN:
                break
            before = tried.recall
        if tried.recall > 1 - GAIN / 2:
            break


def _wide(approximate: Approximate, sample: Sample, chosen: Tried) -> Tried:
    """The quickest trial that does as well where a filter keeps one item in WIDE; a guess, if none does."""
    searched = np.arange(len(sample.vectors)) if sample.allowed is None else sample.allowed
    kept = searched[np.random.default_rng(1).random(len(searched)) < 1 / WIDE]
    if len(kept) > sample.k:
        some = slice(WIDE_QUERIES)
        own = None if sample.own is None else sample.own[some]
        filtered = Sample(sample.vectors, sample.keys, sample.queries[some], sample.k, kept, own)
        efforts = [effort for effort in approximate.efforts if effort >= chosen.effort]
        reranks = [rerank for rerank in RERANKS if rerank >= chosen.rerank]
        tried = _sweep(approximate, filtered, efforts, reranks)
        if enough := [one for one in tried if one.recall >= chosen.recall - GAIN]:
            return min(enough, key=lambda one: one.ms)
    return Tried(chosen.recall, chosen.ms * WIDE, chosen.effort * WIDE, chosen.rerank)


def _asked(tried: Tried) -> tuple[int, int, float]:
    """Effort, candidates per answer, and the time that they take."""
    return tried.effort, tried.rerank, tried.ms


def _timed(answer: Callable[[np.ndarray], np.ndarray], queries: int, together: int) -> tuple[list[np.ndarray], float]:
    """What a function answers to parts of the queries, and the CPU milliseconds per query of the quickest part."""
    answers, least = [], math.inf
    for some in np.array_split(np.arange(queries), max(1, queries // together)):
        begun = time.process_time()
        answers.append(answer(some))
        least = min(least, (time.process_time() - begun) / len(some))
    return answers, 1000 * least
