"""The official accuracy against slow transcriptions of its rules, worked examples, and what stands beside it."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from mm.metrics.answers import (
    accuracies,
    accuracy,
    by_type,
    calibration_error,
    consensus,
    evaluate,
    official,
    share,
    soft_scores,
    strict,
)

MARKS = ';/[]"{}()=+\\_-><@`,?!'
PIECES = [
    *"ab1290.,;/-_'\"?!()",
    *("two", "Ten", "none", "zero", "cat", "yes", "a", "An", "THE", "dont", "couldnt've", "'ow'sat", "somebody'd"),
    *(" ", " ", " ", "  ", "\n", "\t", ", ", " ,", "1,0", ".5", "5.", ". ", " - "),
]
NUMBERS = {"none": "0", "zero": "0", "two": "2", "ten": "10"}
CONTRACTIONS = {"dont": "don't", "couldnt've": "couldn't've", "'ow'sat": "'ow's'at", "somebody'd": "somebodyd"}


def stripped(text):
    return text.replace("\n", " ").replace("\t", " ").strip()


def slow_official(text):
    """The official normaliser letter by letter, with those numbers and contractions that `PIECES` can make."""
    text = stripped(text)
    digits = any(a.isdigit() and b == "," and c.isdigit() for a, b, c in zip(text, text[1:], text[2:], strict=False))
    letters = []
    for letter in text:
        if letter in MARKS:
            beside_a_space = f"{letter} " in text or f" {letter}" in text
            letter = "" if digits or beside_a_space else " "
        letters.append(letter)
    text, kept, stops = "".join(letters), "", 0
    for place, letter in enumerate(text):
        spared = letter != "." or text[place + 1 : place + 2].isdigit() or stops == 32
        kept += letter if spared else ""
        stops += not spared
    words = [NUMBERS.get(word, word) for word in kept.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def slow_accuracy(prediction, answers, normalise=slow_official):
    """The published formula: for each person, min(1, how many of the others said it / 3), and the mean of that."""
    prediction, answers = stripped(prediction), [stripped(answer) for answer in answers]
    if any(answer != answers[0] for answer in answers):
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    total = 0.0
    for person in range(len(answers)):
        others = answers[:person] + answers[person + 1 :]
        total += min(1, len([answer for answer in others if answer == prediction]) / 3)
    return total / len(answers)


def soup(generator, most=4):
    return "".join(generator.choices(PIECES, k=generator.randint(0, most)))


# The official accuracy -----------------------------------------------------------------------------------------------


def test_official_accuracy_is_that_of_the_published_formula_to_the_last_bit():
    generator = random.Random(0)
    seen = set()
    for _ in range(6000):
        several = [soup(generator) for _ in range(generator.randint(1, 4))]
        answers = generator.choices(several, k=generator.choice((10, 10, 10, 2, 3, 7)))
        prediction = generator.choice([*several, *several, soup(generator)])
        expected = slow_accuracy(prediction, answers)
        assert accuracy(prediction, answers) == expected, (prediction, answers)
        seen.add(round(expected, 6))
    assert {0.0, 0.3, 0.6, 0.9, 1.0} < seen and len(seen) >= 12


def test_many_accuracies_are_those_of_each():
    generator = random.Random(5)
    given, said = [], []
    for _ in range(3000):
        several = [soup(generator, 3) for _ in range(generator.randint(1, 3))]
        people = generator.choices(several, k=generator.choice((10, 10, 3, 1)))
        spaced = [generator.choice((" {}", "{}\n", "{}")).format(answer) for answer in people]
        said.append(tuple(spaced) if generator.random() < 0.5 else spaced)
        given.append(generator.choice([*several, *several, soup(generator)]))
    scores = accuracies(iter(given), iter(said))
    slow = [
        slow_accuracy(one, people) if len(people) > 1 else float(strict(one) == strict(people[0]))
        for one, people in zip(given, said, strict=True)
    ]
    assert scores.tolist() == slow and {0.0, 1.0} < set(slow)
    assert accuracies([], []).tolist() == []
    with pytest.raises(ValueError, match="must have answers to be scored: got none"):
        accuracies(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="shorter"):
        accuracies(["a", "b"], [["a", "a"]])


def test_official_accuracy_for_every_order_of_ten_people():
    """The sum of the people's shares is not the same in its last bit for every order."""
    values = {}
    for gave in itertools.product((True, False), repeat=10):
        answers = ["yes" if one else f"no {person}" for person, one in enumerate(gave)]
        expected = slow_accuracy("yes", answers, str)
        assert accuracy("yes", answers) == expected
        values.setdefault(sum(gave), set()).add(expected)
    assert len(values[2]) > 1 and len(values[3]) > 1
    assert {matches: round(min(of), 12) for matches, of in values.items()} == {
        **dict.fromkeys(range(4, 11), 1.0),
        **{0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9},
    }


