"""The model that answers: encoders of the question and of what it is about, and the answerer over their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mm import encoders
from mm.data import Cache, Inputs
from mm.data.gallery import read
from mm.data.item import Source
from mm.features import Features, pad
from mm.heads.answerer import Answer, Answerer, Scored
from mm.vocabulary import tokenize

TOP = 5  # answers that are told


class AnswerModel(nn.Module):
    """Encoders and the answerer over their features.

    Args:
        towers: {"text": of the question, and any modality that questions are about}.
        head: takes their features.
        cached: modalities whose batches hold trunk outputs from a cache, so that only the encoder's tail runs.
        independent: several answers may be right at once, so that their probabilities need not sum to 1.
    """

    def __init__(
        self,
        towers: Mapping[str, encoders.Encoder],
        head: Answerer,
        cached: Sequence[str] = (),
        independent: bool = False,
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(towers)
        self.head = head
        self.independent = independent
        self.cached = frozenset(cached)

    @property
    def contents(self) -> list[str]:
        """The modalities that questions are about."""
        return [modality for modality in self.encoders if modality != "text"]

    def encoder(self, modality: str) -> encoders.Encoder:
        """The encoder of a modality."""
        return cast(encoders.Encoder, self.encoders[modality])

    def features(self, modality: str, inputs: Inputs) -> Features:
        """Features of what a batch holds of a modality."""
        return self.encoder(modality)(inputs.values, inputs.lengths, from_trunk=modality in self.cached)

    def forward(self, batch: Mapping[str, Inputs]) -> Scored:
        """Scores of the answers to the questions of a batch, of which an item may have several."""
        text = batch["text"]
        contents, about = {}, {}
        for modality in self.contents:
            if modality in batch:
                contents[modality] = self.features(modality, batch[modality])
                about[modality] = inputs_of(text.rows, batch[modality].rows)
        return self.head(self.features("text", text), contents, about)

    def answer(
        self,
        images: Sequence[Source | None] | None,
        questions: Sequence[str],
        *,
        sounds: Sequence[Source | None] | None = None,
        choices: Sequence[Sequence[str]] | None = None,
        top: int = TOP,
    ) -> list[Answer]:
        """Answers to questions, in eval mode; question k is about picture k, sound k, or both.

        Args:
            images: files or arrays; None in the place of a question that is about none, or of all of them.
            questions: sentences.
            sounds: as `images`.
            choices: of multiple choice: the answers that each question chooses from; an empty one = any.
            top: answers told of each, at least 1.

        Raises:
            ValueError: numbers of questions and of pictures or sounds differ, a question without a word, without a
                word that the model knows, or about nothing; a kind of input that the model was not trained on; choices
                none of which it knows.
            UnreadableError: a damaged file, named.
        """
        given = {"image": images, "audio": sounds}
        self.check(questions, given, top)
        sources = {modality: all_ for modality in self.contents if (all_ := given[modality]) is not None}
        return self.told(questions, sources, choices, top)

    @torch.no_grad()
    def told(
        self,
        questions: Sequence[str],
        sources: Mapping[str, Sequence[Source | None]],
        choices: Sequence[Sequence[str]] | None = None,
        top: int = TOP,
        cache: Mapping[str, Cache] | None = None,
        batch_size: int = 64,
    ) -> list[Answer]:
        """Answers as `answer` gives them, also to questions of unknown words: a test set asks what it likes.

        Args:
            questions: sentences.
            sources: {modality: what each question is about, or None}.
            choices: see `answer`.
            top: see `answer`.
            cache: {modality: trunk outputs of these sources}; they are not decoded then.
            batch_size: questions at once.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        answers: list[Answer] = []
        try:
            for start in range(0, len(questions), batch_size):
                part = slice(start, start + batch_size)
                some = {modality: all_[part] for modality, all_ in sources.items()}
                scored, grids = self.scored(questions[part], some, cache or {})
                allowed = self.allowed(choices[part] if choices else [()] * len(questions[part]))
                logits = scored.logits.float().cpu().masked_fill(~allowed, float("-inf"))  # (Q, K)
                probabilities = logits.sigmoid() if self.independent else logits.softmax(dim=-1)
                answers += ranked(self.head.answers, probabilities, scored, grids, top)
        finally:
            for module, training in modes:
                module.training = training
        return answers

    def check(self, questions: Sequence[str], given: Mapping[str, Sequence | None], top: int) -> None:
        """Reject questions and inputs that cannot be answered, see `answer`."""
        if not len(questions):
            raise ValueError("there must be at least one question: got none.")
        if top < 1:
            raise ValueError(f"top must be at least 1: got {top}.")
        for modality, sources in given.items():
            if sources is None:
                continue
            if len(sources) != len(questions):
                raise ValueError(
                    f"each question needs its {modality}, or None: got {len(sources)} of {len(questions)}."
                )
            if modality not in self.contents and any(source is not None for source in sources):
                known = " and ".join(self.contents) or "nothing but the question"
                raise ValueError(
                    f"this model was trained on {known}: got {modality}. Use a run that was trained on it."
                )
        for number, question in enumerate(questions):
            check_question(question, self.encoder("text"))
            if self.contents and not any(sources and sources[number] is not None for sources in given.values()):
                raise ValueError(f"question {number}, {question!r}, needs {' or '.join(self.contents)}: got neither.")

    def scored(
        self, questions: Sequence[str], sources: Mapping[str, Sequence[Source | None]], cache: Mapping[str, Cache]
    ) -> tuple[Scored, dict[str, tuple[int, ...]]]:
        """Scores of some questions, and the grid of each modality's places."""
        text = self.encoder("text")
        values, lengths = pad([text.prepare(question, 0) for question in questions])
        question = text(values.to(text.device), None if lengths is None else lengths.to(text.device))
        contents, about, grids = {}, {}, {}
        for modality, all_ in sources.items():
            encoder = self.encoder(modality)
            first: dict[Any, int] = {}  # a picture that several questions are about is seen once
            numbers = [-1 if s is None else first.setdefault(key(s), len(first)) for s in all_]
            chosen = {number: source for number, source in zip(numbers, all_, strict=True) if source is not None}
            if not chosen:
                continue
            prepare = cache[modality].row if modality in cache else encoder.prepare
            tensors = [read(prepare, source, 0, f"{modality} of the question") for source in chosen.values()]
            values, lengths = pad(tensors)
            lengths = None if modality == "image" or lengths is None else lengths.to(encoder.device)
            contents[modality] = encoder(values.to(encoder.device), lengths, from_trunk=modality in cache)
            about[modality] = torch.tensor(numbers, device=encoder.device)
            grids[modality] = contents[modality].grid
        return self.head(question, contents, about), grids

    def allowed(self, choices: Sequence[Sequence[str]]) -> Tensor:
        """(Q, K) bool: which answers each question may choose.

        Raises:
            ValueError: a question none of whose choices the model knows.
        """
        number = {answer: k for k, answer in enumerate(self.head.answers)}
        mask = torch.ones(len(choices), len(number), dtype=torch.bool)  # (Q, K)
        for row, some in zip(mask, choices, strict=True):
            if some:
                known = [number[choice] for choice in some if choice in number]
                if not known:
                    raise ValueError(f"of the choices {', '.join(some)} the model knows none.")
                row.fill_(False)[known] = True
        return mask


