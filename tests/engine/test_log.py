"""metrics.csv, metrics.json, TensorBoard events, git.txt, log lines, throughput."""

import json
import logging
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import __version__
from mm.config import DataConfig
from mm.engine import log as log_module
from mm.engine.log import Log, Throughput, read_csv, source_state, start_logging, versions, write_metrics
from mm.tasks.retrieval import Retrieval


def test_numbers_are_written_as_they_are(tmp_path: Path) -> None:
    log = Log(tmp_path, tensorboard=False)
    log.scalars(20, 0.123456, **{"train/loss": 0.1 + 0.2, "train/lr": 1e-7})
    log.scalars(40, **{"val/rsum": float("nan")})
    log.close()
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,epoch,name,value\n20,0.1235,train/loss,0.30000000000000004\n20,0.1235,train/lr,1e-07\n40,,val/rsum,nan\n"
    )


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    log = Log(tmp_path, tensorboard=False)
    log.scalars(1, a=2.0)
    assert read_csv(tmp_path / "metrics.csv") == [["1", "", "a", "2.0"]]
    log.close()


def test_going_on_drops_later_rows_and_a_line_cut_off(tmp_path: Path) -> None:
    log = Log(tmp_path, tensorboard=False)
    for step in (10, 20, 130):
        log.scalars(step, a=step)
    log.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2")  # of a row of step 200: it must not be taken for one of step 2
    log = Log(tmp_path, tensorboard=False, step=20)
    log.scalars(30, a=3)
    log.close()
    assert [row[0] for row in read_csv(tmp_path / "metrics.csv")] == ["10", "20", "30"]


def test_a_run_from_the_start_has_no_old_rows(tmp_path: Path) -> None:
    for _ in range(2):
        log = Log(tmp_path, tensorboard=False)
        log.scalars(1, a=1)
        log.close()
    assert len(read_csv(tmp_path / "metrics.csv")) == 1


def test_events_are_written_where_tensorboard_is_installed(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path)
    for step in (1, 2, 3):
        log.scalars(step, **{"train/loss": step / 2})
    log.close()
    tags = events.EventAccumulator(str(tmp_path)).Reload().Tags()
    assert tags["scalars"] == ["train/loss"]
    log = Log(tmp_path, step=2)  # went on from step 2: what step 3 said is replaced
    log.scalars(3, **{"train/loss": 9.0})
    log.close()
    found = events.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_throughput_is_of_the_window_and_of_what_was_added() -> None:
    pace = Throughput(window=3)
    assert pace.rate == 0.0
    pace.add(100, 50.0)  # a slow first step, soon out of the window
    for items, seconds in ((10, 0.5), (20, 0.25), (30, 0.25)):
        pace.add(items, seconds)
    assert pace.rate == 60.0


def test_metrics_json_has_what_the_design_names(tmp_path: Path) -> None:
    metrics = {"image_to_text_R@1": np.float32(0.5), "rsum": torch.tensor(312.5)}
    path = write_metrics(
        tmp_path,
        "retrieval",
        Retrieval(seed=3, data=DataConfig(name="flickr8k")),
        metrics,
        {"chance": {"rsum": 1.5}},
        seconds=61.26,
    )
    found = json.loads(path.read_text())
    assert path == tmp_path / "metrics.json"
    assert list(found) == ["task", "split", "metrics", "controls", "seed", "data", "seconds", "versions"]
    assert found["metrics"] == {"image_to_text_R@1": 0.5, "rsum": 312.5}
    assert found["controls"] == {"chance": {"rsum": 1.5}}
    assert (found["seconds"], found["seed"]) == (61.3, 3)
    assert found["versions"] == versions()
    assert found["versions"]["mm"] == __version__
    assert found["versions"]["numpy"] == np.__version__


def test_a_metric_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metrics must be finite: got chance/rsum = nan"):
        write_metrics(tmp_path, "t", Retrieval(), {"rsum": 1.0}, {"chance": {"rsum": float("nan")}}, seconds=1.0)
    assert not (tmp_path / "metrics.json").exists()


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    log = Log(tmp_path, tensorboard=False)
    log.scalars(1, a=1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*metrics\.csv'"):
            log.scalars(2, **{"a long name to fill the disk with": 2.0})
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_csv(tmp_path / "metrics.csv") == [["1", "", "a", "1.0"]]  # the second row was cut off


def test_what_is_said_is_kept_in_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = logging.getLogger("mm.somewhere")
    for _ in range(2):  # a run and its continuation
        start_logging(out=tmp_path / "run")
        said.info("R@1 %.1f", 78.1)
        said.debug("nobody hears this")
    start_logging()
    said.info("after")
    assert capsys.readouterr().out == "R@1 78.1\nR@1 78.1\nafter\n"
    assert (tmp_path / "run" / "stdout.log").read_text() == "R@1 78.1\nR@1 78.1\n"


def test_source_state_names_the_commit_and_the_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "__file__", str(tmp_path / "log.py"))
    assert "not from a git work tree" in source_state()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "log.py").write_text("old = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        assert "not from" in source_state() or words[0] == "commit"
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert source_state() == commit
    (tmp_path / "log.py").write_text("new = 2\n")
    assert source_state().startswith(commit) and "+new = 2" in source_state()
