"""The figure of separated voices: what is where is what the arrays hold, in dB, at its time and frequency."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mm.explain.spectrograms import FACE_IN, FRAMES, Mixed, decibels, draw_spectrograms, figure_of
from mm.signal import Stft, si_sdr

RATE = 8000
STFT = Stft(RATE, 0.064, 0.016)
HERTZ = (1000.0, 2500.0)


def tone(hertz: float, seconds: float = 1.0, level: float = 0.2) -> Tensor:
    return level * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)


def tones(
    faces: np.ndarray | Tensor | None = None, names: tuple[str, ...] = ("one", "two"), level: float = 0.2
) -> Mixed:
    """Two tones one after the other; outputs are the targets with a little of one another, masks are 0.75 and 3."""
    half = RATE // 2
    targets = torch.stack([tone(hertz, level=level) for hertz in HERTZ])  # (2, T)
    targets[0, half:], targets[1, :half] = 0, 0
    outputs = targets + 0.1 * targets.flip(0)
    masks = torch.full((2, STFT.bins, STFT.frames_of(RATE)), 0.75) * torch.exp(torch.tensor(1j))
    masks[1] *= 4
    return Mixed(names, targets.sum(0), targets, outputs, masks, faces)


def numbered(voices: int, count: int) -> np.ndarray:
    """Faces (S, N, 4, 4) as grey as their number, those of the second voice 100 brighter, and so on."""
    greys = 100 * np.arange(voices)[:, None] + np.arange(count)  # (S, N)
    return np.broadcast_to(greys[..., None, None], (voices, count, 4, 4)).astype(np.uint8)


def panel(figure: Figure, begins: str, number: int = 0) -> Axes:
    """The axes whose title begins so."""
    return [axes for axes in figure.axes if axes.get_title("left").startswith(begins)][number]


def values(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())  # (F, N)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)  # (H, W, 3)


def inside(picture: np.ndarray, figure: Figure, axes: Axes) -> np.ndarray:
    """The pixels within the frame of axes, top row first."""
    high, wide = picture.shape[:2]
    box = axes.get_position()
    rows = slice(round((1 - box.y1) * high) + 2, round((1 - box.y0) * high) - 2)
    return picture[rows, round(box.x0 * wide) + 2 : round(box.x1 * wide) - 2]


# Numbers ------------------------------------------------------------------------------------------------------------


def test_levels_are_in_decibels_against_the_peak_given() -> None:
    wave = tone(1000) + tone(2500, level=0.02)
    peak = float(STFT(wave).abs().max())
    found = decibels(wave, STFT, peak)
    middle = found[:, 20]
    assert found.max() == pytest.approx(0, abs=1e-4) and found.min() == pytest.approx(-60)
    assert middle[64] == pytest.approx(0, abs=0.05) and middle[160] == pytest.approx(-20, abs=0.05)
    spectrum = np.abs(np.fft.rfft(wave.numpy()[20 * 128 - 256 : 20 * 128 + 256] * np.hamming(513)[:512]))
    loud = spectrum / peak > 2e-3
    np.testing.assert_allclose(middle[loud], 20 * np.log10(spectrum / peak)[loud], atol=0.05)
    np.testing.assert_allclose(decibels(0.1 * wave, STFT, peak)[160, 20], -40, atol=0.05)
    assert np.all(decibels(0 * wave, STFT, 0.0) == -60)


@pytest.mark.parametrize("level", [0.2, 0.002])
def test_every_sound_is_where_it_was_and_as_loud_as_it_was_in_the_mixture(level: float) -> None:
    figure = figure_of([tones(level=level)], STFT)
    bins = [round(hertz * STFT.n_fft / RATE) for hertz in HERTZ]
    heard = values(panel(figure, "mixture"))
    for voice, (name, time) in enumerate([("target one", slice(5, 25)), ("target two", slice(40, 60))]):
        own, other = bins[voice], bins[1 - voice]
        target, output = values(panel(figure, name)), values(panel(figure, "output", voice))
        assert np.all(target[own, time] > -1) and np.all(target[other, time] < -55)
        np.testing.assert_allclose(target[own, time], heard[own, time], atol=0.01)
        np.testing.assert_allclose(output[own, time], heard[own, time], atol=0.01)
        silent = slice(40, 60) if voice == 0 else slice(5, 25)
        np.testing.assert_allclose(output[other, silent], heard[other, silent] - 20, atol=0.01)


def test_axes_are_seconds_and_kilohertz() -> None:
    figure = figure_of([tones(numbered(2, 25))], STFT)
    for begins in ("mixture", "target one", "target two", "mask"):
        axes = panel(figure, begins)
        assert axes.get_xlim() == (0, 1) and axes.get_ylim() == (0, 4)
        left, right, low, high = axes.images[0].get_extent()
        bins, frames = values(axes).shape
        at = (right - left) * (np.arange(frames) + 0.5) / frames + left
        np.testing.assert_allclose(at, np.arange(frames) * 0.016, atol=1e-9)  # a frame's middle
        at = (high - low) * (np.arange(bins) + 0.5) / bins + low
        np.testing.assert_allclose(at, np.arange(bins) * 8 / 512, atol=1e-9)
    assert panel(figure, "mixture").get_xlabel() == "s" and panel(figure, "mixture").get_ylabel() == "kHz"
    for begins in ("target two", "mask"):
        assert panel(figure, begins, -1).get_xlabel() == "s"


def test_masks_are_drawn_by_their_magnitude() -> None:
    figure = figure_of([tones()], STFT)
    for voice, magnitude in enumerate((0.75, 3)):
        np.testing.assert_allclose(values(panel(figure, "mask", voice)), magnitude, rtol=1e-5)
    real = tones()._replace(masks=-0.3 * torch.ones(2, STFT.bins, STFT.frames_of(RATE)))  # phase-sensitive
    np.testing.assert_allclose(values(panel(figure_of([real], STFT), "mask")), 0.3, rtol=1e-5)


def test_the_gain_is_that_of_each_output_over_the_mixture() -> None:
    row = tones(names=("a", "b"))
    noisy = row._replace(outputs=row.outputs + 0.03 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(0)))
    for drawn in (row, noisy):
        titles = [axes.get_title("left") for axes in figure_of([drawn], STFT).axes]
        gains = si_sdr(drawn.outputs, drawn.targets) - si_sdr(drawn.mixture.expand(2, -1), drawn.targets)
        said = [f"output, SI-SDRi {gain:+.1f} dB" for gain in gains.tolist()]
        assert [title for title in titles if title.startswith("output")] == said
    silent = row._replace(targets=torch.stack([row.targets[0], torch.zeros(RATE)]))
    assert panel(figure_of([silent], STFT), "output", 1).get_title("left") == "output, the target is silent"


@pytest.mark.parametrize(("count", "fps"), [(25, 25.0), (30, 30.0), (90, 25.0), (3, 25.0), (1, 10.0)])
def test_faces_stand_over_the_times_at_which_they_are_on_show(count: int, fps: float) -> None:
    faces = numbered(2, count)
    figure = figure_of([tones(faces)], STFT, fps)
    for voice in range(2):
        strip = panel(figure, "output", voice)
        left, low = strip.get_position().p0
        (below,) = (axes for axes in figure.axes if np.allclose(axes.get_position().corners()[1], (left, low)))
        assert below.get_position().x1 == strip.get_position().x1 and below.get_xlim() == strip.get_xlim()
        assert len(strip.images) == FRAMES
        for image in strip.images:
            left, right, _, _ = image.get_extent()
            shown = min(math.floor((left + right) / 2 * fps), count - 1)
            assert np.all(np.asarray(image.get_array()) == faces[voice, shown])
            assert (image.norm.vmin, image.norm.vmax) == (0, 255)


# The picture --------------------------------------------------------------------------------------------------------


def test_the_picture_shows_them(tmp_path: Path) -> None:
    row = tones(numbered(2, 25))
    path = draw_spectrograms([row], STFT, tmp_path / "new" / "a.png")
    assert path == tmp_path / "new" / "a.png" and [file.name for file in path.parent.iterdir()] == ["a.png"]
    picture, figure = pixels_of(path), figure_of([row], STFT)
    cell = inside(picture, figure, panel(figure, "target one"))
    high, wide = cell.shape[:2]
    light = cell.sum(axis=2)  # (h, w)
    assert abs(int(light[:, wide // 4].argmax()) / high - 0.75) < 0.03  # 1 kHz of 4, from below
    assert light[:, 3 * wide // 4].max() < 20  # it is silent then
    for voice, share in enumerate((0.5, 1.0)):
        mask = inside(picture, figure, panel(figure, "mask", voice))
        assert np.abs(mask - np.array(colormaps["viridis"](share)[:3]) * 255).max() <= 2
    strip = inside(picture, figure, panel(figure, "output", 1))
    middles = (np.arange(FRAMES) + 0.5) / FRAMES
    shown = strip[strip.shape[0] // 2, (middles * strip.shape[1]).astype(int)]  # (8, 3)
    assert np.abs(shown - 100 - (middles * 25).astype(int)[:, None]).max() <= 1


def test_a_line_for_each_voice_of_each_mixture(tmp_path: Path) -> None:
    four = [part.repeat(2, *[1] * (part.dim() - 1)) for part in (tones().targets, tones().outputs, tones().masks)]
    alone = [part[:1] for part in tones()[2:5]]
    rows = [
        tones(numbered(2, 9)),
        Mixed(("a", "b", "c", "d"), tones().mixture, *four),
        Mixed(("e",), tones().mixture, *alone, numbered(1, 9)[:, :, None]),
    ]
    figure = figure_of(rows, STFT)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert [title for title in titles if title.startswith("target")] == [
        f"target {n}" for n in ("one", "two", *"abcde")
    ]
    assert (titles.count("mixture"), titles.count("mask")) == (3, 7)
    places = [(round(a.get_position().x0, 4), round(a.get_position().y0, 4)) for a in figure.axes]
    assert len(set(places)) == len(places)  # nothing lies on anything
    for axes in figure.axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
    seen, heard = (
        pixels_of(draw_spectrograms([row], STFT, tmp_path / "a.png")) for row in (tones(numbered(2, 9)), tones())
    )
    assert seen.shape[0] - heard.shape[0] == round(100 * 2 * FACE_IN)


def test_arrays_and_tensors_on_a_graph_are_drawn_alike(tmp_path: Path) -> None:
    row = tones(numbered(2, 9))
    arrays = Mixed(row.names, *(part.numpy() for part in row[1:5]), faces=row.faces)
    leaves = Mixed(row.names, *(part.requires_grad_() for part in row[1:5]), faces=torch.from_numpy(row.faces))
    pictures = [pixels_of(draw_spectrograms([one], STFT, tmp_path / "a.png")) for one in (arrays, leaves)]
    assert np.array_equal(*pictures)


def test_the_order_of_the_voices_is_the_order_of_the_lines(tmp_path: Path) -> None:
    row = tones(numbered(2, 9), ("same", "same"))
    turned = Mixed(row.names, row.mixture, *(part.flip(0) for part in row[2:5]), faces=row.faces[::-1].copy())
    one, other = figure_of([row], STFT), figure_of([turned], STFT)
    for begins in ("target", "output", "mask"):
        for voice in range(2):
            ours, theirs = panel(one, begins, voice), panel(other, begins, 1 - voice)
            assert ours.get_title("left") == theirs.get_title("left") and np.array_equal(values(ours), values(theirs))


def test_names_of_any_kind_are_text(tmp_path: Path) -> None:
    row = tones(names=("$x^{", "long " * 60))
    figure = figure_of([row], STFT)
    assert panel(figure, "target $").get_title("left") == "target $x^{"
    assert panel(figure, "target long").get_title("left").endswith("…")
    assert pixels_of(draw_spectrograms([row], STFT, tmp_path / "a.png")).size


# What does not fit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("one",)}, r"a mixture \(T,\) of 1 named voices"),
        ({"names": ()}, "of 0 named voices"),
        ({"mixture": torch.zeros(RATE - 1)}, r"\(8000,\)|got \[\(7999,\)"),
        ({"mixture": torch.zeros(0)}, r"got \[\(0,\)"),
        ({"mixture": torch.zeros(())}, r"got \[\(\)"),
        ({"targets": torch.zeros(2, RATE - 1)}, r"\(2, 7999\)"),
        ({"outputs": torch.zeros(3, RATE)}, r"\(3, 8000\)"),
        ({"masks": torch.zeros(2, 5, 63)}, r"\(2, 5, 63\)"),
        ({"masks": torch.zeros(2, 257, 62)}, r"\(2, 257, 62\)"),
        ({"faces": numbered(3, 9)}, r"of 2 voices here: got \(3, 9, 4, 4\)"),
        ({"faces": numbered(2, 0)}, r"got \(2, 0, 4, 4\) uint8"),
        ({"faces": np.zeros((2, 9, 3, 4, 4), np.uint8)}, r"got \(2, 9, 3, 4, 4\)"),
        ({"faces": np.zeros((2, 9, 4, 4))}, r"\(2, 9, 4, 4\) float64. Give None where there is nothing to see"),
        ({"faces": torch.zeros(2, 9, 512)}, r"\(2, 9, 512\) torch.float32"),
    ],
)
def test_parts_that_do_not_fit_leave_the_earlier_file(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "a.png").write_text("before")
    with pytest.raises(ValueError, match=message):
        draw_spectrograms([tones(), tones()._replace(**change)], STFT, tmp_path / "a.png")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_a_figure_needs_a_mixture_a_rate_and_a_png(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a figure needs a mixture, and frames a positive rate: got 0 and 25"):
        draw_spectrograms([], STFT, tmp_path / "a.png")
    for fps in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"got 1 and {fps} fps"):
            figure_of([tones()], STFT, fps)
    with pytest.raises(ValueError, match=r"written as .png: got 'a.jpg'"):
        draw_spectrograms([tones()], STFT, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
