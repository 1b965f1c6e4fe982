"""Pictures of where a captioner looked: light falls on the right place, and a page is whole, safe and alone."""

import base64
import html
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm.explain.attention import (
    BRIGHT,
    DARK,
    GLOW,
    HEAT,
    MODES,
    Entry,
    Looked,
    draw_attention,
    glimpsed,
    upsample,
    write_page,
)
from mm.explain.page import SCRIPT
from mm.heads import Answer

GREY = np.full((64, 64, 3), 128, np.uint8)
WAVE = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)  # even over time and frequency


def looked(cells, grid=(4, 4), source=GREY, modality="image", **rest):
    """A sentence of which word k looked at cell `cells[k]` alone."""
    attention = np.eye(int(np.prod(grid)), dtype=np.float32)[list(cells)]  # (L, N)
    return Looked(source, modality, [f"word{k}" for k in range(len(cells))], attention, grid, **rest)


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)  # (H, W, 3)


def boxes(picture):
    """[top, bottom, left, right] of the pictures on white, in reading order, of those that stand in full rows."""
    ink = picture.min(axis=2) < 200  # (H, W)
    rows = spans(ink.mean(axis=1) > 0.03, 60)
    return [[top, bottom, *span] for top, bottom in rows for span in spans(ink[top:bottom].mean(axis=0) > 0.9, 60)]


def spans(inside, least):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]]))).reshape(-1, 2)
    return [[int(a), int(b)] for a, b in edges if b - a >= least]


def brightest(picture, box):
    """Where within a box the light is, as shares of its height and width."""
    top, bottom, left, right = box
    light = picture[top:bottom, left:right].sum(axis=2)  # (h, w)
    y, x = np.nonzero(light >= np.quantile(light, 0.99))
    return float(y.mean() / (bottom - top)), float(x.mean() / (right - left))


# Weights over a picture ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_constant_weights_stay_constant(mode):
    np.testing.assert_allclose(upsample(np.full(15, 1 / 15), (3, 5), (31, 42), mode), 1 / 15, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (7, 7)])
@pytest.mark.parametrize("size", [(64, 64), (50, 33)])
def test_one_cell_has_its_maximum_within_itself(mode, grid, size):
    for cell in range(int(np.prod(grid))):
        weights = upsample(np.eye(int(np.prod(grid)))[cell], grid, size, mode)
        assert weights.shape == size and weights.dtype == np.float32 and weights.min() >= 0
        y, x = np.unravel_index(weights.argmax(), size)
        assert divmod(cell, grid[1]) == ((y + 0.5) * grid[0] // size[0], (x + 0.5) * grid[1] // size[1])


def test_sums_grow_with_the_pixels_of_a_cell():
    weights = np.random.default_rng(0).dirichlet(np.ones(12)).astype(np.float32)
    assert upsample(weights, (3, 4), (30, 40), "nearest").sum() == pytest.approx(100, rel=1e-5)
    assert upsample(weights, (3, 4), (30, 40), "bilinear").sum() == pytest.approx(100, rel=0.2)  # edges count more
    np.testing.assert_array_equal(upsample(weights, (3, 4), (3, 4), "bilinear"), weights.reshape(3, 4))


def test_bilinear_against_a_loop():
    weights = np.random.default_rng(1).random((3, 4)).astype(np.float32)
    expected = np.zeros((11, 9))
    for y in range(11):
        for x in range(9):
            v, u = (y + 0.5) * 3 / 11 - 0.5, (x + 0.5) * 4 / 9 - 0.5
            for row in range(-1, 4):
                for column in range(-1, 5):
                    share = max(0, 1 - abs(v - row)) * max(0, 1 - abs(u - column))
                    expected[y, x] += share * weights[min(max(row, 0), 2), min(max(column, 0), 3)]
    np.testing.assert_allclose(upsample(weights.ravel(), (3, 4), (11, 9)), expected, rtol=1e-5)


def test_frames_are_one_row():
    weights = upsample(np.array([0.0, 1.0, 0.0]), (3,), (5, 9), "nearest")
    np.testing.assert_array_equal(weights, np.tile([0, 0, 0, 1, 1, 1, 0, 0, 0], (5, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(4), (2, 2), (8, 8), "cubic"), "unknown mode 'cubic'.*Did you mean 'bicubic'"),
        ((np.ones(5), (2, 2), (8, 8)), r"got \(5,\) over \(2, 2\) at \(8, 8\)"),
        ((np.ones((2, 2)), (2, 2), (8, 8)), r"got \(2, 2\) over"),
        ((np.ones(8), (2, 2, 2), (8, 8)), "one or two axes"),
        ((np.ones(4), (2, 2), (0, 8)), "1 px or more"),
    ],
)
def test_rejected_weights(arguments, message):
    with pytest.raises(ValueError, match=message):
        upsample(*arguments)


