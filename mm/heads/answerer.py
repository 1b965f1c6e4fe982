"""`Answerer`: `Features` of a question and of whatever it is about -> scores of the answers, and where it looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mm.features import WAVES, Features, masked_mean, place_code
from mm.heads.fusions import build_fusion
from mm.heads.looking import (
    Asked,
    Attention,
    Inner,
    Looked,
    Normed,
    Whereabouts,
    attention_and_layers,
    build_attention,
)


class Answer(NamedTuple):
    """The answer to one question.

    Attributes:
        text: the most probable answer.
        top: the most probable answers with their probabilities, the best first.
        attention: {modality: (G, N)} where the question looked, once or several times; a look's weights over all
            modalities sum to 1. Empty without attention.
        grids: {modality: how its N places are laid out}.
    """

    text: str
    top: list[tuple[str, float]]
    attention: dict[str, Tensor]
    grids: dict[str, tuple[int, ...]]


class Scored(NamedTuple):
    """What the head says of Q questions.

    Attributes:
        logits: (Q, K) of the answers.
        attention: (Q, G, N) over the places of all modalities behind one another; None where nothing looks.
        places: {modality: N_m}, in the order in which they lie along N.
    """

    logits: Tensor
    attention: Tensor | None
    places: dict[str, int]


@dataclass
class AnswererConfig:
    """The head that answers."""

    dim: int = 256  # numbers of what was seen, and of the question
    attention: str = "topdown"  # none, topdown:<looks>, san:<layers> or mcan:<layers>: see mm.heads.looking
    fusion: Literal["mul", "concat", "mcb", "mfb", "mutan", "ban"] = "mul"  # see mm.heads.fusions
    positions: bool = True  # a code of where a place lies is added to it, and where questions looked is read
    hidden: int = 512  # of the classifier; 0 = answers are read from what was fused by one linear layer
    dropout: float = 0.1  # share of the numbers hidden while training, before the classifier and in attention


class Answerer(nn.Module):
    """Scores of the answers to questions about anything that has `Features`.

    Places of all modalities are put into one space and laid behind one another, so that a question looks at a picture,
    a sound or both with the same weights.

    Args:
        contents: {modality: (D, D_v)} of the features that questions may be about; {} = answer from the question alone.
        question: (D, D_v) of the question's features.
        answers: that it chooses from.
        settings: of the head.

    Raises:
        ValueError: an unknown attention or fusion, no answer, or a number out of its range.
    """

    def __init__(
        self,
        contents: Mapping[str, tuple[int, int]],
        question: tuple[int, int],
        answers: Sequence[str],
        settings: AnswererConfig,
    ):
        super().__init__()
        if not answers:
            raise ValueError("an answerer needs answers to choose from: got none.")
        dim, dropout = settings.dim, settings.dropout
        if dim < 1 or settings.hidden < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "head.dim must be at least 1, head.hidden at least 0, head.dropout in [0, 1): got "
                f"{dim}, {settings.hidden} and {dropout}."
            )
        self.answers, self.dim = list(answers), dim
        attention, layers = attention_and_layers(settings.attention)
        bilinear = settings.fusion == "ban"  # looks itself, at words and places
        by_places = attention != "none" or bilinear
        self.of_places = nn.ModuleDict()
        self.of_vector = nn.ModuleDict()
        self.position = nn.ModuleDict()
        for modality, (width, vector_width) in contents.items():
            if by_places:
                self.of_places[modality] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
                if settings.positions:
                    self.position[modality] = nn.Linear(4 * WAVES, dim, bias=False)
            else:
                self.of_vector[modality] = nn.Sequential(nn.LayerNorm(vector_width), nn.Linear(vector_width, dim))
        by_words = bool(contents) and (attention == "mcan" or bilinear or (attention == "topdown" and layers > 1))
        looks = {"none": 0, "mcan": 0 if bilinear else 1}.get(attention, layers)
        where = bool(contents) and looks > 0 and settings.positions
        asking = attention in ("san", "mcan") or (attention == "topdown" and layers == 1)  # with the whole question
        whole = not contents or not bilinear or asking or where
        self.of_words = nn.Linear(question[0], dim) if by_words else None
        self.of_question = Normed(question[1], dim) if whole else None
        self.attention: Attention | None = None
        self.fusion: nn.Module | None = None
        if contents:  # else it is question-only
            self.attention = build_attention(settings.attention, dim, dropout, not bilinear)
            self.fusion = build_fusion(settings.fusion, dim, dropout)
        self.whereabouts = Whereabouts(contents, looks, dim) if where else None
        width = 2 * dim if where else dim
        stages: list[nn.Module] = [nn.Dropout(dropout)]
        if settings.hidden:
            stages += [nn.Linear(width, settings.hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.classify = nn.Sequential(*stages, nn.Linear(settings.hidden or width, len(self.answers)))

    def forward(
        self,
        question: Features,
        contents: Mapping[str, Features],
        about: Mapping[str, Tensor] | None = None,
        inner: Inner | None = None,
    ) -> Scored:
        """Scores of all answers.

        Args:
            question: of Q questions.
            contents: {modality: of b_m inputs}; a modality that is not there is one that no question is about.
            about: {modality: (Q,) int64: which input each question is about, -1 = none}; left out, question q is about
                input q.
            inner: an empty dict, which takes up every attention that does not go from the question to places: weights
                of each layer, whose rows sum to 1. Of topdown that looks more than once "looks_to_words" (Q, G, L); of
                mcan "words_to_words" (Q, L + 1, L + 1), where the last is the whole question, "places_to_words",
                "places_to_places" from the second layer on, and "words"; of ban "words_and_places" (Q, L, N), which
                sums to 1 over both.
        """
        vector, words = question.vector, question.map
        asked = vector.new_zeros(len(vector), self.dim) if self.of_question is None else self.of_question(vector)
        if self.fusion is None:
            return Scored(self.classify(asked), None, {})
        rows = about or {name: torch.arange(len(asked), device=asked.device) for name in contents}
        if not self.of_places:
            looked = Looked.of_vectors(self.whole(asked, contents, rows), asked)
            return Scored(self.classify(self.fusion(looked)[0]), None, {})
        words = words if self.of_words is None else self.of_words(words)  # (Q, L, dim)
        looked, codes = self.look(Asked(asked, words, question.mask), contents, rows, inner)
        fused, alpha = self.fusion(looked, inner)  # (Q, dim), (Q, G', N') of a fusion that looks for itself
        if alpha is None or not looked.all_places:
            alpha = looked.attention
        else:
            alpha = torch.cat([looked.attention, alpha], dim=1)  # (Q, G, N)
        if self.whereabouts:
            fused = torch.cat([fused, self.whereabouts(looked.attention, codes, asked)], dim=1)  # (Q, 2 dim)
        places = {name: code.shape[1] for name, code in codes.items()}
        return Scored(self.classify(fused), alpha, places)

    def whole(self, asked: Tensor, contents: Mapping[str, Features], rows: Mapping[str, Tensor]) -> Tensor:
        """(Q, dim) the vectors of what each question is about, added up."""
        total = torch.zeros_like(asked)
        for name, features in contents.items():
            vectors = self.of_vector[name](features.vector)[rows[name].clamp_min(0)]  # (Q, dim)
            total = total + vectors * (rows[name] >= 0)[:, None]  # (Q, dim)
        return total

    def look(
        self,
        asked: Asked,
        contents: Mapping[str, Features],
        rows: Mapping[str, Tensor],
        inner: Inner | None,
    ) -> tuple[Looked, dict[str, Tensor]]:
        """What questions see at the places of what they are about, and the codes of those: (Q, N_m, 4 WAVES)."""
        parts, masks, codes = [], [], {}
        for name, features in contents.items():
            places, code = self.of_places[name](features.map), place_code(features)  # (b, N_m, dim), (b, N_m, 4 WAVES)
            if name in self.position:
                places = places + self.position[name](code.to(places.dtype))  # (b, N_m, dim)
            prepared = self.attention.prepare(places, features.mask) if self.attention else (places,)
            of = rows[name].clamp_min(0)  # (Q,)
            parts.append([tensor[of] for tensor in prepared])
            masks.append(features.mask[of] & (rows[name] >= 0)[:, None])  # (Q, N_m)
            codes[name] = code[of]  # (Q, N_m, 4 WAVES)
        if not parts:  # no question is about anything: they all see the same padding
            place = asked.vector.new_zeros(1, 1, self.dim)  # (1, 1, dim)
            mask = torch.zeros(len(asked.vector), 1, dtype=torch.bool, device=place.device)  # (Q, 1)
            prepared = self.attention.prepare(place, mask[:1]) if self.attention else (place,)
            parts, masks = [[tensor.expand(len(mask), -1, -1) for tensor in prepared]], [mask]
        together = tuple(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))  # (Q, N, ...)
        mask = torch.cat(masks, dim=1)  # (Q, N)
        if self.attention is None:
            nowhere = together[0].new_zeros(len(mask), 0, mask.shape[1])  # (Q, 0, N)
            return Looked(masked_mean(together[0], mask), asked, together[0], mask, nowhere), codes
        return self.attention(together, mask, asked, inner), codes
