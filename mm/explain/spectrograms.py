"""What a separator made of a mixture, as a picture: spectrograms of mixture, targets and outputs, masks, and faces."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mm.explain.attention import LETTER_IN, TEXT
from mm.index.grid import write_png
from mm.signal import Stft, si_sdr

FRAMES = 8  # of a face, side by side, each over the middle of its eighth of the sound
CELL_IN, HIGH_IN = 3.0, 1.3  # width and height of a spectrogram
FACE_IN = CELL_IN / FRAMES  # side of a frame
LEFT_IN, GAP_IN, TITLE_IN, TIME_IN, SCALES_IN = 0.5, 0.25, 0.24, 0.4, 1.0  # kHz, between cells, titles, s, colours
PANELS = 4  # mixture, target, output, mask
DPI = 100


class Scale(NamedTuple):
    """How values become colours: those beyond an end are as dark or as bright as that end."""

    name: str
    colours: str  # of matplotlib
    low: float
    high: float

    @property
    def norm(self) -> Normalize:
        """The values as shares of the range."""
        return Normalize(self.low, self.high)


SOUND = Scale("dB", "magma", -60.0, 0.0)  # against the peak of the mixture
MASK = Scale("|mask|", "viridis", 0.0, 1.5)


class Mixed(NamedTuple):
    """One mixture of S voices and what a model made of it.

    Attributes:
        names: S of them, of the talks.
        mixture: (T,).
        targets: (S, T) the voices in it.
        outputs: (S, T) the voices that the model found.
        masks: (S, F, N) by which it found them, complex or real; their magnitudes are drawn.
        faces: (S, N', H, W) or (S, N', 1, H, W) uint8, what was seen of each; None for a model that only hears.
    """

    names: Sequence[str]
    mixture: np.ndarray | Tensor
    targets: np.ndarray | Tensor
    outputs: np.ndarray | Tensor
    masks: np.ndarray | Tensor
    faces: np.ndarray | Tensor | None = None


def draw_spectrograms(rows: Sequence[Mixed], stft: Stft, path: str | Path, fps: float = 25.0) -> Path:
    """Write what `figure_of` draws as a PNG, beside its place first and then renamed.

    Raises:
        ValueError: see `figure_of`, or another kind of file than PNG.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a figure is written as .png: got {path.name!r}. Rename it.")
    return write_png(figure_of(rows, stft, fps), path)


def figure_of(rows: Sequence[Mixed], stft: Stft, fps: float = 25.0) -> Figure:
    """Draw mixtures below one another: a line for each voice, with its target, its output and its mask.

    Above an output stands the face that it is for, at the times of the spectrogram below it, and by how many dB the
    SI-SDR of the output exceeds that of the mixture. All sounds of a mixture are drawn against the mixture's peak.

    Args:
        rows: at least one.
        stft: the transform that the masks are for.
        fps: of the faces.

    Raises:
        ValueError: no rows, or parts of a row that do not fit one another.
    """
    if not rows or not fps > 0:
        raise ValueError(f"a figure needs a mixture, and frames a positive rate: got {len(rows)} and {fps} fps.")
    for row in rows:
        _check(row, stft)
    lines = [TITLE_IN + HIGH_IN + (0.0 if row.faces is None else FACE_IN) for row in rows]  # inches of a voice
    height = sum(len(row.names) * line + TIME_IN for row, line in zip(rows, lines, strict=True))
    width = LEFT_IN + PANELS * (CELL_IN + GAP_IN) + SCALES_IN
    figure = Figure(figsize=(width, height), dpi=DPI)
    top = 0.0  # inches from the upper edge
    for row, line in zip(rows, lines, strict=True):
        _draw_mixture(figure, row, stft, fps, top, line)
        top += len(row.names) * line + TIME_IN
    for number, scale in enumerate((SOUND, MASK)):  # beside the first spectrogram, as high as it
        left = width - SCALES_IN + 0.05 + 0.5 * number
        axes = _axes(figure, left, lines[0] - HIGH_IN, 0.1, HIGH_IN)
        figure.colorbar(ScalarMappable(scale.norm, scale.colours), cax=axes)
        axes.set_title(scale.name, pad=3, **TEXT)
        axes.tick_params(labelsize=7, length=2)
    return figure


def decibels(wave: Tensor, stft: Stft, peak: float) -> np.ndarray:
    """Magnitudes of a spectrogram in dB against a magnitude `peak`: (T,) -> (F, N), at least -60."""
    ratio = stft(wave).abs() / max(peak, 1e-12)  # (F, N)
    return (20 * ratio.clamp_min(10 ** (SOUND.low / 20)).log10()).numpy()


