"""Reading sentences of the embedded world back: every sentence the grammar writes, and none that it does not."""

import numpy as np
import pytest

from mm.data.said import Judged, judge, named, parse
from mm.data.scenes import Thing, draw_scene
from mm.data.sentences import FORMS, Fact, Meaning, Phrase, captions, describes, say, sentence


def test_drawn_captions_come_back() -> None:
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, (1, 1, 1, 1))
        for text, meaning in captions(scene, rng, 0.5):
            assert parse(text) == parse(text.replace(",", "")) == meaning, text
            assert describes(meaning, scene)
            assert judge(text.replace(",", ""), scene) == Judged(True, True, True)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.wording)
def test_every_form_with_phrases_of_any_words(form) -> None:
    phrases = [
        Phrase(shape, colour, size) for shape in ("star", "") for colour in ("orange", "") for size in ("small", "")
    ]
    for start in range(len(phrases)):
        chosen = tuple((phrases * 2)[start : start + form.gaps])
        text = sentence(form, chosen).replace(",", "")
        assert parse(text) == Meaning(chosen, form.facts, form.only), text


def test_no_two_forms_have_the_same_words() -> None:
    assert len({form.wording.replace(",", "") for form in FORMS}) == len(FORMS)
    for form in FORMS:
        at = [form.wording.index("{" + str(number) + "}") for number in range(form.gaps)]
        assert at == sorted(at)  # so the phrases of a sentence are those of the meaning, in order


@pytest.mark.parametrize(
    "text",
    [
        "",
        "star",
        "a red star",  # no form says just that
        "only red star",  # no article
        "only a orange star",
        "only an red star",
        "only a red small star",
        "only a red red star",
        "only a purple star",
        "only a red star star",
        "only a red",
        "only a red star and",
        "a red star left a ring",
        "a red star left of a ring left of a circle",
        "left to right a red star a small ring a blue circle",
        "left to right a star a ring a cross and a circle",  # lists of four have no articles
        "left to right star ring and circle",
        "two objects a red star",
        "two object a red star and a ring",
        "a red <unk> left of a ring",
        "only {}",
    ],
)
def test_what_is_no_sentence(text: str) -> None:
    assert parse(text) is None
    assert judge(text, (Thing("star", "red", "small", 30.0, 30.0),)) == Judged(False, False, False)


def test_as_a_captioner_writes(three: tuple[Thing, ...]) -> None:
    meaning = parse("left to right a large red circle a blue star and a small object")
    assert meaning is not None
    assert meaning.phrases == (Phrase("circle", "red", "large"), Phrase("star", "blue"), Phrase(size="small"))
    assert meaning.facts == (Fact("left of", 0, 1), Fact("left of", 1, 2)) and meaning.only
    assert describes(meaning, three)


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("a red circle left of a blue star", (True, True, True)),
        ("a red circle right of a blue star", (True, True, False)),
        ("a blue circle left of a red star", (True, False, False)),
        ("a small object above a small object", (True, True, True)),  # the ring and the star
        ("a large object above a large object", (True, False, False)),  # there is one
        ("a red circle and nothing else", (True, False, False)),  # the words are right, the number is not
        ("two objects a red circle and a blue star", (True, False, False)),
        ("three objects a ring a red circle and a blue star", (True, True, True)),
        ("top to bottom a star a circle and a ring", (True, True, False)),
        ("top to bottom a ring a circle and a star", (True, True, True)),
        ("four objects red circle blue star green ring and object", (True, False, False)),
        ("a red circle left of the blue star", (False, False, False)),
    ],
)
def test_judged_by_hand(text: str, judged: tuple[bool, bool, bool], three: tuple[Thing, ...]) -> None:
    assert judge(text, three) == Judged(*judged)


def test_judging_other_scenes_agrees_with_the_reference_decoder() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), (1, 1, 1, 1)) for seed in range(60)]
    seen = set()
    for seed, scene in enumerate(scenes):
        form, meaning = say(scene, np.random.default_rng(seed), 0.9)
        for other in scenes:
            judged = judge(sentence(form, meaning.phrases), other)
            assert judged.grammatical and judged.true == describes(meaning, other)
            assert judged.attributes or not judged.true
            seen.add(judged)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a large red circle left of a blue star", [(1, [0]), (2, [0]), (3, [0]), (7, [1]), (8, [1])]),
        ("a small object above it", [(1, [1, 2])]),
        ("a red star", [(1, [0]), (2, [1])]),  # there is none: each word for itself
        ("a yellow star", [(2, [1])]),
        ("a pink cross", []),
        ("one object", []),
        ("star star green", [(0, [1]), (1, [1]), (2, [2])]),
        ("red small ring", [(0, [0]), (1, [2]), (2, [2])]),  # "red" is a phrase of its own
        ("small green and the ring", [(0, [2]), (1, [2]), (4, [2])]),
        ("small of ring", [(0, [1, 2]), (2, [2])]),
        ("large blue object", [(0, [0]), (1, [1])]),
        ("", []),
    ],
)
def test_named_by_hand(text: str, expected: list[tuple[int, list[int]]], three: tuple[Thing, ...]) -> None:
    assert named(text.split(), three) == expected


def test_all_content_words_of_a_true_caption_name_something() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, (1, 1, 1, 1))
        form, meaning = say(scene, rng, 0.3)
        words = sentence(form, meaning.phrases).replace(",", "").split()
        said = sum(len([word for word in phrase if word]) for phrase in meaning.phrases)
        assert len(named(words, scene)) == said
