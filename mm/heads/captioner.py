"""`Captioner`: `Features` of anything -> a sentence, with what each word cost and where the decoder looked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mm.features import Features
from mm.heads.decoding import Written, beam_search, sample
from mm.heads.lstm_decoder import Forced, LSTMDecoder, Memory
from mm.heads.transformer_decoder import TransformerDecoder
from mm.naming import known
from mm.vocabulary import END, START, Vocabulary

DECODERS = ("lstm", "transformer")
MAX_LENGTH = 25  # tokens of a sentence, <end> among them: captions of Flickr8k and COCO rarely have more
BEAM = 5  # sentences under way


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


class Captioner(nn.Module):
    """A decoder of sentences and the words that it knows.

    Args:
        dim: D of the map of the features.
        vector_dim: D_v of their vector.
        words: of the vocabulary, as `Vocabulary.words`.
        decoder: "lstm", see `LSTMDecoder`, or "transformer", see `TransformerDecoder`.
        attention, gate, deep_output, word_dim, hard_test, hard_expected: of the LSTM decoder.
        hidden: numbers of the decoder's state.
        blocks, heads: of the transformer decoder.
        dropout: share hidden while training.

    Raises:
        ValueError: an unknown choice, or one that the chosen decoder does not have.
    """

    decoder: LSTMDecoder | TransformerDecoder
    baseline: Tensor

    def __init__(
        self,
        dim: int,
        vector_dim: int,
        words: Iterable[str],
        *,
        decoder: str = "lstm",
        attention: str = "soft",
        gate: str = "scalar",
        deep_output: bool = True,
        see_dim: int = 0,
        positions: bool = True,
        word_dim: int = 256,
        hidden: int = 512,
        dropout: float = 0.5,
        hard_test: str = "argmax",
        hard_expected: float = 0.5,
        blocks: int = 2,
        heads: int = 8,
    ):
        super().__init__()
        self.vocabulary = Vocabulary(words)
        self.config: dict[str, Any] = {
            "dim": dim,
            "vector_dim": vector_dim,
            "words": self.vocabulary.words,
            "decoder": known(decoder, DECODERS, "decoder"),
            "attention": attention,
            "gate": gate,
            "deep_output": deep_output,
            "see_dim": see_dim,
            "positions": positions,
            "word_dim": word_dim,
            "hidden": hidden,
            "dropout": dropout,
            "hard_test": hard_test,
            "hard_expected": hard_expected,
            "blocks": blocks,
            "heads": heads,
        }
        if not 0 <= dropout < 1 or not 0 <= hard_expected <= 1:
            raise ValueError(f"dropout must be in [0, 1) and hard_expected in 0..1: got {dropout} and {hard_expected}.")
        if decoder == "lstm":
            self.decoder = LSTMDecoder(
                dim,
                vector_dim,
                len(self.vocabulary),
                attention=attention,
                gate=gate,
                deep_output=deep_output,
                see_dim=see_dim,
                positions=positions and attention != "none",
                word_dim=word_dim,
                hidden=hidden,
                dropout=dropout,
                hard_test=hard_test,
                hard_expected=hard_expected,
            )
        elif attention != "soft":
            raise ValueError(f"the transformer decoder attends softly: got attention={attention!r}. Use decoder=lstm.")
        else:
            self.decoder = TransformerDecoder(
                dim, len(self.vocabulary), hidden=hidden, blocks=blocks, heads=heads, dropout=dropout
            )
        # Moving average of a sentence's log-probability: the baseline of hard attention (Xu et al. 2015, eq. 12).
        self.register_buffer("baseline", torch.zeros(()))

    def encode(self, sentence: str, max_length: int = MAX_LENGTH) -> Tensor:
        """(L,) int64: <start>, the words of a sentence, at most `max_length - 1` of them, <end>.

        Raises:
            ValueError: the sentence has no word.
        """
        return torch.tensor([START, *self.vocabulary.encode(sentence)[: max_length - 1], END])

    def forward(self, features: Features, tokens: Tensor, lengths: Tensor, sampling: float = 0.0) -> Forced:
        """What the decoder says of known sentences: K for each of B inputs, see `LSTMDecoder.forced`."""
        return self.decoder.forced(tokens, lengths, self.memory(features), sampling)

    def memory(self, features: Features) -> Memory:
        """What the decoder keeps of B inputs.

        Raises:
            ValueError: the features are of another encoder than this captioner was made for.
        """
        wanted = (self.config["dim"], self.config["vector_dim"])
        if (features.map.shape[-1], features.vector.shape[-1]) != wanted:
            raise ValueError(
                f"features must have maps of {wanted[0]} and vectors of {wanted[1]} numbers: got "
                f"{features.map.shape[-1]} and {features.vector.shape[-1]}. Use the encoder this captioner was "
                "trained with."
            )
        return self.decoder.memory(features)

    @torch.no_grad()
    def caption(
        self,
        features: Features,
        beam: int = BEAM,
        length: str = "avg",
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

    @property
    def looks(self) -> bool:
        """Whether it has attention."""
        return self.config["attention"] != "none"

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
