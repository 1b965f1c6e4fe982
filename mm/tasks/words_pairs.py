"""Batches of pairs of words that stand near each other, and of noise: batch k follows from the seed and k alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm.distributed import rank, world_size
from mm.tasks.words import Words
from mm.tasks.words_data import END, Corpus

POWER = 0.75  # of the counts that noise is drawn by (Mikolov et al. 2013, section 2.2)
ORDER, PAIRS = 1, 2  # the batches' order and their pairs draw from chance of their own: (seed, 1, epoch), (seed, 2, k)


def kept_shares(counts: np.ndarray, subsample: float) -> np.ndarray:
    """The share of each word's occurrences that is read: the root of subsample / its share of the text, at most 1.

    Mikolov et al. 2013, eq. 5; their program keeps a little more.

    Args:
        counts: (V,) of the words in the text.
        subsample: t of the equation; 0 = all is read.
    """
    if not subsample:
        return np.ones(len(counts))
    return np.minimum(1.0, np.sqrt(subsample * counts.sum() / counts))  # (V,)


def noise_shares(counts: np.ndarray) -> np.ndarray:
    """How probable each word is as noise: its count to the power of 3/4, (V,)."""
    weights = counts.astype(np.float64) ** POWER
    return weights / weights.sum()


def near_pairs(sentence: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a word and one that stands near it in its sentence.

    Args:
        sentence: (C,) number of the sentence of each word; rises.
        reach: (C,) how far each word looks to either side.

    Returns:
        Two (P,): places of the words and of those near them, sorted by the first.
    """
    words, near = [], []
    for distance in range(1, int(reach.max(initial=0)) + 1):
        left = np.flatnonzero(sentence[distance:] == sentence[:-distance])  # (p,) of two words so far apart
        right = left + distance
        words += [left[reach[left] >= distance], right[reach[right] >= distance]]
        near += [words[-2] + distance, words[-1] - distance]
    if not words:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first, second = np.concatenate(words), np.concatenate(near)  # (P,) each
    order = np.argsort(first, kind="stable")
    return first[order], second[order]


class PairBatches:
    """`batches(start)` is an endless iterator over the batches start, start + 1, ...: pairs of words, and noise.

    Each epoch goes through the text once, a batch of consecutive sentences after the other in an order drawn from
    (seed, epoch). Which words a batch leaves out, how far each looks and what is its noise are drawn from (seed, k).
    Of several processes each has every n-th word with all its pairs; the noise is the same.

    Args:
        corpus: sentences as numbers.
        counts: (V,) of the words in the training text.
        cfg: settings of the run.
        rank: of this process.
        world: number of processes.

    Attributes:
        per_epoch: batches of an epoch.
    """

    def __init__(self, corpus: Corpus, counts: np.ndarray, cfg: Words, rank: int = 0, world: int = 1):
        self.tokens, self.starts = corpus.tokens, corpus.starts
        self.kept = kept_shares(counts, cfg.subsample)  # (V,)
        self.noise = noise_shares(counts).cumsum()  # (V,)
        self.window, self.drawn, self.seed = cfg.window, cfg.noise, cfg.seed
        self.rank, self.world = rank, world
        self.per_epoch = len(self.starts) - 1
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))  # the latest epoch and its order

    def place(self, k: int) -> int:
        """Which part of the text batch k is."""
        epoch, number = divmod(k, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, ORDER, epoch)).permutation(self.per_epoch))  # (n,)
        return int(self._order[1][number])

    def batch(self, k: int) -> dict[str, Tensor]:
        """Batch k, of which this process has its part.

        Returns:
            {"words": (C,) int64, the words that are read, "contexts": (P,) the words near them, "centres": (P,) the
            place in "words" of the word that each stands near, "pairs": (C,) how many of the pairs each has,
            "noise": (M,), "total": () pairs of all processes together divided by their number, at least 1}.
        """
        place = self.place(k)
        random = np.random.default_rng((self.seed, PAIRS, k))
        tokens = np.array(self.tokens[self.starts[place] : self.starts[place + 1]])  # (T,)
        read = (tokens != END) & (random.random(len(tokens)) < self.kept[tokens])  # END looks up the last word's share
        words, sentence = tokens[read], np.cumsum(tokens == END)[read]  # (C,) each
        first, second = near_pairs(sentence, random.integers(1, self.window + 1, len(words)))  # (P,) each
        noise = np.searchsorted(self.noise[:-1], random.random(self.drawn), side="right")  # (M,)
        total = max(len(first), 1) / self.world
        own = first % self.world == self.rank  # (P,)
        first, second, own_words = first[own] // self.world, second[own], words[self.rank :: self.world]
        arrays: dict[str, Any] = {
            "words": own_words,
            "contexts": words[second],
            "centres": first,
            "pairs": np.bincount(first, minlength=len(own_words)),
            "noise": noise,
        }
        batch = {name: torch.from_numpy(values.astype(np.int64)) for name, values in arrays.items()}
        return {**batch, "total": torch.tensor(total)}

    def __call__(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches from `start` on."""
        while True:
            yield self.batch(start)
            start += 1

    def once(self) -> Iterator[dict[str, Tensor]]:
        """Each batch of the first epoch."""
        return map(self.batch, range(self.per_epoch))


def training_batches(corpus: Corpus, cfg: Words) -> PairBatches:
    """This process's part of the batches of a run."""
    return PairBatches(corpus, corpus.counts, cfg, rank(), world_size())
