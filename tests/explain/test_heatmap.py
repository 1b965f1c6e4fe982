"""Heat maps over pictures: of the picture's size, brightest where the cosines are, and written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from mm.explain.attention import MODES, upsample
from mm.explain.heatmap import COLOURS, STRENGTH, Heard, draw_heatmaps, overlay

GREY = np.full((64, 64, 3), 128, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (120, 80, 3)).astype(np.uint8)
GREEN = np.array([0x40, 0xFF, 0x80])

every_mode = pytest.mark.parametrize("mode", MODES)


def one_peak(grid: tuple[int, int], cell: int, low: float = -0.2, high: float = 0.6) -> np.ndarray:
    scores = np.full(grid, low)
    scores.flat[cell] = high
    return scores


def heat(pixels: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Share of the heat in each pixel of an overlay, read off the colours that are left without the picture."""
    light = colormaps[COLOURS](np.arange(256))[:, :3].sum(axis=1) * 255  # (256,) rises from colour to colour
    left = (pixels - (1 - STRENGTH) * picture.mean(axis=2, keepdims=True)) / STRENGTH  # (h, w, 3)
    return np.interp(left.sum(axis=2), light, np.arange(256) / 255)  # (h, w)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)  # (H, W, 3)


def spans(inside: np.ndarray, least: int) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]]))).reshape(-1, 2)
    return [(int(a), int(b)) for a, b in edges if b - a >= least]


