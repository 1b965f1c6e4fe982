"""How an approximate index is asked, and what was measured to decide it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

WIDE = 10  # times as many candidates as usual, for which a second setting is measured
SURE = 3  # standard deviations by which the number of candidates that a filter keeps may fall short


class _Recall(Protocol):
    """What has a recall."""

    @property
    def recall(self) -> float:
        """Share of the k best answers that were found."""


class Trial(NamedTuple):
    """One way of asking, and what came of it.

    Attributes:
        recall: share of the k best answers that were found.
        ms: CPU milliseconds per query, of many asked together.
        parameters: {"nprobe" or "efSearch": effort, where the type has one of them; "rerank": candidates per answer}.
    """

    recall: float
    ms: float
    parameters: dict[str, int]


Found = TypeVar("Found", bound=_Recall)


def quickest(trials: Sequence[Found], recall: float) -> Found:
    """The first of trials, in the order of their time, that reaches a recall; where none does, the last, the best."""
    return next((one for one in trials if one.recall >= recall), trials[-1])


@dataclass(frozen=True)
class Setting:
    """The way that was chosen. "Wide" numbers are for a filter that keeps a tenth, or ten times as many answers.

    Attributes:
        k: answers per query that all this was measured for.
        effort: efSearch of HNSW, nprobe of IVF; 1 of a type that has neither.
        rerank: candidates per answer.
        ms: CPU milliseconds per query.
        wide_effort, wide_rerank, wide_ms: what reaches the same recall there.
        exact_ms: of one query alone, by exact search over all of `items`.
        exact_many_ms: per query, of many together; each such search reads all vectors once, as one query alone does.
        items: how many there were.
    """

    k: int
    effort: int
    rerank: int
    ms: float
    wide_effort: int
    wide_rerank: int
    wide_ms: float
    exact_ms: float
    exact_many_ms: float
    items: int

    def effort_for(self, wider: float) -> int:
        """Effort where `wider` times as many candidates are wanted: a power law through the two that were measured."""
        return round(_between(self.effort, self.wide_effort, wider))

    def rerank_for(self, wider: float) -> int:
        """Candidates per answer, in the same way."""
        return round(_between(self.rerank, self.wide_rerank, wider))

    def pays(self, wider: float, candidates: int, queries: int) -> bool:
        """Whether a search that is so much wider takes less time than an exact one among so many candidates."""
        exact_ms = self.exact_many_ms + self.exact_ms / queries
        return wider == 1 or _between(self.ms, self.wide_ms, wider) < exact_ms * candidates / self.items


def fetched(k: int, rerank: int, share: float) -> int:
    """How many candidates to ask for where a filter keeps this share of them, so that enough are left for k answers."""
    wanted = k * rerank
    return wanted if share == 1 else math.ceil(max(wanted, k + SURE * math.sqrt(k)) / share)


def _between(usual: float, wide: float, wider: float) -> float:
    """usual * wider**p, with p such that it is `wide` where wider = WIDE."""
    return usual * wider ** math.log(wide / usual, WIDE)
