"""What every decoder of sentences shares: what it keeps of its inputs, and what it says of known sentences.

A decoder writes K sentences for each of B inputs at a time: captions of one picture that training knows, or the
hypotheses of a beam. What it keeps of the inputs is a `Memory` of B rows, however many sentences are written; what it
keeps of a sentence is a `State`, tensors (B, K, ...). It has four functions:

memory(features) -> Memory
start(memory) -> State                                               before the first word, (B, 1, ...)
step(token, state, memory) -> logits (B, K, V), State, attention     one word: decoding
forced(tokens, lengths, memory, sampling) -> Forced                  all words of known sentences: training
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, ...]


class Memory(NamedTuple):
    """What a decoder keeps of B inputs: everything that does not change from word to word.

    Attributes:
        values: (B, N, D) the places.
        keys: (B, N, A) what attention compares with, computed once per input; of the LSTM decoder see `place_scores`.
        mask: (B, N) bool, True = real place.
        vector: (B, D_v) the whole input.
    """

    values: Tensor
    keys: Tensor
    mask: Tensor
    vector: Tensor

    def rows(self, index: Tensor | slice) -> Memory:
        """The memory of some of the inputs."""
        return Memory(*(part[index] for part in self))


class Forced(NamedTuple):
    """What a decoder says of known sentences: M words in all, none of them padding.

    Attributes:
        logits: (M, V) of each word, given those before it.
        sentence: (M,) int64, which of the B * K sentences a word belongs to.
        position: (M,) int64, its place there, 0 for the first.
        attention: (M, N) where the decoder looked; None without attention.
        place_log_prob: (M,) log-probability of the place that hard attention drew, 0 where it took the expectation;
            None for other kinds.
    """

    logits: Tensor
    sentence: Tensor
    position: Tensor
    attention: Tensor | None
    place_log_prob: Tensor | None


def draw(probabilities: Tensor) -> Tensor:
    """One number for each row of probabilities (..., V): (...,) int64, by one uniform number a row.

    `torch.multinomial` draws V exponential numbers a row, which takes as long as all the rest of a step.
    """
    edges = probabilities.cumsum(-1)  # (..., V)
    total = edges[..., -1:]  # (..., 1)
    place = torch.rand_like(total) * total  # (..., 1)
    place = torch.minimum(place, torch.nextafter(total, torch.zeros_like(total)))  # below the end, whatever is rounded
    return torch.searchsorted(edges, place, right=True).squeeze(-1)  # (...,), never a word of probability 0
