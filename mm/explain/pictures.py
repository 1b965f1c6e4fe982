"""Pictures side by side with a title each, and what is laid over them: how explanations are drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mm.explain.attention import TEXT
from mm.explain.attribution import normalise
from mm.explain.heatmap import GAP_IN, LETTER_IN, LINE_IN, TITLE_IN, draw_cell, overlay, shrunk
from mm.index.grid import write_png

LARGE_IN, SMALL_IN = 3.2, 1.6  # side of a cell, where there are few and where there are more
FEW = 4
ACROSS = 8  # small cells in a row
DPI = 100
SOUND_PX = (256, 192)  # width and height of a spectrogram
DARKEST = 0.08  # of a spectrogram, so that its silence can be told from no heat
TINY = torch.finfo(torch.float32).tiny


class Cell(NamedTuple):
    """One picture.

    Attributes:
        title: above it.
        pixels: (h, w, 3) uint8.
        boxes: [left, top, right, bottom] as shares of width and height.
    """

    title: str
    pixels: np.ndarray
    boxes: Sequence[Sequence[float]] = ()


def draw_cells(cells: Sequence[Cell], path: str | Path, note: str = "") -> Path:
    """Draw pictures side by side and below one another.

    Args:
        cells: at least one.
        path: of the PNG; written beside and renamed.
        note: below all.

    Raises:
        ValueError: no cell, or another kind of file than PNG.
    """
    path = Path(path)
    if not cells:
        raise ValueError("a figure needs a picture at least: got none.")
    if path.suffix.lower() != ".png":
        raise ValueError(f"a figure is written as .png: got {path.name!r}. Rename it.")
    side, across = (LARGE_IN, len(cells)) if len(cells) <= FEW else (SMALL_IN, min(ACROSS, len(cells)))
    heights = [cell.pixels.shape[0] / max(cell.pixels.shape[:2]) * (side - GAP_IN) for cell in cells]
    rows = [range(start, min(start + across, len(cells))) for start in range(0, len(cells), across)]
    width = max(across * side, LARGE_IN)
    wrapped = textwrap.wrap(note, int(width / LETTER_IN))
    height = sum(max(heights[k] for k in row) + TITLE_IN + GAP_IN for row in rows) + (len(wrapped) + 1) * LINE_IN
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # its units are inches from the top left corner
    axes.set_axis_off()
    down = TITLE_IN
    for row in rows:
        for column, number in enumerate(row):
            cell = cells[number]
            pixels = shrunk(cell.pixels, round(2 * side * DPI))  # (h, w, 3)
            title = textwrap.shorten(cell.title, int(side / LETTER_IN), placeholder="…")
            draw_cell(axes, pixels, column * side, down, side, title, cell.boxes)
        down += max(heights[k] for k in row) + TITLE_IN + GAP_IN
    axes.text(GAP_IN / 2, height - 0.05, "\n".join(wrapped), va="bottom", **TEXT)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return write_png(figure, path)


def heated(picture: np.ndarray, heat: Tensor, title: str, boxes: Sequence[Sequence[float]] = ()) -> Cell:
    """A picture without its colours under the heat of a map; what is below 0 stays dark, its maximum is brightest.

    Args:
        picture: (h, w, 3) uint8.
        heat: (H, W), its first row at the picture's top.
        title: of the cell; the map's maximum is told behind it.
        boxes: see `Cell`.
    """
    highest = float(heat.max())
    if heat.shape[0] > picture.shape[0] or heat.shape[1] > picture.shape[1]:  # no heat may fall between its pixels
        size = tuple(max(sides) for sides in zip(picture.shape[:2], heat.shape, strict=True))
        picture = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))  # (h, w, 3)
    shares = heat / highest if highest > 0 else torch.zeros_like(heat)  # (H, W)
    return Cell(f"{title}, to {highest:.2g}", overlay(picture, shares.numpy(), 1.0), boxes)


def coloured(gradient: Tensor, title: str) -> Cell:
    """A gradient by the pixels, (C, H, W), as colours around a grey of 0; of one channel in grey."""
    x = gradient.float() / gradient.float().abs().max().clamp_min(TINY)  # (C, H, W) in -1..1
    return Cell(title, as_pixels(0.5 + 0.5 * x))


def stretched(seen: Tensor) -> np.ndarray:
    """What a network sees, (3, H, W) or (1, H, W) -> (H, W, 3) uint8, its least value black and its greatest white."""
    return as_pixels(normalise(seen.float().flatten(1)[None])[0].view_as(seen))


def as_pixels(values: Tensor) -> np.ndarray:
    """Values in 0..1, (3, H, W) or (1, H, W) -> (H, W, 3) uint8."""
    pixels = (255 * values.clamp(0, 1)).round().byte().expand(3, -1, -1)  # (3, H, W)
    return pixels.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)


def spectrogram(seen: Tensor) -> np.ndarray:
    """What a network sees of a sound, (1, F, N) with the low bands first -> (F, N, 3) uint8, high bands at the top."""
    return as_pixels(DARKEST + (1 - DARKEST) * normalise(seen.float().flip(1)))


def readable(pixels: np.ndarray) -> np.ndarray:
    """A spectrogram in the size in which it is drawn, however long the sound is: (F, N, 3) -> (h, w, 3)."""
    return np.asarray(Image.fromarray(pixels).resize(SOUND_PX, Image.Resampling.NEAREST))  # (h, w, 3)