def test_normaliser_letter_by_letter():
    generator = random.Random(1)
    for _ in range(8000):
        text = soup(generator, 7)
        assert official(text) == slow_official(text), repr(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # numbers
        ("Two dogs.", "2 dogs"),
        ("TEN", "10"),
        ("eleven", "eleven"),
        ("none", "0"),
        ("None of them", "0 of them"),
        ("twenty two", "twenty 2"),
        ("zero", "0"),
        ("one-two", "1 2"),
        ("03", "03"),
        # articles
        ("A", ""),
        ("a T-shirt", "t shirt"),
        ("The an a", ""),
        ("an apple a day", "apple day"),
        ("vitamin a.", "vitamin"),
        # contractions
        ("dont", "don't"),
        ("don't", "don't"),
        ("DONT", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # two are missing
        ("twas", "'twas"),
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("somebodyd", "somebodyd"),
        ("Ive", "ive"),  # these are looked up in lower case
        ("I'm", "i'm"),
        ("lets", "lets"),
        ("its", "its"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        # punctuation becomes a space, or nothing where that mark has a space beside it somewhere
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("red/white / blue", "redwhite blue"),
        ("no, thanks", "no thanks"),
        ("red,white", "red white"),
        ("red,white, blue", "redwhite blue"),
        ("t-shirt", "t shirt"),
        ("black-and-white - not", "blackandwhite not"),
        ("what?", "what"),
        ("(yes)", "yes"),
        ("yes!no", "yes no"),
        ("a_b", "b"),
        ("50%", "50%"),  # these marks are not on the list
        ("$5 & #1", "$5 & #1"),
        ("a:b", "a:b"),
        ("dog's", "dog's"),
        # commas between digits, which take all other marks with them
        ("1,000 people", "1000 people"),
        ("1,000,000", "1000000"),
        ("1,000 t-shirts", "1000 tshirts"),
        ("1, 2", "1 2"),
        # the full stop goes unless a digit follows
        (".5", ".5"),
        ("5.", "5"),
        ("5.5", "5.5"),
        ("5.5.", "5.5"),
        ("p.m.", "pm"),
        ("u.s.a", "usa"),
        ("mr.5", "mr.5"),
        ("." * 40, "." * 8),  # the first 32 alone
        ("x. " * 34, " ".join(["x"] * 32 + ["x."] * 2)),
        # white space
        ("  black \n", "black"),
        ("black\tcat", "black cat"),
        ("black\ncat", "black cat"),
        ("black   cat", "black cat"),
        ("two,\nthree", "2 3"),
        ("", ""),
    ],
)
def test_normaliser_by_hand(text, expected):
    assert official(text) == expected


def test_answers_are_normalised_only_where_people_disagree():
    assert accuracy("Black.", ["black"] * 10) == 0.0
    assert accuracy("black", ["Black."] * 10) == 0.0
    assert accuracy("Black.", ["Black."] * 10) == 1.0
    assert accuracy("black", ["black"] * 9 + ["gray"]) == 1.0
    assert accuracy("Black.", ["black"] * 9 + ["gray"]) == 1.0
    assert accuracy("black", ["black"] * 9 + ["Black."]) == 1.0
    assert accuracy(" black\n", ["black\t"] * 10) == 1.0  # white space goes always
    assert accuracy("bl\nack", ["bl ack"] * 10) == 1.0
    assert accuracy("2", ["two"] * 10) == 0.0
    assert accuracy("2", ["two"] * 5 + ["none"] * 5) == 1.0
    assert accuracy("0", ["two"] * 5 + ["none"] * 5) == 1.0


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_the_table(matches, expected):
    answers = ["cat"] * matches + [f"dog {person}" for person in range(10 - matches)]
    assert accuracy("cat", answers) == pytest.approx(expected, abs=1e-12)
    assert accuracy("cat", answers[::-1]) == pytest.approx(expected, abs=1e-12)
    assert share(matches, 10) == expected


@pytest.mark.parametrize("people", [2, 3, 4, 5, 10, 20])
def test_shares_of_other_numbers_of_people(people):
    for matches in range(people + 1):
        answers = ["cat"] * matches + [f"dog {person}" for person in range(people - matches)]
        assert share(matches, people) == pytest.approx(slow_accuracy("cat", answers, str), abs=1e-12)


def test_one_answer_is_a_fact():
    right = [("2", "two"), ("Black.", "black"), ("the CAT", "cat"), ("A", "a"), ("yes", "yes"), ("?", " ?")]
    wrong = [("cat", "dog"), ("none", "0"), ("", "yes"), ("the", "a"), ("?", "!"), ("", "!"), ("yes no", "yes")]
    for expected, pairs in ((1.0, right), (0.0, wrong)):
        for prediction, answer in pairs:
            assert accuracy(prediction, [answer]) == accuracy(prediction, (answer,), strict) == expected, prediction
    assert share(1, 1) == 1.0 and share(0, 1) == 0.0


def test_nothing_to_score_against():
    with pytest.raises(ValueError, match=r"must have answers to be scored: got none\. Hidden test sets"):
        accuracy("yes", [])


# The strict one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two dogs.", "2 dogs"),
        ("a T-shirt", "t shirt"),
        ("none", "none"),
        ("The", "the"),
        ("the cat", "cat"),
        ("dont", "dont"),
        ("don\u2019t", "don't"),
        ("red / white,blue", "red white blue"),
        (" \uff22\uff4c\uff41\uff43\uff4b\t", "black"),
        ("!!", "!!"),
        ("", ""),
    ],
)
def test_strict_by_hand(text, expected):
    assert strict(text) == expected


