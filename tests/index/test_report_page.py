"""The page of a report: it needs nothing but itself, shows what can be shown, and counts what cannot."""

import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.colors import to_rgb
from PIL import Image

from mm.index import Index
from mm.index.grid import Shown
from mm.index.media import Item, item_of, shown
from mm.index.report import table
from mm.index.report.cells import Cells
from mm.index.report.maps import COLOURS, REST, _in_order, draw_maps
from mm.index.report.pictures import _title
from tests.index.spaces import of_joint, plain, report_of
from tests.shared import unit


def test_the_page_needs_nothing_but_itself(tmp_path):
    report = report_of(of_joint(tmp_path / "i <b>"), tmp_path / "out", sample=90)
    page = (tmp_path / "out" / "report.html").read_text()
    assert set(re.findall(r'src="([^,"]{1,40})', page)) <= {"data:image/png;base64", "data:image/jpeg;base64"}
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "<b>" not in page and "i &lt;b&gt;" in page
    assert page.count("<img") == len(report["figures"])
    links = re.findall(r'href="#(\w+)"', page)
    assert links and all(f'id="{link}"' in page for link in links)
    for name in report["figures"]:
        with Image.open(tmp_path / "out" / name) as figure:
            assert figure.format == "PNG" and min(figure.size) > 100
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["figures", "report.html", "report.json"]
    made = report["projection"]["i <b>"]
    assert made["sample"] == {"image": 45, "text": 45} and made["umap"]["n_neighbors"] == 6
    assert 0 < made["pca"]["variance_share"] < 1 and made["tsne"]["perplexity"] == 29
    for said in ("seed 0", "perplexity 29", "45 of 60 image, 45 of 120 text", "UMAP: 5 neighbours"):
        assert said in page
    assert "image_to_text: R@1" in table(report) and "purity by label" in table(report)


def test_equal_seeds_give_equal_numbers(tmp_path):
    path = plain(tmp_path / "i", unit(40))
    first, again = (report_of(path, tmp_path / name, sample=30) for name in "ab")
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_a_map_has_twelve_colours_and_the_rest_is_grey(tmp_path):
    points = np.stack(np.divmod(np.arange(300), 20), axis=1).astype(np.float32)
    labels = [f"label {row % 12}" if row < 288 else f"rare {row}" for row in range(300)]
    for some, expected in ((labels, True), (labels[:288], False)):
        path = draw_maps({"PCA": points[: len(some)]}, some, tmp_path / "map.png")
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB")).astype(int)
        inside = picture[50:-50, 20:330]  # of the map, without the legend
        grey = np.array(to_rgb(REST)) * 255 * 0.75 + 255 * 0.25  # of points that shine through
        assert bool((np.abs(inside - grey).max(axis=2) <= 4).sum() > 20) is expected
        colours = [np.array(to_rgb(colour)) * 255 * 0.75 + 255 * 0.25 for colour in COLOURS]
        assert all((np.abs(inside - colour).max(axis=2) <= 6).any() for colour in colours)
    with pytest.raises(ValueError, match="as many points as there are labels, 3: got PCA 300"):
        draw_maps({"PCA": points}, [1, 2, 3], tmp_path / "map.png")


def test_rare_points_are_larger_and_on_top(tmp_path):
    """Ten words among hundreds of pictures, all in one place, are seen."""
    points = np.zeros((410, 2), np.float32)
    points[0], points[1] = (-1, -1), (1, 1)
    labels = [*["image"] * 390, *["text"] * 20]
    path = draw_maps({"PCA": points}, labels, tmp_path / "map.png")
    with Image.open(path) as image:
        middle = np.asarray(image.convert("RGB")).astype(int)[50:-50, 20:330]
    seen = [(np.abs(middle - np.array(to_rgb(colour)) * 255).max(axis=2) <= 6).sum() for colour in COLOURS[:2]]
    assert seen[1] > 20 and seen[0] == 0  # alone, the others lie below


def test_a_legend_has_numbers_by_value_and_words_by_frequency():
    assert _in_order([(10, 5), (2, 4), ("1", 3)]) == [("1", 3), (2, 4), (10, 5)]
    assert _in_order([("dog", 5), ("cat", 4), (1, 3)]) == [("dog", 5), ("cat", 4), (1, 3)]


def test_a_cluster_is_called_by_label_words_or_number():
    one = {"items": 1234, "labels": [{"label": 3, "share": 1.0}], "words": ["green", "dog", "runs"]}
    assert _title(2, one) == "2: 3 (1,234)" and _title(2, one | {"labels": []}) == "2: green dog (1,234)"
    assert _title(2, one | {"labels": [], "words": []}) == "cluster 2 (1,234)"