# One picture --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_light_falls_where_a_word_looked(tmp_path, mode):
    path = draw_attention([looked([0, 6, 15])], tmp_path / "new" / "a.png", mode)
    assert path == tmp_path / "new" / "a.png" and [file.name for file in path.parent.iterdir()] == ["a.png"]
    picture = pixels(path)
    plain, *cells = boxes(picture)
    assert len(cells) == 3
    for box, (row, column) in zip(cells, ((0, 0), (1, 2), (3, 3)), strict=True):
        top, bottom, left, right = box
        y, x = brightest(picture, box)
        assert int(y * 4) == row and int(x * 4) == column
        dark = picture[bottom - 5, left + 5]  # cell (3, 0)
        np.testing.assert_allclose(dark, 128 * DARK, atol=2)
        most = picture[top + 1 : bottom - 1, left + 1 : right - 1].max(axis=(0, 1))
        np.testing.assert_allclose(most, 128 * BRIGHT + GLOW * np.array(HEAT), atol=2)
    np.testing.assert_array_equal(picture[plain[0] + 20, plain[2] + 20], (128, 128, 128))


def test_even_attention_lights_everything_and_pictures_differ(tmp_path):
    even = Looked(GREY, "image", ["x"], np.full((1, 16), 1 / 16), (4, 4))
    drawn = [pixels(draw_attention([row], tmp_path / "a.png")) for row in (even, looked([0]), looked([1]))]
    _, (top, bottom, left, right) = boxes(drawn[0])
    cell = drawn[0][top + 1 : bottom - 1, left + 1 : right - 1].reshape(-1, 3)
    np.testing.assert_allclose(cell, np.tile(128 * BRIGHT + GLOW * np.array(HEAT), (len(cell), 1)), atol=2)
    assert not np.array_equal(drawn[1], drawn[2])


def test_low_tones_lie_at_the_bottom(tmp_path):
    sound = looked([0, 2, 9, 11], grid=(4, 3), source=WAVE, modality="audio")  # cell = 3 * band + frame
    picture = pixels(draw_attention([sound], tmp_path / "a.png", "nearest"))
    places = [brightest(picture, box) for box in boxes(picture)[1:]]
    assert [(int(y * 4), int(x * 3)) for y, x in places] == [(3, 0), (3, 2), (0, 0), (0, 2)]


def test_a_tone_lies_where_its_band_is_lit(tmp_path):
    tone = (0.5 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)).astype(np.float32)
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone, 16000)
    picture = pixels(draw_attention([looked([0], (4, 2), path, "audio")], tmp_path / "a.png"))
    plain, lit = boxes(picture)
    top, bottom, left, right = plain
    grey = picture[top:bottom, left:right].sum(axis=2).mean(axis=1)  # (h,), loud is dark
    assert np.argmin(grey) / (bottom - top) > 0.75 and brightest(picture, lit)[0] > 0.7


def test_frames_without_bands(tmp_path):
    picture = pixels(draw_attention([looked([1], (3,), WAVE, "audio")], tmp_path / "a.png", "nearest"))
    assert int(3 * brightest(picture, boxes(picture)[1])[1]) == 1


def test_many_words_wrap(tmp_path):
    rows = [looked(range(16)), looked([0, 1])._replace(attention=None), looked(range(3))]
    found = boxes(pixels(draw_attention(rows, tmp_path / "a.png")))
    tops = [box[0] for box in found]
    assert [tops.count(top) for top in sorted(set(tops))] == [11, 6, 1, 4]
    lefts = sorted({box[2] for box in found})
    assert len(lefts) == 11 and min(np.diff(lefts)) > 160  # columns, which do not touch


def test_pictures_keep_their_proportions(tmp_path):
    wide = looked([5], (2, 4), np.full((30, 120, 3), 99, np.uint8))
    tall = looked([5], (2, 4), np.full((120, 80, 3), 99, np.uint8))
    found = boxes(pixels(draw_attention([tall], tmp_path / "a.png")))
    assert [(right - left) / (bottom - top) for top, bottom, left, right in found] == pytest.approx(
        [2 / 3] * 2, abs=0.03
    )
    picture = pixels(draw_attention([wide], tmp_path / "a.png"))
    ink = picture.min(axis=2) < 200
    assert ink.sum() > 2 * 150 * 35  # two pictures of 160 x 40


