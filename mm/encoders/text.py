"""Text encoders: a sentence -> `Features`, one vector per word and one for the whole."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mm.config import TextConfig
from mm.encoders.encoder import Encoder
from mm.encoders.word_vectors import read_word_vectors
from mm.features import Features, mask_from_lengths, masked_max, masked_mean
from mm.naming import known
from mm.vocabulary import PAD, UNK, WORD_STD, Vocabulary

logger = logging.getLogger(__name__)

POOLS = ("last", "mean", "max")
HEAD_DIM = 64  # channels of an attention head
LONGEST_WAVE = 10000.0  # of the position code, in units of 2 pi tokens (Vaswani et al. 2017, section 3.5)


class Block(nn.Module):
    """Self-attention and two linear layers, each behind its LayerNorm (pre-norm: Xiong et al. 2020)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, dim // HEAD_DIM)
        if dim % self.heads:
            raise ValueError(
                f"hidden must be a multiple of its {self.heads} heads: got {dim}. Use a multiple of {HEAD_DIM}."
            )
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inward, self.outward = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """(B, L, D) and (B, 1, L or 1, L) bool, True where a token (row) may look (column) -> (B, L, D)."""
        three = self.inward(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, heads, D / heads)
        q, k, v = three.permute(2, 0, 3, 1, 4)  # (B, heads, L, D / heads) each
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (B, heads, L, D / heads)
        x = x + self.dropout(self.outward(seen.transpose(1, 2).flatten(2)))  # (B, L, D)
        return x + self.dropout(self.feed(self.norm2(x)))