def test_dollars_are_no_formulas(tmp_path):
    odd, key = r"$\foo{$", "$a^{$"  # which matplotlib cannot set as maths
    metadata = [{key: odd if row % 2 else "$x^2$", "text": f"{odd} {row}"} for row in range(24)]
    index = Index.build(unit(24), [f"{odd}:{row}" for row in range(24)], metadata, modality=odd)
    index.add(unit(24, seed=1), [f"text:{row}" for row in range(24)], metadata, modality="text")
    index.save(tmp_path / "i")
    report = report_of(str(tmp_path / "i"), tmp_path / "out", key, sample=48)
    parts = {one.rpartition("/")[2].partition("_")[0].removesuffix(".png") for one in report["figures"]}
    assert parts >= {"map", "neighbours", "worst", "cosines", "hubness", "hubs", "medoids"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert odd in page and key in page and all((tmp_path / "out" / one).is_file() for one in report["figures"])


def test_without_umap_the_report_says_so_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # what an import finds where there is no such package
    report = report_of(plain(tmp_path / "i", unit(40)), tmp_path / "out", k=4, sample=40)
    (note,) = report["notes"]
    assert note.startswith("UMAP: left out") and 'pip install "mm[explain]"' in note
    assert report["projection"]["i"]["umap"] is None and report["projection"]["i"]["tsne"]["perplexity"] > 1


def test_what_cannot_be_written_leaves_the_earlier_report(tmp_path, monkeypatch):
    path = plain(tmp_path / "i", unit(20))
    report_of(path, tmp_path / "out")
    before = (tmp_path / "out" / "report.html").read_bytes()
    monkeypatch.setattr("mm.index.report.contents", lambda *given: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="the disk is full"):
        report_of(path, tmp_path / "out", k=3)
    assert (tmp_path / "out" / "report.html").read_bytes() == before
    assert json.loads(Path(tmp_path / "out" / "report.json").read_text())["k"] == 5


# What is shown --------------------------------------------------------------------------------------------------------


def test_items_are_shown_from_where_they_are(tmp_path):
    pixels, wave = np.full((400, 300, 3), 7, np.uint8), np.zeros(16000 * 12, np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    cells = Cells(partial(shown, sources=lambda split, modality: {"7": pixels, "8": wave} if split == "val" else {}))
    file = cells.cell(Item("image:1", "image", {"path": str(tmp_path / "a.png")}), "0.9", True)
    assert file.source.shape == (192, 144, 3) and (file.title, file.right) == ("0.9", True)
    assert cells.cell(Item("audio:1", "audio", {"path": str(tmp_path / "a.wav")})).source.shape == (160000,)
    assert cells.cell(Item("image:7", "image", {"split": "val"})).source.shape == (192, 144, 3)
    assert cells.cell(Item("audio:8", "audio", {"split": "val"})).modality == "audio"
    assert cells.cell(Item("text:2", "text", {"text": " two \n words " * 40})).source.startswith("two words two")
    assert cells.cell(Item(9, "items", {})) == Shown("text", "9")
    for name, modality in (("a.png", "image"), ("a.wav", "audio")):  # of items whose modality nobody told
        assert cells.cell(item_of(name, {"path": str(tmp_path / name)})).modality == modality
    assert cells.missing == {} and cells.read == 8
    assert "cannot be read" in cells.cell(item_of(3, {"path": "/home/gone", "modality": "scent"})).source
    del cells.missing[3]
    assert cells.cell(Item("image:9", "image", {"split": "val"})).modality == "text"
    assert cells.missing == {"image:9": "the data set of the run has no image '9'."}


def test_a_missing_file_is_a_placeholder_and_counted(tmp_path):
    vectors = unit(12)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "here.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    files = ["here.png"] * 10 + ["damaged.png", "gone.png"]
    metadata = [{"path": str(tmp_path / name)} for name in files]
    path = plain(tmp_path / "i", vectors, metadata, [f"image:{row}" for row in range(12)], modality="image")
    report = report_of(path, tmp_path / "out", k=11)
    missing = report["missing_media"]
    assert missing["count"] == 2 and missing["of"] == 12
    assert "gone.png" in missing["first"]["image:11"] and "damaged.png" in missing["first"]["image:10"]
    assert "2 of 12 items that are shown could not be read" in (tmp_path / "out" / "report.html").read_text()
    assert "2 of 12 items could not be shown" in table(report)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"path": 7}, "'path' of 'image:0' must be text: got 7."),
        ({"path": None}, "'path' of 'image:0' must be text: got None."),
        ({"shard": ["a.tar"], "member": "a.png"}, "'shard' of 'image:0' must be text: got ['a.tar']."),
        ({"shard": "a.tar", "member": 7}, "'member' of 'image:0' must be text: got 7."),
        ({"split": ["test"]}, "'split' of 'image:0' must be text: got ['test']."),
    ],
)
def test_a_place_that_is_no_text_is_a_placeholder(metadata, said):
    cells = Cells(partial(shown, sources=lambda split, modality: {split: modality}, member=lambda path, name: path))
    cell = cells.cell(Item("image:0", "image", metadata), "a title")
    assert cell == Shown("text", "(cannot be read) image:0", "a title") and cells.missing == {"image:0": said}
