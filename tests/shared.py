"""What several tests share: a clean end, the same weights, a training in a process of its own, drawn vectors."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from mm.engine.log import read_csv

ROOT = Path(__file__).parents[1]


class Scene(NamedTuple):
    """A scene of the embedded world in files."""

    image: Path
    audio: Path


def assert_clean(answer: Any, *said: str) -> None:
    """Exit code 2, nothing but one message on stderr, and the message says these things."""
    assert answer.code == 2, answer
    assert answer.err.count("Traceback") == 0
    assert answer.err.endswith("\n")
    assert len(answer.err.strip().splitlines()) <= 3, answer.err
    for words in said:
        assert words in answer.err, (words, answer.err)


def weights(out: Path, pointer: str = "last") -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / (out / "checkpoints" / pointer).read_text().strip()
    return load_file(folder / "model.safetensors")


def unit(rows: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Drawn directions (rows, dim) float32; fewer rows are the first of more."""
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def colours(picture: Path) -> int:
    """How many different colours a PNG has: 256 greys when it shows text alone."""
    with Image.open(picture) as image:
        assert image.format == "PNG"
        return len(image.convert("RGB").getcolors(maxcolors=2**24))


def write_tar(path: Path, files: dict[str, bytes | str]) -> Path:
    """An uncompressed tar of {name: content}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            head = tarfile.TarInfo(name)
            head.size = len(raw)
            tar.addfile(head, io.BytesIO(raw))
    return path


def in_a_spawned_process(function: Callable, *args: Any) -> Any:
    """What a function gives in another process, to which it and its arguments are sent as to a loading process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def assert_same_run(out: Path, other: Path) -> None:
    for pointer in ("last", "best"):
        one, two = weights(out, pointer), weights(other, pointer)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one), pointer
    ours, theirs = (json.loads((o / "metrics.json").read_text()) for o in (out, other))
    assert (ours["metrics"], ours["controls"]) == (theirs["metrics"], theirs["controls"])
    rows = [[row for row in read_csv(o / "metrics.csv") if not row[2].startswith("time/")] for o in (out, other)]
    assert rows[0] == rows[1]


def by_one_and_by_two(name: str, arguments: list[str], out: Path, loss: str) -> list[list[float]]:
    """scripts/<name>.py in one process and under torchrun in two, in OUT/one and OUT/two: the losses of their steps.

    BatchNorm takes its statistics from each process's part of a batch: freeze what has it. No Java is found.
    """
    train = [str(ROOT / "scripts" / f"{name}.py"), *arguments, "loop.log_every=1"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    losses = []
    for folder, command in (("one", train), ("two", [*launch, *train])):
        done = subprocess.run(
            [sys.executable, *command, f"out={out / folder}"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": str(out)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        losses.append([float(row[3]) for row in read_csv(out / folder / "metrics.csv") if row[2] == f"train/{loss}"])
    return losses


def started(name: str, arguments: list[str], out: Path) -> subprocess.Popen:
    """scripts/<name>.py in a process of its own that has saved at least one checkpoint and is not done."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments, f"out={out}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 120
    pointer = out / "checkpoints" / "last"
    while process.poll() is None and time.monotonic() < until:
        if pointer.exists() and not pointer.read_text().startswith("step-00000000"):
            break
        time.sleep(0.005)
    return process
