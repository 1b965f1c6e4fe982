"""The tab that searches: what stands in the boxes, that answers are the library's, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mm.app.cards import Sources
from mm.app.runs import open_index
from mm.app.search import ANY, search, terms
from mm.index import Searcher
from mm.media import MediaError
from tests.app.conftest import Hostile


@pytest.fixture(scope="module")
def searcher(index_folder: Path) -> Searcher:
    return open_index(str(index_folder), [])[0]


def box(text: str = "", *files: Path) -> dict:
    return {"text": text, "files": [str(file) for file in files]}


def ids(html: str) -> list[str]:
    return re.findall(r'<figcaption title="([^"]+)"', html)


def test_what_stands_in_a_box() -> None:
    given = box(" a dog \n\n in the snow", Path("a.png"), Path("b.wav"), Path("c.mp4"))
    kinds = [("text", "a dog"), ("text", "in the snow")]
    files = [("image", Path("a.png")), ("audio", Path("b.wav")), ("image", Path("c.mp4"))]
    assert terms(given) == kinds + files
    assert terms(None) == terms({}) == terms(box("  \n ")) == []


def test_answers_are_those_of_the_searcher(searcher: Searcher, own_table: Path) -> None:
    picture, tone = own_table.parent / "blue-square.jpg", own_table.parent / "red-circle.wav"
    sources = Sources()
    found = search(searcher, sources, box("a red circle"), None, None, "image", 3)
    hits = searcher.query(text="a red circle", modality="image", k=3)
    assert ids(found) == [hit.id for hit in hits]
    assert [f"{hit.score:.3f}" for hit in hits] == re.findall(r"&middot; (-?\d\.\d{3})<", found)
    found = search(searcher, sources, box("", picture), box("red\none circle", tone), box("square"), ANY, 32)
    plus = [("text", "red"), ("text", "one circle"), ("audio", tone)]
    hits = searcher.query(image=picture, plus=plus, minus=[("text", "square")], k=32)
    assert ids(found) == [hit.id for hit in hits]
    assert {hit.metadata["modality"] for hit in hits} == {"image", "text", "audio"}
    assert found.count("<audio") == sum(hit.metadata["modality"] == "audio" for hit in hits)
    assert "unknown" not in found and "could not be shown" not in found


def test_words_that_are_not_known_are_said(searcher: Searcher) -> None:
    found = search(searcher, Sources(), box("a zorgl <b>circle"), box("blorp red"), None)
    assert '<p class="unknown">Not known, so without a part in the query: zorgl, b, blorp</p>' in found
    with pytest.raises(ValueError, match="must have a word that the encoder knows: got 'zorgl'"):
        search(searcher, Sources(), box("zorgl"), None, None)
    with pytest.raises(ValueError, match="must have a word that the encoder knows: got 'zorgl'"):
        search(searcher, Sources(), box("red"), None, box("zorgl"))


def test_what_a_search_refuses(searcher: Searcher, hostile: Hostile, tmp_path: Path) -> None:
    sources = Sources()
    with pytest.raises(ValueError, match="the box is empty"):
        search(searcher, sources, None, None, box("red"))
    with pytest.raises(ValueError, match=r"must be a picture, a sound or a video: got 'notes.txt'"):
        search(searcher, sources, box("", hostile.notes), None, None)
    for file in (hostile.no_sound, hostile.no_picture, hostile.empty):
        with pytest.raises((MediaError, ValueError), match=file.name):
            search(searcher, sources, box("", file), None, None)
    with pytest.raises(ValueError, match=r"No such file or directory: .*gone\.png"):
        search(searcher, sources, box("", tmp_path / "gone.png"), None, None)
    with pytest.raises(ValueError, match="k must be at least 1"):
        search(searcher, sources, box("red"), None, None, ANY, 0)
