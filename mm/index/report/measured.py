"""What was measured of a space: the numbers of a report, and the items behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from mm.index.analysis import Hubness
from mm.index.report.spaces import Space

LEAST = 30  # items; dimension, skewness, separability and CKA of fewer are chance

Numbers: TypeAlias = dict[str, Any]


@dataclass
class Measured:
    """What was measured of a space.

    Attributes:
        space: whose.
        numbers: {measure: {modality, "a_b" or "a_to_b": value}}; only values that JSON has.
        notes: what was lowered, is not defined or says nothing.
        hubs: {(modality, that of the answers): how often each answer is a neighbour}.
        purity: {modality: share of each item's neighbours with its label, NaN = not known}.
        worst: {(modality, that of the answers): positions of queries, the worst first, and their partners' places}.
        groups: {modality: near duplicates}.
        clusters: {modality: (cluster of each item, medoids)}.
    """

    space: Space
    numbers: dict[str, Numbers] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hubs: dict[tuple[str, str], Hubness] = field(default_factory=dict)
    purity: dict[str, np.ndarray] = field(default_factory=dict)
    worst: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    groups: dict[str, list[np.ndarray]] = field(default_factory=dict)
    clusters: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def defined(found: Measured, what: str, measure: Callable[[], float]) -> float | None:
    """A measure, or None and a note."""
    try:
        return measure()
    except ValueError as error:
        found.notes.append(f"{what}: not defined, for {error}")
        return None


def name_of(part: str, answers: str, between: str = "_to_") -> str:
    """How a modality and that of the answers are called: by one name where they are one."""
    return part if part == answers else f"{part}{between}{answers}"
