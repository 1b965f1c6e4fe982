"""Distillation: what a frozen image classifier thinks of the frame teaches an audio encoder (SoundNet, Aytar 2016).

No label of a sound is ever read in training: the classes of pictures teach the teacher, and pairs of picture and sound
that belong together bring what it thinks to the student. The settings and the training steps; the model of both is in
`mm.tasks.distillation_model`, what they read in `mm.tasks.distillation_data`, how they are evaluated in
`mm.tasks.distillation_scores`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import data, encoders
from mm.checks import check_idle
from mm.config import (
    AudioConfig,
    ConfigError,
    DataConfig,
    EncodersConfig,
    ImageConfig,
    LoopConfig,
    OptimConfig,
    TextConfig,
)
from mm.config import load as read_config
from mm.distributed import init
from mm.losses import distillation_loss
from mm.media import VIEWS
from mm.tasks.distillation_model import ClassModel

CLASSIFIER_FILE = "classifier.json"  # in a checkpoint: modality and classes, which it takes to rebuild the head
OF_THE_STUDENT = ("teacher", "temperature", "shuffle_pairs", "probe_shots")  # settings that a teacher's run lacks
TEACHER, SHUFFLED_PAIRS = "teacher", "shuffled_pairs"  # in a run folder: the runs of the teacher and of the control
CHANGEABLE = ("data.*", "loop.device")  # settings that a finished run may be given anew


@dataclass
class Distillation:
    """Everything `scripts/train_distillation.py` can be told."""

    seed: int = 0  # of the weights, the batches and the embedded world
    out: str = "runs/distillation"  # the run folder
    learner: Literal["student", "teacher"] = "student"  # by ear from pairs, or by sight from labelled pictures
    teacher: str = ""  # run folder of a finished teacher; "" = one is trained first, in OUT/teacher
    temperature: float = 1.0  # what softens both distributions; 1 = as they are
    shuffle_pairs: bool = False  # the control: each sound with another's picture, once and for all
    probe_shots: int = 2  # train sounds of each class that the linear probe is fitted on, with their classes
    encoder: EncodersConfig = field(default_factory=EncodersConfig)  # image: the teacher's, audio: the student's
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def teacher_settings(cfg: Distillation) -> Distillation:
    """The settings of the run in OUT/teacher: as many steps on labelled pictures."""
    encoder = dataclasses.replace(cfg.encoder, audio=AudioConfig())  # it may change while the teacher stays
    unread: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cfg) if f.name in OF_THE_STUDENT}
    return dataclasses.replace(cfg, learner="teacher", out=str(Path(cfg.out, TEACHER)), encoder=encoder, **unread)


def control_settings(cfg: Distillation) -> Distillation:
    """The settings of the run in OUT/shuffled_pairs."""
    return dataclasses.replace(cfg, shuffle_pairs=True, out=str(Path(cfg.out, SHUFFLED_PAIRS)))


def build_model(cfg: Distillation, classes: Sequence[str]) -> ClassModel:
    """The teacher or the student of a run, untrained.

    Args:
        cfg: whose `learner` says which.
        classes: that the teacher tells apart, and that the student learns from it.

    Raises:
        ConfigError: settings that do not fit together.
        ValueError: an unknown encoder.
    """
    check(cfg)
    modality = "image" if cfg.learner == "teacher" else "audio"
    return ClassModel(modality, encoders.by_settings(modality, cfg.encoder, ()), classes)


def check(cfg: Distillation) -> None:
    """Reject settings that are out of their range, or do not fit together.

    Raises:
        ConfigError, ValueError: there is one.
    """
    if cfg.data.name == "mixed":
        raise ConfigError("distillation learns the classes of one set, data.name=mixed has several: name one of them.")
    check_idle(cfg, idle(cfg))
    if cfg.temperature <= 0 or cfg.probe_shots < 1:
        raise ConfigError(
            f"temperature must be positive and probe_shots at least 1: got {cfg.temperature} and {cfg.probe_shots}."
        )
    if not 1 <= cfg.data.views <= len(VIEWS):
        raise ConfigError(f"data.views must lie in 1..{len(VIEWS)}: got {cfg.data.views}.")
    if cfg.learner == "student":
        data.check_sample_rate(cfg.data.name, cfg.encoder.audio.sample_rate)


def idle(cfg: Distillation) -> list[str]:
    """The settings that distillation does not read, or does not with these others.

    A teacher's run may describe the student's encoder, so that one file of settings serves both.
    """
    keys = [f"data.{name}" for name in ("eval_views", "eval_folds", "eval_subset", "cache", "cache_dtype", "complete")]
    keys += [f"encoder.text.{f.name}" for f in dataclasses.fields(TextConfig)]
    keys += ["encoder.audio.cache", "encoder.image.cache"]
    if cfg.learner == "teacher":
        keys += OF_THE_STUDENT
    elif cfg.teacher:
        keys += [f"encoder.image.{f.name}" for f in dataclasses.fields(ImageConfig) if f.name != "cache"]
    return keys


def load(run: str | Path, changes: Sequence[str] = ()) -> tuple[ClassModel, Distillation]:
    """The best weights of a run, student or teacher, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        changes: `key=value` of data.* or loop.device that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder, classifier, settings = encoders.opened(run, changes, CHANGEABLE, CLASSIFIER_FILE, "distillation")
    cfg = read_config(Distillation, settings)
    check(cfg)
    modality = classifier["modality"]
    model = ClassModel(modality, encoders.load(folder, modality), classifier["classes"])
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def load_teacher(run: str | Path, changes: Sequence[str] = ()) -> ClassModel:
    """The teacher that a run holds, frozen.

    Raises:
        FileNotFoundError, ConfigError: see `load`.
        ValueError: see `load`; the run is a student's.
    """
    teacher, cfg = load(run, changes)
    if cfg.learner != "teacher":
        raise ValueError(
            f"a teacher must be a run of learner=teacher: {run} is a student's. Name {Path(run, TEACHER)}, or train "
            "one with learner=teacher."
        )
    return teacher.requires_grad_(False)


