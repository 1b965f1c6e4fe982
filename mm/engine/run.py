"""A run and its folder: what is being trained, how far it is, and how that is saved and taken up again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mm import distributed
from mm.config import ConfigError, differences, to_yaml
from mm.engine import checkpoint
from mm.engine.checkpoint import CheckpointError
from mm.engine.optim import Average, copy_all, load_state_tensors, state_tensors
from mm.engine.rng import rng_state, seed_everything, set_rng_state

log = logging.getLogger(__name__)

FREE = (  # settings that may change when a run goes on: they do not affect what it learns
    "out",
    "data.cache",
    "data.root",
    "data.workers",
    "loop.checkpoint_every",
    "loop.device",
    "loop.log_every",
    "loop.tensorboard",
    "loop.threads",
)
OWN_FILES = ("config.yaml", "manifest.json", "state.json")


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # optimiser steps made
    evaluated: int = 0  # step of the latest evaluation
    best_step: int = 0  # step of the best evaluation
    best: float | None = None  # its value of the metric that decides
    metrics: dict[str, float] = field(default_factory=dict)  # all its values
    waited: int = 0  # evaluations since
    seconds: float = 0.0  # of training and evaluation, over all parts of an interrupted run
    finished: bool = False
    window: dict[str, list[float]] = field(default_factory=dict)  # {name: [sum, count]} since the latest log


@dataclass
class Run:
    """What is trained, and where it is kept.

    Attributes:
        config: the dataclass instance with all settings, see `mm.engine.loop.Config`.
        model: with its weights of now.
        optimiser: of the model's parameters.
        average: the averaged weights, if there are any.
        streams: names, in their order.
        files: {"name.json": JSON value} for every checkpoint.
        progress: how far it is.
        saved: step of the last checkpoint, 0 if there is none.
    """

    config: Any
    model: nn.Module
    optimiser: Optimizer
    average: Average | None
    streams: list[str]
    files: Mapping[str, Any]
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    saved: int = 0

    def __post_init__(self) -> None:
        self._random: dict[str, Tensor] = {}  # where this rank's generators stood at the last checkpoint
        if wrong := [name for name in self.files if not name.endswith(".json") or name in OWN_FILES]:
            raise ConfigError(f"files of a checkpoint must be called <something>.json, not {OWN_FILES}: got {wrong}.")

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.config.out)

    def restore(self) -> None:
        """Take up the last checkpoint, if the folder has one.

        Raises:
            ConfigError: the folder holds a run with other settings.
            CheckpointError: the checkpoint is damaged.
        """
        if distributed.is_main():
            checkpoint.tidy(self.out)
        folder = checkpoint.find(self.out, "last")
        if folder is None:
            if checkpoint.find(self.out, "best"):
                raise ConfigError(f"{self.out} has checkpoints/best but no last to go on from. Choose another out=.")
            return
        checkpoint.verify(folder)
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state["progress"]["step"] == 0:
            return  # nothing is learned yet: start anew, with whatever settings
        changed = differences(self.config, folder / "config.yaml", ignore=FREE)
        for name, value in self._surroundings().items():
            changed += [f"{name}: {state[name]!r} there, {value!r} here"] if state[name] != value else []
        if changed:
            raise ConfigError(
                f"{self.out} holds a run that must go on with the settings it began with. What differs:\n  "
                + "\n  ".join(changed)
                + f"\nChoose another out=, or go on with --config {self.out / 'config.yaml'} and no other setting."
            )
        self.progress = Progress(**state["progress"])
        self.saved = self.progress.step
        self._load_model(folder)
        load_state_tensors(self.model, self.optimiser, checkpoint.read_tensors(folder, "optimiser"))
        if self.average:
            copy_all(checkpoint.read_tensors(folder, "ema"), self.average.values)
        own = f"{distributed.rank()}/"
        states = checkpoint.read_tensors(folder, "rng").items()
        self._random = {name.removeprefix(own): state for name, state in states if name.startswith(own)}

    def set_generators(self) -> None:
        """Put the random generators where they stood at the last checkpoint, or seed them where there is none."""
        if self._random:
            set_rng_state(self._random, self.device)
        else:
            seed_everything(self.config.seed, distributed.rank())

    def save_last(self) -> None:
        """Write the whole state of the run. Every rank must call it; rank 0 writes."""
        random = distributed.gather(rng_state(self.device))
        self.saved = self.progress.step
        if not distributed.is_main():
            return
        tensors = {
            "model": self.model.state_dict(),
            "optimiser": state_tensors(self.model, self.optimiser),
            "rng": {f"{rank}/{name}": value for rank, state in enumerate(random) for name, value in state.items()},
        }
        if self.average:
            tensors["ema"] = self.average.values
        self._save("last", tensors)

    def save_best(self) -> None:
        """Write the weights the model has now as the best ones. For rank 0."""
        self._save("best", {"model": self.model.state_dict()})

    def take_best(self) -> None:
        """Leave the model with the best weights, in eval mode.

        Raises:
            CheckpointError: the checkpoint is gone or damaged.
        """
        folder = checkpoint.find(self.out, "best")
        if folder is None:
            raise CheckpointError(f"{self.out} must hold checkpoints/best: it is gone. Train anew with another out=.")
        checkpoint.verify(folder)
        self._load_model(folder)
        self.model.eval()

    def _save(self, pointer: checkpoint.Pointer, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        state = {"progress": asdict(self.progress), **self._surroundings()}
        documents = {**self.files, "state.json": state}
        config = to_yaml(self.config)
        checkpoint.save(self.out, pointer, self.progress.step, tensors=tensors, documents=documents, config=config)

    def _load_model(self, folder: Path) -> None:
        try:
            self.model.load_state_dict(checkpoint.read_tensors(folder, "model"))
        except RuntimeError as error:
            raise CheckpointError(f"{folder} must hold the weights of this very model: {error}") from error

    def _surroundings(self) -> dict[str, Any]:
        """What must not change either, beside the settings."""
        return {"processes": distributed.world_size(), "streams": self.streams}


def training_seconds(out: str | Path) -> float:
    """How long a run has trained and evaluated, by its last checkpoint; 0.0 where there is none."""
    folder = checkpoint.find(out, "last")
    if folder is None:
        return 0.0
    return float(json.loads((folder / "state.json").read_text(encoding="utf-8"))["progress"]["seconds"])