def test_strict_differs_from_official_where_it_should():
    """A quirk of the official rules each: the official share, the strict one."""
    for prediction, answers, expected in (
        ("Black.", ["black"] * 10, (0, 1)),
        ("two", ["2"] * 10, (0, 1)),
        ("none", ["0"] * 5 + ["1"] * 5, (1, 0)),
        ("the", [""] * 5 + ["cat"] * 5, (1, 0)),
        ("dont", ["don't"] * 5 + ["do"] * 5, (1, 0)),
        ("1,000 t-shirts", ["1,000 tshirts"] * 5 + ["cat"] * 5, (1, 0)),
        ("red,white", ["red, white"] * 5 + ["red"] * 5, (1, 1)),
        ("cat", ["cat"] * 3 + ["dog"] * 7, (0.9, 0.9)),
    ):
        scores = accuracy(prediction, answers), accuracy(prediction, answers, strict)
        assert scores == pytest.approx(expected), (prediction, scores)


def test_strict_accuracy_is_the_formula_over_strict_words():
    generator = random.Random(2)
    for _ in range(1500):
        several = [soup(generator) for _ in range(3)]
        answers = generator.choices(several, k=10)
        for prediction in several:
            words = [strict(answer) for answer in answers]
            assert accuracy(prediction, answers, strict) == slow_accuracy(strict(prediction), words, str)


# Targets -------------------------------------------------------------------------------------------------------------


def test_soft_scores_are_what_each_answer_would_earn():
    generator = random.Random(3)
    for _ in range(500):
        answers = [*generator.choices([soup(generator) for _ in range(5)], k=9), "surely another"]
        scores = soft_scores(answers)
        assert set(scores) == {slow_official(answer) for answer in answers}
        for answer in answers:
            assert scores[official(answer)] == pytest.approx(slow_accuracy(answer, answers), abs=1e-12)
    people = ["red"] * 4 + ["Red."] + ["two"] * 3 + ["the", "orange"]
    assert soft_scores(people) == {"red": 1.0, "2": 0.9, "": 0.3, "orange": 0.3}
    assert soft_scores(["Two cats."]) == {"2 cats": 1.0} and soft_scores(["A"]) == {"a": 1.0}
    assert soft_scores([]) == {}  # of a hidden test set


def test_consensus_is_what_most_people_said_and_of_several_the_first():
    assert consensus(["Two", "three", "2", "three."]) == "2"
    assert consensus(["three", "two", "2"]) == "2"
    assert consensus(["dog", "cat", "cat", "dog"]) == "dog"
    assert consensus(["None", "one"]) == "0" and consensus(["None"]) == "none"
    with pytest.raises(ValueError, match=r"must have said something to agree on: got no answers"):
        consensus([])


# A split -------------------------------------------------------------------------------------------------------------


