"""How good answers are: metrics of a split, beside the controls without which they say nothing."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mm.data import Item, Question, questions_of
from mm.data.item import Source
from mm.heads.answerer import Answer
from mm.metrics import answers as metrics
from mm.metrics.answers import consensus
from mm.tasks.vqa import VQA
from mm.tasks.vqa_data import caches
from mm.tasks.vqa_model import AnswerModel, key

log = logging.getLogger(__name__)

Sources = dict[str, list[Source | None]]


class Answered(NamedTuple):
    """The answers to the questions of a split.

    Attributes:
        questions: of all items, in their order.
        items: number of the item of each question.
        answers: what the model says to each.
    """

    questions: list[Question]
    items: list[int]
    answers: list[Answer]

    @property
    def texts(self) -> dict[str, str]:
        """{question id: answer}."""
        return {question.id: answer.text for question, answer in zip(self.questions, self.answers, strict=True)}


def answer_items(
    model: AnswerModel,
    items: Sequence[Item],
    cfg: VQA,
    swap: Callable[[Sources], Sources] = lambda sources: sources,
    reword: Callable[[str], str] = lambda text: text,
    looks: bool = False,
) -> Answered:
    """An answer to every question of a split, about each item's first source of every modality of the run.

    Args:
        model: that answers.
        items: with questions.
        cfg: settings of the run.
        swap: changes what the items are, given as {modality: the source of each item or None}.
        reword: changes each question.
        looks: keep where each question looked, too.
    """
    every = list(items)
    sources: Sources = {m: [(getattr(item, m) or (None,))[0] for item in every] for m in model.contents}
    sources = swap(sources)
    asked = [(number, question) for number, item in enumerate(every) for question in item.questions]
    rows = {modality: [all_[number] for number, _ in asked] for modality, all_ in sources.items()}
    told = model.told(
        [reword(question.text) for _, question in asked],
        rows,
        [question.choices for _, question in asked],
        looks=looks,
        cache=caches(model, items, cfg),
    )
    return Answered([question for _, question in asked], [number for number, _ in asked], told)


def evaluate(model: AnswerModel, items: Sequence[Item], cfg: VQA) -> dict[str, float]:
    """The metrics of a split, without controls: what training watches."""
    return metrics_of(answer_items(model, items, cfg))


def metrics_of(answered: Answered) -> dict[str, float]:
    """Accuracies, official and strict, by question type and answer type, and the calibration error.

    Of the questions whose answers are known; empty where none is, as on a hidden test set.
    """
    found, scores = accuracies(answered.questions, answered.texts)
    sure = [a.top[0][1] for q, a in zip(answered.questions, answered.answers, strict=True) if q.answers]
    return found | ({"ECE": metrics.calibration_error(np.array(sure), scores)} if found else {})


def accuracies(questions: Sequence[Question], texts: dict[str, str]) -> tuple[dict[str, float], np.ndarray]:
    """The accuracies of answers by question id, and the official one of each question that people answered."""
    by_id = {question.id: question for question in questions if question.answers}
    if not by_id:
        return {}, np.empty(0)
    return metrics.evaluate(
        {name: text for name, text in texts.items() if name in by_id},
        {name: question.answers for name, question in by_id.items()},
        {name: question.type for name, question in by_id.items()},
        {name: question.answer_type for name, question in by_id.items()},
    )


def score(
    model: AnswerModel, answered: Answered, items: Sequence[Item], train: Sequence[Item], cfg: VQA
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The metrics of a split, and the controls that must stand beside them but for a question-only model.

    Args:
        model: that answered.
        answered: what it said.
        items: of the split.
        train: items of the train split, of which priors are made.
        cfg: settings of the run.

    Returns:
        metrics: see `metrics_of`.
        controls: the accuracies of `most_frequent`, the answer that train questions have most often,
            `most_frequent_of_type`, the same for each question type, `images_swapped`, the same weights asked about
            another item's picture and sound, and `words_shuffled`, the same with each question's words in random order.
    """
    if not any(question.answers for question in answered.questions):
        log.info("the answers to these questions are not known here: nothing to score")
        return {}, {}
    known = list(questions_of(train))
    controls = {
        "most_frequent": accuracies(answered.questions, most_frequent(answered.questions, known, by_type=False))[0],
        "most_frequent_of_type": accuracies(answered.questions, most_frequent(answered.questions, known))[0],
    }
    generator = np.random.default_rng(cfg.seed)
    if model.contents:
        controls["images_swapped"] = metrics_of(answer_items(model, items, cfg, swap=lambda s: swapped(s, generator)))
    reworded = answer_items(model, items, cfg, reword=lambda text: shuffled(text, generator))
    controls["words_shuffled"] = metrics_of(reworded)
    return metrics_of(answered), controls


def most_frequent(questions: Sequence[Question], train: Sequence[Question], by_type: bool = True) -> dict[str, str]:
    """To every question the answer that train questions (of its type) have most often; of several the first by name."""
    overall: Counter[str] = Counter()
    of_type: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        if question.answers:
            answer = consensus(question.answers)
            overall[answer] += 1
            of_type[question.type][answer] += 1

    def best(counts: Counter[str]) -> str:
        return min(counts, key=lambda answer: (-counts[answer], answer))

    habits = {kind: best(counts) for kind, counts in of_type.items()} if by_type else {}
    habit = best(overall)
    return {question.id: habits.get(question.type, habit) for question in questions}


def shuffled(text: str, generator: np.random.Generator) -> str:
    """A question with its words in random order."""
    words = text.split()
    return " ".join(words[place] for place in generator.permutation(len(words)))


def swapped(sources: Sources, generator: np.random.Generator) -> Sources:
    """Every item gets another source than its own, of those that the split has.

    Items that share a picture all get the same other one. Where there is but one source, it is taken away.
    """
    found: Sources = {}
    for modality, all_ in sources.items():
        different = {key(source): source for source in all_ if source is not None}
        names = list(different)
        order = [names[place] for place in generator.permutation(len(names))]
        others = dict(zip(order, np.roll(np.arange(len(order)), 1).tolist(), strict=True))  # {key: place of another}
        alone = len(order) < 2
        found[modality] = [
            None if source is None or alone else different[order[others[key(source)]]] for source in all_
        ]
    return found
