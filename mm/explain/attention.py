"""Where a captioner looked, word by word, or a question, look by look: a picture of a few sentences, a page of many.

The grid of an encoder lies over the whole picture: an encoder squashes it to a square, here it keeps its shape, and the
cells stretch with it. Of a sound it lies over the whole log-mel spectrogram, low tones at the bottom (the rows of an
encoder of linear or MFCC bands are drawn as if they were mel bands). Where a word looked is lit, the rest is dark, and
each light is relative to its own brightest place.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from mm.explain import attribution, page
from mm.explain.attribution import MODES, Mode
from mm.index.grid import STFT, heard, write_png
from mm.media import read_image
from mm.naming import known
from mm.signal import log_mel

MODALITIES = ("image", "audio")
SIDE_PX = 160  # longer side of a picture as it is drawn
SOUND_HEIGHT = 0.6  # of a spectrogram, relative to its width
RANGE_NATS = 80 * np.log(10) / 10  # a spectrogram is black where it is loudest, and QUIET 80 dB below that
QUIET = 225  # grey level: a sound's edges stand out from the white around it
HEAT = (255, 205, 60)  # RGB
DARK, BRIGHT, GLOW = 0.3, 0.65, 0.35  # share of the picture where no word looks, and where one does, there with HEAT

MOST_CELLS = 10  # words in one line of a picture
CELL_IN, GAP_IN, WORD_IN, LINE_IN, MARGIN_IN = 1.25, 0.07, 0.18, 0.16, 0.1
TEXT: dict[str, Any] = {"fontsize": 8, "fontfamily": "DejaVu Sans", "parse_math": False}
LETTER_IN = 0.071  # mean width of a letter of it in bold
LEAST_CELLS = 5  # so that headings have room
DPI = round(SIDE_PX / CELL_IN)
HIGHEST_PX = 65_535  # Agg draws nothing higher


class Looked(NamedTuple):
    """One sentence about one picture or sound, and where each of its words looked.

    Attributes:
        source: file or array of a picture, or of a sound (an array at 16 kHz).
        modality: "image" or "audio".
        words: L of them.
        attention: (L, N), rows sum to 1; None where the captioner has no attention.
        grid: (H, W), (F, frames) with the lowest band first, or (frames,); its product is N.
        title: a line below the sentence.
        heading: the line above it, in bold; "" = the words.
    """

    source: Any
    modality: Literal["image", "audio"]
    words: list[str]
    attention: np.ndarray | None
    grid: tuple[int, ...]
    title: str = ""
    heading: str = ""


class Entry(NamedTuple):
    """One item of a page.

    Attributes:
        looked: the sentence; its title is not shown.
        score: of the sentence.
        references: what people said.
        id: name of the item.
    """

    looked: Looked
    score: float
    references: Sequence[str]
    id: str


def looked(source: Any, modality: Literal["image", "audio"], caption: Any, title: str = "") -> Looked:
    """What is drawn of a caption of `mm.heads.Captioner` about a source; its "<end>" is left out."""
    words = [word for word in caption.words if word != "<end>"]
    attention = None if caption.attention is None else caption.attention[: len(words)].numpy()  # (L, N)
    return Looked(source, modality, words, attention, caption.grid, title)


def glimpsed(source: Any, modality: Literal["image", "audio"], question: str, answer: Any, title: str = "") -> Looked:
    """What is drawn of an answer of `mm.heads.Answerer` about a source: a cell for each time that it looked.

    Below a cell stands how much of that look went to this source, the rest having gone to others.
    """
    attention = answer.attention.get(modality)
    if attention is None or modality not in answer.grids:
        return Looked(source, modality, [], None, (1, 1), title, question)
    attention = attention.numpy()  # (G, N)
    shares = attention.sum(axis=1)  # (G,)
    words = [f"look {k + 1}" + (f": {share:.0%}" if share < 0.995 else "") for k, share in enumerate(shares)]
    nowhere = shares[:, None] < 1e-6  # it looked at other sources alone
    attention = np.where(nowhere, 1 / attention.shape[1], attention / np.maximum(shares, 1e-6)[:, None])  # (G, N)
    return Looked(source, modality, words, attention, answer.grids[modality], title, question)


def upsample(
    attention: np.ndarray, grid: tuple[int, ...], size: tuple[int, int], mode: Mode = "bilinear"
) -> np.ndarray:
    """Weights of a grid's cells as a map over a picture; cells are areas (align_corners=False).

    Args:
        attention: (N,).
        grid: (H, W) or (frames,), which is one row; the product is N.
        size: (h, w) px.
        mode: "nearest", "bilinear" or "bicubic", which is cut off at 0 where it undershoots.

    Returns:
        (h, w) float32, the grid's first row first. Values are those of the cells: nothing is normalised.

    Raises:
        ValueError: an unknown mode, a size below 1 px, or a grid of another number of cells.
    """
    attention = np.asarray(attention, dtype=np.float32)
    if len(grid) not in (1, 2) or attention.shape != (int(np.prod(grid)),) or min(size) < 1:
        raise ValueError(
            f"attention must be (N,) over a grid of N cells in one or two axes, drawn at 1 px or more: got "
            f"{attention.shape} over {tuple(grid)} at {tuple(size)}."
        )
    cells = torch.from_numpy(attention).reshape(1, *((1, *grid) if len(grid) == 1 else grid))  # (1, H, W)
    return attribution.upsample(cells, size, mode)[0].clamp_min(0).numpy()  # (h, w)


# One picture --------------------------------------------------------------------------------------------------------


def draw_attention(rows: Sequence[Looked], path: str | Path, mode: Mode = "bilinear", columns: int = 1) -> Path:
    """Draw sentences below one another: the heading, the picture, and a cell for each word, lit where it looked.

    Args:
        rows: at least one.
        path: of the PNG; written beside and renamed.
        mode: of `upsample`.
        columns: in which the rows are laid, the first column first.

    Raises:
        ValueError: no rows, attention that does not fit its words and grid, or more rows than a picture can hold.
    """
    known(mode, MODES, "mode")
    if not rows:
        raise ValueError("a picture needs at least one sentence: got none.")
    longest = max(min(MOST_CELLS, 0 if row.attention is None else len(row.words)) for row in rows)
    width = MARGIN_IN + max(1 + longest, LEAST_CELLS) * (CELL_IN + GAP_IN)
    figure = Figure(dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # its units are inches from the top left corner
    axes.set_axis_off()
    lowest = MARGIN_IN
    each = -(-len(rows) // columns)  # rows of a column
    for column, start in enumerate(range(0, len(rows), each)):
        down = MARGIN_IN
        for row in rows[start : start + each]:
            down = _draw_row(axes, _checked(row), column * width, down, width, mode) + 2 * MARGIN_IN
        lowest = max(lowest, down)
    down, width = lowest, width * columns
    if longest:
        axes.text(MARGIN_IN, down, f"{mode} over the cells; each light relative to its own brightest place", **TEXT)
    height = down + MARGIN_IN
    if height * DPI > HIGHEST_PX:
        raise ValueError(
            f"a picture must be at most {HIGHEST_PX} px high: {len(rows)} sentences need {height * DPI:.0f}. Draw "
            "fewer, or write a page."
        )
    figure.set_size_inches(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return write_png(figure, path)


def _draw_row(axes: Any, row: Looked, left: float, down: float, width: float, mode: Mode) -> float:
    """Draw one sentence from `left` and `down` inches on; returns where it ends."""
    letters = int((width - 2 * MARGIN_IN) / LETTER_IN)
    for text, weight in ((row.heading or " ".join(row.words) or "(no words)", "bold"), (row.title, "normal")):
        for line in textwrap.wrap(text, letters):
            axes.text(left + MARGIN_IN, down, line, fontweight=weight, va="top", **TEXT)
            down += LINE_IN
    picture = _picture(row)  # (h, w, 3)
    height, wide = (side * CELL_IN / SIDE_PX for side in picture.shape[:2])
    weights = _weights(row)  # (L, H, W)
    cells = [("", picture)]
    for word, weight_of in zip(row.words, weights, strict=False):
        weight_map = upsample(weight_of.ravel(), weight_of.shape, picture.shape[:2], mode)  # (h, w)
        cells.append((word if len(word) <= 15 else word[:14] + "…", _lit(picture, weight_map)))
    for number, (word, pixels) in enumerate(cells):
        below, column = divmod(max(number - 1, 0), MOST_CELLS)
        centre = left + MARGIN_IN + (column + (number > 0)) * (CELL_IN + GAP_IN) + CELL_IN / 2
        top = down + below * (WORD_IN + height + GAP_IN) + WORD_IN
        axes.text(centre, top - 0.04, word, ha="center", va="bottom", **TEXT)
        axes.imshow(pixels, extent=(centre - wide / 2, centre + wide / 2, top + height, top), aspect="auto")
    return top + height + GAP_IN


def _lit(picture: np.ndarray, weight_map: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) weights -> (h, w, 3) uint8: light where the weights are, dark elsewhere."""
    share = (weight_map / max(float(weight_map.max()), 1e-12))[..., None]  # (h, w, 1)
    lit = picture * (DARK + (BRIGHT - DARK) * share) + GLOW * share * np.array(HEAT)  # (h, w, 3)
    return lit.round().clip(0, 255).astype(np.uint8)


