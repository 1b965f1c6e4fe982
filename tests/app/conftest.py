"""What the tests of the page share: a run of each task, uploads of bad will, and a server of all runs and an index."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.shared import ROOT
from tests.talking import untrained_run


@pytest.fixture(scope="session")
def separation_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "separation")


class Hostile(NamedTuple):
    """Files that somebody may upload."""

    bomb: Path
    no_sound: Path
    no_picture: Path
    empty: Path
    notes: Path
    hours: Path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    folder = tmp_path_factory.mktemp("hostile")
    names = ("bomb.png", "song.wav", "photo.png", "empty.png", "notes.txt", "hours.flac")
    found = Hostile(*(folder / name for name in names))
    Image.fromarray(np.zeros((1, 1), np.uint8)).resize((20_000, 10_000)).convert("1").save(found.bomb)
    assert found.bomb.stat().st_size < 100_000
    for file in (found.no_sound, found.no_picture, found.notes):
        file.write_text("these are words\n" * 40)
    found.empty.touch()
    with soundfile.SoundFile(found.hours, "w", 48_000, 1) as file:
        for _ in range(2 * 60):  # minutes of silence
            file.write(np.zeros(60 * 48_000, np.int16))
    assert found.hours.stat().st_size < 3_000_000
    return found


class Served(NamedTuple):
    """A page that is served.

    Attributes:
        url: of it.
        log: what its process says.
        process: that serves it.
    """

    url: str
    log: Path
    process: subprocess.Popen


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """serve(ARGUMENT...) starts scripts/explore.py on a free port; it ends with the tests."""
    processes = []

    def start(*arguments: object) -> Served:
        log = tmp_path_factory.mktemp("page") / "log.txt"
        command = [sys.executable, str(ROOT / "scripts/explore.py"), *map(str, arguments), "--port", "0"]
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
        processes.append(process)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if found := re.search(r"http://\S+/", log.read_text()):
                return Served(found[0], log, process)
            time.sleep(0.05)
        raise AssertionError(log.read_text())

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=20)


@pytest.fixture(scope="session")
def all_runs(
    tiny_run: Path,
    captioning_run: Path,
    vqa_run: Path,
    localisation_run: Path,
    separation_run: Path,
    distillation_run: Path,
) -> dict[str, Path]:
    """{task: its run}."""
    return {
        "retrieval": tiny_run,
        "captioning": captioning_run,
        "vqa": vqa_run,
        "localisation": localisation_run,
        "separation": separation_run,
        "distillation": distillation_run,
    }


@pytest.fixture(scope="session")
def served(serve: Callable[..., Served], index_folder: Path, all_runs: dict[str, Path]) -> Served:
    """The page of all runs and the index."""
    return serve(*all_runs.values(), "--index", index_folder)
