"""The figures of a report, drawn: queries with their neighbours, hubs, near duplicates, medoids, curves and maps."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mm.index import projection
from mm.index.analysis import Graph, clusters, neighbours
from mm.index.grid import Shown, draw_neighbours
from mm.index.report.cells import Cells
from mm.index.report.maps import draw_cosines, draw_grid, draw_hubness, draw_maps
from mm.index.report.measured import Measured, Numbers, name_of
from mm.index.report.measures import CLUSTERS
from mm.index.report.spaces import Space
from mm.index.report.words import typical, words_of

ROWS, COLUMNS = 4, 6  # queries of a grid, and neighbours beside each
LETTERS = 22  # of a name above a cell
PAIRS = 20_000  # pairs of each kind whose cosines are drawn

log = logging.getLogger(__name__)


class Drawn(NamedTuple):
    """A figure of the report.

    Attributes:
        section: where it belongs: a key of the report.
        path: of the PNG.
        caption: what it shows and how to read it.
    """

    section: str
    path: Path
    caption: str


class Artist:
    """Draws the figures of one space.

    Args:
        found: what was found in it.
        cells: of its items.
        folder: of the figures.
        prefix: of their names; "" where there is one space.
        seed: of what is drawn at random.
        label: key of the metadata; None = there are no labels.
    """

    def __init__(self, found: Measured, cells: Cells, folder: Path, prefix: str, seed: int, label: str | None):
        self.found, self.space, self.cells, self.label, self.seed = found, found.space, cells, label, seed
        self._folder, self._prefix = folder, prefix
        self.drawn: list[Drawn] = []

    def draw(self) -> list[Drawn]:
        """All figures but the maps."""
        for part, answers in self.found.hubs:
            self._neighbours_of_random(part, answers)
        for part, answers in self.found.worst:
            self._worst_partners(part, answers)
        if not self.found.worst:
            for part in self.found.purity:
                self._least_pure(part)
        self._cosines()
        if any(hubness.occurrences.mean() >= 1 for hubness in self.found.hubs.values()):
            occurrences = {
                name_of(*pair, " → "): hubness.occurrences
                for pair, hubness in self.found.hubs.items()
                if hubness.occurrences.mean() >= 1
            }
            caption = (
                "How often items are neighbours: within a modality, and of the queries before an arrow those behind."
            )
            self._keep("hubness", caption, draw_hubness(occurrences, self._path("hubness")))
        for part, answers in self.found.hubs:
            self._hubs(part, answers)
        for part, groups in self.found.groups.items():
            self._duplicates(part, groups)
        for part in self.found.clusters:
            self._medoids(part)
        return self.drawn

    def maps(self, sample: int) -> Numbers | None:
        """PCA, t-SNE and UMAP of some items, coloured by modality, label and cluster.

        Args:
            sample: items at most, as many of each modality as there is room for.

        Returns:
            What the maps were made with; None where there are none, and a note says why.
        """
        rows = _spread(self.space, sample, self.seed)  # (s,) ascending
        vectors = self.space.vectors[rows]  # (s, D)
        made: dict[str, np.ndarray] = {}
        settings: Numbers = {"seed": self.seed}
        try:
            made["PCA"] = projection.pca(vectors, self.seed)
        except ValueError as error:
            self.found.notes.append(f"maps: none, for {error}")
            return None
        settings["pca"] = {"variance_share": projection.variance_share(vectors, made["PCA"])}
        perplexity = projection.widest_perplexity(len(rows))
        log.info("%s: t-SNE and UMAP of %d items", self.space.name, len(rows))
        made["t-SNE"] = projection.tsne(vectors, self.seed, perplexity)
        settings["tsne"] = {"perplexity": perplexity}
        graph = self._graph_of(rows)
        settings["umap"] = None
        try:
            made["UMAP"] = projection.umap(vectors, graph, self.seed)
            settings["umap"] = {"n_neighbors": graph.rows.shape[1] + 1}
        except ValueError as error:
            self.found.notes.append(f"UMAP: left out, for {error}")
        items = [self.space.items[row] for row in rows.tolist()]
        counts = {part: int(((rows >= where.start) & (rows < where.stop)).sum()) for part, where in self._parts}
        settings["sample"] = counts
        drawn = ", ".join(f"{count:,} of {self.space.counts[part]:,} {part}" for part, count in counts.items())
        note = f"{drawn}; seed {self.seed}; t-SNE: perplexity {perplexity:g}; PCA shows " + (
            f"{100 * settings['pca']['variance_share']:.0f} % of the variance"
        )
        if settings["umap"]:
            note += f"; UMAP: {graph.rows.shape[1]} neighbours"
        colours: dict[str, Sequence[Hashable]] = {}
        if len(counts) > 1:
            colours["modality"] = [item.modality for item in items]
        if self.label:
            labels = self.space.labels(self.label)
            colours[self.label] = [labels[row] for row in rows.tolist()]
        else:
            colours["cluster"] = self._cluster_names(rows)
        for name, values in colours.items():
            path = draw_maps(made, values, self._path(f"map_{name}"), f"Coloured by {name}", note)
            self._keep("projection", f"Coloured by {name}: {note}.", path)
        return settings

    @property
    def _parts(self) -> list[tuple[str, slice]]:
        return list(self.space.parts.items())

    def _graph_of(self, rows: np.ndarray) -> Graph:
        """The neighbours among some items; of all, those that are known already."""
        if len(rows) == len(self.space.items):
            return self.space.whole_graph()
        return neighbours(self.space.vectors[rows], min(self.space.k, len(rows) - 1))

    def _cluster_names(self, rows: np.ndarray) -> list[str]:
        """A name for the cluster of each of some items, of all modalities together: its number and words."""
        cluster, _ = clusters(self.space.vectors[rows], min(CLUSTERS, max(len(rows) // 2, 1)), self.seed)
        words = typical(words_of(self.space, rows), cluster)
        return [f"{number + 1} {' '.join(words[number][:2])}".strip() for number in cluster.tolist()]

    def _neighbours_of_random(self, part: str, answers: str) -> None:
        chance = np.random.default_rng(self.seed)
        asked = np.sort(chance.permutation(self.space.counts[part])[:ROWS])
        rows = [(self._cell(part, row), self._answers(part, answers, row)) for row in asked.tolist()]
        name = f"neighbours_{name_of(part, answers)}"
        caption = f"Random queries: {part}, and the nearest {answers}. {self._frames(part, answers)}"
        self._keep("neighbours", caption, self._grid(name, rows))

    def _worst_partners(self, part: str, answers: str) -> None:
        asked, places = self.found.worst[part, answers]
        rows = []
        start = self.space.parts[answers].start
        for row, place in zip(asked[:ROWS].tolist(), places[:ROWS].tolist(), strict=True):
            partner = self._nearest_partner(part, answers, row)
            item = self.space.items[start + partner]
            first = self.cells.cell(item, f"its partner: place {place:,.0f}", True)
            rows.append((self._cell(part, row), [first, *self._answers(part, answers, row)[: COLUMNS - 1]]))
        name = f"worst_{name_of(part, answers)}"
        caption = (
            f"Worst queries: the {part} whose nearest partner stands last among the {self.space.counts[answers]:,} "
            f"{answers}. Beside each its partner, then the nearest {answers}. {self._frames(part, answers)}"
        )
        self._keep("worst", caption, self._grid(name, rows))

    def _least_pure(self, part: str) -> None:
        shares = self.found.purity[part]
        order = np.lexsort((np.random.default_rng(self.seed).random(len(shares)), shares))[:ROWS]  # NaN comes last
        rows = [(self._cell(part, row), self._answers(part, part, row)) for row in order.tolist()]
        name = f"worst_{part}"
        caption = (
            f"Worst queries: {part} of which the fewest neighbours have the same {self.label}. "
            f"{self._frames(part, part)}"
        )
        self._keep("worst", caption, self._grid(name, rows))

    def _cosines(self) -> None:
        """Of partners, of random pairs across modalities and within each."""
        chance, panels = np.random.default_rng(self.seed), {}
        for first, second in self.space.pairs:
            kinds = {}
            rows, its = self.space.partner_pairs(first, second)  # (p,), (p,)
            if len(rows):
                some = chance.permutation(len(rows))[:PAIRS]
                kinds["partners"] = self._pair_cosines(first, second, rows[some], its[some])
            kinds["random, across"] = self._random_cosines(first, second, chance)
            kinds |= {f"random, {part}": self._random_cosines(part, part, chance) for part in (first, second)}
            panels[f"{first} and {second}"] = kinds
        if not panels:
            for part in self.found.clusters:
                near = self.space.graph(part).cosines
                kinds = {"nearest": near[:, 0], f"{near.shape[1]}th nearest": near[:, -1]}
                panels[part] = kinds | {"random": self._random_cosines(part, part, chance)}
        if panels:
            caption = "How near pairs are: where the curves of partners and of random pairs part, search can find."
            self._keep("alignment", caption, draw_cosines(panels, self._path("cosines")))

    def _random_cosines(self, first: str, second: str, chance: np.random.Generator) -> np.ndarray:
        rows, its = (chance.integers(0, self.space.counts[part], PAIRS) for part in (first, second))
        if first == second and self.space.counts[first] > 1:
            rows, its = rows[rows != its], its[rows != its]
        return self._pair_cosines(first, second, rows, its)

    def _pair_cosines(self, first: str, second: str, rows: np.ndarray, its: np.ndarray) -> np.ndarray:
        return np.einsum("pd,pd->p", self.space.of(first)[rows], self.space.of(second)[its])  # (p,)

    def _hubs(self, part: str, answers: str) -> None:
        hubness, graph = self.found.hubs[part, answers], self.space.nearest(part, answers)
        if hubness.occurrences.mean() < 1:
            return  # nothing is found often
        items = self.space.items[self.space.parts[answers]]
        top = np.argsort(-hubness.occurrences, kind="stable")[: ROWS - 1].tolist()
        chance, rows = np.random.default_rng(self.seed), []
        for hub in top:
            askers = np.flatnonzero((graph.rows == hub).any(axis=1))  # (a,)
            some = np.sort(chance.permutation(askers)[:COLUMNS]).tolist()
            first = self.cells.cell(items[hub], f"{hubness.occurrences[hub]:,} times a neighbour")
            rows.append((first, [self._cell(part, row) for row in some]))
        name = f"hubs_{name_of(part, answers)}"
        caption = (
            f"The greatest hubs: {answers} that are oftenest among the neighbours of {part}, beside random askers."
        )
        self._keep("hubness", caption, self._grid(name, rows))

    def _duplicates(self, part: str, groups: Sequence[np.ndarray]) -> None:
        if not groups:
            return
        rows = []
        for group in groups[:ROWS]:
            cells = [self._cell(part, row) for row in group[: COLUMNS + 1].tolist()]
            rows.append((cells[0]._replace(title=f"{len(group):,} alike"), cells[1:]))
        name = f"duplicates_{part}"
        clouds = self.found.numbers["duplicates"][part]["near"]["clouds"]
        begun = "Clouds, not copies" if clouds else "Near duplicates"
        caption = f"{begun}: the largest groups of {part} that belong to several items of the data set."
        self._keep("duplicates", caption, self._grid(name, rows))

    def _medoids(self, part: str) -> None:
        described = self.found.numbers["clusters"][part]
        cells = []
        for number, medoid in enumerate(self.found.clusters[part][1].tolist()):
            cells.append(self._cell(part, medoid)._replace(title=_title(number + 1, described[number])))
        name = f"medoids_{part}"
        caption = f"The medoid of each cluster of {part}, with what is most typical of it and the number of its items."
        self._keep("clusters", caption, draw_grid(cells, self._path(name)))

    def _cell(self, part: str, row: int) -> Shown:
        """An item by its position in its modality, with its label or name."""
        item = self.space.items[self.space.parts[part].start + row]
        label = item.metadata.get(self.label) if self.label else None
        return self.cells.cell(item, _short(str(item.id).removeprefix(f"{part}:")) if label is None else str(label))

    def _answers(self, part: str, answers: str, row: int) -> list[Shown]:
        """The neighbours of an item as cells with their cosines, framed."""
        graph, start = self.space.graph(part, answers), self.space.parts[answers].start
        own = self.space.parts[part].start + row
        cells = []
        for place, cosine in zip(graph.rows[row, :COLUMNS], graph.cosines[row, :COLUMNS], strict=True):
            at = start + int(place)
            cells.append(self.cells.cell(self.space.items[at], f"{cosine:.2f}", self._is_right(part, answers, own, at)))
        return cells

    def _is_right(self, part: str, answers: str, own: int, at: int) -> bool | None:
        """Whether a neighbour is a partner, or has the label; None where neither is known."""
        if part != answers and (part, answers) in self.found.worst:
            return bool(self.space.partners[own] == self.space.partners[at])
        if not self._can_be_right(part, answers):
            return None
        labels = [self.space.items[one].metadata.get(self.label) if self.label else None for one in (own, at)]
        return None if None in labels else labels[0] == labels[1]

    def _frames(self, part: str, answers: str) -> str:
        """What the frames say."""
        if part != answers and (part, answers) in self.found.worst:
            return "Green: partners; red: others."
        return f"Green: the same {self.label}; red: another." if self._can_be_right(part, answers) else ""

    def _can_be_right(self, part: str, answers: str) -> bool:
        """Whether some neighbour could have the label of who asks."""
        pure = self.found.numbers["purity"].get(name_of(part, answers))
        return pure is not None and pure["purity"] is not None

    def _nearest_partner(self, part: str, answers: str, row: int) -> int:
        code = self.space.partners[self.space.parts[part].start + row]
        partners = np.flatnonzero(self.space.partners[self.space.parts[answers]] == code)  # (p,)
        return int(partners[np.argmax(self.space.of(answers)[partners] @ self.space.of(part)[row])])

    def _grid(self, name: str, rows: Sequence[tuple[Shown, Sequence[Shown]]]) -> Path:
        return draw_neighbours(rows, self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._prefix}{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.png"

    def _keep(self, section: str, caption: str, path: Path) -> None:
        self.drawn.append(Drawn(section, path, caption.strip()))


def _title(number: int, cluster: Numbers) -> str:
    """How a cluster is called: by its label, else its words, else its number only."""
    named = [str(row["label"]) for row in cluster["labels"][:1]] or cluster["words"][:2]
    return f"{f'{number}: ' + ' '.join(named) if named else f'cluster {number}'} ({cluster['items']:,})"


def _short(name: str) -> str:
    """A name without its middle, where it is wider than a cell."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2]}…{name[1 - LETTERS // 2 :]}"


def _spread(space: Space, sample: int, seed: int) -> np.ndarray:
    """(s,) ascending positions of at most `sample` items, as many of each modality as there is room for."""
    chance, room, found = np.random.default_rng(seed), sample, []
    waiting = sorted(space.parts, key=lambda part: space.counts[part])  # what the small ones leave is for the others
    for number, part in enumerate(waiting):
        count = min(space.counts[part], room // (len(waiting) - number))
        found.append(space.parts[part].start + chance.permutation(space.counts[part])[:count])
        room -= count
    return np.sort(np.concatenate(found))
