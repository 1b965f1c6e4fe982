"""What the page is opened with: runs by task, the index with its encoders, and messages for what does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mm import encoders
from mm.app.page import heading
from mm.app.runs import open_index, open_run
from mm.index import Index
from mm.tasks import retrieval
from mm.tasks.words import WORDS_FILE
from tests.shared import assert_clean, unit


def test_the_task_of_a_run_is_known(all_runs: dict[str, Path]) -> None:
    assert {task: open_run(str(run)).task for task, run in all_runs.items()} == {task: task for task in all_runs}
    assert open_run(str(all_runs["distillation"] / "teacher")).task == "distillation"


def test_no_run_and_a_run_without_a_tab(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a run folder"):
        open_run(str(tmp_path))
    words = Path(shutil.copytree(tiny_run, tmp_path / "words"))
    (encoders.find(words) / WORDS_FILE).touch()  # by which such a run is known
    with pytest.raises(ValueError, match="is a run of word vectors, which look at no picture"):
        open_run(str(words))


def test_an_index_is_asked_with_the_run_that_it_names_or_the_given_one(index_folder: Path, tiny_run: Path) -> None:
    searcher, run = open_index(str(index_folder), [])
    assert run is not None and run.path == str(tiny_run)
    given = open_run(str(tiny_run))
    again, same = open_index(str(index_folder), [given])
    assert same is given and again.embedder is given.model
    hits = [one.query(text="a red circle", k=5) for one in (searcher, again)]
    assert [hit.id for hit in hits[0]] == [hit.id for hit in hits[1]]


def test_an_index_of_other_encoders_is_refused_at_the_start(script, tiny_run: Path, tmp_path: Path) -> None:
    Index.build(unit(4, 32), range(4), fingerprint="0123456789abcdef", run=str(tiny_run)).save(tmp_path / "other")
    own = retrieval.load(tiny_run)[0].fingerprint()
    for arguments in (["--index", tmp_path / "other"], [tiny_run, "--index", tmp_path / "other"]):
        answer = script("explore", *arguments)
        assert_clean(answer, "must be embedded by the encoders that made the index", "0123456789abcdef", own)


def test_an_index_that_cannot_be_opened(script, tiny_run: Path, index_folder: Path, tmp_path: Path) -> None:
    assert_clean(script("explore", "--index", tmp_path / "none"), "must hold an index")
    Index(8).save(tmp_path / "empty")
    assert_clean(script("explore", "--index", tmp_path / "empty"), "an index must have items to be explored")
    Index.build(unit(4, 32), range(4), fingerprint="f", run=str(tmp_path / "gone")).save(tmp_path / "orphan")
    assert_clean(script("explore", "--index", tmp_path / "orphan"), "gone must be a run folder")
    broken = Path(shutil.copytree(index_folder, tmp_path / "broken"))
    file = next(broken.glob("v*/vectors.faiss"))
    file.write_bytes(file.read_bytes()[:-1])
    assert_clean(script("explore", "--index", broken), "is not what was saved")
    assert_clean(script("explore", tiny_run, "--index", index_folder, "--port", "99999"), "cannot listen at")


TABS = """
import json, sys
from mm.app.page import build
from mm.app.runs import open_index, open_run
for runs, index in json.loads(sys.argv[1]):
    opened = [open_run(run) for run in runs]
    page = build(opened, *(open_index(index, opened) if index else ()))
    print(json.dumps([one["props"]["label"] for one in page.config["components"] if one["type"] == "tabitem"]))
"""


def test_tabs_are_for_what_the_runs_can_do(
    tiny_run: Path, captioning_run: Path, separation_run: Path, index_folder: Path, tmp_path: Path
) -> None:
    Index.build(unit(4, 32), range(4)).save(tmp_path / "bare")  # it names no run
    again = Path(shutil.copytree(captioning_run, tmp_path / captioning_run.name))
    cases: list[tuple[list[Path], Path | None, list[str]]] = [
        ([captioning_run], None, ["Caption", "Explain"]),
        ([separation_run], None, ["Separate", "Explain"]),
        ([], index_folder, ["Search", "Map"]),
        ([], tmp_path / "bare", ["Map"]),
        ([tiny_run, captioning_run], index_folder, ["Search", "Map", "Caption", "Explain", "tiny", "captioning"]),
        ([captioning_run, again], None, ["Caption", *map(str, (captioning_run, again)), "Explain"]),
    ]
    given = json.dumps([[list(map(str, runs)), str(index) if index else None] for runs, index, _ in cases])
    # In a process of its own: a page that is not served leaves event loops behind.
    answer = subprocess.run([sys.executable, "-c", TABS, given], capture_output=True, text=True)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(found) == len(cases), answer.stderr
    for labels, (_, _, expected) in zip(found, cases, strict=True):
        assert labels[: len(expected)] == expected


def test_the_head_of_the_page_says_what_is_open(index_folder: Path, tiny_run: Path) -> None:
    searcher, run = open_index(str(index_folder), [])
    assert run is not None
    assert heading([run], searcher) == (f"# mm\nretrieval run `{tiny_run}` &middot; index of 8 image, 16 text, 8 audio")
