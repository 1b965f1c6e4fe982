"""N-grams as numbers: every one is interned once, so that counting and comparing sentences is arithmetic on arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

LONGEST = 4  # words of the longest n-gram that BLEU and CIDEr look at
LOW = 0xFFFFFFFF  # the lower half of a packed key

Sentences = Sequence[Sequence[Hashable]]


class Counts(NamedTuple):
    """How often each sentence holds each of its n-grams of one length, sorted by sentence, then by n-gram.

    Attributes:
        sentence: (k,) int64 positions.
        gram: (k,) int64 numbers of n-grams.
        times: (k,) int64, from 1.
    """

    sentence: np.ndarray
    gram: np.ndarray
    times: np.ndarray


class NGrams:
    """The n-grams of some sentences for n = 1..4, numbered from 0 within each n.

    An n-gram is the pair (number of its first n - 1 words, number of its last word), so any vocabulary will do.

    Args:
        sentences: tokens, anything hashable.

    Attributes:
        counts: for each n, those of the sentences.
        sizes: for each n, how many different n-grams there are.
    """

    def __init__(self, sentences: Sentences):
        self._words: dict[Hashable, int] = {}
        for sentence in sentences:
            for word in sentence:
                self._words.setdefault(word, len(self._words))
        self._pairs: list[np.ndarray] = []  # for n = 2..4, sorted
        self.counts = self._count(sentences, learn=True)
        self.sizes = [len(self._words), *map(len, self._pairs)]

    def count(self, sentences: Sentences) -> list[Counts]:
        """The n-grams of other sentences, for n = 1..4; those not seen before have numbers from `sizes[n - 1]` on."""
        return self._count(sentences, learn=False)

    def _count(self, sentences: Sentences, learn: bool) -> list[Counts]:
        lengths = np.array([len(sentence) for sentence in sentences], np.int64)
        owner = np.repeat(np.arange(len(lengths)), lengths)  # (T,) sentence of each word
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(owner))  # (T,) words from here to its end
        new: dict[Hashable, int] = {}
        known = self._words
        numbers = [
            known[word] if word in known else new.setdefault(word, len(known) + len(new))
            for sentence in sentences
            for word in sentence
        ]
        words = np.array(numbers, np.int64)  # (T,)
        grams, at = words, np.arange(len(words))  # n-grams and the places where they begin
        counts = [tally(owner, grams)]
        for n in range(2, LONGEST + 1):
            whole = left[at] >= n
            at = at[whole]
            pairs = pack(grams[whole], words[at + n - 1])
            if learn:
                known_pairs, grams = np.unique(pairs, return_inverse=True)
                self._pairs.append(known_pairs)
            else:
                grams = _number(pairs, self._pairs[n - 2])
            counts.append(tally(owner[at], grams))
        return counts


def _number(pairs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(k,) int64 places of pairs among the known ones, which are sorted; new ones are numbered after them."""
    numbers = np.searchsorted(known, pairs)
    is_new = np.ones(len(pairs), bool)
    inside = numbers < len(known)
    is_new[inside] = known[numbers[inside]] != pairs[inside]
    numbers[is_new] = len(known) + np.unique(pairs[is_new], return_inverse=True)[1]
    return numbers


def tally(sentence: np.ndarray, gram: np.ndarray) -> Counts:
    """Counts from the sentence and the n-gram at each place, both (T,) int64."""
    keys, times = np.unique(pack(sentence, gram), return_counts=True)
    return Counts(keys >> 32, keys & LOW, times)


def pack(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """(k,) int64 keys that sort by `high`, then by `low`, both in 0..2^31 - 1; `key >> 32`, `key & LOW` unpack."""
    return high << 32 | low