# A page ---------------------------------------------------------------------------------------------------------------


def write_page(
    path: str | Path, entries: Sequence[Entry], mode: Mode = "bilinear", title: str = "Where the captioner looked"
) -> Path:
    """Write one HTML file in which each word, pointed at or reached with the Tab key, shows where it looked.

    The file needs nothing beside itself: pictures and weights (in 255 steps of each word's largest) stand in it, some
    10 kB an item. It is written item by item.

    Args:
        path: of the page; written beside and renamed.
        entries: in the order of the page, at least one.
        mode: of `upsample`.
        title: of the page.

    Raises:
        ValueError: no entries, or attention that does not fit its words and grid.
    """
    known(mode, MODES, "mode")
    if not entries:
        raise ValueError("a page needs at least one item: got none.")
    note = (
        f"{len(entries)} item{'s' if len(entries) > 1 else ''}. Point at a word, or reach it with the Tab key, to see "
        f"where the captioner looked: {mode} over the cells, light relative to each word's brightest place."
    )
    light = {"mode": mode, "dark": DARK, "bright": BRIGHT, "glow": GLOW, "heat": HEAT}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(page.head(title, note, light))
            for looked, score, references, name in entries:
                picture = _picture(_checked(looked))  # (h, w, 3)
                sound = looked.modality == "audio"
                pixels, kind = Image.fromarray(picture[..., 0] if sound else picture), "png" if sound else "jpeg"
                encoded = io.BytesIO()
                pixels.save(encoded, kind, quality=80)
                size = picture.shape[:2]
                weights = _weights(looked)
                file.write(page.item(name, score, looked.words, references, encoded.getvalue(), kind, size, weights))
            file.write("</html>\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# What both draw -----------------------------------------------------------------------------------------------------


def _picture(looked: Looked) -> np.ndarray:
    """A picture in its proportions or the grey spectrogram of a sound, SIDE_PX the longer way: (h, w, 3) uint8."""
    if looked.modality == "image":
        pixels = read_image(looked.source, at_least=SIDE_PX)  # (H, W, 3)
        height, width = (max(round(side * SIDE_PX / max(pixels.shape[:2])), 1) for side in pixels.shape[:2])
    else:
        spec = log_mel(heard(looked.source), STFT).numpy()  # (F, N)
        grey = (QUIET * (spec.max() - spec) / RANGE_NATS).clip(0, QUIET).astype(np.uint8)[::-1]  # (F, N)
        pixels = np.repeat(grey[..., None], 3, axis=2)  # (F, N, 3)
        height, width = round(SIDE_PX * SOUND_HEIGHT), SIDE_PX
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))  # (h, w, 3)


