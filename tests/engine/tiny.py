"""A run of a few seconds for the tests of the engine, started as a process of its own so that it can be killed.

python tiny.py train OUT [key=value]...     trains, exits 0 when the run is finished
python tiny.py storm OUT SEED               trains in a child that is killed at random moments until one finishes
python tiny.py crash OUT                    as storm, but a child is killed at its 1st, 3rd, 5th, ... file operation
"""

import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mm.config import LoopConfig, OptimConfig, clean_exit, load
from mm.engine import Stream, fit, seed_everything, start_logging

SLOW_S = float(os.environ.get("TINY_SLOW_S", "0"))  # a pause in every step
FILE_OPERATIONS = ((os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "unlink"), (os, "rmdir"), (shutil, "rmtree"))


@dataclass
class Tiny:
    """Settings of the tiny run: dropout, BatchNorm, two streams, accumulation and averaged weights are all on."""

    seed: int = 3
    out: str = ""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.01, warmup_steps=5))
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=40, accumulate=2, evaluate_every=8, checkpoint_every=3, log_every=4, ema=0.9, tensorboard=False
        )
    )


class Net(nn.Module):
    """Two heads over one trunk; the temperature has no axis, the heads share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({"sum": nn.Linear(12, 1), "max": nn.Linear(12, 1)})
        self.heads["max"].weight = self.heads["sum"].weight
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, head: str) -> Tensor:
        return self.heads[head](self.trunk(x)).squeeze(-1) * self.scale.exp()  # (B,)


def batches(seed: int):
    """Batch k of 8 items is a function of (seed, k)."""

    def endless(start: int) -> Iterator[dict[str, Tensor]]:
        number = start
        while True:
            values = np.random.default_rng((seed, number)).normal(size=(8, 6)).astype(np.float32)
            yield {"x": torch.from_numpy(values)}
            number += 1

    return endless


def evaluate(model: nn.Module) -> dict[str, float]:
    """Draws from every generator, so that it would show if training noticed."""
    x = torch.rand(16, 6) + random.random() + float(np.random.rand())
    error = (model(torch.ones(4, 6), "sum") - 6).square().mean() + (model(torch.eye(6), "max") - 1).square().mean()
    return {"rsum": -float(error), "noise": float(x.sum())}


def train(cfg: Tiny) -> None:
    """The run itself."""

    def step(head: str):
        def of_head(model: nn.Module, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
            time.sleep(SLOW_S)
            x = batch["x"]
            target = x.sum(1) if head == "sum" else x.amax(1)  # (B,)
            noise = random.random() + float(np.random.rand()) + torch.rand(())
            error = model(x, head) - target  # (B,)
            return {
                "square_loss": error.square().mean(),
                "noise_loss": 0.1 * noise * error.abs().mean(),
                "error": error.abs().mean(),
            }

        return of_head

    seed_everything(cfg.seed)
    streams = [Stream("sum", batches(1), step("sum")), Stream("max", batches(2), step("max"), weight=0.5)]
    described = {"encoders.json": {"image": {"class": "Net", "config": {}}}}
    fit(Net(), streams, cfg, evaluate=evaluate, rates={"trunk": 0.5}, files=described)


def child(cfg: Tiny, operations: int = 0) -> int:
    """Train in a forked process, which kills itself at a file operation of that number; its process id."""
    identity = os.fork()
    if identity:
        return identity
    remaining = operations

    def counted(function):
        def call(*arguments, **options):
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for module, name in FILE_OPERATIONS if operations else ():
        setattr(module, name, counted(getattr(module, name)))
    code = 1
    with contextlib.suppress(SystemExit):
        train(cfg)
        code = 0
    os._exit(code)


def storm(cfg: Tiny, seed: int) -> int:
    """Kill each child at a random moment after its first checkpoint, until one finishes; how many were killed."""
    generator = random.Random(seed)
    pointer = Path(cfg.out, "checkpoints", "last")
    kills = 0
    while True:
        identity, before = child(cfg), pointer.read_text() if pointer.exists() else ""
        ended, status = 0, 0
        while not ended and (not pointer.exists() or pointer.read_text() == before):
            ended, status = os.waitpid(identity, os.WNOHANG)
        if not ended:
            time.sleep(generator.uniform(0.0, 0.04))
            os.kill(identity, signal.SIGKILL)
            _, status = os.waitpid(identity, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, "a child failed"
            return kills
        kills += 1


def crash(cfg: Tiny) -> int:
    """Kill a child at its first file operation, the next at its third, and so on, until one finishes; how many."""
    kills = 0
    while True:
        _, status = os.waitpid(child(cfg, operations=2 * kills + 1), 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, "a child failed"
            return kills
        kills += 1


@clean_exit()
def main() -> None:
    """What the command line asks for."""
    torch.set_num_threads(1)
    start_logging()
    importlib.import_module("torch._dynamo")  # once, before the children: an optimiser would import it in each of them
    what, out, *rest = sys.argv[1:]
    if what == "train":
        train(load(Tiny, [f"out={out}", *rest]))
    elif what == "storm":
        print(storm(Tiny(out=out), int(rest[0])))
    else:
        print(crash(Tiny(out=out)))


if __name__ == "__main__":
    main()
