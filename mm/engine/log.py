"""What a run writes for people: metrics.csv, metrics.json, TensorBoard events, git.txt and log lines."""

from __future__ import annotations

import collections
import contextlib
import csv
import importlib.metadata
import io
import logging
import math
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from mm import __version__
from mm.config import LoopConfig
from mm.distributed import is_main
from mm.files import write_json, write_text

log = logging.getLogger(__name__)

COLUMNS = ["step", "epoch", "name", "value"]
LIBRARIES = ("torch", "torchvision", "torchaudio", "transformers", "numpy", "faiss-cpu")


class Log:
    """The numbers of a run.

    Args:
        out: run folder, to whose metrics.csv they are appended.
        tensorboard: write events as well, if tensorboard is installed.
        step: where the run goes on: what metrics.csv says of later steps is dropped, also a half-written last line.
    """

    def __init__(self, out: str | Path, tensorboard: bool = LoopConfig.tensorboard, step: int = 0):
        self.out = Path(out)
        self.path = self.out / "metrics.csv"
        kept = [row for row in read_csv(self.path) if int(row[0]) <= step] if self.path.exists() and step else []
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *kept])
        write_text(self.path, text.getvalue())
        self._file = self.path.open("a", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._events = _event_writer(self.out, step) if tensorboard else None

    def scalars(self, step: int, epoch: float | None = None, **values: float) -> None:
        """Add numbers of one step.

        Args:
            step: optimiser steps made.
            epoch: passes over the data made, if known.
            values: by name, such as **{"val/rsum": 312.4}.

        Raises:
            OSError: the disk is full; the message names the file.
        """
        rows = [(step, "" if epoch is None else round(epoch, 4), name, float(value)) for name, value in values.items()]
        try:
            self._rows.writerows(rows)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        for name, value in values.items():
            if self._events:
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish all files."""
        with contextlib.suppress(OSError):  # every row was flushed when it was written, or the failure was raised then
            self._file.close()
        if self._events:
            self._events.close()


class Throughput:
    """Items a second over the latest steps. Only what is added counts, not the time between, such as an evaluation.

    Args:
        window: number of steps.

    >>> pace = Throughput(window=2)
    >>> for items, seconds in [(999, 9.0), (30, 1.0), (30, 2.0)]:
    ...     pace.add(items, seconds)
    >>> pace.rate
    20.0
    """

    def __init__(self, window: int = 50):
        self._steps: collections.deque[tuple[int, float]] = collections.deque(maxlen=window)

    def add(self, items: int, seconds: float) -> None:
        """Count one step."""
        self._steps.append((items, seconds))

    @property
    def rate(self) -> float:
        """Items a second; 0.0 before the first step."""
        seconds = sum(seconds for _, seconds in self._steps)
        return sum(items for items, _ in self._steps) / seconds if seconds else 0.0


def start_logging(level: int = logging.INFO, stream: TextIO | None = None, out: str | Path | None = None) -> None:
    """Send the messages of mm to a stream, of rank 0 all from `level` on, of the other ranks the warnings only.

    Args:
        level: of rank 0.
        stream: None = stdout; stderr where stdout is for a program to read.
        out: run folder whose stdout.log keeps what rank 0 says, behind what earlier parts of the run said.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stdout)]
    if out is not None and is_main():
        Path(out).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(out, "stdout.log"), encoding="utf-8", delay=True))
    logging.basicConfig(handlers=handlers, format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("mm").setLevel(level if is_main() else logging.WARNING)


def read_csv(path: str | Path) -> list[list[str]]:
    """The rows [step, epoch, name, value] of a metrics.csv; a last line that was cut off is left out."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    rows = csv.reader(line for line in lines if line.endswith("\n"))
    return [row for row in rows if row != COLUMNS]


def write_metrics(
    out: str | Path,
    task: str,
    cfg: Any,
    metrics: Mapping[str, float],
    controls: Mapping[str, Mapping[str, float]],
    seconds: float,
    missing: Mapping[str, str] | None = None,
) -> Path:
    """Write the evaluation of the test split with its controls into OUT/metrics.json, with the versions that made it.

    Args:
        out: run folder.
        task: such as "retrieval".
        cfg: settings of the run, of which `seed` and `data.name` are written.
        metrics: {name: number}, shares in 0..1.
        controls: {control: {name: number}}.
        seconds: of training and evaluation.
        missing: {metric: why it is not computed}, written as "not_computed" where there is any.

    Raises:
        ValueError: a number that is not finite.
    """
    for source, numbers in {"metrics": metrics, **controls}.items():
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"metrics must be finite: got {source}/{name} = {value}.")
    path = Path(out, "metrics.json")
    document: dict[str, Any] = {
        "task": task,
        "split": "test",
        "metrics": dict(metrics),
        "controls": dict(controls),
        "seed": cfg.seed,
    }
    if missing:
        document["not_computed"] = dict(missing)
    write_json(path, {**document, "data": cfg.data.name, "seconds": round(seconds, 1), "versions": versions()})
    return path


def source_state() -> str:
    """Which code runs: the commit of the work tree that mm lies in and what differs from it, or mm's version alone."""
    git = ("git", "-C", str(Path(__file__).parent))
    asked = (("ls-files", "--error-unmatch", Path(__file__).name), ("rev-parse", "HEAD"), ("diff", "HEAD"))
    try:
        answers = [subprocess.run([*git, *words], capture_output=True, text=True, check=True) for words in asked]
    except (OSError, subprocess.CalledProcessError):  # no git, or installed somewhere else
        return f"mm {__version__}, not from a git work tree\n"
    return "".join(answer.stdout for answer in answers[1:])


def keep_source_state(out: Path, step: int) -> None:
    """Write the state of the code into OUT/git.txt, behind the earlier one where a run goes on with other code."""
    path, state = out / "git.txt", source_state()
    before = path.read_text(encoding="utf-8") if path.exists() and step else ""
    if state not in before:
        write_text(path, f"{before}\nfrom step {step} on:\n{state}" if before else state)


def versions() -> dict[str, str]:
    """Versions of mm, Python and the libraries that numbers depend on, as far as they are installed."""
    found = {"mm": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            log.debug("%s is not installed.", name)
    return found


def _event_writer(out: Path, step: int) -> Any:
    """A TensorBoard writer whose later events replace those after `step`; None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out), purge_step=step + 1 if step else None)
