"""Where a sound comes from, as a heat map over the picture: one overlay, and a figure of many with their controls."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mm.explain.attention import TEXT, Mode, upsample
from mm.index.grid import write_png
from mm.media import read_image

COLOURS = "inferno"  # of matplotlib: light rises evenly with the score
STRENGTH = 0.6  # share of the heat in a pixel, the rest is the picture
LEAST = 0.1  # cosine that is as bright as can be where no higher one is: what is nowhere stays dark
CELL_IN, ALONE_IN, TITLE_IN, LINE_IN, GAP_IN = 1.6, 4.0, 0.22, 0.15, 0.08  # a row that stands alone is larger
LETTER_IN = 0.068  # mean width of a letter of TEXT
DPI = 100
TRUE: dict[str, Any] = {"edgecolor": "#40ff80", "linewidth": 1.5, "facecolor": "none"}


class Heard(NamedTuple):
    """A picture with the score maps of some sounds.

    Attributes:
        image: file or array.
        maps: (title, (H, W) cosines) of each sound; the first decides what is as bright as can be.
        boxes: [left, top, right, bottom] of what sounds in truth, as shares of the width and height; empty = unknown.
        title: above the picture.
    """

    image: Any
    maps: Sequence[tuple[str, np.ndarray]]
    boxes: Sequence[Sequence[float]] = ()
    title: str = ""


def overlay(picture: np.ndarray, scores: np.ndarray, highest: float, mode: Mode = "bilinear") -> np.ndarray:
    """A heat map over a picture without its colours, of the picture's size.

    Args:
        picture: (h, w, 3) uint8.
        scores: (H, W) cosines of the cells, which lie over the whole picture; those below 0 are as dark as 0.
        highest: the cosine that is as bright as can be.
        mode: how cells become areas, see `mm.explain.attention.upsample`.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ValueError: an unknown mode, or scores that are no grid.
    """
    if np.ndim(scores) != 2:
        raise ValueError(f"scores must be a grid (H, W): got the shape {np.shape(scores)}.")
    scores = np.asarray(scores, np.float32).clip(min=0)
    share = upsample(scores.ravel(), scores.shape, picture.shape[:2], mode) / max(highest, 1e-6)  # (h, w)
    heat = colormaps[COLOURS](share.clip(0, 1))[..., :3] * 255  # (h, w, 3)
    grey = picture.mean(axis=2, keepdims=True)  # (h, w, 1): its colours would pass for heat
    return ((1 - STRENGTH) * grey + STRENGTH * heat).round().astype(np.uint8)  # (h, w, 3)


def draw_heatmaps(rows: Sequence[Heard], path: str | Path, mode: Mode = "bilinear", columns: int = 1) -> Path:
    """Draw pictures below one another, each with its true boxes and beside it the heat map of every sound.

    Args:
        rows: at least one.
        path: of the PNG; written beside and renamed.
        mode: of `overlay`.
        columns: in which the rows are laid, line by line.

    Raises:
        ValueError: no rows, no columns, a map that does not fit, or another kind of file than PNG.
    """
    if not rows or columns < 1:
        raise ValueError(f"a figure needs a picture and a column at least: got {len(rows)} and {columns}.")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a figure is written as .png: got {path.name!r}. Rename it.")
    side = CELL_IN if len(rows) > 1 else ALONE_IN  # inches
    cells = 1 + max(len(row.maps) for row in rows)  # of a row
    lines = -(-len(rows) // columns)
    width = columns * cells * side
    note = f"{mode} over the cells; in each row as bright as its first map's highest cosine; green: what sounds"
    wrapped = textwrap.wrap(note, int(width / LETTER_IN))
    height = lines * (side + TITLE_IN) + len(wrapped) * LINE_IN + 0.1
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # its units are inches from the top left corner
    axes.set_axis_off()
    for number, row in enumerate(rows):
        line, column = divmod(number, columns)
        picture = shrunk(read_image(row.image), round(2 * side * DPI))  # (h, w, 3)
        highest = max(float(np.max(row.maps[0][1])), LEAST) if row.maps else 1.0
        shown = [(row.title, picture)]
        shown += [(f"{title}: {np.max(map_):.2f}", overlay(picture, map_, highest, mode)) for title, map_ in row.maps]
        for place, (title, pixels) in enumerate(shown):
            left, top = (column * cells + place) * side, line * (side + TITLE_IN) + TITLE_IN
            draw_cell(axes, pixels, left, top, side, title, row.boxes)
    axes.text(0.05, height - 0.06, "\n".join(wrapped), va="bottom", **TEXT)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return write_png(figure, path)


def shrunk(picture: np.ndarray, most_px: int) -> np.ndarray:
    """A picture whose longer side is no longer than `most_px`: (h, w, 3) uint8."""
    image = Image.fromarray(picture)
    image.thumbnail((most_px, most_px))
    return np.asarray(image)  # (h, w, 3)


def draw_cell(axes: Any, pixels: np.ndarray, left: float, top: float, side: float, title: str, boxes: Sequence) -> None:
    """One picture, at most `side` inches wide and high with a narrow gap, and its boxes."""
    room = side - GAP_IN
    scale = room / max(pixels.shape[:2])  # inches per px
    high, wide = (side * scale for side in pixels.shape[:2])
    left += GAP_IN / 2
    axes.text(left, top - 0.04, title, va="bottom", **TEXT)
    axes.imshow(pixels, extent=(left, left + wide, top + high, top), aspect="auto", interpolation="nearest")
    for x0, y0, x1, y1 in boxes:
        axes.add_patch(Rectangle((left + x0 * wide, top + y0 * high), (x1 - x0) * wide, (y1 - y0) * high, **TRUE))
