"""How good answers are: VQA's official accuracy with all its quirks, a strict one beside it, and calibration.

The official rules are those of the evaluation tools of VQA (Antol et al. 2015; github.com/GT-Vision-Lab/VQA, a013f00).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from mm.vocabulary import tokenize

ENOUGH = 3  # people of the other nine who gave an answer make it right (Antol et al. 2015, section 3)
ECE_BINS = 15  # Guo et al. 2017
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED)}
ARTICLES = ("a", "an", "the")

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")  # meant to spare the points of ".5" and "5." alike, spares only the first
_MOST_STOPS = 32  # re.UNICODE, which the official tool passes where the number of replacements belongs
# Written with any one of its apostrophes left out, a word gets it back.
_CONTRACTIONS = """
'ow's'at 'twas I'd've I'm I've ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _restored() -> dict[str, str]:
    """{word that lacks an apostrophe: the word}."""
    found = {"somebody'd": "somebodyd"}  # the one that goes the other way
    for word in _CONTRACTIONS.split():
        for place in (place for place, letter in enumerate(word) if letter == "'"):
            found[word[:place] + word[place + 1 :]] = word
    return found


RESTORED = _restored()


def _stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=2**18)
def official(text: str) -> str:
    """An answer as the official tool compares it where people disagree.

    Punctuation goes, or becomes a space where no space stands beside it; then lower case, number words as digits (and
    "none" as 0), no articles, apostrophes back where they are known to belong.

    >>> official("Two dogs."), official("a T-shirt"), official("none"), official("1,000 people")
    ('2 dogs', 't shirt', '0', '1000 people')
    """
    given = text = _stripped(text)
    comma = _DIGIT_COMMA.search(given) is not None
    for mark in _PUNCTUATION:
        if mark in text:
            text = text.replace(mark, "" if comma or f"{mark} " in given or f" {mark}" in given else " ")
    text = _FULL_STOP.sub("", text, count=_MOST_STOPS)
    words = (NUMBERS.get(word, "0" if word == "none" else word) for word in text.lower().split())
    return " ".join(RESTORED.get(word, word) for word in words if word not in ARTICLES)


@functools.lru_cache(maxsize=2**18)
def strict(text: str) -> str:
    """An answer by its words alone: as `mm.vocabulary.tokenize` reads them, number words as digits, no articles.

    Unlike `official` it is asked always, so "Black." is "black" also where all people agree; "none" is no number; an
    answer that is nothing but an article stays, and so does one of signs alone.

    >>> strict("Two dogs."), strict("Black."), strict("none"), strict("A"), strict("?")
    ('2 dogs', 'black', 'none', 'a', '?')
    """
    words = [NUMBERS.get(word, word) for word in tokenize(text)]
    return " ".join([word for word in words if word not in ARTICLES] or words) or _stripped(text)


