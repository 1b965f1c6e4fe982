"""Where a question looks: attention over the places of whatever it is about, and what is seen there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import WAVES, masked_mean, masked_softmax
from mm.naming import known

ATTENTIONS = ("none", "san", "topdown", "mcan")
LAYERS = 2  # of san and mcan, where no number is said
HEAD_DIM = 32  # channels of an attention head of mcan
LEAN = 3.0  # of the first and the last look to the ends of a question, as a difference of scores from its middle


Inner: TypeAlias = dict[str, list[Tensor]]  # {what looks at what: weights of each layer}


class Asked(NamedTuple):
    """Q questions.

    Attributes:
        vector: (Q, D) each as a whole.
        words: (Q, L, D) its words.
        mask: (Q, L) bool, True = a word.
    """

    vector: Tensor
    words: Tensor
    mask: Tensor


class Looked(NamedTuple):
    """Questions after they have looked.

    Attributes:
        vector: (Q, D) what was seen, in one vector.
        asked: the questions, which looking may have made more precise.
        places: (Q, N', D) what a fusion that looks for itself may look at, and mask: (Q, N').
        mask: see places.
        attention: (Q, G, N) where it looked, once or several times; rows sum to 1, or are 0 where there is no place.
        all_places: `places` are those of the input; else what was seen, as one place.
    """

    vector: Tensor
    asked: Asked
    places: Tensor
    mask: Tensor
    attention: Tensor
    all_places: bool = True

    @classmethod
    def of_vectors(cls, vector: Tensor, question: Tensor) -> Looked:
        """Of two vectors (Q, D) alone: nothing was looked at."""
        nothing = vector.new_zeros(len(vector), 0, vector.shape[1])  # (Q, 0, D)
        none = nothing[..., 0].bool()  # (Q, 0)
        return cls(vector, Asked(question, nothing, none), nothing, none, nothing)


def attention_and_layers(choice: str) -> tuple[str, int]:
    """ "san:3" -> ("san", 3); the number may be left out.

    Raises:
        ValueError: an unknown attention, a number below 1, or one where none belongs.
    """
    name, colon, number = choice.partition(":")
    known(name, ATTENTIONS, "attention")
    if not colon:
        return name, LAYERS if name in ("san", "mcan") else 1
    if name == "none" or not number.isdigit() or int(number) < 1:
        raise ValueError(
            f"attention must be none, topdown:<looks>, san:<layers> or mcan:<layers>, 1 or more: got {choice!r}."
        )
    return name, int(number)


class Normed(nn.Sequential):
    """A linear layer, normalised to mean 0 and deviation 1."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(nn.Linear(inputs, outputs), nn.LayerNorm(outputs))


