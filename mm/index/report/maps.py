"""The figures of a report: maps of items as coloured points, how often items are neighbours, cosines, and cells."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from scipy import stats

from mm.index.grid import CELL_INCHES, Shown, draw, write_png

COLOURS = [  # Okabe and Ito 2008, in the order in which they are told apart best, then four more
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b2a600", "#000000"),
    *("#8c564b", "#7b3fa0", "#2f4b4b", "#c51b7d"),
]
REST = "#b8b8b8"  # labels beyond those, and items without one
PANEL_IN = 3.4
FONT: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 8}
RARE, LARGER = 10, 4  # labels so much rarer than the most frequent are drawn last, and their points so much larger
LETTERS = 24  # of a label in the legend
BINS = 60


def draw_maps(
    maps: Mapping[str, np.ndarray], labels: Sequence[Hashable], path: str | Path, title: str = "", note: str = ""
) -> Path:
    """Maps of the same n items side by side, coloured by the most frequent labels; the rest is grey.

    Args:
        maps: {name: (n, 2) points}, at least one.
        labels: of the items; None = not known.
        path: of the PNG.
        title: above everything.
        note: below it.

    Raises:
        ValueError: no maps, or as many labels as there are no points.
    """
    if not maps or any(len(points) != len(labels) for points in maps.values()):
        sizes = ", ".join(f"{name} {len(points)}" for name, points in maps.items())
        raise ValueError(f"maps must be of as many points as there are labels, {len(labels)}: got {sizes or 'none'}.")
    counts = Counter(label for label in labels if label is not None).most_common()
    colours = {label: colour for (label, _), colour in zip(counts, COLOURS, strict=False)}
    point = float(np.clip(10_000 / len(labels), 2, 40))  # points^2
    rare = {label for label, n in counts[: len(COLOURS)] if n * RARE < counts[0][1]}
    areas = np.array([point * (LARGER if label in rare else 1) for label in labels])  # (n,)
    order = np.random.default_rng(0).permutation(len(labels))  # so that no label lies on top
    order = order[np.argsort(areas[order], kind="stable")]  # but the rare ones
    shown = matplotlib.colors.to_rgba_array([colours.get(label, REST) for label in labels])[order]  # (n, 4)
    figure = Figure(figsize=(PANEL_IN * len(maps) + 1.8, PANEL_IN + 0.75), layout="constrained")
    with matplotlib.rc_context(FONT):
        for axes, (name, points) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
            axes.scatter(*points[order].T, c=shown, s=areas[order], linewidths=0, alpha=0.75)
            axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
            axes.set_title(name, fontsize=9, parse_math=False)
            for spine in axes.spines.values():
                spine.set_color("#dddddd")
        marks = [_mark(colours[label], f"{_short(label)} ({n:,})") for label, n in _in_order(counts[: len(COLOURS)])]
        if rest := len(labels) - sum(n for _, n in counts[: len(COLOURS)]):
            others = len(counts) - len(COLOURS)
            marks.append(_mark(REST, f"{others:,} others ({rest:,})" if others > 0 else f"not known ({rest:,})"))
        _as_it_is(figure.legend(handles=marks, loc="outside right center", frameon=False, fontsize=8))
        if title:
            figure.suptitle(title, fontsize=10, parse_math=False)
        if note:
            below = textwrap.fill(note, int(14 * figure.get_figwidth()))
            figure.supxlabel(below, fontsize=8, color="#555555", parse_math=False)
        return write_png(figure, path)


def draw_hubness(occurrences: Mapping[str, np.ndarray], path: str | Path) -> Path:
    """How many items are how often neighbours, beside what evenly drawn neighbours would give.

    Args:
        occurrences: {name: (n,) int64 N_k of each item}.
        path: of the PNG.
    """
    columns = 2 if len(occurrences) in (2, 4) else min(len(occurrences), 3)
    lines = -(-len(occurrences) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * lines), layout="constrained")
    with matplotlib.rc_context(FONT):
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in panels[len(occurrences) :]:
            axes.set_axis_off()
        for axes, (name, counts) in zip(panels, occurrences.items(), strict=False):
            mean, most = counts.mean(), int(counts.max())
            edges = np.unique(np.linspace(0, most + 1, BINS).round())  # (b + 1,) whole numbers
            axes.hist(counts, edges, color=COLOURS[0], label="found")
            last = np.minimum(edges, most + 1) - 1
            even = np.diff(stats.poisson.cdf(last, mean)) * len(counts)  # (b,)
            axes.stairs(even, edges, color=COLOURS[1], linewidth=1.2, label="if drawn evenly")
            axes.axvline(mean, color="#555555", linewidth=0.8, linestyle=":")
            axes.set(yscale="log", ylim=(0.5, None), xlabel="times a neighbour", ylabel="items")
            axes.set_title(name, fontsize=9, parse_math=False)
            _as_it_is(axes.legend(frameon=False, fontsize=7))
            _plain(axes)
        return write_png(figure, path)


def draw_cosines(panels: Mapping[str, Mapping[str, np.ndarray]], path: str | Path) -> Path:
    """How near pairs of several kinds are: {panel: {kind of pair: (p,) cosines}}, at most three panels in a line."""
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(3.6 * columns, 5.4), 2.8 * lines), layout="constrained")
    with matplotlib.rc_context(FONT):
        cells = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in cells[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, kinds) in zip(cells, panels.items(), strict=False):
            every = np.concatenate(list(kinds.values()))
            low, high = float(every.min()) - 0.01, float(every.max()) + 0.01
            for colour, (kind, cosines) in zip(COLOURS, kinds.items(), strict=False):
                heights, edges = np.histogram(cosines, BINS, (low, high))
                axes.stairs(heights / len(cosines), edges, color=colour, label=kind, fill=True, alpha=0.25)
                axes.stairs(heights / len(cosines), edges, color=colour, linewidth=1.2)
            axes.set(xlabel="cosine", ylabel="share of pairs", xlim=(low, high))
            axes.set_title(name, fontsize=9, parse_math=False)
            _as_it_is(axes.legend(frameon=False, fontsize=7))
            _plain(axes)
        return write_png(figure, path)


def draw_grid(cells: Sequence[Shown], path: str | Path, columns: int = 6) -> Path:
    """Items side by side, line by line."""
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(CELL_INCHES * 1.15 * columns, CELL_INCHES * 1.25 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(cells) :]:
        axes.set_axis_off()
    for axes, cell in zip(panels, cells, strict=False):
        draw(axes, cell)
    with matplotlib.rc_context(FONT):
        return write_png(figure, path)


def _mark(colour: object, label: str) -> matplotlib.lines.Line2D:
    """A line of a legend."""
    return matplotlib.lines.Line2D([], [], marker="o", markersize=5, linewidth=0, color=colour, label=label)  # type: ignore[arg-type]


def _in_order(counts: list[tuple[Hashable, int]]) -> list[tuple[Hashable, int]]:
    """Labels with their counts: numbers by their value, all others the most frequent first."""
    try:
        return sorted(counts, key=lambda one: float(str(one[0])))
    except ValueError:
        return counts


def _short(label: Hashable) -> str:
    return textwrap.shorten(str(label), LETTERS, placeholder="…") or "…"


def _as_it_is(legend: Legend) -> None:
    """Its names as they are written: dollars make no formulas of them."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _plain(axes: Axes) -> None:
    """Without the frame that says nothing."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