def drawn(picture: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of the pictures on white, in reading order."""
    ink = picture.min(axis=2) < 200  # (H, W)
    rows = spans(ink.mean(axis=1) > 0.15, 60)
    return [(top, bottom, *span) for top, bottom in rows for span in spans(ink[top:bottom].mean(axis=0) > 0.9, 30)]


def brightest(picture: np.ndarray, place: tuple[int, int, int, int]) -> tuple[float, float]:
    """Where within a picture the light is, as shares of its height and width."""
    top, bottom, left, right = place
    light = picture[top:bottom, left:right].sum(axis=2)  # (h, w)
    y, x = np.nonzero(light >= light.max() - 3)
    return float((y + 0.5).mean() / (bottom - top)), float((x + 0.5).mean() / (right - left))


def green(picture: np.ndarray) -> np.ndarray:
    """(H, W) where the colour of true boxes is."""
    return np.abs(picture - GREEN).max(axis=2) < 40


# One overlay --------------------------------------------------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (3, 5), (7, 7), (1, 6)])
@pytest.mark.parametrize("picture", [GREY, NOISE, NOISE[:33, :70]], ids=["square", "tall", "wide"])
def test_it_has_the_size_of_the_picture_and_its_peak_in_the_right_cell(mode, grid, picture) -> None:
    height, width = picture.shape[:2]
    for cell in range(grid[0] * grid[1]):
        pixels = overlay(picture, one_peak(grid, cell), 0.6, mode)
        assert pixels.shape == picture.shape and pixels.dtype == np.uint8
        found = heat(pixels, picture)
        y, x = np.nonzero(found > found.max() - 0.01)
        assert found.max() > 0.85
        row, column = (y.mean() + 0.5) * grid[0] / height, (x.mean() + 0.5) * grid[1] / width
        assert divmod(cell, grid[1]) == (int(row), int(column))


@every_mode
def test_the_heat_is_the_upsampled_cosines_over_the_picture_without_its_colours(mode) -> None:
    scores = np.random.default_rng(1).uniform(-0.5, 0.9, (3, 4))
    pixels = overlay(NOISE, scores, 0.8, mode)
    share = np.minimum(upsample(scores.clip(0).ravel(), (3, 4), (120, 80), mode) / 0.8, 1)  # (h, w)
    np.testing.assert_allclose(heat(pixels, NOISE), share, atol=0.02)
    grey = np.repeat(NOISE.mean(axis=2, keepdims=True), 3, axis=2)
    np.testing.assert_array_equal(overlay(grey, scores, 0.8, mode), pixels)


@every_mode
def test_below_zero_is_as_dark_as_zero(mode) -> None:
    scores = one_peak((4, 4), 5)
    for low in (0.0, -1.0, -np.inf):
        other = overlay(NOISE, one_peak((4, 4), 5, low), 0.6, mode)
        np.testing.assert_array_equal(other, overlay(NOISE, scores, 0.6, mode))
    nothing = overlay(NOISE, np.full((4, 4), -0.3), 0.6, mode)
    np.testing.assert_array_equal(nothing, overlay(NOISE, np.zeros((4, 4)), 0.6, mode))
    assert heat(nothing, NOISE).max() < 0.02


@every_mode
@pytest.mark.parametrize("level", [0.25, 0.5, 1.0])
def test_a_constant_map_is_one_heat(mode, level) -> None:
    np.testing.assert_allclose(heat(overlay(NOISE, np.full((3, 5), level), 1.0, mode), NOISE), level, atol=0.02)


@every_mode
def test_heat_is_relative_to_the_highest_cosine(mode) -> None:
    scores = np.random.default_rng(2).uniform(0, 0.4, (4, 4))
    np.testing.assert_array_equal(overlay(GREY, scores, 0.4, mode), overlay(GREY, 2 * scores, 0.8, mode))
    dim, bright = (heat(overlay(GREY, scores, highest, mode), GREY) for highest in (0.8, 0.4))
    np.testing.assert_allclose(2 * dim, bright, atol=0.03)
    above = overlay(GREY, one_peak((4, 4), 3, 0.0, 5.0), 0.4, mode)  # as bright as can be, and no brighter
    assert heat(above, GREY).max() == pytest.approx(1, abs=0.02)
    for highest in (0.0, -0.2):  # nothing in the picture sounds so
        assert heat(overlay(GREY, np.full((2, 2), highest), highest, mode), GREY).max() < 0.02


@pytest.mark.parametrize(
    ("scores", "mode", "message"),
    [
        (np.zeros(4), "bilinear", r"scores must be a grid \(H, W\): got the shape \(4,\)"),
        (np.zeros((1, 2, 2)), "bilinear", r"got the shape \(1, 2, 2\)"),
        (np.zeros((2, 2)), "cubic", "unknown mode 'cubic'.*Did you mean 'bicubic'"),
    ],
)
def test_rejected_scores(scores, mode, message) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(GREY, scores, 1.0, mode)


# A figure -----------------------------------------------------------------------------------------------------------


@every_mode
def test_each_sound_has_its_map_beside_the_picture(tmp_path, mode) -> None:
    maps = [("dog", one_peak((4, 4), 6)), ("cat", one_peak((4, 4), 9, 0.0, 0.3)), ("silence", np.full((4, 4), -0.1))]
    path = draw_heatmaps([Heard(GREY, maps, title="both")], tmp_path / "new" / "a.png", mode)
    assert path == tmp_path / "new" / "a.png" and [file.name for file in path.parent.iterdir()] == ["a.png"]
    picture = pixels_of(path)
    plain, first, second, silent = drawn(picture)
    assert np.all(picture[plain[0] + 1 : plain[1] - 1, plain[2] + 1 : plain[3] - 1] == 128)
    peaks = [brightest(picture, place) for place in (first, second)]
    assert [(int(4 * y), int(4 * x)) for y, x in peaks] == [(1, 2), (2, 1)]
    found = []
    for top, bottom, left, right in (first, second, silent):
        inside = picture[top + 1 : bottom - 1, left + 1 : right - 1]
        found.append(heat(inside, np.full_like(inside, 128)).max())
    assert found[0] > 0.9 and found[1] == pytest.approx(found[0] / 2, abs=0.03) and found[2] < 0.02


def test_files_and_pictures_of_any_shape_keep_their_proportions(tmp_path) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(np.full((90, 60, 3), 99, np.uint8)).save(file)
    wide = np.full((40, 80, 3), 99, np.uint8)
    rows = [Heard(file, [("a", one_peak((3, 2), 4))]), Heard(wide, [("a", one_peak((2, 4), 1))])]
    picture = pixels_of(draw_heatmaps(rows, tmp_path / "a.png", "nearest"))
    places = drawn(picture)
    shares = [(right - left) / (bottom - top) for top, bottom, left, right in places]
    assert shares == pytest.approx([2 / 3, 2 / 3, 2, 2], rel=0.03)
    (y, x), (v, u) = brightest(picture, places[1]), brightest(picture, places[3])
    assert (int(3 * y), int(2 * x), int(2 * v), int(4 * u)) == (2, 0, 0, 1)


def test_true_boxes_are_drawn_on_every_picture_of_their_row(tmp_path) -> None:
    box = [0.5, 0.25, 1.0, 0.75]
    rows = [Heard(GREY, [("a", np.zeros((2, 2)))], [box]), Heard(GREY, [("a", np.zeros((2, 2)))])]
    picture = pixels_of(draw_heatmaps(rows, tmp_path / "a.png"))
    places = drawn(picture)
    marked = green(picture)
    assert len(places) == 4
    for top, bottom, left, right in places[:2]:
        y, x = np.nonzero(marked[top:bottom, left:right])
        found = [x.min() / (right - left), y.min() / (bottom - top), x.max() / (right - left), y.max() / (bottom - top)]
        assert found == pytest.approx(box, abs=0.04)
        assert not marked[top + (bottom - top) // 2, left + (right - left) * 3 // 4]  # its outline alone
    for top, bottom, left, right in places[2:]:
        assert not marked[top:bottom, left:right].any()


def test_several_boxes_are_drawn(tmp_path) -> None:
    boxes = [[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]]
    picture = pixels_of(draw_heatmaps([Heard(GREY, [], boxes)], tmp_path / "a.png"))
    ((top, bottom, left, right),) = drawn(picture)
    marked = green(picture)[top:bottom, left:right]
    side = bottom - top
    for low, high in ((0.1, 0.3), (0.6, 0.9)):
        middle = int(side * (low + high) / 2)
        assert [(a + b) / 2 / side for a, b in spans(marked[middle], 1)] == pytest.approx([low, high], abs=0.03)


def test_rows_may_stand_in_columns(tmp_path) -> None:
    rows = [Heard(np.full((64, 64, 3), 20 * k + 20, np.uint8), [("a", one_peak((2, 2), k % 4))]) for k in range(5)]
    pictures = {n: pixels_of(draw_heatmaps(rows, tmp_path / f"{n}.png", "nearest", n)) for n in (1, 2, 3)}
    for columns, picture in pictures.items():
        places = drawn(picture)
        assert len(places) == 10
        tops = [place[0] for place in places]
        in_lines = [tops.count(top) for top in sorted(set(tops))]
        assert in_lines == {1: [2, 2, 2, 2, 2], 2: [4, 4, 2], 3: [6, 4]}[columns]
        for k, (plain, lit) in enumerate(zip(places[::2], places[1::2], strict=True)):  # line by line
            assert picture[plain[0] + 20, plain[2] + 20].tolist() == [20 * k + 20] * 3
            y, x = brightest(picture, lit)
            assert (int(2 * y), int(2 * x)) == divmod(k % 4, 2)


def test_rows_with_fewer_sounds_and_text_of_any_kind(tmp_path) -> None:
    rows = [
        Heard(GREY, [("$not_maths^{", np.ones((2, 2))), ("<b> ångström", np.zeros((2, 2)))], title="50 % $x$"),
        Heard(GREY, [("a", np.ones((2, 2)))], title="long " * 60),
        Heard(GREY, []),
    ]
    assert len(drawn(pixels_of(draw_heatmaps(rows, tmp_path / "a.png")))) == 6


@pytest.mark.parametrize(
    ("rows", "mode", "message"),
    [
        ([], "bilinear", "a figure needs a picture and a column at least: got 0 and 1"),
        ([Heard(GREY, [("a", np.ones((2, 2))), ("b", np.ones(4))])], "nearest", "scores must be a grid"),
        ([Heard(GREY, [("a", np.ones((2, 2)))]), Heard(np.ones((4, 4, 7)), [])], "bilinear", r"\(4, 4, 7\)"),
        ([Heard(GREY, [("a", np.ones((2, 2)))])], "linear", "unknown mode 'linear'.*Did you mean 'bilinear'"),
    ],
)
def test_what_does_not_fit_leaves_the_earlier_file(tmp_path, rows, mode, message) -> None:
    (tmp_path / "a.png").write_text("before")
    with pytest.raises(ValueError, match=message):
        draw_heatmaps(rows, tmp_path / "a.png", mode)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_a_figure_that_cannot_be_put_in_its_place_leaves_nothing(tmp_path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a.png" / "kept").write_text("before")
    with pytest.raises(OSError):
        draw_heatmaps([Heard(GREY, [("a", np.ones((2, 2)))])], tmp_path / "a.png")
    assert [file.name for file in tmp_path.rglob("*")] == ["a.png", "kept"]