def test_a_split_against_a_loop_over_its_questions():
    generator = random.Random(4)
    answers = {f"q{k}": generator.choices(["red", "Red.", "two", "2", "0"], k=10) for k in range(300)}
    predictions = {name: generator.choice(["red", "2", "none", "0"]) for name in reversed(answers)}
    types = {name: generator.choice(["what colour", "how many", ""]) for name in answers}
    kinds = {name: generator.choice(["number", "other"]) for name in answers}
    metrics, scores = evaluate(predictions, answers, types, kinds)
    slow = {name: slow_accuracy(said, answers[name], official) for name, said in predictions.items()}
    strictly = [
        slow_accuracy(strict(said), [strict(a) for a in answers[name]], str) for name, said in predictions.items()
    ]
    assert scores.tolist() == list(slow.values())
    assert np.mean(strictly) < np.mean(list(slow.values())) - 0.1  # "none" is no number
    expected = {"accuracy": np.mean(list(slow.values())), "accuracy_strict": np.mean(strictly)}
    for name, of in (("what colour", types), ("how many", types), ("number", kinds), ("other", kinds)):
        expected[f"accuracy/{name}"] = np.mean([score for question, score in slow.items() if of[question] == name])
    assert metrics == pytest.approx(expected)


def test_scores_by_type():
    scores = np.array([1.0, 0.0, 0.3, 0.6])
    assert by_type(scores, ["b", "", "a", "b"]) == {"accuracy/a": 0.3, "accuracy/b": 0.8}
    assert list(by_type(scores, list("dcba"), "strict")) == ["strict/a", "strict/b", "strict/c", "strict/d"]
    assert by_type(np.array([]), []) == {}
    with pytest.raises(ValueError, match="each score must have a type: got 4 scores and 3 types"):
        by_type(scores, ["a"] * 3)


def test_a_split_that_cannot_be_scored():
    with pytest.raises(ValueError, match="a prediction at least to be scored: got none"):
        evaluate({}, {"1": ["yes"]}, {}, {})
    with pytest.raises(ValueError, match=r"2 of 3 are not, the first is of '2'\. Hidden test sets"):
        evaluate(
            {"1": "a", "2": "b", "3": "c"}, {"1": ["a"], "3": []}, dict.fromkeys("123", ""), dict.fromkeys("123", "")
        )


# Calibration ---------------------------------------------------------------------------------------------------------


def slow_ece(confidences, correct, bins):
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [k for k, c in enumerate(confidences) if (low < c <= high) or (number == 0 and c == 0)]
        if inside:
            gap = np.mean([confidences[k] for k in inside]) - np.mean([correct[k] for k in inside])
            total += len(inside) / len(confidences) * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 100])
def test_calibration_error_is_that_of_a_loop_over_the_bins(bins):
    generator = np.random.default_rng(bins)
    confidences = np.concatenate([generator.random(300), np.arange(bins + 1) / bins, [0.0, 1.0, 0.5, 0.2]])
    correct = generator.choice([0.0, 0.3, 0.6, 0.9, 1.0], len(confidences))
    assert calibration_error(confidences, correct, bins) == pytest.approx(
        slow_ece(confidences, correct, bins), abs=1e-12
    )
    halves = confidences.astype(np.float32), correct.astype(np.float32)
    assert calibration_error(*halves, bins) == pytest.approx(slow_ece(*(h.tolist() for h in halves), bins), abs=1e-6)


def test_calibration_error_by_hand():
    sure = np.ones(4)
    assert calibration_error(sure, np.array([1.0, 1.0, 1.0, 1.0])) == 0
    assert calibration_error(sure, np.array([1.0, 0.0, 0.0, 0.0])) == 0.75
    assert calibration_error(np.array([0.75] * 4), np.array([1.0, 1.0, 1.0, 0.0])) == 0
    # two bins: one confident by .1 too much, the other by .5 too little, a quarter and three quarters of the answers
    confidences, correct = np.array([0.1, 0.5001, 0.5001, 0.5001]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(confidences, correct, 2) == pytest.approx(0.25 * 0.1 + 0.75 * 0.4999)
    # an edge belongs to the bin below: there it makes up for what lies on the other side
    assert calibration_error(np.array([0.5, 0.4]), np.array([0.9, 0.0]), 2) == pytest.approx(0.0)
    assert calibration_error(np.array([0.5, 0.6]), np.array([0.9, 0.2]), 2) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("confidences", "correct", "bins", "message"),
    [
        ([], [], 15, r"one at least: got 0 confidences of 0 answers"),
        ([0.5], [1, 1], 15, "got 1 confidences of 2 answers"),
        ([0.5, 1.5], [1, 1], 15, r"must lie in 0\.\.1: got 0.5 to 1.5"),
        ([-0.5, 0.5], [1, 1], 15, r"must lie in 0\.\.1: got -0.5 to 0.5"),
        ([float("nan"), 0.5], [1, 1], 15, r"must lie in 0\.\.1: got nan"),
        ([0.5], [1], 0, "at least one bin: got 0"),
    ],
)
def test_confidences_that_are_none(confidences, correct, bins, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(np.array(confidences), np.array(correct), bins)