def _draw_mixture(figure: Figure, row: Mixed, stft: Stft, fps: float, top: float, line: float) -> None:
    """The lines of one mixture, from `top` inches on, each `line` inches high."""
    mixture, targets, outputs = (_wave(part) for part in row[1:4])  # (T,), (S, T), (S, T)
    masks = _tensor(row.masks).abs().float().numpy()  # (S, F, N)
    peak, seconds = float(stft(mixture).abs().max()), len(mixture) / stft.sample_rate
    gains = si_sdr(outputs, targets) - si_sdr(mixture.expand_as(targets), targets)  # (S,)
    for voice, name in enumerate(row.names):
        down, last = top + (voice + 1) * line - HIGH_IN, voice == len(row.names) - 1
        said = f"SI-SDRi {float(gains[voice]):+.1f} dB" if bool(targets[voice].any()) else "the target is silent"
        panels = [
            ("mixture", decibels(mixture, stft, peak), SOUND),
            (f"target {name}", decibels(targets[voice], stft, peak), SOUND),
            (f"output, {said}", decibels(outputs[voice], stft, peak), SOUND),
            ("mask", masks[voice], MASK),
        ]
        for column, (title, values, scale) in enumerate(panels):
            if column == 0 and voice > 0:
                continue
            left = LEFT_IN + column * (CELL_IN + GAP_IN)
            axes = _axes(figure, left, down, CELL_IN, HIGH_IN)
            _draw(axes, values, stft, seconds, scale)
            axes.tick_params(labelleft=column == min(voice, 1), labelbottom=last or column == 0)
            axes.set_ylabel("kHz" if column == min(voice, 1) else "", labelpad=2, **TEXT)
            axes.set_xlabel("s" if last or column == 0 else "", labelpad=1, **TEXT)
            if column == 2 and row.faces is not None:
                axes = _axes(figure, left, down - FACE_IN, CELL_IN, FACE_IN)
                _draw_face(axes, _frames(row.faces)[voice], seconds, fps)
            title = textwrap.shorten(title, int(CELL_IN / LETTER_IN), placeholder="…")
            axes.set_title(title, pad=3, loc="left", **TEXT)


def _draw(axes: Axes, values: np.ndarray, stft: Stft, seconds: float, scale: Scale) -> None:
    """(F, N) values over seconds and kHz."""
    step_s, step_khz = stft.hop / stft.sample_rate, stft.sample_rate / stft.n_fft / 1000
    bins, frames = values.shape
    extent = (-step_s / 2, (frames - 0.5) * step_s, -step_khz / 2, (bins - 0.5) * step_khz)  # cells are centred
    axes.imshow(values, scale.colours, scale.norm, aspect="auto", origin="lower", extent=extent)
    axes.set(xlim=(0, seconds), ylim=(0, stft.sample_rate / 2000))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7, length=2)


def _draw_face(axes: Axes, frames: np.ndarray, seconds: float, fps: float) -> None:
    """A few of the frames (N', H, W) of a face, each over the time around the moment when it is on show."""
    step = seconds / FRAMES
    for number in range(FRAMES):
        shown = frames[min(int((number + 0.5) * step * fps), len(frames) - 1)]  # (H, W)
        extent = (number * step, (number + 1) * step, 0, 1)
        axes.imshow(shown, "gray", Normalize(0, 255), aspect="auto", extent=extent)
    axes.set(xlim=(0, seconds), ylim=(0, 1), xticks=[], yticks=[])


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def _tensor(part: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(part).detach().cpu()


def _wave(part: np.ndarray | Tensor) -> Tensor:
    return _tensor(part).float()


def _frames(faces: np.ndarray | Tensor) -> np.ndarray:
    """(S, N', H, W) or (S, N', 1, H, W) -> (S, N', H, W)."""
    frames = _tensor(faces).numpy()
    return frames[:, :, 0] if frames.ndim == 5 and frames.shape[2] == 1 else frames  # (S, N', H, W)


def _check(row: Mixed, stft: Stft) -> None:
    """Reject parts that do not fit one another.

    Raises:
        ValueError: they do not.
    """
    voices, samples = len(row.names), max(row.mixture.shape, default=0)
    wanted = [(samples,), (voices, samples), (voices, samples), (voices, stft.bins, stft.frames_of(samples))]
    came = [tuple(part.shape) for part in row[1:5]]
    if came != wanted or not voices or not samples:
        raise ValueError(
            f"a mixture (T,) of {voices} named voices must have targets and outputs (S, T) and masks (S, F, N) of its "
            f"transform, here {wanted}: got {came}."
        )
    if row.faces is None:
        return
    frames = _frames(row.faces)
    if frames.ndim != 4 or len(frames) != voices or not frames.size or frames.dtype != np.uint8:
        raise ValueError(
            f"faces must be frames (S, N, H, W) or (S, N, 1, H, W) in uint8, of {voices} voices here: got "
            f"{tuple(row.faces.shape)} {row.faces.dtype}. Give None where there is nothing to see."
        )
