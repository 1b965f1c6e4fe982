"""Sentences from places by a transformer: the second decoder, behind the same `memory`, `start`, `step`, `forced`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import Features, masked_softmax
from mm.heads.decoder import Forced, Memory, State
from mm.vocabulary import PAD, WORD_STD


class TransformerDecoder(nn.Module):
    """A transformer decoder (Vaswani et al. 2017) with the norms before its parts (Xiong et al. 2020).

    Args:
        dim: D of the map.
        words: V, size of the vocabulary.
        hidden: H, numbers of a word on its way through.
        blocks: of self-attention over the words so far, attention over the places, and two linear maps.
        heads: of every attention; must divide `hidden`.
        dropout: share of the embeddings and of each part's output hidden while training.

    Raises:
        ValueError: `hidden` is no even multiple of `heads`.
    """

    def __init__(self, dim: int, words: int, *, hidden: int, blocks: int, heads: int, dropout: float):
        super().__init__()
        if hidden % (2 * heads):
            raise ValueError(f"hidden must be an even multiple of the {heads} heads: got {hidden}.")
        self.hidden = hidden
        self.uniform = False  # True = look at all places alike, whatever the weights say
        self.embedding = nn.Embedding(words, hidden, padding_idx=PAD)
        self.norm = nn.LayerNorm(dim)
        self.keys = nn.Linear(dim, blocks * 2 * hidden)  # keys and values of the places for every block
        self.blocks = nn.ModuleList(Block(hidden, heads, dropout) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, words)
        nn.init.normal_(self.embedding.weight, std=WORD_STD)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0.0

    def memory(self, features: Features) -> Memory:
        """What is kept of B inputs: the keys and values of all blocks, projected once."""
        values = self.norm(features.map)  # (B, N, D)
        return Memory(values, self.keys(values), features.mask, features.vector)

    def start(self, memory: Memory) -> State:
        """The state before the first word: no word yet, (B, 1, 0, blocks * 2 H)."""
        return (memory.keys.new_zeros(len(memory.keys), 1, 0, memory.keys.shape[-1]),)

    def step(self, token: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor]:
        """One word further, see `mm.heads.decoder`; the state keeps every word's keys and values."""
        (past,) = state  # (B, K, t, blocks * 2 H)
        x = self.embedded(token[:, :, None], past.shape[2])  # (B, K, 1, H)
        x, new, alpha = self.run(x, past, memory)
        return self.output(x[:, :, 0]), (torch.cat([past, new], dim=2),), alpha[:, :, 0]  # (B, K, V), (B, K, N)

    def forced(self, tokens: Tensor, lengths: Tensor, memory: Memory, sampling: float = 0.0) -> Forced:
        """All words of known sentences at once, see `LSTMDecoder.forced`.

        Raises:
            ValueError: scheduled sampling, for which the words would have to be made one after another.
        """
        if sampling:
            raise ValueError(f"scheduled sampling needs the lstm decoder: got {sampling}. Set loss.sampling=0.")
        inputs, sentences, length = tokens.shape
        past = self.start(memory)[0].expand(-1, sentences, -1, -1)  # (B, K, 0, blocks * 2 H)
        x, _, alpha = self.run(self.embedded(tokens[:, :, :-1], 0), past, memory)  # (B, K, L - 1, H)
        place = torch.arange(length - 1, device=tokens.device)  # (L - 1,)
        real = place < (lengths - 1)[:, :, None]  # (B, K, L - 1)
        number = torch.arange(inputs * sentences, device=tokens.device).view(inputs, sentences, 1)  # (B, K, 1)
        sentence, position = number.expand_as(real)[real], place.expand_as(real)[real]  # (M,) each
        return Forced(self.output(x[real]), sentence, position, alpha[real], None)

    def embedded(self, token: Tensor, first: int) -> Tensor:
        """Words (B, K, L) at places first, first + 1, ... -> (B, K, L, H)."""
        place = positions(token.shape[-1], self.hidden, first, token.device)  # (L, H)
        return self.dropout(self.embedding(token) / WORD_STD + place)  # (B, K, L, H)

    def run(self, x: Tensor, past: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Words (B, K, L, H) behind those of `past` (B, K, t, blocks * 2 H), through all blocks.

        Returns:
            what the output reads (B, K, L, H), the words' own keys and values (B, K, L, blocks * 2 H), and where the
            heads of the last block looked on average (B, K, L, N).
        """
        size, made, alpha = 2 * self.hidden, [], x
        for block, old, seen in zip(self.blocks, past.split(size, -1), memory.keys.split(size, -1), strict=True):
            x, new, alpha = block(x, old, seen, memory.mask, self.uniform)
            made.append(new)
        return self.dropout(self.last_norm(x)), torch.cat(made, dim=-1), alpha


class Block(nn.Module):
    """One block: the words so far, the places, two linear maps; each adds to what comes in."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.own = nn.Linear(hidden, 3 * hidden)  # query, key, value of a word
        self.own_out = nn.Linear(hidden, hidden)
        self.query = nn.Linear(hidden, hidden)
        self.seen_out = nn.Linear(hidden, hidden)
        self.feed = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: Tensor, seen: Tensor, mask: Tensor, uniform: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Words x (B, K, L, H) behind `past` (B, K, t, 2 H), over places `seen` (B, N, 2 H) with `mask` (B, N).

        Returns:
            x (B, K, L, H), its keys and values (B, K, L, 2 H), and the mean weights of the places (B, K, L, N).
        """
        query, new = self.own(self.norms[0](x)).split((x.shape[-1], 2 * x.shape[-1]), dim=-1)
        key, value = torch.cat([past, new], dim=2).chunk(2, dim=-1)  # (B, K, t + L, H) each
        length, known = x.shape[2], past.shape[2]
        earlier = torch.ones(length, known + length, dtype=torch.bool, device=x.device).tril(known)  # (L, t + L)
        heard = functional.scaled_dot_product_attention(
            self.parted(query), self.parted(key), self.parted(value), attn_mask=earlier
        )  # (B, K, heads, L, H / heads)
        x = x + self.dropout(self.own_out(heard.transpose(2, 3).flatten(3)))  # (B, K, L, H)
        key, value = (self.parted(part[:, None]) for part in seen.chunk(2, dim=-1))  # (B, 1, heads, N, H / heads) each
        query = self.parted(self.query(self.norms[1](x)))  # (B, K, heads, L, H / heads)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (B, K, heads, L, N)
        scores = scores.float() * (not uniform)  # (B, K, heads, L, N)
        alpha = masked_softmax(scores, mask[:, None, None, None])  # (B, K, heads, L, N)
        found = alpha.to(value.dtype) @ value  # (B, K, heads, L, H / heads)
        x = x + self.dropout(self.seen_out(found.transpose(2, 3).flatten(3)))  # (B, K, L, H)
        x = x + self.dropout(self.feed(self.norms[2](x)))  # (B, K, L, H)
        return x, new, alpha.mean(dim=2)

    def parted(self, x: Tensor) -> Tensor:
        """(B, K, L, H) -> (B, K, heads, L, H / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3)


def positions(count: int, dim: int, first: int, device: torch.device) -> Tensor:
    """Sines and cosines of places first, first + 1, ...: (count, dim) (Vaswani et al. 2017, section 3.5)."""
    place = torch.arange(first, first + count, device=device)[:, None]  # (count, 1)
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(1e4) / dim))  # (dim / 2,)
    return torch.cat([(place * rate).sin(), (place * rate).cos()], dim=-1)  # (count, dim)