def accuracy(prediction: str, answers: Sequence[str], normalise: Callable[[str], str] = official) -> float:
    """The share that one answer earns: on average over the people, min(1, others who gave it / 3).

    With one answer that is known to be right, whether it is given, by the `strict` rules.

    Args:
        prediction: the answer.
        answers: what people said.
        normalise: `official`, which lets answers be where all people agree, or `strict`.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("a question must have answers to be scored: got none. Hidden test sets are scored elsewhere.")
    if len(answers) == 1:
        return float(strict(prediction) == strict(answers[0]))
    if normalise is official:
        given, answers = _stripped(prediction), [_stripped(answer) for answer in answers]
        if len(set(answers)) > 1:
            given, answers = official(given), [official(answer) for answer in answers]
    else:
        given, answers = normalise(prediction), [normalise(answer) for answer in answers]
    if (matches := answers.count(given)) > ENOUGH:
        return 1.0
    return _mean(tuple(answer == given for answer in answers)) if matches else 0.0


def accuracies(given: Iterable[str], said: Iterable[Sequence[str]]) -> np.ndarray:
    """The official accuracy of many answers, equal to `accuracy` of each: (n,).

    Every different string is normalised once.

    Args:
        given: n answers of a model.
        said: what people answered, of each question.

    Raises:
        ValueError: a question without answers, or numbers that differ.
    """
    stripped, normal = _Memory(_stripped), _Memory(official)
    scores = []
    for answer, people in zip(given, said, strict=True):
        if len(people) < 2:
            scores.append(accuracy(answer, people))
            continue
        same = people.count(people[0]) == len(people) or len(set(map(stripped.__getitem__, people))) == 1
        memory = stripped if same else normal
        answer, answers = memory[answer], list(map(memory.__getitem__, people))
        matches = answers.count(answer)
        few = 0 < matches <= ENOUGH
        scores.append(_mean(tuple([one == answer for one in answers])) if few else float(matches > 0))
    return np.array(scores)


class _Memory(dict[str, str]):
    """{text: function(text)}, computed when it is first asked for."""

    def __init__(self, function: Callable[[str], str]):
        super().__init__()
        self.function = function

    def __missing__(self, text: str) -> str:
        self[text] = self.function(text)
        return self[text]


def share(matches: int, people: int) -> float:
    """What an answer earns that so many of so many people gave: 0, 0.3, 0.6, 0.9, 1 of ten.

    >>> [round(share(matches, 10), 9) for matches in range(6)]
    [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
    """
    return _mean(tuple(person < matches for person in range(people))) if people > 1 else float(matches)


@functools.lru_cache(maxsize=2**12)
def _mean(gave: tuple[bool, ...]) -> float:
    """Mean of min(1, others who gave the answer / 3), added up person by person: the last bit depends on the order."""
    matches, total = sum(gave), 0.0
    for one in gave:
        total += min(1.0, (matches - one) / ENOUGH)
    return total / len(gave)


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """{normalised answer: what it earns}, of all that people said: the targets of training."""
    if len(answers) == 1:
        return {strict(answers[0]): 1.0}
    said = [official(answer) for answer in answers]
    return {answer: share(said.count(answer), len(said)) for answer in dict.fromkeys(said)}


def consensus(answers: Sequence[str]) -> str:
    """What most people said, normalised; of several the first.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("people must have said something to agree on: got no answers. Leave such questions out.")
    said = [strict(answers[0])] if len(answers) == 1 else [official(answer) for answer in answers]
    return max(dict.fromkeys(said), key=said.count)


def by_type(scores: np.ndarray, types: Sequence[str], prefix: str = "accuracy") -> dict[str, float]:
    """{"accuracy/colour": mean, ...}, sorted; questions of unknown type "" are left out.

    Raises:
        ValueError: not one type a score.
    """
    if len(scores) != len(types):
        raise ValueError(f"each score must have a type: got {len(scores)} scores and {len(types)} types.")
    names = np.asarray(types)
    return {f"{prefix}/{name}": float(scores[names == name].mean()) for name in sorted(set(types)) if name}


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): how far confidence and accuracy lie apart, over equal bins.

    Args:
        confidences: (n,) probabilities of what was answered.
        correct: (n,) what it earned, 0 to 1.
        bins: of equal width; a confidence on an edge belongs to the bin below.

    Raises:
        ValueError: lengths differ, nothing is given, a confidence outside 0..1, or no bins.
    """
    if len(confidences) != len(correct) or not len(correct):
        raise ValueError(
            f"each answer must have a confidence, and there must be one at least: got {len(confidences)} confidences "
            f"of {len(correct)} answers."
        )
    if not (confidences.min() >= 0 and confidences.max() <= 1):  # also where one is not a number
        raise ValueError(f"confidences must lie in 0..1: got {confidences.min()} to {confidences.max()}.")
    if bins < 1:
        raise ValueError(f"there must be at least one bin: got {bins}.")
    number = np.searchsorted(np.arange(1, bins) / bins, confidences)  # (n,)
    gap = np.bincount(number, confidences - correct, minlength=bins)  # (bins,)
    return float(np.abs(gap).sum() / len(correct))


def evaluate(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    types: Mapping[str, str],
    answer_types: Mapping[str, str],
) -> tuple[dict[str, float], np.ndarray]:
    """All accuracies of a split.

    Args:
        predictions: {question: answer}.
        answers: {question: what people said}, of the same questions.
        types: {question: its type, "" = not known}.
        answer_types: {question: "yes/no", "number" or "other"}.

    Returns:
        metrics: `accuracy` (official), `accuracy_strict`, and the official one by both kinds of type; where a question
            type is named like an answer type, the number is that of the question type.
        scores: (n,) official, in the order of `predictions`.

    Raises:
        ValueError: no predictions, or one of a question without answers.
    """
    if not predictions:
        raise ValueError("there must be a prediction at least to be scored: got none.")
    if unknown := [question for question in predictions if not answers.get(question)]:
        raise ValueError(
            f"predictions must be of questions with answers: {len(unknown)} of {len(predictions)} are not, the first "
            f"is of {unknown[0]!r}. Hidden test sets are scored elsewhere."
        )
    scores = accuracies(predictions.values(), (answers[question] for question in predictions))  # (n,)
    strictly = [accuracy(given, answers[question], strict) for question, given in predictions.items()]
    metrics = {"accuracy": float(scores.mean()), "accuracy_strict": float(np.mean(strictly))}
    metrics |= by_type(scores, [answer_types[question] for question in predictions])
    return metrics | by_type(scores, [types[question] for question in predictions]), scores
