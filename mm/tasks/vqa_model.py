"""The model that answers: encoders of the question and of what it is about, and the answerer over their features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mm import encoders
from mm.data import Cache, Entry, Inputs, UnreadableError
from mm.data.gallery import Prepare, read_all
from mm.data.item import Source
from mm.features import Features, pad
from mm.heads.answerer import Answer, Answerer, Scored
from mm.heads.looking import Inner
from mm.metrics.answers import official, strict
from mm.modes import in_eval_mode
from mm.naming import hint
from mm.vocabulary import tokenize

TOP = 5  # answers that are told
KNOWN = 30  # answers that an error lists


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
        self.numbers = {answer: number for number, answer in enumerate(head.answers)}
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

    def forward(self, batch: Mapping[str, Inputs], inner: Inner | None = None) -> Scored:
        """Scores of the answers to the questions of a batch, of which an item may have several. `inner`: see there."""
        text = batch["text"]
        contents, about = {}, {}
        for modality in self.contents:
            if modality in batch:
                contents[modality] = self.features(modality, batch[modality])
                about[modality] = inputs_of(text.rows, batch[modality].rows)
        return self.head(self.features("text", text), contents, about, inner)

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
        self.check(questions, given, choices, top)
        sources = {modality: all_ for modality in self.contents if (all_ := given[modality]) is not None}
        return self.told(questions, sources, choices, top)

    @torch.no_grad()
    def told(
        self,
        questions: Sequence[str],
        sources: Mapping[str, Sequence[Source | None]],
        choices: Sequence[Sequence[str]] | None = None,
        top: int = TOP,
        *,
        looks: bool = True,
        cache: Mapping[str, Cache] | None = None,
        batch_size: int = 64,
        workers: int = 2,
    ) -> list[Answer]:
        """Answers as `answer` gives them, also to questions of unknown words: a test set asks what it likes.

        Args:
            questions: sentences.
            sources: {modality: what each question is about, or None}.
            choices: see `answer`; where the model knows none of them, the first is told, with a probability of 0.
            top: see `answer`.
            looks: tell where each question looked.
            cache: {modality: trunk outputs of these sources}; they are not decoded then.
            batch_size: questions at once.
            workers: threads that read files ahead.
        """
        text, cache = self.encoder("text"), cache or {}
        encoders = {modality: self.encoder(modality).folded() for modality in sources}
        readers = {
            modality: about_in_batches(
                all_, cache[modality].row if modality in cache else encoders[modality].prepare, batch_size, workers
            )
            for modality, all_ in sources.items()
        }
        answers: list[Answer] = []
        with in_eval_mode(self):
            for start in range(0, len(questions), batch_size):
                values, lengths = pad([text.prepare(question, 0) for question in questions[start : start + batch_size]])
                asked = text(values.to(text.device), None if lengths is None else lengths.to(text.device))
                contents, about = {}, {}
                for modality, reader in readers.items():
                    numbers, tensors = next(reader)
                    about[modality] = torch.tensor(numbers, device=text.device)
                    if tensors:
                        inputs, sizes = pad(tensors)
                        sizes = None if modality == "image" or sizes is None else sizes.to(text.device)
                        cached = modality in cache
                        contents[modality] = encoders[modality](inputs.to(text.device), sizes, from_trunk=cached)
                scored = self.head(asked, contents, about)
                logits = scored.logits.float().cpu()  # (Q, K)
                probabilities = logits.sigmoid() if self.independent else logits
                some = choices[start : start + batch_size] if choices else [()] * len(logits)
                tops = [self.best(row, chosen, top) for row, chosen in zip(probabilities, some, strict=True)]
                where = seen(scored, contents, about) if looks else [({}, {})] * len(tops)
                answers += [Answer(best[0][0], best, *looked) for best, looked in zip(tops, where, strict=True)]
        return answers

    @torch.no_grad()
    def view(self, of: str, sources: Mapping[str, Source], target: str, question: str) -> encoders.View:
        """What of a picture or a sound makes the model answer so: the score of an answer, to be explained.

        Args:
            of: modality of `sources` that is explained.
            sources: {modality: a file or array} that the question is about.
            target: an answer; "" = the model's own.
            question: a sentence.

        Raises:
            ValueError: see `answer`, or an answer that the model does not know.
        """
        encoders.check_sources(of, sources, self.contents)
        (own,) = self.answer(
            [sources.get("image")], [question], sounds=[sources["audio"]] if "audio" in sources else None
        )
        number = self.number(target or own.text)
        if number is None:
            some = ", ".join(list(self.numbers)[:KNOWN]) + (" ..." if len(self.numbers) > KNOWN else "")
            raise ValueError(f"unknown answer {target!r}. Answers: {some}.{hint(target, self.numbers)}")
        with in_eval_mode(self):
            text = self.encoder("text")
            asked = text(text.prepare(question, 0)[None].to(text.device))
            others = {m: self.encoder(m) for m in sources if m != of}
            beside = {m: one.from_seen(encoders.seen_of(one, sources[m])) for m, one in others.items()}

        def scores(features: Features) -> Tensor:
            count = len(features.map)
            contents = {m: features if m == of else encoders.repeated(beside[m], count) for m in sources}
            return self.head(encoders.repeated(asked, count), contents).logits  # (B, K)

        net = encoders.EndToEnd(self.encoder(of), self.head, scores)
        seen = encoders.seen_of(self.encoder(of), sources[of])
        said = f"logit of {self.head.answers[number]!r} as the answer to {question!r}"
        return encoders.View(net, seen, number, said)

    def best(self, scores: Tensor, choices: Sequence[str], top: int) -> list[tuple[str, float]]:
        """The best answers of one question with their probabilities.

        Args:
            scores: (K,) probabilities of independent answers, or else logits.
            choices: answers to choose from, which are told as they are written; none = all.
            top: answers at most.
        """
        written = {number: choice for choice in reversed(choices) if (number := self.number(choice)) is not None}
        if choices and not written:
            return [(choices[0], 0.0)]
        kept = torch.tensor(sorted(written)) if written else torch.arange(len(scores))  # (k,)
        shares = scores[kept] if self.independent else scores[kept].softmax(dim=-1)  # (k,)
        best, places = shares.topk(min(top, len(kept)))
        numbers = kept[places].tolist()
        return [(written.get(n, self.head.answers[n]), share) for n, share in zip(numbers, best.tolist(), strict=True)]

    def number(self, answer: str) -> int | None:
        """The number of an answer, however it is written; None where the model does not know it."""
        return next(
            (self.numbers[form] for form in (answer, strict(answer), official(answer)) if form in self.numbers), None
        )

    def check(
        self,
        questions: Sequence[str],
        given: Mapping[str, Sequence | None],
        choices: Sequence[Sequence[str]] | None,
        top: int,
    ) -> None:
        """Reject questions and inputs that cannot be answered, see `answer`."""
        if isinstance(questions, str):
            raise ValueError(f"questions must be a list of sentences: got one, {questions!r}. Put it into a list.")
        if not len(questions):
            raise ValueError("there must be at least one question: got none.")
        if top < 1:
            raise ValueError(f"top must be at least 1: got {top}.")
        if choices is not None and len(choices) != len(questions):
            raise ValueError(f"each question needs its choices: got {len(choices)} of {len(questions)}.")
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
            about = [sources for sources in given.values() if sources is not None and sources[number] is not None]
            if self.contents and not about:
                raise ValueError(f"question {number}, {question!r}, needs {' or '.join(self.contents)}: got neither.")
            if choices and choices[number] and all(self.number(choice) is None for choice in choices[number]):
                raise ValueError(f"of the choices {', '.join(choices[number])} the model knows none.")


def about_in_batches(
    sources: Sequence[Source | None], prepare: Prepare, batch_size: int, workers: int
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """What the questions of each batch are about, read ahead by threads.

    Args:
        sources: of each question, or None.
        prepare: prepare(source, view) -> tensor.
        batch_size: questions of a batch.
        workers: threads.

    Yields:
        For each batch the number of each question's input, -1 = none, and the inputs: a source that several questions
        are about is there once.
    """
    batches, entries = [], []
    for start in range(0, len(sources), batch_size):
        first: dict[Any, int] = {}
        numbers = []
        for source in sources[start : start + batch_size]:
            if source is not None and key(source) not in first:
                entries.append(Entry("what the question is about", "", source, {}))
            numbers.append(-1 if source is None else first.setdefault(key(source), len(first)))
        batches.append((numbers, len(first)))
    results = read_all(entries, prepare, 0, workers, ahead=2 * batch_size)
    for numbers, count in batches:
        tensors = []
        for _, tensor in itertools.islice(results, count):
            if isinstance(tensor, UnreadableError):
                results.close()
                raise tensor
            tensors.append(tensor)
        yield numbers, tensors


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


def seen(
    scored: Scored, contents: Mapping[str, Features], about: Mapping[str, Tensor]
) -> list[tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]]:
    """Where each of Q questions looked: {modality: (G, N)} and {modality: grid}, on the CPU, without padded frames."""
    if scored.attention is None:
        return [({}, {})] * len(scored.logits)
    alpha = scored.attention.float().cpu()  # (Q, G, N)
    found: list[tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]] = [({}, {}) for _ in alpha]
    start = 0
    for modality, places in scored.places.items():
        features = contents[modality]
        columns = features.mask.view(len(features.mask), -1, features.grid[-1]).any(dim=1).sum(dim=1)  # (b,)
        part = alpha[..., start : start + places].unflatten(2, features.grid)  # (Q, G, ...grid)
        for row, number in enumerate(about[modality].tolist()):
            if number >= 0:
                real = int(columns[number])
                found[row][0][modality] = part[row, ..., :real].flatten(1)  # (G, N)
                found[row][1][modality] = (*features.grid[:-1], real)
        start += places
    return found
