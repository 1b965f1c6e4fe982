"""Questions about the embedded world: true, never ambiguous, and no help to who reads them alone."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pytest

from mm.data import questions
from mm.data.asked import AskedScenes
from mm.data.questions import ASKERS, TYPES, Asked, about, anchored, ask_heard
from mm.data.scenes import COLUMN_GAP_PX, GAP_PX, SIZES, Scene, Thing

SHAPE = "circle|square|triangle|star|cross|ring"
PLURAL = "circles|squares|triangles|stars|crosses|rings"
COLOUR = "red|orange|yellow|green|cyan|blue|pink|white"
SIZE = "small|large"
SIDE = "left of|right of|above|below"
MANY = rf"(?:{PLURAL})|(?:{COLOUR}|{SIZE}) objects"
SHAPES, COLOURS, YES_NO = SHAPE.split("|"), COLOUR.split("|"), ["no", "yes"]
COUNTS = ["0", "1", "2", "3", "4"]

# Every form of words with its type and the answers it can have.
FORMS = {
    rf"how many ({MANY}) are there\?": ("count", COUNTS),
    rf"are there more ({MANY}) than ({MANY})\?": ("comparison", YES_NO),
    rf"is the ({SHAPE}) the same colour as the ({SHAPE})\?": ("comparison", YES_NO),
    rf"is the ((?:{COLOUR}) object) the same shape as the ((?:{COLOUR}) object)\?": ("comparison", YES_NO),
    rf"is the ((?:{COLOUR}) (?:{SHAPE})) larger than the ((?:{COLOUR}) (?:{SHAPE}))\?": ("comparison", YES_NO),
    rf"what colour is the ((?:(?:{SIZE}) )?(?:{SHAPE}))\?": ("colour", COLOURS),
    rf"what shape is the ((?:(?:{SIZE}) )?(?:{COLOUR}) object)\?": ("shape", SHAPES),
    rf"is there an? ((?:(?:{SIZE}) )?(?:{COLOUR}) (?:{SHAPE}))\?": ("exists", YES_NO),
    rf"is the ((?:{COLOUR}) (?:{SHAPE})) ({SIDE}) the ((?:{COLOUR}) (?:{SHAPE}))\?": ("relation", YES_NO),
    r"which object do you hear\?": ("sound", SHAPES),
    r"what colour is the object that you hear\?": ("sound", COLOURS),
    r"what size is the object that you hear\?": ("sound", ["large", "small"]),
    rf"is the object that you hear ({SIDE}) the ((?:{COLOUR}) (?:{SHAPE}))\?": ("sound", YES_NO),
}


class Case(NamedTuple):
    """A question with all that there is to know about it."""

    scene: Scene
    heard: list[int]
    asked: Asked


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """The questions of 2,400 scenes that are seen, half of them heard, and of 900 that are heard alone."""
    found = []
    for split in (AskedScenes("train", 2400, seed=5), AskedScenes("val", 900, seed=5, seen=False)):
        for index in range(len(split)):
            scene, heard, asked = split.drawn(index)
            found += [Case(scene, heard, one) for one in asked]
    return found


def form_of(text: str) -> tuple[str, re.Match[str]]:
    """The one form of words that a question has."""
    found = [(form, match) for form in FORMS if (match := re.fullmatch(form, text))]
    assert len(found) == 1, text
    return found[0]


def named(phrase: str, scene: Scene) -> list[Thing]:
    """The things of which every word of a phrase is true."""
    words = {"crosses": "cross"}.get(phrase, phrase.removesuffix("s") if re.fullmatch(PLURAL, phrase) else phrase)
    words = words.replace("objects", "").replace("object", "").split()
    return [thing for thing in scene if all(word in (thing.shape, thing.colour, thing.size) for word in words)]


def the(phrase: str, scene: Scene) -> Thing:
    """The one thing that is meant."""
    (thing,) = named(phrase, scene)
    return thing


def stands(one: Thing, side: str, other: Thing) -> str:
    """Whether one thing lies on a side of another, neither being in doubt."""
    gap = {"left of": other.x - one.x, "right of": one.x - other.x, "above": other.y - one.y, "below": one.y - other.y}
    assert abs(gap[side]) > 5
    return "yes" if gap[side] > 0 else "no"


def judged(text: str, scene: Scene, heard: list[int]) -> str:
    """The answer, found from the words and the things alone."""
    _, match = form_of(text)
    phrases = match.groups()
    if text.startswith("how many"):
        return str(len(named(phrases[0], scene)))
    if text.startswith("are there more"):
        first, second = (len(named(phrase, scene)) for phrase in phrases)
        return "yes" if first > second else "no"
    if text.startswith("is there"):
        return "yes" if named(phrases[0], scene) else "no"
    if "hear" in text:
        (number,) = heard
        if phrases:
            other = the(phrases[1], scene)
            assert other is not scene[number]
            return stands(scene[number], phrases[0], other)
        shape, colour, size = scene[number][:3]
        return shape if text.startswith("which") else colour if text.startswith("what colour") else size
    if text.startswith("what colour"):
        return the(phrases[0], scene).colour
    if text.startswith("what shape"):
        return the(phrases[0], scene).shape
    if len(phrases) == 3:
        assert phrases[0] != phrases[2]
        return stands(the(phrases[0], scene), phrases[1], the(phrases[2], scene))
    first, second = (the(phrase, scene) for phrase in phrases)
    assert first is not second
    if "larger" in text:
        return "yes" if SIZES[first.size] > SIZES[second.size] else "no"
    same = first.colour == second.colour if "same colour" in text else first.shape == second.shape
    return "yes" if same else "no"


def balanced(answers: Counter[str], possible: list[str]) -> bool:
    """Whether all possible answers, and no other, come equally often, but for 4.5 standard deviations of chance."""
    n, p = answers.total(), 1 / len(possible)
    allowed = 4.5 * math.sqrt(n * p * (1 - p)) + 1
    return set(answers) <= set(possible) and all(abs(answers[answer] - n * p) <= allowed for answer in possible)


# Truth ---------------------------------------------------------------------------------------------------------------


def test_every_answer_is_true_and_every_thing_that_is_named_is_one_thing(cases: list[Case]) -> None:
    for scene, heard, (text, answer, kind) in cases:
        assert judged(text, scene, heard) == answer, (text, scene)
        assert FORMS[form_of(text)[0]][0] == kind and kind in TYPES


def test_every_form_of_words_is_asked_often(cases: list[Case]) -> None:
    forms = Counter(form_of(case.asked.text)[0] for case in cases)
    assert set(forms) == set(FORMS) and min(forms.values()) >= 150
    kinds = Counter(case.asked.type for case in cases if len(case.heard) == 0 or case.asked.type != "sound")
    assert set(kinds) == set(TYPES) - {"sound"}
    of_made, of_any = ([kinds[kind] for kind in TYPES if (kind in ASKERS) == any_ and kinds[kind]] for any_ in (0, 1))
    assert min(of_made) > 0.8 * max(of_made) and min(of_any) > 0.8 * max(of_any)
    assert 1.5 * max(of_made) < min(of_any) < 2.5 * min(of_made), "a scene is made for one of two, and asked all four"


def test_articles_fit_the_word_behind_them(cases: list[Case]) -> None:
    articles = {tuple(case.asked.text.split()[2:4]) for case in cases if case.asked.type == "exists"}
    assert {article for article, word in articles if word[0] in "aeiou"} == {"an"}
    assert {article for article, word in articles if word[0] not in "aeiou"} == {"a"}


def test_scenes_can_be_drawn_and_told_apart_thing_by_thing(cases: list[Case]) -> None:
    for scene in {case.scene for case in cases}:
        assert 1 <= len(scene) <= 4 and [thing.x for thing in scene] == sorted(thing.x for thing in scene)
        assert len({thing[:3] for thing in scene}) == len(scene)
        for i, one in enumerate(scene):
            for other in scene[:i]:
                reach = (SIZES[one.size] + SIZES[other.size]) / 2 + GAP_PX
                assert math.dist(one[3:], other[3:]) > reach - 0.02 and one.x - other.x > COLUMN_GAP_PX - 0.02


def test_a_scene_is_asked_one_question_of_a_type(cases: list[Case]) -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scene, first = anchored(rng)
        assert first.type in ("count", "comparison")
        kinds = [asked.type for asked in about(scene, rng)]
        possible = {name for name, ask in ASKERS.items() if ask(scene, np.random.default_rng(0))}
        assert sorted(kinds) == sorted(possible), "each type that can be asked, once"


# Balance -------------------------------------------------------------------------------------------------------------


def test_a_form_of_words_says_nothing_of_the_answer(cases: list[Case]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        answers[form_of(case.asked.text)[0]][case.asked.answer] += 1
    for form, found in answers.items():
        possible = FORMS[form][1]
        assert balanced(found, possible), (form, found)
        assert set(found) == set(possible)


def test_no_word_of_a_form_says_anything_of_the_answer(cases: list[Case]) -> None:
    """Neither a word alone, nor a word in its place, nor how many words there are."""
    answers: dict[tuple[str, object], Counter[str]] = defaultdict(Counter)
    for case in cases:
        form, words = form_of(case.asked.text)[0], case.asked.text.split()
        for clue in {*words, *enumerate(words), len(words)}:
            answers[form, clue][case.asked.answer] += 1
    enough = {clue: found for clue, found in answers.items() if found.total() >= 30}
    assert len(enough) > 200
    for (form, clue), found in enough.items():
        assert balanced(found, FORMS[form][1]), (form, clue, found)


@pytest.mark.parametrize("maker", ["count_things", "compare_counts", "compare_names", "compare_sizes"])
def test_words_are_drawn_before_the_answer(maker: str) -> None:
    """As above, of so many that a share which is off by a few per cent is found."""
    rng, answers = np.random.default_rng(7), defaultdict(Counter)
    for _ in range(3000):
        numbers, (text, answer, _) = getattr(questions, maker)(rng)
        assert 1 <= len(numbers) <= 4
        for clue in ("", *text.split()):
            answers[clue][answer] += 1
    for clue, found in answers.items():
        assert balanced(found, COUNTS if maker == "count_things" else YES_NO), (clue, found)


def test_what_is_not_larger_may_be_as_large(cases: list[Case]) -> None:
    sizes = Counter()
    for scene, _, (text, answer, _) in cases:
        if "larger" in text:
            first, second = (the(phrase, scene).size for phrase in form_of(text)[1].groups())
            sizes[answer, first, second] += 1
    assert len(sizes) == 4 and min(sizes.values()) > 0.1 * sizes.total()


def test_who_learns_answers_by_the_questions_alone_stays_at_chance(cases: list[Case]) -> None:
    """The most frequent answer of each text, of each set of words and of each form, learnt on two thirds of them."""
    train, test = [c for k, c in enumerate(cases) if k % 3], [c for k, c in enumerate(cases) if not k % 3]
    for clue in (
        lambda text: text,
        lambda text: frozenset(text.split()),
        lambda text: (form_of(text)[0], text.split()[-1]),
        lambda text: form_of(text)[0],
    ):
        learnt: dict[object, Counter[str]] = defaultdict(Counter)
        for case in train:
            learnt[clue(case.asked.text)][case.asked.answer] += 1
        right: dict[str, list[bool]] = defaultdict(list)
        for case in test:
            form = form_of(case.asked.text)[0]
            guess = learnt[clue(case.asked.text)].most_common(1) or [(FORMS[form][1][0], 1)]
            right[form].append(guess[0][0] == case.asked.answer)
        for form, hits in right.items():
            chance = 1 / len(FORMS[form][1])
            spread = math.sqrt(chance * (1 - chance) / len(hits))
            assert np.mean(hits) < chance + 4 * spread, (form, np.mean(hits), len(hits))


def test_a_count_can_be_anything_up_to_all_things_of_a_scene(cases: list[Case]) -> None:
    found = defaultdict(set)
    for case in cases:
        if case.asked.type == "count":
            found[len(case.scene)].add(int(case.asked.answer))
    assert found == {things: set(range(things + 1)) for things in (1, 2, 3, 4)}


def test_a_thing_that_is_not_there_has_a_double_that_differs_in_one_word(cases: list[Case]) -> None:
    changed = Counter()
    for scene, _, (text, answer, kind) in cases:
        if kind == "exists" and answer == "no":
            words = form_of(text)[1][1].split()
            assert any(len([word for word in words if word in thing[:3]]) == len(words) - 1 for thing in scene)
            *_, colour, shape = words
            changed[any(thing.colour == colour for thing in scene), any(thing.shape == shape for thing in scene)] += 1
    assert changed[True, False] > 100 and changed[False, True] > 100 and changed[False, False] == 0


# By hand -------------------------------------------------------------------------------------------------------------


def said(ask: object, scene: Scene, tries: int = 200) -> set[Asked]:
    return {asked for seed in range(tries) if (asked := ask(scene, np.random.default_rng(seed)))}  # type: ignore[operator]


def test_what_can_be_asked_of_three_things(three: tuple[Thing, ...]) -> None:
    """A large red circle, a small blue star and a small green ring."""
    assert said(questions.ask_colour, three) == {
        Asked(f"what colour is the {name}?", colour, "colour")
        for name, colour in (
            ("circle", "red"),
            ("large circle", "red"),
            ("star", "blue"),
            ("small star", "blue"),
            ("ring", "green"),
            ("small ring", "green"),
        )
    }
    shapes = {one.text: one.answer for one in said(questions.ask_shape, three)}
    assert shapes["what shape is the small blue object?"] == "star" and len(shapes) == 6
    relations = {one.text: one.answer for one in said(questions.ask_relation, three, 600)}
    assert relations["is the red circle left of the blue star?"] == "yes"
    assert relations["is the blue star left of the red circle?"] == "no"
    assert relations["is the green ring above the blue star?"] == "yes" and len(relations) == 24


def test_what_may_be_mistaken_is_not_asked(three: tuple[Thing, ...]) -> None:
    red = three[0]
    twins = (red, red._replace(size="small", x=45.0))
    assert {one.text for one in said(questions.ask_colour, twins)} == {
        "what colour is the large circle?",
        "what colour is the small circle?",
    }
    assert said(questions.ask_relation, twins) == set()  # both are the red circle
    assert said(questions.ask_relation, (red,)) == set()
    one_colour = (red, red._replace(shape="ring", x=45.0))
    assert said(questions.ask_shape, one_colour) == set()  # both are the large red object
    assert {one.answer for one in said(questions.ask_colour, one_colour)} == {"red"}


def test_a_relation_is_asked_where_it_is_clear_alone(three: tuple[Thing, ...]) -> None:
    red = three[0]
    level = (red, red._replace(colour="blue", x=red.x + 25, y=red.y + 4))
    texts = " ".join(one.text for one in said(questions.ask_relation, level))
    assert "left of" in texts and "right of" in texts and "above" not in texts and "below" not in texts


def test_what_is_heard_by_hand(three: tuple[Thing, ...]) -> None:
    seen = {one for seed in range(300) for one in [ask_heard(three, 1, True, np.random.default_rng(seed))]}
    texts = {one.text: one.answer for one in seen}
    assert texts["which object do you hear?"] == "star"
    assert texts["what colour is the object that you hear?"] == "blue"
    assert texts["is the object that you hear right of the red circle?"] == "yes"
    assert texts["is the object that you hear above the green ring?"] == "no"
    assert len(texts) == 2 + 8 and not any("blue star" in text for text in texts)
    blind = {ask_heard(three, 1, False, np.random.default_rng(seed)) for seed in range(60)}
    assert {one.answer for one in blind} == {"star", "blue", "small"}
    alone = {ask_heard(three[:1], 0, True, np.random.default_rng(seed)).answer for seed in range(60)}
    assert alone == {"circle", "red"}  # there is nothing that it could lie left of
