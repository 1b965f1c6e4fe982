"""`Hits`: what a search answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mm.index.items import Id, Items, Metadata


class Hit(NamedTuple):
    """One answer; `score` is the cosine."""

    id: Id
    score: float
    metadata: Metadata


@dataclass
class Hits:
    """Answers to Q queries, the best first, equal scores in the order in which the items were added.

    Attributes:
        ids: Q lists of k ids.
        scores: (Q, k) float32 cosines; of a range search, whose lists differ in length, Q arrays.
    """

    ids: list[list[Id]]
    scores: np.ndarray | list[np.ndarray]
    _keys: list[np.ndarray] = field(repr=False)
    _items: Items = field(repr=False)

    @classmethod
    def of(cls, items: Items, scores: np.ndarray | list[np.ndarray], positions: np.ndarray | list[np.ndarray]) -> Hits:
        """The items at these positions, Q rows of them, with their scores."""
        ids = [[items.ids[position] for position in row.tolist()] for row in positions]
        return cls(ids, scores, [items.keys[row] for row in positions], items)

    @cached_property
    def metadata(self) -> list[list[Metadata]]:
        """Q lists of k dicts, read when first asked for.

        Raises:
            LookupError: an answer was removed from the index since, or got another vector.
        """
        keys = [key for row in self._keys for key in row.tolist()]
        rows = iter(self._items.metadata(keys))
        return [[next(rows) for _ in ids] for ids in self.ids]

    def rows(self, query: int = 0) -> list[Hit]:
        """The answers to one query."""
        return list(map(Hit, self.ids[query], self.scores[query].tolist(), self.metadata[query]))

    def __iter__(self) -> Iterator[list[Hit]]:
        """The answers to each query."""
        return (self.rows(query) for query in range(len(self.ids)))
