"""A run that is killed at any moment and started again ends as one that was left alone, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mm.engine import checkpoint
from mm.engine.log import read_csv

TINY = Path(__file__).with_name("tiny.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def tiny(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, TINY, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    tiny("train", str(out))
    return out


def found(out: Path, pointer: checkpoint.Pointer) -> Path:
    folder = checkpoint.find(out, pointer)
    assert folder is not None
    checkpoint.verify(folder)
    return folder


def assert_same(out: Path, other: Path) -> None:
    for pointer in checkpoint.POINTERS:
        one, two = found(out, pointer), found(other, pointer)
        names = {file.name for file in one.iterdir()}
        assert names == {file.name for file in two.iterdir()}
        for name in names - {
            "state.json",
            "manifest.json",
            "config.yaml",
        }:  # they hold seconds and the name of the folder
            assert (one / name).read_bytes() == (two / name).read_bytes(), f"{pointer}: {name}"
    rows, others = (
        [row for row in read_csv(o / "metrics.csv") if not row[2].startswith("time/")] for o in (out, other)
    )
    assert rows == others
    left = {folder.name for folder in (out / "checkpoints").iterdir()}
    assert left == {"last", "best", found(out, "last").name, found(out, "best").name}


def test_the_uninterrupted_run_has_everything_on(uninterrupted: Path) -> None:
    files = {file.name for file in found(uninterrupted, "last").iterdir()}
    tensors = {f"{name}.safetensors" for name in ("model", "ema", "optimiser", "rng")}
    assert files == tensors | {"state.json", "encoders.json", "config.yaml", "manifest.json"}
    rows = read_csv(uninterrupted / "metrics.csv")
    assert [row[0] for row in rows if row[2] == "train/loss"] == [str(step) for step in range(4, 41, 4)]
    assert [row[0] for row in rows if row[2] == "val/rsum"] == ["8", "16", "24", "32", "40"]


def test_kill_9_at_random_moments(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert int(tiny("storm", str(out), "0").splitlines()[-1]) >= 5
    assert_same(out, uninterrupted)


def test_kill_9_at_file_operations(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert int(tiny("crash", str(out)).splitlines()[-1]) >= 20
    assert_same(out, uninterrupted)


def test_an_interrupted_process_says_130_and_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, TINY, "train", str(out)],
        env={**ENVIRONMENT, "TINY_SLOW_S": "0.02"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    pointer = out / "checkpoints" / "last"
    while not (pointer.exists() and int(pointer.read_text().strip()[-8:]) > 0) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert "Stopped at step" in output
    assert 3 <= int(found(out, "last").name.removeprefix("step-")) < 40
    assert "goes on from step" in tiny("train", str(out))
    assert_same(out, uninterrupted)
