"""Building from sources and asking by picture, sentence, sound, vector and sums of them."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from mm.index import Index, Searcher, build, combine, index_of

WORDS = ("red", "green", "square", "circle", "day", "night")


class Entry(NamedTuple):
    id: str
    source: object
    meta: dict


class BagOfWords:
    """A small real embedder: a sentence, or the file or array that holds word counts, as a unit vector."""

    def __init__(self, words=WORDS):
        self.words = words
        self.calls = []

    def fingerprint(self):
        return " ".join(self.words)

    def unknown_words(self, text):
        return [word for word in text.split() if word not in self.words]

    def nearest_words(self, word):
        return [known for known in self.words if known[0] == word[0]]

    def embed(self, modality, sources):
        self.calls.append((modality, len(sources)))
        rows = []
        for source in sources:
            if isinstance(source, Path):
                source = source.read_text()
            counts = [source.split().count(word) for word in self.words] if isinstance(source, str) else source
            rows.append(torch.as_tensor(counts, dtype=torch.float32))
            if not rows[-1].any():
                raise ValueError(f"nothing can be seen in {source!r}.")
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


@pytest.fixture
def scenes(tmp_path):
    """Pictures as files, and their sentences."""
    texts = [f"{colour} {shape} {time}" for colour in WORDS[:2] for shape in WORDS[2:4] for time in WORDS[4:]]
    pictures = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.txt"
        path.write_text(text)
        pictures.append(Entry(text, path, {"path": str(path)}))
    return {"image": pictures, "text": [Entry(text, text, {}) for text in texts]}


@pytest.fixture
def searcher(scenes):
    embedder = BagOfWords()
    index, bad = build(embedder, scenes, batch_size=3, run="runs/words")
    assert bad == []
    return Searcher(index, embedder)


def test_build_embeds_every_modality_batch_by_batch(searcher):
    assert searcher.embedder.calls == [("image", 3), ("image", 3), ("image", 2), ("text", 3), ("text", 3), ("text", 2)]
    assert searcher.index.modalities == {"image": 8, "text": 8}
    assert (searcher.index.fingerprint, searcher.index.run) == (" ".join(WORDS), "runs/words")
    assert searcher.index.metadata(["text:red circle day"]) == [{"modality": "text"}]


def test_a_sentence_finds_pictures_and_a_picture_finds_sentences(searcher, scenes):
    assert [hit.id for hit in searcher.query(text="green circle night", k=1, modality="image")] == [
        "image:green circle night"
    ]
    best = searcher.query(image=scenes["image"][3].source, k=1, modality="text")[0]
    assert best.id == f"text:{scenes['image'][3].id}"
    assert best.score == pytest.approx(1)
    sound = searcher.query(audio=np.array([0.0, 1, 0, 1, 0, 0]), k=2, where={"modality": "image"})
    assert {hit.id for hit in sound} == {"image:green circle day", "image:green circle night"}


def test_query_algebra_moves_along_one_attribute(searcher, scenes):
    day = next(entry for entry in scenes["image"] if entry.id == "red square day")
    hits = searcher.query(image=day.source, minus=[("text", "day")], plus=[("text", "night")], k=1, modality="image")
    assert hits[0].id == "image:red square night"
    night = searcher.vector(text="night")
    by_vector = searcher.query(
        vector=searcher.vector(image=day.source), minus=[searcher.vector(text="day")], plus=[night], k=1
    )
    assert by_vector[0].id == "image:red square night"


def test_a_query_by_vector_needs_no_encoders(searcher):
    bare = Searcher(searcher.index)
    vector = searcher.vector(text="red circle")
    assert bare.query(vector=vector, k=3) == searcher.query(text="red circle", k=3)
    assert bare.query(vector=vector, k=1, exclude=["image:red circle day", "image:red circle night"])[0].id.startswith(
        "text:red"
    )
    with pytest.raises(ValueError, match="text queries need encoders"):
        bare.query(text="red")


@pytest.mark.parametrize("given", [{}, {"text": "red", "image": "x"}, {"vector": [1.0], "audio": "x"}])
def test_exactly_one_query_is_asked_for(searcher, given):
    with pytest.raises(
        ValueError, match=f"exactly one of image, text, audio and vector: got .*{next(iter(given), 'none')}"
    ):
        searcher.query(**given)


def test_other_encoders_are_refused(searcher):
    with pytest.raises(ValueError, match=r"has fingerprint 'red .*', these encoders 'red'.*run 'runs/words'"):
        Searcher(searcher.index, BagOfWords(("red",)))
    with pytest.raises(ValueError, match="has fingerprint 'unknown'"):
        Searcher(Index(6), BagOfWords())


def test_unknown_words_alone_are_an_error_and_some_are_said_aloud(searcher, caplog):
    with pytest.raises(
        ValueError, match=r"a word that the encoder knows: got 'grey nebula'.*grey: green; nebula: night"
    ):
        searcher.query(text="grey nebula")
    with pytest.raises(ValueError, match=r"a word that the encoder knows: got 'zebra'.*zebra: nothing"):
        searcher.query(text="red", minus=[("text", "zebra")])
    with caplog.at_level(logging.WARNING):
        searcher.query(text="red zebra")
    assert "have no part in the query: zebra" in caplog.text


def test_wrong_terms_and_conditions_are_errors(searcher):
    with pytest.raises(ValueError, match=r"pair \(modality, source\) or a vector: got 'night'"):
        searcher.query(text="red", plus=["night"])
    with pytest.raises(ValueError, match="the modality was given twice"):
        searcher.query(text="red", modality="image", where={"modality": "text"})
    with pytest.raises(ValueError, match="must not vanish"):
        searcher.query(text="red", minus=[("text", "red")])
    with pytest.raises(ValueError, match="one width"):
        searcher.query(text="red", plus=[np.ones(3)])
    with pytest.raises(ValueError, match="unit length"):
        searcher.query(vector=np.ones(6))
    with pytest.raises(ValueError, match=r"a query must be one vector \(D,\): got shape \(2, 6\)"):
        searcher.query(vector=np.eye(6)[:2])


def test_combine_is_the_direction_of_the_sum():
    a, b, c = np.eye(3)
    np.testing.assert_allclose(combine([a, b], [c]), np.array([1, 1, -1]) / 3**0.5, rtol=1e-6)
    np.testing.assert_array_equal(combine([torch.tensor([0.0, 2.0])]), [0, 1])
    with pytest.raises(ValueError, match="got shapes none"):
        combine([])
    with pytest.raises(ValueError, match="must not vanish: its length is nan"):
        combine([a * np.nan])


def test_an_unreadable_source_is_an_error_that_names_it_or_is_left_out_and_counted(scenes, tmp_path, caplog):
    scenes["image"][4] = scenes["image"][4]._replace(source=tmp_path / "missing.txt")
    (tmp_path / "empty.txt").write_text("")
    scenes["image"][6] = scenes["image"][6]._replace(source=tmp_path / "empty.txt")
    with pytest.raises(ValueError, match=r"image 'green square day' cannot be embedded: .*missing.txt.*skip_bad=True"):
        build(BagOfWords(), scenes)
    with caplog.at_level(logging.WARNING):
        index, bad = build(BagOfWords(), scenes, batch_size=3, skip_bad=True)
    assert [one.id for one in bad] == ["green square day", "green circle day"]
    assert "missing.txt" in bad[0].reason
    assert index.modalities == {"image": 6, "text": 8}
    assert "2 unreadable sources left out of the index: green square day, green circle day" in caplog.text


def test_nothing_to_index_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one entry that can be read: got none, 0 unreadable"):
        build(BagOfWords(), {"image": []})
    gone = [Entry("gone", tmp_path / "gone.txt", {})]
    with pytest.raises(ValueError, match="1 unreadable, first 'gone'"):
        build(BagOfWords(), {"image": gone}, skip_bad=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1: got 0"):
        build(BagOfWords(), {"image": gone}, batch_size=0)


def test_ids_must_differ_within_a_modality(scenes):
    scenes["text"][1] = scenes["text"][1]._replace(id=scenes["text"][0].id)
    with pytest.raises(ValueError, match="ids must be unique: 'text:red square day'"):
        build(BagOfWords(), scenes)


def test_an_index_of_vectors_at_hand_equals_one_built_from_sources(searcher, scenes):
    embedder = BagOfWords()
    vectors = {
        modality: embedder.embed(modality, [entry.source for entry in some]) for modality, some in scenes.items()
    }
    index = index_of(vectors, scenes, embedder.fingerprint(), "runs/words")
    assert index.ids == searcher.index.ids
    assert index.metadata(index.ids) == searcher.index.metadata(index.ids)
    assert Searcher(index, embedder).query(text="red day", k=5) == searcher.query(text="red day", k=5)
