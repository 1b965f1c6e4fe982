"""How alike two spaces are that hold the same items: encoders, layers or runs."""

from __future__ import annotations

from functools import partial

import numpy as np

from mm.index import analysis
from mm.index.analysis import Graph
from mm.index.report.measured import LEAST, Measured, Numbers, defined
from mm.index.report.spaces import SHARE, Space, cut


def compared(first: Measured, second: Measured) -> tuple[Numbers, Numbers]:
    """Overlap of neighbours and CKA, by modality, over the items that two spaces share."""
    overlaps: Numbers = {}
    likeness: Numbers = {}
    a, b = first.space, second.space
    for part in (part for part in a.parts if part in b.parts):
        place = {item.id: row for row, item in enumerate(b.items[b.parts[part]])}
        rows = [row for row, item in enumerate(a.items[a.parts[part]]) if item.id in place]
        its = [place[a.items[a.parts[part]][row].id] for row in rows]
        n = len(rows)
        what, k = f"{part} of {a.name} and {b.name}", max(min(a.k, n // SHARE), 1)
        if n < 2:
            first.notes.append(f"{what}: {n} items are in both, too few to compare.")
            continue
        if k < a.k:
            first.notes.append(f"{what}: k is lowered from {a.k} to {k}, a tenth of the {n} items in both, at least 1.")
        ours, theirs = np.array(rows), np.array(its)  # (n,), (n,)
        value = None
        if any(space.is_constant(part) for space in (a, b)):
            first.notes.append(f"overlap of {what}: not defined, for in one of them all vectors are equal.")
        else:
            value = analysis.overlap(_restricted(a, part, ours, k), _restricted(b, part, theirs, k))
        overlaps[part] = {"overlap": value, "chance": k / (n - 1), "k": k, "items": n}
        pair = a.of(part)[ours], b.of(part)[theirs]  # (n, D), (n, E)
        if n < LEAST:
            first.notes.append(f"CKA of {what}: not measured, for {n} items are fewer than {LEAST}.")
            likeness[part] = None
            continue
        likeness[part] = defined(first, f"CKA of {what}", partial(analysis.cka, *pair))
    return overlaps, likeness


def _restricted(space: Space, part: str, rows: np.ndarray, k: int) -> Graph:
    """The graph of some items of a modality, in a given order; that of all is used again."""
    if len(rows) < space.counts[part]:
        return analysis.neighbours(np.ascontiguousarray(space.of(part)[rows]), k)
    graph, place = cut(space.graph(part), k), np.argsort(rows)  # (n,)
    return Graph(place[graph.rows[rows]], graph.cosines[rows])