def description(model: ClassModel) -> dict[str, Any]:
    """What every checkpoint holds beside the weights: how to build the encoder and the classifier."""
    return {
        encoders.DESCRIPTION_FILE: encoders.describe({model.modality: model.encoder}),
        CLASSIFIER_FILE: {"modality": model.modality, "classes": model.classes},
    }


class Teaching:
    """The training step of a teacher: cross-entropy with the classes of pictures.

    Args:
        classes: of the model; each is the owner of its pictures.
    """

    def __init__(self, classes: Sequence[str]):
        self.owners = torch.tensor([data.stable_id(name) for name in classes])  # (K,)

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"class_loss": (), "accuracy": ()}."""
        logits = model(batch)  # (B, K)
        same = batch["owner"][:, :1] == self.owners.to(logits.device)  # (B, K), one True in each row
        right = same.int().argmax(dim=1)  # (B,)
        accuracy = (logits.argmax(dim=1) == right).float().mean()
        return {"class_loss": functional.cross_entropy(logits.float(), right), "accuracy": accuracy}


class Objective:
    """The training step of a student: its distance to what the teacher thinks of the picture beside each sound.

    Args:
        teacher: frozen, on the device of the batches; it stays in eval mode.
        temperature: see `mm.losses.distillation_loss`.
    """

    def __init__(self, teacher: ClassModel, temperature: float):
        self.teacher = teacher.requires_grad_(False).eval()
        self.temperature = temperature

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"distillation_loss": (), "agreement": ()}: the share of the sounds of which both say the same class."""
        with torch.no_grad():
            taught = self.teacher(batch)  # (B, K)
        said = model(batch)  # (B, K)
        agreement = (said.argmax(dim=1) == taught.argmax(dim=1)).float().mean()
        return {"distillation_loss": distillation_loss(said, taught, self.temperature), "agreement": agreement}