def test_text_of_any_kind(tmp_path):
    rows = [
        looked([0])._replace(words=["$not_maths^{"], title="50 % $x$ \n <b> " + "long " * 80),
        Looked(GREY, "image", [], None, (4, 4)),
        Looked(GREY, "image", [], np.zeros((0, 16)), (4, 4)),
        looked([1])._replace(words=["ångström" * 20]),
    ]
    assert len(boxes(pixels(draw_attention(rows, tmp_path / "a.png")))) == 6


@pytest.mark.parametrize("write", [draw_attention, lambda rows, path: write_page(path, [Entry(*rows, 0, (), "i")])])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (looked([0])._replace(modality="video"), "unknown modality 'video'"),
        (looked([0])._replace(words=["a", "b"]), r"= \(2, 16\), .* got \(1, 16\) over \(4, 4\) for 'a b'"),
        (looked([0])._replace(grid=(4, 5)), r"= \(1, 20\), .* got \(1, 16\)"),
        (looked([0])._replace(grid=(16,)), r"got \(1, 16\) over \(16,\)"),
        (looked([0])._replace(grid=(2, 2, 4)), "attention must be"),
        (looked([0])._replace(attention=np.ones((1, 16))), "sum to 1 for each word: it does not for 'word0'"),
        (looked([0])._replace(attention=np.full((1, 16), np.nan)), "sum to 1"),
        (looked([0])._replace(attention=np.array([[2, -1, *[0] * 14]])), "at least 0"),
    ],
)
def test_what_does_not_fit_leaves_the_earlier_file(tmp_path, write, row, message):
    (tmp_path / "a").write_text("before")
    with pytest.raises(ValueError, match=message):
        write([row], tmp_path / "a")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_other_rejections(tmp_path):
    with pytest.raises(ValueError, match="a picture needs at least one sentence: got none"):
        draw_attention([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="unknown mode"):
        draw_attention([looked([0])], tmp_path / "a.png", "linear")
    with pytest.raises(ValueError, match="65535 px high"):
        draw_attention([looked([0])._replace(attention=None)] * 300, tmp_path / "a.png")
    with pytest.raises(ValueError, match="a page needs at least one item"):
        write_page(tmp_path / "p.html", [])
    with pytest.raises(ValueError, match="unknown mode"):
        write_page(tmp_path / "p.html", [Entry(looked([0]), 0.0, (), "a")], "linear")
    assert not list(tmp_path.iterdir())


# A page -------------------------------------------------------------------------------------------------------------


def test_a_hostile_caption_stays_text(tmp_path):
    evil = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>"
    entry = Entry(looked([0])._replace(words=[evil]), 0.5, [evil, "fish & chips"], evil)
    text = write_page(tmp_path / "p.html", [entry], title=evil).read_text(encoding="utf-8")
    assert text.count("<script>") == text.count("</script>") == 1  # our own
    assert "<img src=x" not in text and text.count("<img ") == 1
    assert text.count(html.escape(evil)) == 5  # title twice, name, caption, reference
    assert "fish &amp; chips" in text


def test_every_item_is_there_in_order_and_the_page_is_alone(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (90, 200, 3), dtype=np.uint8)
    entries = [
        Entry(looked([k, k + 1], source=noise), k / 10, (f"reference {k}", "übrige 猫"), f"id-{k}") for k in range(9)
    ]
    entries += [
        Entry(looked([0, 2], (2, 2), WAVE, "audio"), 0.95, ("a sound",), "sound"),
        Entry(looked([0])._replace(attention=None), 1.0, (), "blind"),
    ]
    path = write_page(tmp_path / "new" / "p.html", entries, "bicubic")
    assert [file.name for file in path.parent.iterdir()] == ["p.html"]
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"<h2>(\S+) &middot; score (\S+)</h2>", text)
    assert names == [(entry.id, f"{entry.score:.4g}") for entry in entries]
    assert all(f"<li>{reference}</li>" in text for entry in entries for reference in entry.references)
    assert "http" not in text and "src=" in text and not re.findall(r'(?:src|href)="(?!data:image/)', text)
    assert "bicubic over the cells" in text and '"mode": "bicubic"' in text
    assert text.count('<span tabindex="0">') == 20 and text.count("<canvas ") == 10
    weights = re.findall(r'data-grid="(\d+) (\d+)" data-weights="([^"]*)"', text)
    first, sound = weights[0], weights[-1]
    assert first[:2] == ("4", "4") and base64.b64decode(first[2]) == bytes([255, *[0] * 16, 255, *[0] * 14])
    assert sound[:2] == ("2", "2")  # the lowest band stands last
    assert base64.b64decode(sound[2]) == bytes([0, 0, 255, 0, 255, 0, 0, 0])
    kinds = re.findall(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", text)
    assert [kind for kind, _ in kinds] == ["jpeg"] * 9 + ["png", "jpeg"]
    (tmp_path / "one.jpg").write_bytes(base64.b64decode(kinds[0][1]))
    with Image.open(tmp_path / "one.jpg") as image:
        assert image.size == (160, 72)


def test_a_thousand_items_are_small_and_quick(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
    attention = rng.dirichlet(np.ones(196), 12).astype(np.float32)
    entry = Entry(
        Looked(np.asarray(smooth), "image", ["word"] * 12, attention, (14, 14)), 0.1, ["a reference"] * 5, "x"
    )
    began = time.process_time()
    path = write_page(tmp_path / "p.html", [entry] * 200)
    assert time.process_time() - began < 12  # a fifth of the page: 60 s for 1,000
    assert path.stat().st_size < 8e6  # 40 MB for 1,000


STAGE = """
const stage = {veil: null}, document = {addEventListener() {}};
class ImageData { constructor(w, h) { this.data = new Uint8ClampedArray(4 * w * h); } }
"""
PLAY = """
const children = [{}, {}], context = {putImageData(veil) { stage.veil = veil.data; }};
const canvas = {width: given.width, height: given.height, getContext: () => context};
const article = {dataset: given, querySelector: () => canvas};
for (const child of children) { child.closest = () => article; child.parentNode = {children}; }
show(children[1]);
console.log(JSON.stringify(Array.from(stage.veil)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the script of the page")
@pytest.mark.parametrize("mode", MODES)
def test_the_page_lights_what_the_picture_lights(mode):
    levels = np.random.default_rng(2).integers(0, 256, (2, 3, 4)).astype(np.uint8)  # (words, rows, columns)
    height, width = 31, 46
    weights = base64.b64encode(levels.tobytes()).decode()
    given = {"grid": "3 4", "weights": weights, "width": width, "height": height}
    light = {"mode": mode, "dark": DARK, "bright": BRIGHT, "glow": GLOW, "heat": HEAT}
    setting = f"const light = {json.dumps(light)}, given = {json.dumps(given)};"
    answer = subprocess.run(
        ["node", "-e", STAGE + setting + SCRIPT + PLAY], capture_output=True, text=True, check=True, timeout=60
    )
    veil = np.array(json.loads(answer.stdout), float).reshape(height, width, 4)
    share = upsample(levels[1].ravel(), (3, 4), (height, width), mode)
    share = (share / share.max())[..., None]
    for grey in (0, 90, 255):
        shown = grey * (1 - veil[..., 3:] / 255) + veil[..., :3] * veil[..., 3:] / 255  # as a browser lays it over
        np.testing.assert_allclose(shown, grey * (DARK + (BRIGHT - DARK) * share) + GLOW * share * HEAT, atol=2.5)


# Answers ------------------------------------------------------------------------------------------------------------


def answer_that_looked(shares: list[float]) -> Answer:
    """Looks at a picture of 2x2 places and a sound of 3 frames; so much of each look goes to the picture."""
    image = torch.tensor([[0.1, 0.2, 0.3, 0.4]]) * torch.tensor(shares)[:, None]
    sound = torch.tensor([[0.5, 0.25, 0.25]]) * (1 - torch.tensor(shares))[:, None]
    return Answer("yes", [("yes", 0.9)], {"image": image, "audio": sound}, {"image": (2, 2), "audio": (3,)})


def test_what_is_drawn_of_an_answer_is_each_look_at_one_source() -> None:
    answer = answer_that_looked([0.25, 1.0, 5e-7, 0.0])
    row = glimpsed(GREY, "image", "is it red?", answer, "yes 90%")
    assert (row.heading, row.title) == ("is it red?", "yes 90%")
    assert row.words == ["look 1: 25%", "look 2", "look 3: 0%", "look 4: 0%"]
    np.testing.assert_allclose(row.attention[:2], [[0.1, 0.2, 0.3, 0.4]] * 2, atol=1e-6)
    np.testing.assert_allclose(row.attention[2:], 0.25)  # it did not look here: nothing is lit more than the rest
    np.testing.assert_allclose(row.attention.sum(axis=1), 1, atol=1e-6)
    assert glimpsed(GREY, "image", "why?", answer._replace(attention={}, grids={})).attention is None


def test_rows_may_stand_in_columns(tmp_path) -> None:
    rows = [glimpsed(GREY, "image", "is it red?", answer_that_looked([1.0]))] * 5
    sizes = []
    for columns in (1, 2):
        with Image.open(draw_attention(rows, tmp_path / f"{columns}.png", columns=columns)) as picture:
            sizes.append(picture.size)
    assert abs(sizes[1][0] - 2 * sizes[0][0]) <= 2  # px
    assert 0.5 < sizes[1][1] / sizes[0][1] < 0.7  # three rows of five