def check_question(question: str, encoder: encoders.Encoder) -> None:
    """Reject a question that says nothing to the model.

    Raises:
        ValueError: it has no word, or the model knows none of its words.
    """
    words = set(tokenize(question))
    if not words:
        raise ValueError(f"a question must have words: got {question!r}.")
    unknown = cast(Any, encoder).unknown_words(question)
    if words <= set(unknown):
        vocabulary = getattr(encoder, "vocabulary", None)  # a transformers tokenizer has pieces of words
        near = [word for one in unknown for word in vocabulary.nearest(one)] if vocabulary else []
        hint = f" Words like them: {', '.join(dict.fromkeys(near))}." if near else ""
        raise ValueError(f"the model knows no word of {question!r}: it never met {', '.join(unknown)}.{hint}")


def inputs_of(questions: Tensor, inputs: Tensor) -> Tensor:
    """Which input each question is about.

    Args:
        questions: (Q,) item of each question.
        inputs: (b,) item of each input, ascending, each at most once.

    Returns:
        (Q,) int64, -1 = the item has no such input.
    """
    place = torch.searchsorted(inputs, questions).clamp_max(len(inputs) - 1)  # (Q,)
    return torch.where(inputs[place] == questions, place, -1)


def key(source: Source) -> Any:
    """Equal for the same source: arrays are told apart by identity."""
    return str(source) if not hasattr(source, "shape") else id(source)


def ranked(
    answers: Sequence[str], probabilities: Tensor, scored: Scored, grids: Mapping[str, tuple[int, ...]], top: int
) -> list[Answer]:
    """The answers of Q questions by their probabilities (Q, K)."""
    best, numbers = probabilities.topk(min(top, len(answers)))  # (Q, top)
    found = []
    for row, (shares, ranks) in enumerate(zip(best.tolist(), numbers.tolist(), strict=True)):
        best_first = [(answers[number], share) for number, share in zip(ranks, shares, strict=True) if share > 0]
        attention, start = {}, 0
        for modality, places in scored.places.items():
            assert scored.attention is not None
            attention[modality] = scored.attention[row, :, start : start + places].float().cpu()  # (G, N)
            start += places
        found.append(Answer(best_first[0][0], best_first, attention, dict(grids)))
    return found
