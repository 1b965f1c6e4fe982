"""Word vectors: skip-gram with negative sampling (Mikolov et al. 2013) on the sentences of any data set or text file.

The settings, the model and its training step, and the finished vectors; what they are learned from is in
`mm.tasks.words_data` and `mm.tasks.words_pairs`, how they are evaluated in `mm.tasks.words_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import data, encoders
from mm.checks import check_idle
from mm.config import ConfigError, DataConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.distributed import init
from mm.files import write_text
from mm.losses import negative_sampling
from mm.naming import known
from mm.vocabulary import SPECIALS, UNK, Vocabulary

WORDS_FILE = "words.json"  # in a checkpoint: the words and how often each was read
VECTORS_FILE = "vectors.txt"  # in a run folder: the vectors in word2vec's text format
TEXT = "text"  # the data set that is a text file
LENGTH = 0.5  # of vectors at the start, roughly; from the published program's 0.03 Adam takes three times as many steps
LOSS = "words_loss"  # held-out, in nats a pair: what decides which weights are best
CHANGEABLE = ("data.*", "analogies", "loop.device")  # settings that a finished run may be given anew


@dataclass
class Words:
    """Everything `scripts/train_words.py` can be told. Of the data, `batch_size` counts words here."""

    seed: int = 0  # of the vectors, the batches and the embedded world
    out: str = "runs/words"  # the run folder
    dim: int = 100  # numbers of a vector
    window: int = 5  # words on either side that a word is to predict; of each word a number drawn from 1 to this
    negatives: int = 5  # noise words that stand against a pair of words
    noise: int = 256  # words drawn for a batch, which all its pairs share as noise
    subsample: float = 1e-3  # words above this share of the text are left out at random; 0 = none is
    min_count: int = 5  # rarer words are left out
    analogies: str = ""  # questions in Google's format: ": section" lines, four words a line; "" = mm's own
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def check(cfg: Words) -> None:
    """Reject settings that are out of their range, or do not fit together.

    Raises:
        ConfigError, ValueError: there is one.
    """
    known(cfg.data.name, [TEXT, *(name for name in data.READERS if name != "mixed")], "data set with sentences")
    check_idle(cfg, idle(cfg))
    for name in ("dim", "window", "negatives", "noise", "min_count"):
        if getattr(cfg, name) < 1:
            raise ConfigError(f"{name} must be at least 1: got {getattr(cfg, name)}.")
    if not (math.isfinite(cfg.subsample) and cfg.subsample >= 0):
        raise ConfigError(f"subsample must be a share of the text, or 0 to leave out nothing: got {cfg.subsample}.")
    if cfg.data.batch_size < 1:
        raise ConfigError(f"data.batch_size must be a number of words, at least 1: got {cfg.data.batch_size}.")


def idle(cfg: Words) -> list[str]:
    """The settings that word vectors do not read, or do not with these others."""
    names = ["workers", "views", "eval_views", "eval_folds", "eval_subset", "cache", "cache_dtype", "complete"]
    names += ["sources", "sets"]
    names += ["root", "skip_bad"] if cfg.data.name == TEXT else []
    return [f"data.{name}" for name in names]


class Scores(NamedTuple):
    """What a batch is scored by.

    Attributes:
        positive: (P,) of each word and one near it.
        negative: (C, M) of each word and each noise word.
    """

    positive: Tensor
    negative: Tensor


class SkipGram(nn.Module):
    """Two vectors of each word: one as the word in the middle, which is kept, and one as a word near another.

    Args:
        words: the vocabulary, the most frequent first.
        counts: how often each was read.
        dim: numbers of a vector.
    """

    def __init__(self, words: Sequence[str], counts: Sequence[int], dim: int):
        super().__init__()
        self.words, self.counts = list(words), list(counts)
        self.centre = nn.Embedding(len(self.words), dim)
        self.context = nn.Embedding(len(self.words), dim)
        nn.init.normal_(self.centre.weight, std=LENGTH / dim**0.5)
        nn.init.zeros_(self.context.weight)

    def forward(self, batch: Mapping[str, Tensor]) -> Scores:
        """The scores of a batch of `mm.tasks.words_pairs.PairBatches`."""
        centres = self.centre(batch["words"])  # (C, D)
        contexts = self.context(batch["contexts"])  # (P, D)
        # `embedding` and not an index: its gradient is summed row by row, several times as fast on a CPU.
        positive = (functional.embedding(batch["centres"], centres) * contexts).sum(dim=1)  # (P,)
        return Scores(positive, centres @ self.context(batch["noise"]).T)


class Objective:
    """The training step: `mm.losses.negative_sampling`.

    Args:
        negatives: noise words that stand against a pair.
    """

    def __init__(self, negatives: int):
        self.negatives = negatives

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """{"skip_gram_loss": ()}."""
        positive, negative = model(batch)
        loss = negative_sampling(positive, negative, batch["pairs"], self.negatives, batch["total"])
        return {"skip_gram_loss": loss}


class WordVectors:
    """Words and their vectors, to be asked for what is near.

    Args:
        words: as `mm.vocabulary.tokenize` gives them.
        vectors: (V, D), a row for each.

    Raises:
        ValueError: a word occurs twice or is none, or there are more or fewer rows.
    """

    def __init__(self, words: Sequence[str], vectors: Tensor):
        if vectors.dim() != 2 or len(vectors) != len(words):
            raise ValueError(f"each word must have a vector: got {len(words)} words and {tuple(vectors.shape)}.")
        self.vocabulary = Vocabulary(words)
        self.vectors = vectors.detach().float().cpu()  # (V, D)
        self.unit = functional.normalize(self.vectors, dim=1)  # (V, D)

    @property
    def words(self) -> list[str]:
        """The words, in the order of the rows of `vectors`."""
        return self.vocabulary.words

    def number(self, word: str) -> int:
        """The row of a word.

        Raises:
            ValueError: it is unknown; the message names the words that are spelled most like it.
        """
        found = self.vocabulary.encode(word)
        if len(found) != 1 or found[0] == UNK:
            near = self.vocabulary.nearest(word)
            like = f" Words like it: {', '.join(near)}." if near else ""
            raise ValueError(f"a word must be one of the {len(self.words)} that were read: got {word!r}.{like}")
        return found[0] - len(SPECIALS)

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The k words whose vectors have the largest cosine with that of a word, and the cosines.

        Raises:
            ValueError: an unknown word, see `number`.
        """
        number = self.number(word)
        scores = self.unit @ self.unit[number]  # (V,)
        scores[number] = float("-inf")
        return self._top(scores, min(k, len(self.words) - 1))

    def analogy(self, a: str, b: str, c: str, k: int = 1) -> list[tuple[str, float]]:
        """The k words that are most probably to c what b is to a, and their scores, see `three_cos_add`.

        Raises:
            ValueError: an unknown word, see `number`.
        """
        question = torch.tensor([[self.number(word) for word in (a, b, c)]])  # (1, 3)
        scores = three_cos_add(self.unit, question)[0]  # (V,)
        return self._top(scores, min(k, int(scores.isfinite().sum())))

    def _top(self, scores: Tensor, k: int) -> list[tuple[str, float]]:
        best = scores.topk(k)
        return [(self.words[n], score) for score, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def save(self, path: str | Path) -> None:
        """Write word2vec's text format, whole or not at all: "<words> <dimension>", then a word and its numbers a line.

        The numbers read back to the same float32.
        """
        rows = self.vectors.numpy()  # (V, D)
        lines = [f"{word} {' '.join(map(str, row))}" for word, row in zip(self.words, rows, strict=True)]
        write_text(path, "\n".join([f"{len(lines)} {rows.shape[1]}", *lines, ""]))


def three_cos_add(unit: Tensor, questions: Tensor) -> Tensor:
    """How well each word answers "a is to b as c is to ?" by 3CosAdd: its cosine with b - a + c
    (Mikolov, Yih and Zweig 2013, section 5).

    It is not divided by the length of b - a + c, which changes no order. The words of the question are no answers.

    Args:
        unit: (V, D) unit vectors.
        questions: (Q, 3) int64, the rows of a, b and c.

    Returns:
        (Q, V), -inf at a, b and c.
    """
    a, b, c = unit[questions].unbind(dim=1)  # (Q, D) each
    return ((b - a + c) @ unit.T).scatter(1, questions, float("-inf"))  # (Q, V)


def load(run: str | Path) -> WordVectors:
    """The best vectors of a run.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: a damaged file, or a run of another task.
    """
    model, _ = restore(run)
    return vectors_of(model)


def restore(run: str | Path, changes: Sequence[str] = ()) -> tuple[SkipGram, Words]:
    """The best weights of a run, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        changes: `key=value` of data.*, analogies or loop.device that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder, read, settings = encoders.opened(run, changes, CHANGEABLE, WORDS_FILE, "words")
    cfg = read_config(Words, settings)
    check(cfg)
    model = SkipGram(read["words"], read["counts"], cfg.dim)
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def vectors_of(model: SkipGram) -> WordVectors:
    """The vectors that a model has learned: those of the words in the middle."""
    return WordVectors(model.words, model.centre.weight)


def description(model: SkipGram) -> dict[str, Any]:
    """What every checkpoint holds beside the weights; a model of words has no encoder."""
    return {encoders.DESCRIPTION_FILE: {}, WORDS_FILE: {"words": model.words, "counts": model.counts}}
