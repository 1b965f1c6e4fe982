"""What a run of question answering reads: its questions, its batches, and what frozen encoders say of every source."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mm import data
from mm.data import Batches, Cache, Item, Pairs, Question, readable
from mm.data.gallery import Prepare
from mm.distributed import rank, world_size
from mm.metrics.answers import soft_scores
from mm.tasks.vqa import VQA
from mm.tasks.vqa_model import AnswerModel


def load(cfg: VQA, split: str) -> Sequence[Item]:
    """The items of a split with their questions.

    Raises:
        ValueError: it has no questions, or lacks what they are about.
    """
    return data.load_asked(cfg.data, split, cfg.seed, cfg.modalities)


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
    """The batches of a run: a pure function of the seed and the step."""
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


def caches(model: AnswerModel, items: Sequence[Item], cfg: VQA, views: int = 1) -> dict[str, Cache]:
    """What the frozen parts say of every source of some items, read from disk or computed now."""
    return data.caches({m: model.encoder(m) for m in sorted(model.cached)}, items, cfg.data, views)

