"""`Space`: the items of one or several indexes whose vectors may be compared, by modality, with their neighbours.

Indexes of one encoder that share no id hold parts of one space, such as its modalities. All others are spaces of their
own, whose items are matched by their ids.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mm.index.analysis import BLOCK, EQUAL, Graph, joined, nearest, neighbours
from mm.index.media import Item, item_of
from mm.index.store import Index
from mm.naming import hint

SHARE = 10  # one of so many items of a modality may be a neighbour: of more, every measure nears chance by itself
LABELS = ("label", "class", "category", "digit", "colour", "speaker")  # keys that are looked for, in this order

log = logging.getLogger(__name__)


class Space:
    """n items of unit vectors, in parts: the modalities, one behind the other.

    Args:
        name: by which the report speaks of it.
        indexes: of one width, without a common id.
        paths: of the indexes.
        k: neighbours wanted.
        modalities: kept; none = all.

    Attributes:
        vectors: (n, D) float32.
        items: n of them.
        parts: {modality: where its items stand}.

    Raises:
        ValueError: no items, or none of a wanted modality.
    """

    def __init__(
        self, name: str, indexes: Sequence[Index], paths: Sequence[str], k: int, modalities: Sequence[str] = ()
    ):
        self.name, self.paths, self.k = name, list(paths), k
        self.dim, self.fingerprint, self.run = indexes[0].dim, indexes[0].fingerprint, indexes[0].run
        found = [
            (item_of(id_, values), number)
            for number, index in enumerate(indexes)
            for id_, values in zip(index.ids, index.metadata(index.ids), strict=True)
        ]
        if not found:
            raise ValueError(f"an index must hold items to be looked into: {', '.join(paths)} holds none.")
        names = list(dict.fromkeys(item.modality for item, _ in found))
        for wanted in modalities:
            if wanted not in names:
                said = f"the modalities of {name} are {', '.join(names)}: got {wanted!r}.{hint(wanted, names)}"
                raise ValueError(said)
        names = [one for one in names if not modalities or one in modalities]
        place = {one: number for number, one in enumerate(names)}
        found = [one for one in found if one[0].modality in place]
        order = sorted(range(len(found)), key=lambda row: place[found[row][0].modality])  # stable
        self.items = [found[row][0] for row in order]
        self.vectors = np.empty((len(order), self.dim), np.float32)  # (n, D)
        source = np.array([found[row][1] for row in order])  # (n,) which index an item is of
        for number, index in enumerate(indexes):
            mine = np.flatnonzero(source == number)  # (m,)
            if len(mine):
                self.vectors[mine] = index.vectors([self.items[row].id for row in mine.tolist()])
        counts = [sum(1 for item in self.items if item.modality == one) for one in names]
        ends = list(itertools.accumulate(counts))
        self.parts = {one: slice(end - count, end) for one, end, count in zip(names, ends, counts, strict=True)}
        self._graphs: dict[tuple[str, str], Graph] = {}

    @property
    def counts(self) -> dict[str, int]:
        """{modality: number of items}."""
        return {name: part.stop - part.start for name, part in self.parts.items()}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two modalities."""
        return list(itertools.combinations(self.parts, 2))

    def of(self, part: str) -> np.ndarray:
        """(m, D) the vectors of one modality; the very memory."""
        return self.vectors[self.parts[part]]  # (m, D)

    def neighbours_of(self, part: str) -> int:
        """The k of measures over neighbours of this modality: of its items a tenth at most, and at least 1."""
        return max(min(self.k, self.counts[part] // SHARE), 1)

    def nearest(self, part: str, other: str | None = None) -> Graph:
        """The graph with the k of `neighbours_of`.

        Raises:
            ValueError: as of `graph`.
        """
        return cut(self.graph(part, other), self.neighbours_of(other or part))

    def graph(self, part: str, other: str | None = None) -> Graph:
        """The k nearest of one modality, of another one or of the same: computed once. Positions count within it.

        Raises:
            ValueError: the same modality, of which there is one item.
        """
        answers = other or part
        if (part, answers) not in self._graphs:
            sizes = self.counts[part], part, self.counts[answers], answers
            log.info("%s: the neighbours of %d %s among %d %s", self.name, *sizes)
            if answers == part:
                graph = neighbours(self.of(part), min(self.k, self.counts[part] - 1))
            else:
                graph = nearest(self.of(part), self.of(answers), min(self.k, self.counts[answers]))
            self._graphs[part, answers] = graph
        return self._graphs[part, answers]

    def whole_graph(self) -> Graph:
        """The k nearest of all items to each item, joined from the graphs of the modalities.

        Raises:
            ValueError: there is one item.
        """
        if len(self.parts) == 1:
            return self.graph(*self.parts)
        found = []
        for part in self.parts:
            others = [other for other in self.parts if other != part or self.counts[part] > 1]
            graphs = [self.graph(part, other) for other in others]
            starts = [self.parts[other].start for other in others]
            found.append(joined(graphs, starts, min(self.k, len(self.items) - 1)))
        return Graph(*map(np.concatenate, zip(*found, strict=True)))

    def is_constant(self, part: str) -> bool:
        """Whether all vectors of a modality are equal, but for rounding."""
        vectors = self.of(part)
        blocks = (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
        return all(float(np.square(some - vectors[0]).sum(axis=1).max()) <= EQUAL for some in blocks)

    @cached_property
    def partners(self) -> np.ndarray:
        """(n,) int64, equal for items that were made of one item of the data set, or have one name."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(_owner(item), len(numbers)) for item in self.items], np.int64)

    def partner_pairs(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """(p,) and (p,) int64 positions, in two modalities, of all that are partners."""
        codes, its = self.partners[self.parts[first]], self.partners[self.parts[second]]  # (n,), (m,)
        order = np.argsort(its, kind="stable")  # (m,)
        low, high = (np.searchsorted(its[order], codes, side) for side in ("left", "right"))  # (n,), (n,)
        rows = np.repeat(np.arange(len(codes)), high - low)  # (p,)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)  # (p,)
        return rows, order[low[rows] + within]

    def labels(self, key: str, part: str | None = None) -> list[Hashable]:
        """The label of every item, or of those of one modality; None = not known.

        Raises:
            ValueError: an item has a list or a table under that key.
        """
        items = self.items if part is None else self.items[self.parts[part]]
        found = [item.metadata.get(key) for item in items]
        for item, label in zip(items, found, strict=True):
            if isinstance(label, (list, dict)):
                raise ValueError(
                    f"a label must be a word or a number: {key!r} of {item.id!r} is {label!r:.60}. Name another key."
                )
        return [None if label == "" else label for label in found]


def spaces_of(paths: Sequence[str], k: int, modalities: Sequence[str] = ()) -> list[Space]:
    """The spaces of some indexes, see above.

    Args:
        paths: of the indexes.
        k: neighbours wanted.
        modalities: kept; none = all.

    Raises:
        FileNotFoundError, IndexDamagedError: as of `Index.load`.
        ValueError: as of `Space`, or a space shares no id with another one.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"indexes that are compared must be different ones: got {', '.join(paths)}.")
    indexes = [Index.load(path, mmap=True) for path in paths]
    groups: list[list[int]] = []
    ids = [set(index.ids) for index in indexes]
    for number, index in enumerate(indexes):
        for group in groups:
            one = indexes[group[0]]
            same = (index.fingerprint, index.dim) == (one.fingerprint, one.dim) and index.fingerprint
            if same and all(ids[number].isdisjoint(ids[other]) for other in group):
                group.append(number)
                break
        else:
            groups.append([number])
    shared = [set().union(*(ids[number] for number in group)) for group in groups]
    for number, own in enumerate(shared):
        others = [other for place, other in enumerate(shared) if place != number]
        if others and all(own.isdisjoint(other) for other in others):
            raise ValueError(
                f"indexes are compared by the ids of their items: {paths[groups[number][0]]} shares none with another "
                f"one, its first is {indexes[groups[number][0]].ids[:1]}. Look into it alone, or index the same items."
            )
    names = short_names(paths)
    return [
        Space(
            " + ".join(names[number] for number in group),
            [indexes[number] for number in group],
            [paths[number] for number in group],
            k,
            modalities,
        )
        for group in groups
    ]


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of paths that tell them apart, without what they have in common there: runs/a/index -> a."""
    parts = [Path(path).resolve().parts for path in paths]
    if len(parts) == 1:
        return [parts[0][-1] if parts[0][-1] != "index" else parts[0][-2]]
    common = 0
    while len({part[-1 - common] for part in parts}) == 1:
        common += 1
    for more in itertools.count(1):
        names = ["/".join(part[max(len(part) - common - more, 0) : len(part) - common]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different names")


def label_key(spaces: Sequence[Space], wanted: str | None) -> str | None:
    """The key of the metadata that labels the items: the wanted one, or the first of LABELS that two items have.

    Raises:
        ValueError: no item has the wanted one; the nearest is named.
    """
    counts: dict[str, int] = {}
    for item in itertools.chain.from_iterable(space.items for space in spaces):
        for key in item.metadata:
            counts[key] = counts.get(key, 0) + 1
    if wanted is not None and wanted not in counts:
        keys = sorted(counts)
        raise ValueError(
            f"label: no item has the key {wanted!r}. Keys are: {', '.join(keys) or 'none'}.{hint(wanted, keys)}"
        )
    return wanted or next((key for key in LABELS if counts.get(key, 0) > 1), None)


def cut(graph: Graph, k: int) -> Graph:
    """The k nearest of those in a graph."""
    return Graph(graph.rows[:, :k], graph.cosines[:, :k])


def _owner(item: Item) -> str:
    """What partners have in common: the item of the data set, else the id without its modality and number."""
    if "item" in item.metadata:
        return str(item.metadata["item"])
    return str(item.id).removeprefix(f"{item.modality}:").partition("#")[0]