def _weights(looked: Looked) -> np.ndarray:
    """(L, H, W) the weights as they lie over the picture, its top row first; (0, 1, 1) for none."""
    if looked.attention is None:
        return np.zeros((0, 1, 1), np.float32)
    grid = (1, *looked.grid) if len(looked.grid) == 1 else looked.grid
    cells = np.asarray(looked.attention, dtype=np.float32).reshape(len(looked.words), *grid)  # (L, H, W)
    return cells[:, ::-1] if looked.modality == "audio" else cells  # (L, H, W)


def _checked(looked: Looked) -> Looked:
    """The same, once it fits together.

    Raises:
        ValueError: it does not; the message names the sentence.
    """
    known(looked.modality, MODALITIES, "modality")
    if looked.attention is None:
        return looked
    sentence, attention = " ".join(looked.words), np.asarray(looked.attention, dtype=np.float32)
    expected = (len(looked.words), int(np.prod(looked.grid)))
    if attention.shape != expected or len(looked.grid) > 2 or (looked.modality == "image" and len(looked.grid) != 2):
        raise ValueError(
            f"attention must be (words, cells of the grid) = {expected}, over (H, W), (F, frames) or (frames,): got "
            f"{attention.shape} over {looked.grid} for {sentence!r}."
        )
    if not ((attention >= 0).all() and np.allclose(attention.sum(1), 1, atol=0.02)):  # half precision; catches NaN
        raise ValueError(f"attention must be at least 0 and sum to 1 for each word: it does not for {sentence!r}.")
    return looked
