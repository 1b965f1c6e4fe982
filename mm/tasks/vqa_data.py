"""What a run of question answering reads: its questions, its batches, and what frozen encoders say of every source."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mm import data
from mm.config import ConfigError
from mm.data import AskedScenes, Batches, Cache, Item, Pairs, Question, readable, stable_id
from mm.data.gallery import Prepare
from mm.distributed import rank, world_size
from mm.metrics.answers import consensus, soft_scores
from mm.tasks.vqa import VQA
from mm.tasks.vqa_model import AnswerModel

log = logging.getLogger(__name__)

KEPT = 0.9  # share of the questions that a split with a changing prior keeps, of the answers that it keeps most of


def load(cfg: VQA, splits: Sequence[str] = ("train", "val", "test")) -> list[Sequence[Item]]:
    """The items of some splits with their questions.

    With `changing_prior` train and val keep of each question type mostly the questions with some answers, test mostly
    those with the others, as VQA-CP has it (Agrawal et al. 2018): who answers by what was frequent is mostly wrong.
    Pictures stay in their split, and every answer occurs in all.

    Raises:
        ConfigError: no training item has a modality that the run is to be asked about.
    """
    found = [data.load_asked(cfg.data, split, cfg.seed, cfg.modalities) for split in splits]
    for items in (items for split, items in zip(splits, found, strict=True) if split == "train"):
        check_modalities(items, cfg)
    if not cfg.changing_prior:
        return found
    train = (
        found[splits.index("train")]
        if "train" in splits
        else data.load_asked(cfg.data, "train", cfg.seed, cfg.modalities)
    )
    shares = train_shares(train)
    return [data.kept(items, Mostly(shares, split == "test")) for split, items in zip(splits, found, strict=True)]


def check_modalities(items: Sequence[Item], cfg: VQA) -> None:
    """Reject modalities that a data set has nothing of: what was meant to see would be blind and look well.

    Raises:
        ConfigError: there is one.
    """
    if isinstance(items, AskedScenes):  # drawn with all that is asked for
        return
    there = [modality for modality in ("image", "audio") if any(getattr(item, modality) for item in items)]
    if lacking := [modality for modality in cfg.modalities if modality not in there]:
        raise ConfigError(
            f"modalities must be some that the items of {cfg.data.name!r} have: none has {' or '.join(lacking)}. Set "
            f"modalities=[{','.join(there)}]."
        )


def train_shares(train: Sequence[Item]) -> dict[tuple[str, str], float]:
    """{(type, answer): share of these questions that train keeps}, evenly from `KEPT` to 1 - `KEPT` within each type.

    Which answers keep most is drawn from their names, so that it is the same wherever it is asked.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for question in data.questions_of(train):
        if question.answers:
            answers[question.type].add(consensus(question.answers))
    shares = {}
    for kind, different in answers.items():
        ranked = sorted(different, key=lambda answer: stable_id(f"{kind} {answer}"))
        for rank_, answer in enumerate(ranked):
            shares[kind, answer] = KEPT - (2 * KEPT - 1) * rank_ / max(len(ranked) - 1, 1)
    return shares


class Mostly:
    """Whether a split keeps a question: a draw by its id, with the share of its type and answer.

    What nobody answered has no prior that could change, and is left out.

    Args:
        shares: of train, see `train_shares`; a type and answer that train has not are half and half.
        test: keep what train does not.
    """

    def __init__(self, shares: Mapping[tuple[str, str], float], test: bool):
        self.shares, self.test = shares, test

    def __call__(self, question: Question) -> bool:
        """Keep it?"""
        if not question.answers:
            return False
        share = self.shares.get((question.type, consensus(question.answers)), 0.5)
        return (stable_id(question.id) / 2**63 < share) != self.test


class Targets:
    """Answers of a question -> (K,) what each answer of the model earns.

    Args:
        answers: of the model.
    """

    def __init__(self, answers: Sequence[str]):
        self.number = {answer: k for k, answer in enumerate(answers)}

    def __call__(self, question: Question) -> Tensor:
        """(K,) float32; answers that the model does not know have no place in it."""
        scores = torch.zeros(len(self.number))  # (K,)
        for answer, score in soft_scores(question.answers).items():
            if answer in self.number:
                scores[self.number[answer]] = score
        return scores


def training_batches(model: AnswerModel, items: Sequence[Item], cfg: VQA) -> Batches:
    """The batches of a run: a pure function of the seed and the step.

    Training questions that nobody answered teach nothing and are left out.
    """
    if not isinstance(items, AskedScenes):  # where all are answered
        count = sum(len(item.questions) for item in items)
        items = data.kept(items, answered)
        if (left := sum(len(item.questions) for item in items)) < count:
            log.info("%d training questions of %d have answers", left, count)
    prepare: dict[str, Prepare] = {m: model.encoder(m).prepare for m in (*cfg.modalities, "text")}
    if cfg.data.skip_bad:
        items = readable(items, prepare, cfg.data.workers)  # before the caches, which would stop at a damaged file
    pairs = Pairs(
        items,
        {modality: function for modality, function in prepare.items() if modality not in model.cached},
        cfg.seed,
        views=cfg.data.views,
        texts=cfg.questions,
        cache=caches(model, items, cfg, cfg.data.views),
        answer=Targets(model.head.answers),
    )
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def answered(question: Question) -> bool:
    """Whether somebody answered it."""
    return bool(question.answers)


def caches(model: AnswerModel, items: Sequence[Item], cfg: VQA, views: int = 1) -> dict[str, Cache]:
    """What the frozen parts say of every source of some items, read from disk or computed now."""
    return data.caches({m: model.encoder(m) for m in sorted(model.cached)}, items, cfg.data, views)
