"""The tab of the map: which points there are, what is within a box, and that whatever the page is asked is checked."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from mm.app import map as space_map
from mm.app.cards import Sources
from mm.app.map import Drawn, answer, as_json, colour_keys, listed, preview_of, project, some_of
from mm.index import Index
from mm.index.projection import pca
from tests.shared import unit


@pytest.fixture
def index() -> Index:
    metadata = [{"text": f"item {k}", "digit": k % 3, "name": f"n{k}", "tags": [k]} for k in range(60)]
    index = Index.build(unit(60, 8, 1), [f"i{k}" for k in range(60)], metadata, modality="text")
    index.add(unit(80, 8, 1)[60:], [f"p{k}" for k in range(20)], modality="image")
    return index


def test_a_map_is_the_projection_in_its_proportions(index: Index) -> None:
    drawn = project(index, "PCA")
    expected = pca(index.vectors(index.ids))
    assert drawn.ids == index.ids and drawn.metadata == index.metadata(index.ids)
    assert drawn.points.min() == 0 and drawn.points.max() == 1
    scales = np.ptp(drawn.points, axis=0) / np.ptp(expected, axis=0)
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)
    for axis in (0, 1):
        assert np.corrcoef(drawn.points[:, axis], expected[:, axis])[0, 1] == pytest.approx(1, abs=1e-5)
        assert drawn.points[:, axis].min() + drawn.points[:, axis].max() == pytest.approx(1, abs=1e-5)
    assert drawn.note.startswith("80 items; the two axes hold ")


@pytest.mark.parametrize("method", ["t-SNE", "UMAP"])
def test_neighbours_stay_neighbours(method: str) -> None:
    centres = np.eye(3, 16, dtype=np.float32)
    vectors = np.repeat(centres, 20, axis=0) + 0.05 * unit(60, 16, 1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    points = project(Index.build(vectors, range(60)), method).points
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(60)
    assert (distances.argmin(axis=1) // 20 == np.arange(60) // 20).all()


def test_of_many_items_a_stated_sample_is_drawn(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(space_map.MOST, "PCA", 25)
    drawn = project(index, "PCA")
    assert len(set(drawn.ids)) == 25 and [id_ for id_ in index.ids if id_ in set(drawn.ids)] == drawn.ids
    assert drawn.note.startswith("25 of 80 items, drawn at random")
    assert some_of(index, 25) == drawn.ids != some_of(index, 25, seed=1)
    with pytest.raises(ValueError, match="unknown map 'pca'"):
        project(index, "pca")
    with pytest.raises(ValueError, match="all are equal"):
        project(Index.build(np.repeat(unit(1, 8, 1), 5, axis=0), range(5)), "PCA")


def test_what_the_script_is_sent(index: Index) -> None:
    drawn = project(index, "PCA")
    sent = json.loads(as_json(drawn, "PCA", "modality"))
    shares = np.frombuffer(base64.b64decode(sent["xy"]), "<u2").reshape(-1, 2) / 65535
    np.testing.assert_allclose(shares, drawn.points, atol=1e-5)
    names = [sent["names"][number] for number in base64.b64decode(sent["colour"])]
    assert names == ["text"] * 60 + ["image"] * 20
    assert sent["note"].startswith("PCA of 80 items")
    sent = json.loads(as_json(drawn, "PCA", "name"))  # 60 names and 20 without: one colour for the rest
    assert sent["names"][0] == "none" and sent["names"][-1] == "others" and len(sent["names"]) == 13
    assert base64.b64decode(sent["colour"]).count(12) == 60 - 11


def test_colours_are_of_keys_with_a_few_values(index: Index) -> None:
    assert colour_keys(index.metadata(index.ids)) == ["modality", "digit"]
    assert colour_keys([{}]) == ["modality"]


def test_a_box_lists_what_is_within_it(index: Index) -> None:
    drawn = project(index, "PCA")
    box = (0.2, 0.3, 0.7, 0.6)
    inside = [id_ for id_, (x, y) in zip(drawn.ids, drawn.points, strict=True) if 0.2 <= x <= 0.7 and 0.3 <= y <= 0.6]
    assert 5 < len(inside) < 60
    found = listed(drawn, box, Sources())
    texts = sum(id_.startswith("i") for id_ in inside)
    assert f"{texts} text" in found and f"{len(inside) - texts} image" in found
    assert [id_ for id_ in inside if f'title="{id_}"' in found] == inside[: space_map.LISTED]
    everything = listed(drawn, (0, 0, 1, 1), Sources())
    assert "60 text, 20 image; the first 24 are shown" in everything
    assert "Selected: nothing." in listed(drawn, (0.5, 0.5, 0.5, 0.4), Sources())


def test_a_preview_shows_one_item(index: Index) -> None:
    drawn = project(index, "PCA")
    shown = preview_of(drawn, 7, Sources())
    assert "item 7" in shown and 'title="i7"' in shown


@pytest.mark.parametrize(
    "asked",
    [None, 7, [], "PCA", ["PCA"], ["pca", 1], ["PCA", -1], ["PCA", 80], ["PCA", "../x"], ["PCA", 1, 2], [[], 1]],
)
def test_whatever_the_page_is_asked_is_checked(index: Index, asked: object) -> None:
    drawn = {"PCA": project(index, "PCA")}
    said = answer(lambda method, number: preview_of(find(drawn, method), number, Sources()), asked)
    assert said.startswith('<p class="missing">')


@pytest.mark.parametrize("box", [(), (0, 0, 1), ("a", 0, 1, 1), (None,) * 4])
def test_a_box_has_four_sides(index: Index, box: tuple) -> None:
    with pytest.raises(ValueError, match="a box must be"):
        listed(project(index, "PCA"), box, Sources())


def find(drawn: dict[str, Drawn], method: str) -> Drawn:
    return drawn[method]


def test_the_index_of_a_run_is_mapped_with_its_pictures(index_folder: Path) -> None:
    index = Index.load(index_folder)
    found = listed(project(index, "PCA"), (0, 0, 1, 1), Sources())
    assert "16 text, 8 image, 8 audio" in found
    assert found.count("data:image/jpeg") == 8 and found.count("<blockquote>") == 16
    assert "could not be shown" not in found
