"""The words that clusters are described by."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mm.index.report.spaces import Space
from mm.vocabulary import tokenize

WORDS = 6  # of a cluster
STOP = {  # articles, prepositions and what else says nothing of what is seen
    *("a", "an", "the", "this", "that", "its", "his", "her", "their", "and", "or", "as", "is", "are", "there", "it"),
    *("of", "on", "in", "at", "to", "with", "by", "for", "from", "over", "under", "near", "into", "onto"),
}


def typical(words: Sequence[set[str]], cluster: np.ndarray) -> list[list[str]]:
    """The words of each cluster that it has oftenest beyond what all items have: count times squared log of the ratio.

    Args:
        words: of n items, the most typical items first: of words that are as frequent, theirs come first.
        cluster: (n,) int64.
    """
    all_counts = Counter(itertools.chain.from_iterable(words))
    counts: list[Counter[str]] = [Counter() for _ in range(int(cluster.max()) + 1)]
    for number, some in zip(cluster.tolist(), words, strict=True):
        counts[number].update(sorted(some))
    sizes = np.bincount(cluster)  # (clusters,)
    found = []
    for own, size in zip(counts, sizes.tolist(), strict=True):
        logs = {
            word: math.log(n * len(words) / (size * all_counts[word])) for word, n in own.items() if word not in STOP
        }
        ranked = sorted(
            (own[word] == 1, -own[word] * log**2, at) for at, (word, log) in enumerate(logs.items()) if log > 0
        )
        names = list(logs)
        found.append([names[at] for _, _, at in ranked[:WORDS]])  # those of a single item come last
    return found


def words_of(space: Space, rows: np.ndarray) -> list[set[str]]:
    """The words of all sentences of some items and of their partners."""
    said: dict[int, set[str]] = {}
    for item, code in zip(space.items, space.partners.tolist(), strict=True):
        if isinstance(item.metadata.get("text"), str):
            said.setdefault(code, set()).update(tokenize(item.metadata["text"]))
    return [said.get(code, set()) for code in space.partners[rows].tolist()]
