"""The slow obvious versions that the decoders are compared with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mm.features import Features
from mm.heads.decoder import Memory
from mm.heads.lstm_decoder import LSTMDecoder
from mm.vocabulary import END, START


def plain_logits(decoder: LSTMDecoder, features: Features, b: int, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits (T, V) and attention (T, N') after each token of one sentence: Xu et al. 2015, written out.

    One sentence of one input at a time, its real places alone, and everything computed anew at every step.
    """
    hidden_size = decoder.hidden
    recurrent, query, gate = decoder.from_state.weight.split(decoder.parts)
    recurrent_bias, query_bias, gate_bias = decoder.from_state.bias.split(decoder.parts)
    logits, looked = [], []
    if decoder.looks:
        places = decoder.places(features.map[b, features.mask[b]])
        if decoder.position is not None:
            places = places + decoder.position(torch.tensor(codes(len(places))).to(places))
        mean = places.mean(0)
        hidden, cell = decoder.start_hidden(mean).tanh(), decoder.start_cell(mean).tanh()
    else:
        hidden = cell = features.vector.new_zeros(hidden_size)
        vector = decoder.norm(features.vector[b])
        weights = (decoder.vector_gates.weight, recurrent, decoder.vector_gates.bias, recurrent_bias)
        hidden, cell = torch.lstm_cell(vector[None], (hidden[None], cell[None]), *weights)
        hidden, cell = hidden[0], cell[0]
    for token in tokens:
        word = decoder.embedding.weight[token]
        said = decoder.from_word(word)
        gates = said[: 4 * hidden_size] + recurrent @ hidden + recurrent_bias
        asked = said[4 * hidden_size :] if len(said) > 4 * hidden_size else torch.zeros(hidden_size).to(said)
        seen = None
        if decoder.looks:
            scores = torch.stack(
                [
                    decoder.score.weight[0] @ torch.tanh(decoder.keys(place) + query @ hidden + query_bias + asked)
                    for place in places
                ]
            )
            weights = scores.exp() / scores.exp().sum()
            looked.append(weights)
            seen = sum(weight * place for weight, place in zip(weights, places, strict=True))
            if decoder.gate != "none":
                seen = torch.sigmoid(gate @ hidden + gate_bias) * seen
            gates = gates + decoder.seen_gates(seen)
        enter, forget, new, leave = gates.chunk(4)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        spoken = hidden
        if decoder.deep:
            spoken = decoder.deep_word(word) + decoder.deep_hidden(hidden)
            spoken = (spoken + decoder.deep_seen(seen) if seen is not None else spoken).tanh()
        logits.append(decoder.output(spoken))
    return torch.stack(logits), torch.stack(looked) if looked else torch.zeros(len(tokens), 0)


def codes(places: int) -> list[list[float]]:
    """The code of each place of one row: sines and cosines of row and column at four wavelengths."""
    rows = []
    for place in range(places):
        angles = [2**octave * math.pi * x for octave in range(4) for x in (0.5, (place + 0.5) / places)]
        rows.append([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
    return rows


def brute_force(
    log_probs: Callable[[Sequence[int]], Tensor],
    words: Sequence[int],
    length: int,
    score: Callable[[float, int], float],
) -> tuple[float, list[int]]:
    """The best finished sentence of at most `length` tokens, <end> among them, by trying every one.

    Args:
        log_probs: log-probabilities (V,) of the next token after some tokens.
        words: what a sentence is made of.
        length: tokens at most.
        score: of the sum and the number of tokens.
    """
    best = (float("-inf"), [])
    for size in range(length):
        for sentence in itertools.product(words, repeat=size):
            tokens = [*sentence, END]
            total = sum(float(log_probs(tokens[:t])[tokens[t]]) for t in range(len(tokens)))
            best = max(best, (score(total, len(tokens)), tokens))
    return best


class Table:
    """A decoder without weights: the next token's logits are drawn once for every sentence so far, by input."""

    def __init__(self, inputs: int, words: int, seed: int = 0, spread: float = 2.0):
        self.inputs, self.size, self.seed, self.spread = inputs, 4 + words, seed, spread
        self.calls = 0

    def logits(self, number: int, sentence: Sequence[int]) -> Tensor:
        """(V,) after a sentence about input `number`."""
        key = hash((self.seed, number, *sentence)) & 0x7FFFFFFF
        return self.spread * torch.randn(self.size, generator=torch.Generator().manual_seed(key))

    def log_probs(self, number: int) -> Callable[[Sequence[int]], Tensor]:
        return lambda sentence: functional.log_softmax(self.logits(number, sentence), dim=-1)

    def start(self, numbers: Sequence[int]):
        """State and memory before the first word: a sentence of no token, padded, and the number of each input."""
        number = torch.tensor(numbers)[:, None, None].float()  # (B, 1, 1)
        mask = torch.ones(len(numbers), 1, dtype=torch.bool)
        return (torch.zeros(len(numbers), 1, 0, dtype=torch.int64),), Memory(number, number, mask, number[:, 0])

    def step(self, token: Tensor, state, memory):
        self.calls += 1
        (before,) = state
        now = torch.cat([before, token[..., None]], dim=-1) if int(token[0, 0]) != START else before
        rows = [
            [self.logits(int(memory.values[b, 0, 0]), now[b, k].tolist()) for k in range(now.shape[1])]
            for b in range(len(now))
        ]
        alpha = functional.one_hot(token % 3, 3).float()
        return torch.stack([torch.stack(row) for row in rows]), (now,), alpha