class Transformer(nn.Module):
    """Embedded words with sinusoidal positions through `layers` blocks; `causal` words see only those before them."""

    def __init__(self, inputs: int, dim: int, layers: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.causal = causal
        self.project = nn.Linear(inputs, dim)
        self.blocks = nn.ModuleList(Block(dim, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """(B, L, inputs) and (B, L) bool, True = real -> (B, L, dim)."""
        x = self.project(words)  # (B, L, dim)
        x = x + position_code(x.shape[1], x.shape[2], x.device)
        allowed = mask[:, None, None, :]  # (B, 1, 1, L)
        if self.causal:
            allowed = allowed & torch.ones_like(mask[0]).expand(len(mask[0]), -1).tril()  # (B, 1, L, L)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x)


TEXT_ENCODERS: dict[str, type[nn.Module]] = {
    "mean": nn.Identity,  # the embedded words themselves, and their mean
    "gru": nn.GRU,
    "lstm": nn.LSTM,
    "transformer": Transformer,
}


class TextEncoder(Encoder):
    """A sentence -> `Features` by word embeddings and what stands on top of them.

    Args:
        words: the vocabulary beyond `mm.vocabulary.SPECIALS`, in order.
        kind: a key of `TEXT_ENCODERS`.
        word_dim: numbers of an embedding; D of "mean".
        hidden: D of the others, in two halves when a recurrent network runs in both directions.
        layers: of the recurrent network or transformer.
        bidirectional: also from right to left; a transformer sees the words behind each word too.
        pool: the vector: "mean" or "max" over the words, or the "last" state, for which each direction of a recurrent
            network gives the state at its own end.
        max_tokens: longer sentences are cut.
        dropout: share of the embedded words' numbers hidden while training, and of those between layers.
        word_dropout: share of the words replaced by `<unk>` while training.
        freeze: nothing trains, and the states are the trunk's output.

    Raises:
        ValueError: an unknown kind or pool, numbers out of range, or a setting without effect: "mean" has no hidden,
            layers, bidirectional or pool; a frozen encoder no dropout.
    """

    modality = "text"

    def __init__(
        self,
        words: list[str],
        kind: str = TextConfig.name,
        word_dim: int = TextConfig.word_dim,
        hidden: int = TextConfig.hidden,
        layers: int = TextConfig.layers,
        bidirectional: bool = TextConfig.bidirectional,
        pool: str = TextConfig.pool,
        max_tokens: int = TextConfig.max_tokens,
        dropout: float = TextConfig.dropout,
        word_dropout: float = TextConfig.word_dropout,
        freeze: bool = TextConfig.freeze,
    ) -> None:
        super().__init__()
        self.kind, self.pool = known(kind, TEXT_ENCODERS, "text encoder"), known(pool, POOLS, "pool")
        if not words:
            raise ValueError("words must hold at least one word: got none. Build a mm.vocabulary.Vocabulary first.")
        if min(word_dim, hidden, layers, max_tokens) < 1 or not (0 <= dropout < 1 and 0 <= word_dropout < 1):
            raise ValueError(
                "word_dim, hidden, layers and max_tokens must be at least 1, dropout and word_dropout in [0, 1): got "
                f"{word_dim}, {hidden}, {layers}, {max_tokens}, {dropout} and {word_dropout}."
            )
        without_effect = ["hidden", "layers", "bidirectional", "pool"] if kind == "mean" else []
        without_effect += ["dropout", "word_dropout"] if freeze else []
        reject_changed(self.config, without_effect, f"kind={kind!r} and freeze={freeze}")
        self.vocabulary = Vocabulary(words)
        self.max_tokens, self.word_dropout = max_tokens, word_dropout
        self.embedding = nn.Embedding(len(self.vocabulary), word_dim, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=WORD_STD)
        nn.init.zeros_(self.embedding.weight[PAD].detach())
        self.dropout = nn.Dropout(dropout)
        self.dim = self.vector_dim = word_dim if kind == "mean" else hidden
        self.halves = bidirectional and kind in ("gru", "lstm")
        self.body: nn.Module
        if kind == "mean":
            self.body, self.pool = nn.Identity(), "mean"
        elif kind == "transformer":
            self.body = Transformer(word_dim, hidden, layers, causal=not bidirectional, dropout=dropout)
        else:
            if self.halves and hidden % 2:
                raise ValueError(f"hidden must be even when both directions run: got {hidden}. Use {hidden + 1}.")
            self.body = TEXT_ENCODERS[kind](
                word_dim,
                hidden // 2 if self.halves else hidden,
                num_layers=layers,
                bidirectional=self.halves,
                dropout=dropout if layers > 1 else 0.0,  # between layers
                batch_first=True,
            )
        if freeze:
            self.freeze_modules([self.embedding, self.dropout, self.body])

    def prepare(self, source: str, view: int = 0) -> Tensor:
        """A sentence -> (L,) int64, the numbers of its first `max_tokens` words; unknown ones are `<unk>`.

        Raises:
            TypeError: not a string.
            ValueError: no word in it.
        """
        if not isinstance(source, str):
            raise TypeError(f"a sentence must be a string: got {type(source).__name__}.")
        return torch.tensor(self.vocabulary.encode(source)[: self.max_tokens])  # (L,)

    def unknown_words(self, text: str) -> list[str]:
        """The words of a sentence that the encoder takes for `<unk>`; `vocabulary.nearest` knows words like them."""
        return self.vocabulary.unknown(text)

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L) -> states (B, L, D), without gradient, when the encoder is frozen; else the identity."""
        if not self.frozen:
            return values, lengths
        with torch.no_grad():
            return self.states(values, full_lengths(values, lengths)), lengths

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """What `trunk` gave -> `Features`; the map is zero behind a sentence."""
        lengths = full_lengths(values, lengths)
        x = values.to(self.embedding.weight.dtype) if self.frozen else self.states(values, lengths)  # (B, L, D)
        mask = mask_from_lengths(lengths, x.shape[1])  # (B, L)
        x = x.masked_fill(~mask[..., None], 0.0)
        vector = pooled(x, mask, self.pool)  # (B, D)
        if self.halves and self.pool == "last":  # from right to left, a sentence ends at its first word
            half = self.dim // 2
            vector = torch.cat([vector[:, :half], x[:, 0, half:]], dim=1)  # (B, D)
        return Features(x, mask, vector, (x.shape[1],))

    def states(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, L), with (B,) real ones each -> (B, L, D); what stands behind a sentence is arbitrary."""
        mask = mask_from_lengths(lengths, tokens.shape[1])  # (B, L)
        if self.training and self.word_dropout:
            hidden = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout  # (B, L)
            tokens = tokens.masked_fill(hidden & mask, UNK)
        words = self.dropout(self.embedding(tokens))  # (B, L, word_dim)
        if self.kind == "mean":
            return words
        if self.kind == "transformer":
            return self.body(words, mask)
        # Packed: exact, and a quarter faster than running over the padding and turning sentences round by hand.
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.body(packed)[0], batch_first=True, total_length=tokens.shape[1])[0]  # (B, L, D)


def text_encoder(
    name: str = TextConfig.name,
    words: Iterable[str] = (),
    word_dim: int = TextConfig.word_dim,
    hidden: int = TextConfig.hidden,
    layers: int = TextConfig.layers,
    bidirectional: bool = TextConfig.bidirectional,
    pool: str = TextConfig.pool,
    word_vectors: str = TextConfig.word_vectors,
    max_tokens: int = TextConfig.max_tokens,
    dropout: float = TextConfig.dropout,
    word_dropout: float = TextConfig.word_dropout,
    freeze: bool = TextConfig.freeze,
) -> Encoder:
    """Build a text encoder.

    Args:
        name: a key of `TEXT_ENCODERS`; or "transformers:<name or local folder>", with its weights and tokenizer, of
            whose options only pool (here also "class": the first token), max_tokens and freeze apply.
        words: the vocabulary beyond the specials; not for transformers.
        word_dim: see `TextEncoder`.
        hidden: see `TextEncoder`.
        layers: see `TextEncoder`.
        bidirectional: see `TextEncoder`.
        pool: see `TextEncoder`.
        word_vectors: GloVe or word2vec text file that the embeddings start from, see `fill_embedding`.
        max_tokens: see `TextEncoder`.
        dropout: see `TextEncoder`.
        word_dropout: see `TextEncoder`.
        freeze: see `TextEncoder`.

    Raises:
        FileNotFoundError: there is no such file of word vectors.
        ValueError: vectors of another dimension, an option that would have no effect, or see `TextEncoder`.
    """
    family, _, model = name.partition(":")
    options = {
        "word_dim": word_dim,
        "hidden": hidden,
        "layers": layers,
        "bidirectional": bidirectional,
        "dropout": dropout,
        "word_dropout": word_dropout,
    }
    if family == "transformers" and model:
        from mm.encoders.transformers_models import transformers_text_encoder

        reject_changed(options | {"word_vectors": word_vectors}, [*options, "word_vectors"], name)
        return transformers_text_encoder(model, pool, max_tokens, freeze)
    encoder = TextEncoder(list(words), kind=name, pool=pool, max_tokens=max_tokens, freeze=freeze, **options)  # type: ignore[arg-type]
    if word_vectors:
        fill_embedding(encoder, word_vectors)
    return encoder


def fill_embedding(encoder: TextEncoder, path: str | Path) -> None:
    """Start an encoder's embeddings from a GloVe or word2vec text file.

    The vocabulary is lower case: where the file has a word with capitals only, the first such spelling is taken. Words
    that it lacks keep random vectors, scaled to the spread of those found; the counts are logged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: vectors of another dimension, a damaged line, or no word found.
    """
    words, weight = encoder.vocabulary.words, encoder.embedding.weight
    vectors, capitals = read_word_vectors(path, words, weight.shape[1])
    if not vectors:
        raise ValueError(
            f"{path} must have words of the vocabulary: it has none of {len(words)}. Is it another language?"
        )
    first = len(encoder.vocabulary) - len(words)
    with torch.no_grad():
        spread = torch.cat(list(vectors.values())).std(correction=0)
        weight.mul_(spread / WORD_STD)  # <pad> stays zero
        for number, word in enumerate(words, first):
            if word in vectors:
                weight[number] = vectors[word]
    logger.info("%s: %d of %d words found, %d only with capitals", path, len(vectors), len(words), capitals)


# Parts --------------------------------------------------------------------------------------------------------------


def position_code(length: int, dim: int, device: torch.device) -> Tensor:
    """Sines in the first half of the channels, cosines in the second (Vaswani et al. 2017, section 3.5): (L, dim)."""
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(LONGEST_WAVE) / half))  # (half,) radians a token
    angles = torch.arange(length, device=device)[:, None] * rates  # (L, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]  # (L, dim)


