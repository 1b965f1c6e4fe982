"""Pictures of queries and their neighbours: photographs as they are, sentences as text, sounds as spectrograms."""

import base64
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mm.media import read_audio, read_image
from mm.signal import Stft, log_mel

CELL_INCHES = 1.6
SAMPLE_RATE = 16_000  # Hz, at which sounds are drawn
STFT = Stft(SAMPLE_RATE)
COLOURS = {True: "#2a9d4a", False: "#c0392b", None: "#888888"}  # right, wrong, not known


class Shown(NamedTuple):
    """One cell of the grid.

    Attributes:
        modality: "image", "text" or "audio".
        source: file or array of a picture or a sound (at 16 kHz), or the sentence.
        title: a line above the cell.
        right: whether it is a right answer: green or red frame; None = not known.
    """

    modality: str
    source: Any
    title: str = ""
    right: bool | None = None


def draw_neighbours(rows: Sequence[tuple[Shown, Sequence[Shown]]], path: str | Path, title: str = "") -> Path:
    """One row per query: the query on the left, its neighbours from the nearest on.

    Args:
        rows: (query, neighbours), at least one.
        path: of the PNG; written beside and renamed.
        title: above everything.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a picture of neighbours needs at least one query: got none.")
    columns = 1 + max(len(hits) for _, hits in rows)
    figure = Figure(figsize=(CELL_INCHES * columns, CELL_INCHES * 1.25 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for cells, (query, hits) in zip(axes, rows, strict=True):
        for cell in cells:
            cell.set_axis_off()
        draw(cells[0], query._replace(title=query.title or "query"), bold=True)
        for cell, hit in zip(cells[1:], hits, strict=False):
            draw(cell, hit)
    if title:
        figure.suptitle(title, fontsize=9)
    with matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        return write_png(figure, path)


def write_png(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the file appears whole or not at all, in a folder that is made if missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        FigureCanvasAgg(figure).print_png(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def heard(source: Any) -> Tensor:
    """A sound as it is drawn and played: (T,) float32 at SAMPLE_RATE, which an array has and a file is brought to.

    Raises:
        MediaError, FileNotFoundError: as of `mm.media.read_audio`.
    """
    return read_audio(source, SAMPLE_RATE, SAMPLE_RATE if isinstance(source, np.ndarray | Tensor) else None)


def data_uri(content: bytes, kind: str) -> str:
    """A file within a page, as the address of itself; kind is its media type, such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def draw(cell: Axes, shown: Shown, bold: bool = False) -> None:
    """One picture, sentence or sound into one cell."""
    cell.set_axis_on()
    cell.set_xticks([])
    cell.set_yticks([])
    if shown.modality == "image":
        cell.imshow(read_image(shown.source))
    elif shown.modality == "audio":
        cell.imshow(log_mel(heard(shown.source), STFT).numpy(), origin="lower", aspect="auto", cmap="magma")
    else:
        text = textwrap.fill(str(shown.source), 20)
        cell.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, parse_math=False, transform=cell.transAxes)
    if shown.title:
        weight = "bold" if bold else "normal"
        cell.set_title(textwrap.shorten(shown.title, 28), fontsize=7, fontweight=weight, pad=2, parse_math=False)
    for spine in cell.spines.values():
        spine.set(color="black" if bold else COLOURS[shown.right], linewidth=1.5)
