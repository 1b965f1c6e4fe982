"""tune_index.py and query_index.py --interactive as a user meets them."""

import io
from pathlib import Path

import numpy as np
import pytest

from mm.index import Index
from tests.shared import assert_clean, unit

# Tuning ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Index.build(unit(1000, 32), range(1000), factory="IVF16,Flat").save(tmp_path / "index")
    np.save(tmp_path / "queries.npy", unit(200, 32, seed=1))
    return tmp_path / "index"


def test_tuning_prints_the_trade_off_and_keeps_what_it_chose(script, folder: Path) -> None:
    queries = folder.parent / "queries.npy"
    for recall in ("0.5", "0.999"):
        answer = script("tune_index", folder, "--recall", recall, "--queries", queries)
        assert answer.code == 0, answer.err
        title, heads, *rows = answer.out.splitlines()
        assert title.endswith("IVF16,Flat over 1,000 items, 10 answers") and "recall" in heads
        (chosen,) = [row for row in rows if row.startswith("->")]
        index = Index.load(folder)
        found = index.recall(10, np.load(queries))
        assert f"{found:.4f}" == chosen.split()[1] and found >= float(recall)
        assert len(rows) == len(index.trials) and all("nprobe" in row and "rerank" in row for row in rows)
    assert script("tune_index", folder, "--recall", "0.9", "-k", "3").code == 0  # with its own items
    assert Index.load(folder)._approximate.setting.k == 3


def test_an_index_that_is_searched_exactly_needs_no_tuning(script, tmp_path: Path) -> None:
    Index.build(unit(30, 32), range(30)).save(tmp_path)
    answer = script("tune_index", tmp_path)
    assert answer.code == 0
    assert "exact over 30 items" in answer.out and "-> 1.0000" in answer.out and "nothing to choose" in answer.out
    assert [path.name for path in tmp_path.glob("v*")] == ["v00000001"]  # not saved again


def test_what_tuning_refuses(script, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", unit(1000, 32)[:5])
    np.save(tmp_path / "long.npy", 2 * unit(5, 32))
    (tmp_path / "text.npy").write_text("no numbers")
    for options, said in (
        (("--recall", "95"), "recall must lie in 0..1: got 95.0"),
        (("-k", "0"), "k must be at least 1"),
        (("--queries", tmp_path / "own.npy"), "must not be items"),
        (("--queries", tmp_path / "long.npy"), "of unit length: row 0 has length 2"),
        (("--queries", tmp_path / "text.npy"), "must hold an array of numbers"),
        (("--queries", tmp_path / "none.npy"), "none.npy"),
    ):
        assert_clean(script("tune_index", folder, *options), "tune_index.py: ", said)
    assert_clean(script("tune_index", tmp_path / "nowhere"), "must hold an index")
    file = next(folder.glob("v*/search.faiss"))
    file.write_bytes(file.read_bytes()[:-1])
    assert_clean(script("tune_index", folder), "search.faiss is not what was saved")


# Asking an index of vectors -------------------------------------------------------------------------------------------


def test_an_index_without_a_run_answers_vectors_and_draws_ids(script, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", unit(1000, 32)[3])
    answer = script("query_index", folder, "--vector", tmp_path / "one.npy", "-k", "2", "--grid", tmp_path / "grid.png")
    assert answer.code == 0, answer.err
    assert answer.out.split()[:3] == ["1", "1.000", "3"] and (tmp_path / "grid.png").stat().st_size > 1000
    for options, said in (
        (("--vector", folder.parent / "queries.npy"), "a query must be one vector (D,): got shape (200, 32)"),
        (("--text", "a dog"), "the index does not say which run embeds queries: name it with --run"),
        (("--interactive",), "the index does not say which run embeds queries"),
        (("--vector", tmp_path / "one.npy", "--modality", "image"), "--modality must be one of those of the items"),
        (("--vector", tmp_path / "one.npy", "--where", "n=0..99999999999999999999"), "where compares numbers between"),
    ):
        assert_clean(script("query_index", folder, *options), "query_index.py: ", said)


# Asking line by line --------------------------------------------------------------------------------------------------


def test_a_conversation(script, index_folder: Path, own_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = own_table.parent / "blue-square.jpg"
    lines = [
        "k 1",
        f"image: {file}",
        "image: nowhere.jpg",
        "where colour=green",
        "where nothing=1",
        "+ a red circle",
        "",
        "this comes after the end",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    answer = script("query_index", index_folder, "--interactive", "--modality", "image", "-k", "3")
    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines()]
    assert rows[0][:4] == ["1", "1.000", "image", "image:test-blue-square"]
    assert len(rows) == 3  # of the picture, of the condition, and of the term
    assert all(row[3].startswith("image:test-green") for row in rows[1:])
    assert "nowhere.jpg" in answer.err and "no item has the key 'nothing'" in answer.err
    assert "Traceback" not in answer.err and "where key=value" in answer.err


def test_a_conversation_ends_with_its_input(script, index_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a red circle"))
    answer = script("query_index", index_folder, "--interactive", "--json", "-k", "2")
    assert answer.code == 0 and answer.out.count('"score"') == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--grid", "out.png"), "--plus-text, --plus-image, --minus-text, --minus-image, --grid are for one question"),
        (("--plus-text", "red"), "are for one question: leave them out"),
        (("--text", "red"), "not allowed with argument"),
        (("--where", "colour"), "a condition must be key=value"),
        (("--where", "colours=red"), "no item has the key 'colours'"),
        (("-k", "0"), "k must be at least 1"),
        (("--modality", "images"), "Did you mean 'image'?"),
    ],
)
def test_what_a_conversation_cannot_begin_with(script, index_folder: Path, options: tuple[str, ...], said: str) -> None:
    answer = script("query_index", index_folder, "--interactive", *options)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err


def test_a_condition_that_no_item_meets_is_said(script, index_folder: Path) -> None:
    asked = ("query_index", index_folder, "--text", "a red circle", "--where", "colour=purple")
    answer = script(*asked)
    assert answer.code == 0 and answer.out == "no item meets the conditions\n"
    assert script(*asked, "--json").out == "[]\n"
