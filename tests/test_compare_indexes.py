"""compare_indexes.py as a user meets it."""

from pathlib import Path

import numpy as np
import pytest

from mm.index import Index
from tests.shared import assert_clean, unit

FACTORIES = ("exact", "HNSW8", "IVF8,Flat", "SQ8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of 600 pictures and 300 sentences, ten of which are pictures' vectors."""
    pictures, sentences = unit(600, 32), unit(300, 32, seed=1)
    sentences[:10] = pictures[:10]
    index = Index.build(pictures, [f"image:{row}" for row in range(600)], modality="image")
    index.add(sentences, [f"text:{row}" for row in range(300)], modality="text")
    index.save(tmp_path / "index")
    return tmp_path / "index"


def rows(answer):
    """{factory: (recall, ms, alone, MB)} of what was printed."""
    lines = [line.split() for line in answer.out.splitlines()]
    return {line[0]: tuple(map(float, line[1:5])) for line in lines if line[0] in FACTORIES}


@pytest.mark.parametrize("queries", ["text", "file", "items"])
def test_every_type_is_measured_with_vectors_that_no_index_holds(script, folder: Path, tmp_path: Path, queries) -> None:
    np.save(tmp_path / "asked.npy", np.concatenate([unit(40, 32, seed=2), unit(600, 32)[:7]]))
    given = {"text": ["--queries", "text"], "file": ["--queries", tmp_path / "asked.npy"], "items": []}[queries]
    answer = script("compare_indexes", folder, "--modality", "image", *given, "--factory", *FACTORIES, "--recall", 0.8)
    assert answer.code == 0, answer.err
    items, asked = {"text": (600, 290), "file": (600, 40), "items": (540, 60)}[queries]  # without what is an item
    assert f"{items} items of 32 numbers" in answer.out and f"; {asked} queries, k = 10" in answer.out
    found = rows(answer)
    assert set(found) == set(FACTORIES)
    assert found["exact"][0] == 1 and found["exact"][3] == 0
    assert all(found[name][0] > 0.7 and found[name][3] > 0 for name in FACTORIES[1:])  # other queries chose
    assert found["SQ8"][3] < found["IVF8,Flat"][3]  # a byte instead of four for each number
    assert [path.name for path in folder.glob("v*")] == ["v00000001"]  # nothing was saved


def test_what_a_factory_came_to_is_said(script, folder: Path) -> None:
    answer = script("compare_indexes", folder, "--factory", "auto", "IVF64,Flat")
    assert answer.code == 0, answer.err
    assert "auto: exact" in answer.out and "IVF64,Flat: exact" in answer.out
    assert "IVF64,Flat needs at least" in answer.err


@pytest.mark.parametrize("dim", [6, 32])
def test_types_that_suit_the_size_are_compared_unless_others_are_named(script, tmp_path: Path, dim: int) -> None:
    Index.build(unit(300, dim), range(300)).save(tmp_path)
    answer = script("compare_indexes", tmp_path)
    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 2 + 10
    assert "IVF16,RaBitQ" in answer.out and f"IVF16,PQ{8 if dim == 32 else 6}x4fs" in answer.out


def test_what_cannot_be_compared(script, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", unit(600, 32)[:5])
    np.save(tmp_path / "narrow.npy", unit(9, dim=8))
    for options, said in (
        (("--modality", "imag"), "modalities of this index are image, text: got 'imag'. Did you mean 'image'?"),
        (
            ("--modality", "x.npy", "--queries", tmp_path / "own.npy"),
            "modalities of this index are image, text: got 'x.npy'",
        ),
        (("--queries", "text"), "--queries text are items themselves: name another modality with --modality"),
        (("--modality", "text", "--queries", "text"), "--queries text are items themselves"),
        (("--queries", tmp_path / "own.npy"), "at least 2 queries must be no items: of 5 there are 0"),
        (("--queries", tmp_path / "narrow.npy"), "32"),
        (("--queries", tmp_path / "none.npy"), "none.npy"),
        (("--factory", "exact", "HSNW32"), "HSNW32"),
        (("--recall", "95"), "--recall lie in 0..1: got 10 and 95.0"),
        (("-k", "0"), "-k must be at least 1 and --recall lie in 0..1: got 0"),
    ):
        assert_clean(script("compare_indexes", folder, *options), "compare_indexes.py: ", said)
    assert_clean(script("compare_indexes", tmp_path / "nowhere"), "must hold an index")
    Index(32).save(tmp_path / "empty")
    asked = ("--queries", tmp_path / "own.npy")
    assert_clean(
        script("compare_indexes", tmp_path / "empty", *asked), "there must be items to compare over: the index has 0"
    )
