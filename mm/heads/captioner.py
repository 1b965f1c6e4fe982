"""`Captioner`: `Features` of anything -> a sentence, with what each word cost and where the decoder looked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mm.features import Features
from mm.heads.decoder import Forced, Memory
from mm.heads.decoding import Written, beam_search, sample
from mm.heads.lstm_decoder import LSTMDecoder
from mm.heads.transformer_decoder import TransformerDecoder
from mm.naming import known
from mm.vocabulary import END, START, Vocabulary

DECODERS = ("lstm", "transformer")
MAX_LENGTH = 25  # tokens of a sentence, <end> among them: captions of Flickr8k and COCO rarely have more
BEAM = 5  # sentences under way
LENGTH_RULE = "wu:0.7"  # by which sentences are compared: the sum alone makes them short, the mean long


class Caption(NamedTuple):
    """One sentence about one input.

    Attributes:
        text: the words with spaces between them.
        words: the same one by one, "<end>" last if the sentence is finished.
        log_probs: (L,) float32 of each of the words.
        attention: (L, N) where the decoder looked before each word; rows sum to 1. None without attention.
        grid: the N places as laid out; padding that the batch had behind the input is not among them.
        score: what the search compared sentences by.
    """

    text: str
    words: list[str]
    log_probs: Tensor
    attention: Tensor | None
    grid: tuple[int, ...]
    score: float


@dataclass
class CaptionerConfig:
    """The decoder of a captioner."""

    decoder: Literal["lstm", "transformer"] = "lstm"  # see mm.heads
    attention: Literal["none", "soft", "hard"] = "soft"  # Show and Tell; Show, Attend and Tell: mean or drawn place
    ask: Literal["state", "word"] = "word"  # attention asks with the state (Xu et al.), or with the last word too; lstm
    gate: Literal["none", "scalar", "vector"] = "scalar"  # how much of what is seen comes through; lstm only
    deep_output: bool = True  # previous word and what is seen speak in the next word too; lstm only
    see_dim: int = 0  # places are projected to so many numbers first, once per input; 0 = as they are; lstm only
    positions: bool = True  # a code of where a place lies is added to it; lstm only
    word_dim: int = 256  # numbers of a word embedding; of a transformer it is hidden
    hidden: int = 512  # numbers of the decoder's state
    dropout: float = 0.5  # share of what the words and the output read hidden while training
    hard_test: Literal["argmax", "expected"] = "argmax"  # what hard attention does outside of training
    hard_expected: float = 0.5  # share of the words for which hard attention trains on the weighted mean
    blocks: int = 2  # of the transformer
    heads: int = 8  # of the transformer


class Captioner(nn.Module):
    """A decoder of sentences and the words that it knows.

    Args:
        dim: D of the map of the features.
        vector_dim: D_v of their vector.
        words: of the vocabulary, as `Vocabulary.words`.
        settings: of the decoder.

    Attributes:
        vocabulary: of the words.
        baseline: () moving average of a sentence's log-probability, for hard attention (Xu et al. 2015, eq. 12).

    Raises:
        ValueError: an unknown choice, or one that the chosen decoder does not have.
    """

    decoder: LSTMDecoder | TransformerDecoder
    baseline: Tensor

    def __init__(self, dim: int, vector_dim: int, words: Iterable[str], settings: CaptionerConfig | None = None):
        super().__init__()
        chosen = settings or CaptionerConfig()
        self.dim, self.vector_dim, self.vocabulary = dim, vector_dim, Vocabulary(words)
        self.looks = chosen.attention != "none"
        known(chosen.decoder, DECODERS, "decoder")
        if not 0 <= chosen.dropout < 1 or not 0 <= chosen.hard_expected <= 1:
            raise ValueError(
                f"dropout must be in [0, 1) and hard_expected in 0..1: got {chosen.dropout} and {chosen.hard_expected}."
            )
        if chosen.decoder == "lstm":
            self.decoder = LSTMDecoder(
                dim,
                vector_dim,
                len(self.vocabulary),
                attention=chosen.attention,
                ask=chosen.ask,
                gate=chosen.gate,
                deep_output=chosen.deep_output,
                see_dim=chosen.see_dim,
                positions=chosen.positions,
                word_dim=chosen.word_dim,
                hidden=chosen.hidden,
                dropout=chosen.dropout,
                hard_test=chosen.hard_test,
                hard_expected=chosen.hard_expected,
            )
        elif chosen.attention != "soft":
            raise ValueError(f"a transformer attends softly: got attention={chosen.attention!r}. Use decoder=lstm.")
        else:
            self.decoder = TransformerDecoder(
                dim,
                len(self.vocabulary),
                hidden=chosen.hidden,
                blocks=chosen.blocks,
                heads=chosen.heads,
                dropout=chosen.dropout,
            )
        self.register_buffer("baseline", torch.zeros(()))

    def encode(self, sentence: str, max_length: int = MAX_LENGTH) -> Tensor:
        """(L,) int64: <start>, the words of a sentence, at most `max_length - 1` of them, <end>.

        Raises:
            ValueError: the sentence has no word.
        """
        return encoded(sentence, self.vocabulary, max_length)

    def forward(self, features: Features, tokens: Tensor, lengths: Tensor, sampling: float = 0.0) -> Forced:
        """What the decoder says of known sentences: K for each of B inputs, see `LSTMDecoder.forced`."""
        return self.decoder.forced(tokens, lengths, self.memory(features), sampling)

    def memory(self, features: Features) -> Memory:
        """What the decoder keeps of B inputs.

        Raises:
            ValueError: the features are of another encoder than this captioner was made for.
        """
        wanted = (self.dim, self.vector_dim)
        if (features.map.shape[-1], features.vector.shape[-1]) != wanted:
            raise ValueError(
                f"features must have maps of {wanted[0]} and vectors of {wanted[1]} numbers: got "
                f"{features.map.shape[-1]} and {features.vector.shape[-1]}. Use the encoder this captioner was "
                "trained with."
            )
        return self.decoder.memory(features.to(self.baseline.device))

    @torch.no_grad()
    def caption(
        self,
        features: Features,
        beam: int = BEAM,
        length: str = LENGTH_RULE,
        min_length: int = 1,
        max_length: int = MAX_LENGTH,
        no_repeat: int = 0,
    ) -> list[Caption]:
        """A sentence for each of B inputs by beam search, see `mm.heads.decoding.beam_search`; call it in eval mode."""
        memory = self.memory(features)
        found = beam_search(
            self.decoder.step,
            self.decoder.start(memory),
            memory,
            beam=beam,
            max_length=max_length,
            length=length,
            min_length=min_length,
            no_repeat=no_repeat,
        )
        return self.told(found, features)

    @torch.no_grad()
    def sample(
        self,
        features: Features,
        count: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        max_length: int = MAX_LENGTH,
    ) -> list[list[Caption]]:
        """`count` sentences drawn for each of B inputs, see `mm.heads.decoding.sample`; call it in eval mode."""
        memory = self.memory(features)
        drawn = sample(
            self.decoder.step,
            self.decoder.start(memory),
            memory,
            count=count,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            max_length=max_length,
        )
        columns = zip(*drawn, strict=True)  # sentence k of every input
        return [list(row) for row in zip(*(self.told(column, features) for column in columns), strict=True)]

    def set_uniform(self, uniform: bool) -> None:
        """Look at all places alike from now on, or as the weights say: the control of what attention gives."""
        self.decoder.uniform = uniform

    def told(self, written: Sequence[Written], features: Features) -> list[Caption]:
        """One sentence about each of B inputs, in words and on the CPU."""
        columns = features.mask.view(len(features.mask), -1, features.grid[-1])  # (B, rows, columns)
        captions = []
        for one, real in zip(written, columns.any(dim=1).sum(dim=1).tolist(), strict=True):
            tokens, grid = one.tokens.tolist(), (*features.grid[:-1], real)
            words = [self.vocabulary.decode([token]) or "<end>" for token in tokens]
            attention = one.attention
            if attention is not None:
                attention = attention.float().cpu().unflatten(1, features.grid)[..., :real].flatten(1)  # (L, N)
            text, log_probs = self.vocabulary.decode(tokens), one.log_probs.float().cpu()  # (L,)
            captions.append(Caption(text, words, log_probs, attention, grid, one.score))
        return captions


def encoded(sentence: str, vocabulary: Vocabulary, max_length: int) -> Tensor:
    """What `Captioner.encode` gives, without a captioner: loading processes have none."""
    return torch.tensor([START, *vocabulary.encode(sentence)[: max_length - 1], END])  # (L,)
