"""How a run is stopped from outside: signals that let it save first, and a lock that keeps a second run away."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mm.config import ConfigError

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes in one run folder go unnoticed
    fcntl = None  # type: ignore[assignment]

AGAIN_S = 1.0  # from this time on a second Ctrl-C is meant


class Interrupted(SystemExit):
    """A run that was asked to stop and has saved its last checkpoint; the same command goes on from there.

    A script that does not catch it ends with the exit code 128 + signal: 130 after Ctrl-C, 143 after SIGTERM.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal = number


class StopRequest:
    """Within it, SIGINT and SIGTERM are only noted in `signal`; pressing Ctrl-C again later interrupts at once.

    A launcher such as torchrun may pass one signal on several times: only a SIGINT a second after the first is "again".
    Outside the main thread, where Python allows no handlers, it changes nothing.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since >= AGAIN_S:
            raise KeyboardInterrupt


@contextlib.contextmanager
def only_process(run: str | Path) -> Iterator[None]:
    """Within it, no other process trains in the run folder.

    Raises:
        ConfigError: one does, or the folder cannot be written.
    """
    try:
        Path(run).mkdir(parents=True, exist_ok=True)
        file = Path(run, ".lock").open("w")  # noqa: SIM115  (only the opening may fail so)
    except OSError as error:
        raise ConfigError(f"the run folder must be one that can be written: {error}. Choose another out=.") from error
    with file:
        if fcntl:
            try:  # such a lock ends with this process: loading processes do not inherit it
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"another process trains in {run}: wait, or choose another out=.") from error
        yield
