"""One comparison, and how times and memory are taken."""

import itertools
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STATUS = Path("/proc/self/status")  # on Linux only
CHILD = "import sys; from benchmarks.{} import {} as job; print(job(*map(int, sys.argv[1:])))"


class Result(NamedTuple):
    """One comparison: what ours and the reference need, the least ratio of the two, and {what: (value, most)}.

    A reference that could not be run is NaN; `setting` says why.
    """

    name: str
    unit: str
    ours: float
    reference: float
    goal: float
    checks: dict[str, tuple[float, float]]
    setting: str

    @property
    def ratio(self) -> float:
        """How many times as much the reference needs."""
        return self.reference / self.ours

    @property
    def agrees(self) -> bool:
        """Whether every check holds; NaN does not."""
        return all(value <= most for value, most in self.checks.values())

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        return "NOT RUN" if math.isnan(self.ratio) else "met" if self.ratio >= self.goal else "SHORT"

    def __str__(self) -> str:
        checks = "; ".join(f"{what} {value:.3g} <= {most:g}" for what, (value, most) in self.checks.items())
        needs = f"{self.name:<24}{self.ours:>10.4f}{self.reference:>11.4f}  {self.unit:<7}{self.ratio:>6.2f}"
        verdict = f"{self.goal:>8.2f}  {self.verdict:<7}"
        return f"{needs}{verdict} {'' if self.agrees else 'WRONG: '}{checks}\n    {self.setting}"


def cpu_s() -> float:
    """CPU seconds of this process and of the children that have ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def alternate(repeats: int, *jobs: Callable[[], Any]) -> tuple[list[float], list[float], list[Any]]:
    """Run jobs in turns: median CPU seconds of each, median wall seconds of each, and what each gave last."""
    cpu, wall = [[[] for _ in jobs] for _ in range(2)]
    results = [None for _ in jobs]
    for _, (number, job) in itertools.product(range(repeats), enumerate(jobs)):
        results[number] = None  # free its memory for the next result, as in use
        begun = cpu_s(), time.perf_counter()
        results[number] = job()
        cpu[number].append(cpu_s() - begun[0])
        wall[number].append(time.perf_counter() - begun[1])
    return [statistics.median(each) for each in cpu], [statistics.median(each) for each in wall], results


def status_kb(name: str) -> int:
    """What the system says of this process's memory: "VmRSS" now, "VmHWM" at its peak; KiB."""
    return int(STATUS.read_text().split(f"{name}:")[1].split()[0])


def extra_memory_mb(job: Callable[[], Any]) -> float:
    """By how much a job raises the peak of this process's memory; to be run in a process of its own, on Linux."""
    before = status_kb("VmRSS")
    job()
    return (status_kb("VmHWM") - before) * 1.024e-3


def in_own_process(job: Callable[..., float], *arguments: int) -> float:
    """What a function of one of these files gives in a fresh process."""
    code = CHILD.format(job.__module__.rpartition(".")[2], job.__name__)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    folder = Path(__file__).parents[1]  # with -c, a process finds first what lies in its folder
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout)
