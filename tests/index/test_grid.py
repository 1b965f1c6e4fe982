"""Pictures of queries and neighbours: a readable PNG that shows what it was given; nothing on disk is lost."""

import resource

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm.index.grid import COLOURS, Shown, data_uri, draw_neighbours, heard

TIME_S = np.arange(4000) / 16000
TONE = (0.5 * np.sin(2 * np.pi * 1000 * TIME_S)).astype(np.float32)
RED = np.full((20, 30, 3), (255, 0, 0), np.uint8)
ROW = (Shown("text", "a red square"), [Shown("image", RED, "0.9", True), Shown("audio", TONE, "0.1", False)])


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)  # (H, W, 3)


def share(picture, colour):
    return float((np.abs(picture - np.array(colour)).max(axis=2) <= 8).mean())


def rgb(code):
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def test_a_row_of_text_picture_and_sound(tmp_path):
    path = draw_neighbours([ROW], tmp_path / "new" / "grid.png", title="neighbours")
    assert path == tmp_path / "new" / "grid.png"
    picture = pixels(path)
    height, width, _ = picture.shape
    assert width > 1.5 * height  # three cells beside each other
    left, middle, right = np.array_split(picture, 3, axis=1)
    assert share(middle, (255, 0, 0)) > 0.2  # the picture stands in the second cell, and there alone
    assert share(left, (255, 0, 0)) == share(right, (255, 0, 0)) == 0
    assert share(middle, rgb(COLOURS[True])) > 0.001  # right answers are framed in green, wrong ones in red
    assert share(right, rgb(COLOURS[False])) > 0.001
    assert share(middle, rgb(COLOURS[False])) == 0
    assert len(np.unique(right.reshape(-1, 3), axis=0)) > 100  # a spectrogram has many colours
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_a_tone_is_a_line_at_its_place_in_the_spectrogram(tmp_path):
    low = (0.5 * np.sin(2 * np.pi * 300 * TIME_S)).astype(np.float32)
    high = (0.5 * np.sin(2 * np.pi * 5000 * TIME_S)).astype(np.float32)
    brightest = []
    for wave in (low, high):
        picture = pixels(draw_neighbours([(Shown("text", ""), [Shown("audio", wave)])], tmp_path / "g.png"))
        cell = picture[:, picture.shape[1] // 2 + 20 : -20]  # (H, w, 3)
        coloured = (cell.max(axis=2) - cell.min(axis=2)) > 60  # magma's upper half, neither white nor black
        brightest.append(np.flatnonzero(coloured.mean(axis=1) > 0.5).mean())
    assert brightest[0] > brightest[1] + 20  # rows count from above: low tones stand low


def test_rows_of_different_lengths_and_files(tmp_path):
    Image.fromarray(RED).save(tmp_path / "red.png")
    soundfile.write(tmp_path / "tone.wav", np.tile(TONE, (2, 1)).T, 22050)  # stereo, another rate
    rows = [
        (Shown("image", tmp_path / "red.png"), [Shown("audio", tmp_path / "tone.wav")]),
        (Shown("audio", str(tmp_path / "tone.wav")), []),
        (Shown("text", "x " * 200), [Shown("text", "$ not maths _^{"), Shown("text", ""), Shown("image", RED)]),
    ]
    picture = pixels(draw_neighbours(rows, tmp_path / "grid.png"))
    single = pixels(draw_neighbours(rows[:1], tmp_path / "one.png"))
    assert picture.shape[0] > 2 * single.shape[0]
    assert picture.shape[1] == pytest.approx(2 * single.shape[1], rel=0.05)  # the longest row decides


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "L", "I;16", "1", "P"])
def test_pictures_of_any_mode(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    image = Image.fromarray(np.full((9, 9), 40000, np.uint16)) if mode == "I;16" else Image.new("RGB", (9, 9), "red")
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / f"x.{suffix}")
    picture = pixels(draw_neighbours([(Shown("image", tmp_path / f"x.{suffix}"), [])], tmp_path / "grid.png"))
    grey = {"L": (76,) * 3, "I;16": (156,) * 3}.get(mode, (255, 0, 0))
    if mode != "1":  # dithered
        assert share(picture, grey) > 0.2


def test_an_array_is_at_16_khz_and_a_file_knows_its_rate(tmp_path):
    assert np.array_equal(heard(TONE), TONE) and torch.equal(heard(torch.from_numpy(TONE)), torch.from_numpy(TONE))
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.repeat(TONE, 2), 32_000, subtype="FLOAT")
    for source in (path, str(path), path.read_bytes()):
        assert heard(source).shape == (4000,) and np.abs(heard(source).numpy() - TONE).max() < 0.1


def test_a_file_is_an_address():
    assert data_uri(b"\xff\x00a", "image/png") == "data:image/png;base64,/wBh"


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match="a picture of neighbours needs at least one query: got none"):
        draw_neighbours([], tmp_path / "grid.png")


def test_what_cannot_be_drawn_leaves_the_earlier_picture(tmp_path):
    path = draw_neighbours([ROW], tmp_path / "grid.png")
    before = path.read_bytes()
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(ValueError, match=r"damaged\.jpg"):
        draw_neighbours([(Shown("image", tmp_path / "damaged.jpg"), [])], path)
    assert path.read_bytes() == before
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            draw_neighbours([ROW], path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["damaged.jpg", "grid.png"]