class Stacked(nn.Module):
    """Stacked attention (Yang et al. 2016, eq. 15-22): what was seen joins the question, which looks again.

    Args:
        dim: D of places and question.
        layers: times it looks.
        dropout: share of the numbers of its hidden layer hidden while training.
    """

    def __init__(self, dim: int, layers: int, dropout: float):
        super().__init__()
        self.layers = layers
        self.of_places = nn.Linear(dim, layers * dim, bias=False)
        self.of_question = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.score = nn.ModuleList(nn.Linear(dim, 1, bias=False) for _ in range(layers))  # a bias would move all alike
        self.dropout = nn.Dropout(dropout)

    def prepare(self, places: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """What can be said of the places (b, N, D) once for all questions: themselves and their keys."""
        return places, self.of_places(places)  # (b, N, D), (b, N, layers * D)

    def forward(self, prepared: tuple[Tensor, ...], mask: Tensor, asked: Asked, inner: Inner | None = None) -> Looked:
        """Each of (Q, ...): look `layers` times."""
        places, keys = prepared
        question = seen = asked.vector  # (Q, D)
        maps = []
        for layer, key in enumerate(keys.chunk(self.layers, dim=-1)):
            if layer:
                question = question + seen  # (Q, D)
            hidden = torch.tanh(key + self.of_question[layer](question)[:, None])  # (Q, N, D)
            alpha = masked_softmax(self.score[layer](self.dropout(hidden)).squeeze(-1), mask)  # (Q, N)
            seen = torch.einsum("qn,qnd->qd", alpha.to(places.dtype), places)  # (Q, D)
            maps.append(alpha)
        return one_place(seen, asked._replace(vector=question), torch.stack(maps, dim=1))


class TopDown(nn.Module):
    """Looks from the question down (Anderson et al. 2018): a place's score is read from its product with the question.

    The product stands for their gated tanh over both, as in the model that most others are measured against
    (github.com/hengyuan-hu/bottom-up-attention-vqa): keys are then made once an input. Both factors are normalised, so
    that scores differ from the start.

    One look asks with the whole question. Several ask with words of their own, as Yu et al. 2018 (MAttNet) read
    phrases: which words are worth asking with is learned for all looks together, and each leans to words of another
    part of the question. Else all looks of "is the red star left of the blue circle?" see the same mixture of things.

    Args:
        dim: D of places, words and question.
        looks: at once; what they see becomes one vector.
        dropout: share of the numbers that it asks with hidden while training.
    """

    def __init__(self, dim: int, looks: int, dropout: float):
        super().__init__()
        self.of_places, self.score = Normed(dim, dim), nn.Linear(dim, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        if looks == 1:
            self.of_question = Normed(dim, dim)
        else:
            self.pick, self.of_words = nn.Linear(dim, 1, bias=False), Normed(dim, dim)
            self.lean = nn.Parameter(torch.linspace(-LEAN, LEAN, looks))
            self.together = nn.Linear(looks * dim, dim)
        self.looks = looks

    def prepare(self, places: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """What can be said of the places (b, N, D) once for all questions: themselves and their keys."""
        return places, self.of_places(places)  # (b, N, D) each

    def forward(self, prepared: tuple[Tensor, ...], mask: Tensor, asked: Asked, inner: Inner | None = None) -> Looked:
        """Each of (Q, ...): look."""
        places, keys = prepared
        asking = self.phrases(asked, inner) if self.looks > 1 else self.of_question(asked.vector)[:, None]  # (Q, G, D)
        scores = torch.einsum("qgd,qnd->qgn", self.dropout(asking) * self.score.weight, keys)
        alpha = masked_softmax(scores, mask[:, None])  # (Q, G, N)
        seen = torch.einsum("qgn,qnd->qgd", alpha.to(places.dtype), places).flatten(1)  # (Q, G D)
        return one_place(self.together(seen) if self.looks > 1 else seen, asked, alpha)

    def phrases(self, asked: Asked, inner: Inner | None) -> Tensor:
        """What each look asks with: (Q, G, D), a weighted mean of the words."""
        last = (asked.mask.sum(dim=1, keepdim=True) - 1).clamp_min(1)  # (Q, 1)
        order = torch.arange(asked.mask.shape[1], device=last.device) / last * 2 - 1  # (Q, L) from -1 to 1
        scores = self.pick(asked.words).transpose(1, 2) + self.lean[:, None] * order[:, None]  # (Q, G, L)
        share = masked_softmax(scores, asked.mask[:, None])  # (Q, G, L)
        if inner is not None:
            inner.setdefault("looks_to_words", []).append(share)
        return self.of_words(torch.einsum("qgl,qld->qgd", share.to(asked.words.dtype), asked.words))  # (Q, G, D)


class Whereabouts(nn.Module):
    """Where questions looked, times the question: the codes of place that each look saw on average.

    They lie among what was seen, too, where colours and shapes, once learned, drown them: "left of" stays at chance.

    Args:
        modalities: that have places.
        looks: G.
        dim: D of the question, and of the result.
    """

    def __init__(self, modalities: Iterable[str], looks: int, dim: int):
        super().__init__()
        numbers = looks * (4 * WAVES + 1)  # the code, and the share of the look that the modality had
        self.of_codes = nn.ModuleDict({name: nn.Linear(numbers, dim, bias=False) for name in modalities})
        self.norm, self.of_question = nn.LayerNorm(dim), Normed(dim, dim)

    def forward(self, attention: Tensor, codes: Mapping[str, Tensor], question: Tensor) -> Tensor:
        """Of attention (Q, G, N), codes {modality: (Q, N_m, 4 WAVES)} along N, question (Q, D) -> (Q, D)."""
        total, start = torch.zeros_like(question), 0
        for name, code in codes.items():
            share = attention[..., start : start + code.shape[1]]  # (Q, G, N_m)
            mean = torch.einsum("qgn,qnc->qgc", share, code.to(share.dtype))  # (Q, G, 4 WAVES)
            total = total + self.of_codes[name](torch.cat([mean, share.sum(-1, keepdim=True)], dim=-1).flatten(1))
            start += code.shape[1]
        return self.norm(total) * self.of_question(question)  # (Q, D)


class CoAttention(nn.Module):
    """Deep co-attention (Yu et al. 2019, encoder-decoder): words attend to words, places to places and to words.

    Normalisation stands before each layer (Xiong et al. 2020), which trains without a warm-up to speak of. The first
    look of places at places has not met the question and is done once an input, not once a question.

    Args:
        dim: D of places and words.
        layers: of the encoder of words and of the decoder of places.
        dropout: share of what a layer adds hidden while training.
        reduce: make one vector of the places and one of the words; else both are means, for a fusion that looks itself.
    """

    def __init__(self, dim: int, layers: int, dropout: float, reduce: bool = True):
        super().__init__()
        self.encode = nn.ModuleList(Attend(dim, dropout) for _ in range(layers))
        self.encode_feed = nn.ModuleList(Feed(dim, dropout) for _ in range(layers))
        self.among = nn.ModuleList(Attend(dim, dropout) for _ in range(layers))
        self.guided = nn.ModuleList(Attend(dim, dropout, elsewhere=True) for _ in range(layers))
        self.feed = nn.ModuleList(Feed(dim, dropout) for _ in range(layers))
        self.norm_words, self.norm_places = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.reduce = nn.ModuleList(Reduce(dim, dropout) for _ in range(2 * reduce))  # of words, of places

    def prepare(self, places: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The first look of the places (b, N, D) at one another."""
        return (self.among[0](places, places, mask),)  # (b, N, D)

    def forward(self, prepared: tuple[Tensor, ...], mask: Tensor, asked: Asked, inner: Inner | None = None) -> Looked:
        """Each of (Q, ...): words in themselves, then places guided by them, then each in one vector."""
        (places,) = prepared
        words = torch.cat([asked.words, asked.vector[:, None]], dim=1)  # (Q, L + 1, D) the whole beside its words
        word_mask = torch.cat([asked.mask, asked.mask.new_ones(len(words), 1)], dim=1)  # (Q, L + 1)
        for attend, feed in zip(self.encode, self.encode_feed, strict=True):
            words = feed(attend(words, words, word_mask, kept(inner, "words_to_words")))  # (Q, L + 1, D)
        words = self.norm_words(words)
        for layer, (among, guided, feed) in enumerate(zip(self.among, self.guided, self.feed, strict=True)):
            if layer:
                places = among(places, places, mask, kept(inner, "places_to_places"))  # (Q, N, D)
            places = feed(guided(places, words, word_mask, kept(inner, "places_to_words")))  # (Q, N, D)
        places = self.norm_places(places)
        if not self.reduce:
            means = masked_mean(places, mask), masked_mean(words, word_mask)  # (Q, D) each
            nowhere = mask.new_zeros(len(mask), 0, mask.shape[1]).float()  # (Q, 0, N)
            return Looked(means[0], Asked(means[1], words, word_mask), places, mask, nowhere)
        of_words, of_places = self.reduce
        question, of_each = of_words(words, word_mask)
        if inner is not None:
            inner.setdefault("words", []).append(of_each)
        vector, alpha = of_places(places, mask)
        return Looked(vector, Asked(question, words, word_mask), places, mask, alpha[:, None])


class Attend(nn.Module):
    """Multi-head attention behind a LayerNorm, added to what comes in: among themselves, or `elsewhere`."""

    def __init__(self, dim: int, dropout: float, elsewhere: bool = False):
        super().__init__()
        self.heads = max(1, dim // HEAD_DIM)
        if dim % self.heads:
            raise ValueError(f"dim must be a multiple of its {self.heads} heads: got {dim}. Use one of {HEAD_DIM}.")
        self.norm, self.norm_at = nn.LayerNorm(dim), nn.LayerNorm(dim) if elsewhere else None
        self.query, self.both, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, at: Tensor, mask: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """Each of x (Q, N, D) looks at those of `at` (Q, M, D) that `mask` (Q, M) lets it, if any -> (Q, N, D).

        `weights` takes up where: (Q, N, M), on average over the heads.
        """
        normed = self.norm(x)  # (Q, N, D)
        seen = self.norm_at(at) if self.norm_at else normed  # (Q, M, D)
        q = self.query(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (Q, heads, N, D / heads)
        k, v = self.both(seen).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (Q, heads, M, D / heads)
        some = mask.any(dim=1)  # (Q,)
        allowed = (mask | ~some[:, None])[:, None, None]  # (Q, 1, 1, M)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (Q, heads, N, D / heads)
        if weights is not None:
            scores = torch.einsum("qhnd,qhmd->qhnm", q.float(), k.float()) / q.shape[-1] ** 0.5
            weights.append(masked_softmax(scores, mask[:, None, None]).mean(dim=1))  # (Q, N, M)
        out = self.dropout(self.out(out.transpose(1, 2).flatten(2)))  # (Q, N, D)
        return x + out * some[:, None, None]  # (Q, N, D)


class Feed(nn.Module):
    """Two linear layers behind a LayerNorm, added to what comes in."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(Q, N, D) -> (Q, N, D)."""
        return x + self.layers(x)


class Reduce(nn.Module):
    """Many vectors to their weighted mean, with weights of their own (Yu et al. 2019, eq. 10-11)."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 1, bias=False))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, N, D), (Q, N) -> (Q, D) and the weights (Q, N)."""
        alpha = masked_softmax(self.score(x).squeeze(-1), mask)  # (Q, N)
        return torch.einsum("qn,qnd->qd", alpha.to(x.dtype), x), alpha


def kept(inner: Inner | None, name: str) -> list[Tensor] | None:
    """The list that takes up weights of that name; None where nobody asks for them."""
    return None if inner is None else inner.setdefault(name, [])


def one_place(seen: Tensor, asked: Asked, attention: Tensor) -> Looked:
    """What a look gave in one vector (Q, D), which is all that a fusion that looks for itself can look at then."""
    mask = (attention.sum(dim=(1, 2)) > 0)[:, None]  # (Q, 1)
    return Looked(seen, asked, seen[:, None], mask, attention, all_places=False)


Attention: TypeAlias = Stacked | TopDown | CoAttention


def build_attention(choice: str, dim: int, dropout: float, reduce: bool = True) -> Attention | None:
    """What `choice` names; None for "none". `reduce` is False for a fusion that looks itself."""
    name, layers = attention_and_layers(choice)
    makers: dict[str, Callable[[], Attention | None]] = {
        "none": lambda: None,
        "san": lambda: Stacked(dim, layers, dropout),
        "topdown": lambda: TopDown(dim, layers, dropout),
        "mcan": lambda: CoAttention(dim, layers, dropout, reduce),
    }
    return makers[name]()
