"""Entries by their ids: nothing is drawn before it is asked for, and ids are those of galleries."""

from __future__ import annotations

import numpy as np
import pytest

from mm.data import Item, gallery
from mm.data.entries import Entries, Named
from mm.data.synthetic import Scenes


def test_items_that_are_drawn_are_found_without_drawing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = Scenes("val", 6)
    pictures, sentences = (Entries(Named(scenes), modality) for modality in ("image", "text"))
    drawn = []
    monkeypatch.setattr(Scenes, "__getitem__", lambda self, k, get=Scenes.__getitem__: drawn.append(k) or get(self, k))
    np.testing.assert_array_equal(pictures["val-00004"], scenes[4].image[0])
    assert sentences["val-00002#3"] == scenes[2].text[3]
    assert set(drawn) == {4, 2}
    assert "val-00006" not in pictures and "val-00001#9" not in sentences
    assert dict(sentences) == {f"val-0000{k}#{n}": text for k in range(6) for n, text in enumerate(scenes[k].text)}
    items = [Item("a#1", "a", text=("one",)), Item("b", "b", text=("two", "three"))]
    assert dict(Entries(Named(items), "text")) == {"a#1": "one", "b#0": "two", "b#1": "three"}


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_entries_are_those_of_a_gallery(modality: str) -> None:
    scenes = Scenes("val", 4)
    expected = gallery(scenes, modality)
    found = Entries(Named(scenes), modality)
    assert list(found) == [entry.id for entry in expected] and len(found) == len(expected) > 0
    for entry in expected:
        np.testing.assert_array_equal(found[entry.id], entry.source)