def pooled(states: Tensor, mask: Tensor, pool: str) -> Tensor:
    """One vector of each row's real places: their "mean" or "max", the "last", or the first, "class".

    Args:
        states: (B, L, D).
        mask: (B, L) bool, True = real: the first places of each row.
        pool: one of the four.

    Returns:
        (B, D).
    """
    if pool in ("mean", "max"):
        return (masked_mean if pool == "mean" else masked_max)(states, mask)  # (B, D)
    ends = mask.sum(dim=1) - 1 if pool == "last" else mask.new_zeros(len(mask), dtype=torch.int64)  # (B,)
    return states[torch.arange(len(states), device=states.device), ends]  # (B, D)


def full_lengths(values: Tensor, lengths: Tensor | None) -> Tensor:
    """`lengths`, or those of rows without padding: (B, L, ...) -> (B,)."""
    return torch.full((len(values),), values.shape[1], device=values.device) if lengths is None else lengths


def reject_changed(options: dict, names: Iterable[str], what: str) -> None:
    """Options that would have no effect must be at their defaults.

    Raises:
        ValueError: one is not.
    """
    changed = [name for name in names if options[name] != getattr(TextConfig, name)]
    if changed:
        raise ValueError(
            f"{changed} would have no effect with {what}: leave them at {[getattr(TextConfig, n) for n in changed]}."
        )
