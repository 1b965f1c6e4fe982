"""Visual question answering, and of sounds: a question about a picture, a sound or both -> one of many answers.

The settings and the training step; the model is in `mm.tasks.vqa_model`, what it reads in `mm.tasks.vqa_data`, how it
is evaluated in `mm.tasks.vqa_scores`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mm import data, encoders
from mm.checks import check_idle
from mm.config import ConfigError, DataConfig, EncodersConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.data import Question
from mm.distributed import init
from mm.heads.answerer import Answerer, AnswererConfig, Scored
from mm.heads.looking import attention_and_layers
from mm.losses import answer_bce, answer_softmax
from mm.metrics.answers import consensus, soft_scores
from mm.naming import known
from mm.tasks.vqa_model import AnswerModel

log = logging.getLogger(__name__)

ANSWERER_FILE = "answerer.json"  # in a checkpoint: the answers, which it takes to rebuild the head
QUESTION_ONLY = "question_only"  # in a run folder: the run of the control
CHANGEABLE = ("data.*", "encoder.*.cache", "loop.device")  # settings that a finished run may be given anew


@dataclass
class AnswerLossConfig:
    """What an answerer learns from."""

    name: Literal["bce", "softmax"] = "softmax"  # several answers may be right, or one is: see mm.losses


@dataclass
class VQA:
    """Everything `scripts/train_vqa.py` can be told."""

    seed: int = 0  # of the weights, the batches and the embedded world
    out: str = "runs/vqa"  # the run folder
    modalities: list[str] = field(default_factory=lambda: ["image", "audio"])  # asked about; [] = question only
    answers: int = 3000  # the most frequent answers of the training questions, at most
    min_count: int = 1  # training questions that an answer needs
    changing_prior: bool = False  # answers that are frequent in train are rare in test: see mm.tasks.vqa_data.load
    questions: int = 0  # of an item in a batch, in turns; 0 = all it has
    encoder: EncodersConfig = field(default_factory=EncodersConfig)
    head: AnswererConfig = field(default_factory=AnswererConfig)
    loss: AnswerLossConfig = field(default_factory=AnswerLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_model(cfg: VQA, questions: Sequence[Question]) -> AnswerModel:
    """The model of a run; words and answers are those of the training questions alone.

    Raises:
        ConfigError: settings that do not fit together.
        ValueError: an unknown encoder, no question with an answer.
    """
    check(cfg)
    answers = frequent_answers(questions, cfg.answers, cfg.min_count)
    towers = {
        modality: encoders.by_settings(modality, cfg.encoder, (question.text for question in questions))
        for modality in (*cfg.modalities, "text")
    }
    known_ones = set(answers)
    answerable = sum(not known_ones.isdisjoint(soft_scores(q.answers)) for q in questions if q.answers)
    log.info("%d answers; with them %d of %d training questions have one", len(answers), answerable, len(questions))
    return answerer_over(towers, answers, cfg)


def frequent_answers(questions: Sequence[Question], most: int, min_count: int) -> list[str]:
    """What most people answer to enough of the questions, the most frequent first.

    Raises:
        ValueError: no question has an answer, or none is given often enough.
    """
    counts = Counter(consensus(question.answers) for question in questions if question.answers)
    if not counts:
        raise ValueError(f"training needs questions with answers: got {len(questions)} without. Name a split that has.")
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    found = [answer for answer, count in ranked[:most] if count >= min_count]
    if not found:
        raise ValueError(f"no answer is given {min_count} times: lower min_count (most frequent: {ranked[0][0]!r}).")
    return found


def answerer_over(towers: Mapping[str, encoders.Encoder], answers: Sequence[str], cfg: VQA) -> AnswerModel:
    """Encoders under the answerer that the settings ask for.

    Raises:
        ConfigError: a cache of an encoder of which nothing is frozen.
    """
    cached = encoders.cached_modalities(cfg.encoder, {name: towers[name] for name in cfg.modalities})
    sizes = {modality: (tower.dim, tower.vector_dim) for modality, tower in towers.items()}
    head = Answerer({modality: sizes[modality] for modality in cfg.modalities}, sizes["text"], answers, cfg.head)
    return AnswerModel(towers, head, cached, independent=cfg.loss.name == "bce")


def check(cfg: VQA) -> None:
    """Reject settings that are out of their range, or do not fit together.

    Raises:
        ConfigError, ValueError: there is one.
    """
    for modality in cfg.modalities:
        known(modality, ("image", "audio"), "modality")
    if len(set(cfg.modalities)) < len(cfg.modalities):
        raise ConfigError(f"modalities must differ: got {cfg.modalities}.")
    attention, _ = attention_and_layers(cfg.head.attention)
    check_idle(cfg, idle(cfg, attention))
    if cfg.answers < 1 or cfg.min_count < 1 or cfg.questions < 0:
        raise ConfigError(
            "answers and min_count must be at least 1, questions at least 0: got "
            f"{cfg.answers}, {cfg.min_count} and {cfg.questions}."
        )
    if "audio" in cfg.modalities:
        data.check_sample_rate(cfg.data.name, cfg.encoder.audio.sample_rate)


def idle(cfg: VQA, attention: str) -> list[str]:
    """The settings that question answering does not read, or does not with these others.

    Encoders of modalities that the run does without may be described: leaving one out is one word then.
    """
    keys = ["data.eval_views", "data.eval_folds", "data.eval_subset", "data.complete", "encoder.text.cache"]
    if attention == "none" and cfg.head.fusion != "ban":
        keys.append("head.positions")
    return keys


def load(run: str | Path, changes: Sequence[str] = ()) -> tuple[AnswerModel, VQA]:
    """The best weights of a run, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        changes: `key=value` of data.*, encoder.*.cache or loop.device that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder, head, settings = encoders.opened(run, changes, CHANGEABLE, ANSWERER_FILE, "question answering")
    answers, towers = head["answers"], encoders.load(folder)
    cfg = read_config(VQA, settings)
    check(cfg)
    model = answerer_over({modality: towers[modality] for modality in (*cfg.modalities, "text")}, answers, cfg)
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def description(model: AnswerModel) -> dict[str, Any]:
    """What every checkpoint holds beside the weights: how to build the encoders and the answerer."""
    towers = {modality: model.encoder(modality) for modality in (*model.contents, "text")}
    return {
        encoders.DESCRIPTION_FILE: encoders.describe(towers),
        ANSWERER_FILE: {"answers": model.head.answers},
    }


class Objective:
    """The training step: the loss of the answers to the questions of a batch."""

    def __init__(self, loss: AnswerLossConfig):
        self.loss = {"bce": answer_bce, "softmax": answer_softmax}[loss.name]

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"answer_loss": (), "accuracy": ()}: the accuracy is the share that the most probable answers earn."""
        scored: Scored = model(batch)
        best = scored.logits.argmax(dim=-1, keepdim=True)  # (Q, 1)
        return {
            "answer_loss": self.loss(scored.logits, batch["answer"]),
            "accuracy": batch["answer"].gather(1, best).mean(),
        }
