"""Sentences from places: the LSTM of Show and Tell (Vinyals et al. 2015) and Show, Attend and Tell (Xu et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import WAVES, Features, masked_mean, masked_softmax, place_code
from mm.heads.additive_attention import grown, place_scores
from mm.heads.decoder import Forced, Memory, State, draw
from mm.naming import known
from mm.vocabulary import NEVER, PAD, WORD_STD

ATTENTIONS = ("none", "soft", "hard")
GATES = ("none", "scalar", "vector")
ASKS = ("state", "word")
HARD_TESTS = ("argmax", "expected")


class LSTMDecoder(nn.Module):
    """An LSTM that looks at the places before every word.

    Args:
        dim: D of the map.
        vector_dim: D_v of the vector, read where there is no attention.
        words: V, size of the vocabulary.
        attention: "soft": the weighted mean of the places (section 4.2 of Xu et al.); "hard": one place drawn by its
            weight (section 4.1); "none": the vector stands where the first word would, and is given once (Vinyals et
            al. 2015, eq. 10-12).
        ask: what attention asks with: "state", the LSTM's before it has read the last word (Xu et al.), or that and the
            "word" itself.
        gate: how much of what it sees comes through: "scalar", one number a word (Xu et al., section 4.2.1);
            "vector", a number for each channel; "none", all of it.
        deep_output: the previous word and what was seen speak in the next word too (Xu et al., eq. 7).
        see_dim: numbers that every place is projected to before anything else; 0 = they are taken as they are.
        positions: add a code of where a place lies to it.
        word_dim: numbers of a word embedding.
        hidden: H, numbers of the LSTM's state, of the keys and of the output.
        dropout: share of the word embeddings and of the output's input hidden while training.
        hard_test: what hard attention does outside of training: "argmax" takes the likeliest place, "expected" the
            weighted mean.
        hard_expected: share of the words for which hard attention takes the weighted mean in training, to lower the
            variance (Xu et al., section 4.1, do so for half of the inputs).

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(
        self,
        dim: int,
        vector_dim: int,
        words: int,
        *,
        attention: str,
        ask: str,
        gate: str,
        deep_output: bool,
        see_dim: int,
        positions: bool,
        word_dim: int,
        hidden: int,
        dropout: float,
        hard_test: str,
        hard_expected: float,
    ):
        super().__init__()
        self.attention = known(attention, ATTENTIONS, "attention")
        self.gate = known(gate, GATES, "gate")
        known(ask, ASKS, "query of attention")
        self.hard_test = known(hard_test, HARD_TESTS, "test of hard attention")
        self.hard_expected = hard_expected
        self.hidden = hidden
        self.uniform = False  # True = look at all places alike, whatever the weights say
        self.looks = attention != "none"
        gates = {"none": 0, "scalar": 1, "vector": see_dim or dim}[gate] if self.looks else 0
        self.parts = (4 * hidden, hidden if self.looks else 0, gates)  # what one product with the state gives

        self.embedding = nn.Embedding(words, word_dim, padding_idx=PAD)
        self.asks_word = ask == "word" and self.looks
        self.from_word = nn.Linear(word_dim, 4 * hidden + (hidden if self.asks_word else 0))
        self.from_state = nn.Linear(hidden, sum(self.parts))
        if self.looks:
            self.places = nn.Sequential(nn.LayerNorm(dim))
            if see_dim:
                self.places.extend([nn.Linear(dim, see_dim), nn.ReLU()])
                dim = see_dim
            self.position = nn.Linear(4 * WAVES, dim, bias=False) if positions else None
            self.keys = nn.Linear(dim, hidden, bias=False)  # the query has a bias
            self.score = nn.Linear(hidden, 1, bias=False)
            self.seen_gates = nn.Linear(dim, 4 * hidden, bias=False)
            self.start_hidden = nn.Linear(dim, hidden)
            self.start_cell = nn.Linear(dim, hidden)
        else:
            self.norm = nn.LayerNorm(vector_dim)
            self.vector_gates = nn.Linear(vector_dim, 4 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.deep = deep_output
        if deep_output:
            self.deep_word = nn.Linear(word_dim, hidden, bias=False)
            self.deep_hidden = nn.Linear(hidden, hidden)
            if self.looks:
                self.deep_seen = nn.Linear(dim, hidden, bias=False)
        self.output = nn.Linear(hidden, words)
        nn.init.normal_(self.embedding.weight, std=WORD_STD)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0.0

    def memory(self, features: Features) -> Memory:
        """What is kept of B inputs; keys are projected here, once per input."""
        if not self.looks:
            none = features.map[:, :0]  # (B, 0, D)
            return Memory(none, none, features.mask[:, :0], self.norm(features.vector))
        values = self.places(features.map)  # (B, N, D)
        if self.position is not None:
            values = values + self.position(place_code(features).to(values.dtype))  # (B, N, D)
        return Memory(values, grown(self.keys(values)), features.mask, features.vector)

    def start(self, memory: Memory) -> State:
        """Hidden and cell state (B, 1, H) before the first word: of the mean place, or of the vector."""
        if not self.looks:
            zero = memory.vector.new_zeros(len(memory.vector), self.hidden)  # (B, H)
            hidden, cell = lstm_cell(self.vector_gates(memory.vector) + self.from_state(zero), zero)  # (B, H) each
            return hidden[:, None], cell[:, None]  # (B, 1, H) each
        mean = masked_mean(memory.values, memory.mask)  # (B, D)
        return self.start_hidden(mean).tanh()[:, None], self.start_cell(mean).tanh()[:, None]  # (B, 1, H) each

    def step(self, token: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor | None]:
        """One word further.

        Args:
            token: (B, K) int64, the word before.
            state: of K sentences for each input.
            memory: of B inputs.

        Returns:
            logits (B, K, V) of the next word, the state behind it, and where it looked: (B, K, N), or None without
            attention. Of hard attention these are the probabilities of the places.
        """
        word = self.dropout(self.embedding(token))  # (B, K, W)
        state, seen, alpha, _ = self.advance(self.from_word(word), state, memory)
        return self.logits(word, state[0], seen), state, alpha

    def forced(self, tokens: Tensor, lengths: Tensor, memory: Memory, sampling: float = 0.0) -> Forced:
        """All words of known sentences at once.

        What depends on the words alone is computed for all of them in one product, and so are the logits, at real
        words only; inputs whose sentences have all ended take no further part.

        Args:
            tokens: (B, K, L) int64, <start> first; what is predicted are tokens 1, 2, ...
            lengths: (B, K) int64, real tokens of each sentence, <start> and <end> among them; below 2 = no sentence.
            memory: of B inputs.
            sampling: chance that a word given to the next step is drawn from the model instead of taken from the
                sentence (scheduled sampling, Bengio et al. 2015).
        """
        inputs, sentences = tokens.shape[:2]
        steps = (lengths - 1).clamp_min(0)  # (B, K) words to predict
        order = steps.amax(dim=1).argsort(descending=True, stable=True)  # (B,) the longest first
        memory, tokens, steps = memory.rows(order), tokens[order], steps[order]
        longest = steps.amax(dim=1).tolist()  # B, falling
        still = [sum(words > t for words in longest) for t in range(longest[0])]  # inputs that go on at step t
        state = tuple(part.expand(-1, sentences, -1) for part in self.start(memory))  # (B, K, H) each
        words = self.dropout(self.embedding(tokens[:, :, : len(still)]))  # (B, K, T, W)
        spoken = self.from_word(words)  # (B, K, T, 4 H or 5 H)
        given: list[Tensor] = []  # the word before, at each step
        made: list[tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]] = []  # state, seen, alpha, place
        # unbind, because the gradient of a slice is a whole tensor of zeros, at each of T steps
        for t, (rows, word, said) in enumerate(zip(still, words.unbind(2), spoken.unbind(2), strict=True)):
            if rows < len(memory.mask):
                memory, state = memory.rows(slice(rows)), tuple(part[:rows] for part in state)
            word, said = word[:rows], said[:rows]  # (b, K, W), (b, K, 4 H or 5 H)
            if sampling and t:
                drawn = self.drawn(given[-1][:rows], made[-1], rows)  # (b, K)
                swap = torch.rand(drawn.shape, device=drawn.device) < sampling  # (b, K)
                word = self.dropout(self.embedding(torch.where(swap, drawn, tokens[:rows, :, t])))  # (b, K, W)
                said = self.from_word(word)  # (b, K, 4 H or 5 H)
            state, seen, alpha, place = self.advance(said, state, memory)
            given.append(word)
            made.append((state[0], seen, alpha, place))
        real = torch.cat([(steps[:rows] > t).flatten() for t, rows in enumerate(still)])  # (sum of b K,)
        number = torch.arange(inputs * sentences, device=tokens.device).view(inputs, sentences)[order]  # (B, K)
        sentence = torch.cat([number[:rows].flatten() for rows in still])[real]  # (M,)
        position = torch.cat([torch.full_like(number[:rows].flatten(), t) for t, rows in enumerate(still)])[real]

        def packed(parts: Sequence[Any]) -> Tensor:
            return torch.cat([part.flatten(0, 1) for part in parts])[real]  # (M, ...)

        states, *others = zip(*made, strict=True)
        seen, alpha, place = (None if column[0] is None else packed(column) for column in others)
        return Forced(self.logits(packed(given), packed(states), seen), sentence, position, alpha, place)

    def drawn(self, word: Tensor, made: tuple, rows: int) -> Tensor:
        """A word (b, K) drawn from what the step before would say, without gradient."""
        with torch.no_grad():
            hidden, seen = made[0][:rows], None if made[1] is None else made[1][:rows]
            logits = self.logits(word, hidden, seen).float()  # (b, K, V)
            logits[..., list(NEVER)] = float("-inf")
            return draw(logits.softmax(-1))  # (b, K)

    def advance(
        self, said: Tensor, state: State, memory: Memory
    ) -> tuple[State, Tensor | None, Tensor | None, Tensor | None]:
        """Look, then move the LSTM on.

        Args:
            said: (B, K, 4 H or 5 H), what the word says to the LSTM's gates, and to the query where that has the word.
            state: hidden and cell state, (B, K, H) each.
            memory: of B inputs.

        Returns:
            state, what was seen (B, K, D), where (B, K, N), and the log-probability of a drawn place (B, K).
        """
        hidden, cell = state
        recurrent, query, gate = self.from_state(hidden).split(self.parts, dim=-1)  # (B, K, 4 H), (B, K, H), (B, K, .)
        if not self.looks:
            return lstm_cell(said + recurrent, cell), None, None, None
        if self.asks_word:
            said, asked = said.split((4 * self.hidden, self.hidden), dim=-1)  # (B, K, 4 H), (B, K, H)
            query = query + asked  # (B, K, H)
        scores = place_scores(memory.keys, grown(query), self.score.weight[0]) * (not self.uniform)  # (B, K, N)
        alpha = masked_softmax(scores, memory.mask[:, None])  # (B, K, N)
        weights, place = (alpha, None) if self.attention == "soft" else self.chosen(alpha)  # (B, K, N), (B, K)
        seen = weights.to(memory.values.dtype) @ memory.values  # (B, K, D)
        if self.gate != "none":
            seen = gate.sigmoid() * seen  # (B, K, D)
        return lstm_cell(said + recurrent + self.seen_gates(seen), cell), seen, alpha, place

    def chosen(self, alpha: Tensor) -> tuple[Tensor, Tensor | None]:
        """What hard attention makes of its probabilities (B, K, N).

        Returns:
            weights (B, K, N): in training one place drawn, or the probabilities for a share of the words; else as
                `hard_test` says. And in training the log-probability (B, K) of the place drawn, 0 where none was.
        """
        if not self.training:
            if self.hard_test == "expected" or self.uniform:
                return alpha, None
            return functional.one_hot(alpha.argmax(-1), alpha.shape[-1]).to(alpha.dtype), None  # (B, K, N)
        place = alpha.detach().flatten(0, 1).multinomial(1).view(*alpha.shape[:2], 1)  # (B, K, 1)
        one = torch.zeros_like(alpha).scatter_(-1, place, 1.0)  # (B, K, N)
        expected = torch.rand(*alpha.shape[:2], 1, device=alpha.device) < self.hard_expected  # (B, K, 1)
        log_prob = alpha.gather(-1, place).log().masked_fill(expected, 0.0).squeeze(-1)  # (B, K)
        return torch.where(expected, alpha, one), log_prob

    def logits(self, word: Tensor, hidden: Tensor, seen: Tensor | None) -> Tensor:
        """(..., V) of the next word, from the word before, the state, and what was seen (Xu et al. 2015, eq. 7)."""
        hidden = self.dropout(hidden)  # (..., H)
        if self.deep:
            hidden = self.deep_hidden(hidden) + self.deep_word(word)  # (..., H)
            if seen is not None:
                hidden = hidden + self.deep_seen(seen)  # (..., H)
            hidden = self.dropout(hidden.tanh())  # (..., H)
        return self.output(hidden)  # (..., V)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden and cell state (..., H) of an LSTM from the sums at its gates (..., 4 H): input, forget, cell, output.

    In float32 at least: under autocast the cell, a running sum, would lose all that is small beside it.
    """
    gates, cell = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (gates, cell))
    enter, forget, new, leave = gates.chunk(4, dim=-1)  # (..., H) each
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()  # (..., H)
    return leave.sigmoid() * cell.tanh(), cell
