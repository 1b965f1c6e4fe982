"""Sentences of the embedded world: true, different, short, and turned round for the mirror image."""

import numpy as np
import pytest

from mm.data.scenes import (
    Thing,
    draw_scene,
    mirrored,
)
from mm.data.sentences import (
    CLEAR_PX,
    FORMS,
    Fact,
    Meaning,
    Phrase,
    Register,
    captions,
    describes,
    say,
    sentence,
    turned_round,
)


def bag(text: str) -> list[str]:
    return sorted(text.replace(",", "").split())


@pytest.mark.parametrize(
    ("meaning", "true"),
    [
        (Meaning((Phrase("circle"), Phrase(colour="blue")), (Fact("left of", 0, 1),), False), True),
        (Meaning((Phrase("circle"), Phrase(colour="blue")), (Fact("right of", 0, 1),), False), False),
        (Meaning((Phrase("circle"), Phrase(colour="blue")), (Fact("above", 0, 1),), False), True),
        (Meaning((Phrase("star"), Phrase("ring")), (Fact("below", 0, 1),), False), True),
        (Meaning((Phrase(size="small"), Phrase(size="small")), (), False), True),
        (Meaning((Phrase(size="large"), Phrase(size="large")), (), False), False),  # one thing is not two
        (Meaning((Phrase(size="small"), Phrase("star")), (Fact("right of", 0, 1),), False), True),  # the ring
        (Meaning((Phrase("circle"),), (Fact("on the left", 0), Fact("at the top", 0)), False), True),
        (Meaning((Phrase("star"),), (Fact("at the top", 0),), False), False),
        (Meaning((Phrase("ring"),), (Fact("on the right", 0),), False), True),
        (Meaning((Phrase("star"),), (Fact("at the bottom", 0),), False), True),
        (Meaning((Phrase("star"),), (Fact("in the middle", 0),), False), False),
        (Meaning((Phrase("circle"), Phrase("star")), (), True), False),  # there is a ring too
        (Meaning((Phrase("ring"), Phrase("circle"), Phrase("star")), (), True), True),
        (Meaning((Phrase("circle", "blue"),), (), False), False),
    ],
)
def test_meanings_by_hand(meaning: Meaning, true: bool, three: tuple[Thing, ...]) -> None:
    assert describes(meaning, three) is true


def test_wording() -> None:
    forms = {form.wording: form for form in FORMS}
    assert len(forms) == len(FORMS)
    phrases = (Phrase("circle", "orange"), Phrase("star", "blue", "small"), Phrase("", "red"), Phrase("ring"))
    assert sentence(forms["{0} left of {1}"], phrases) == "an orange circle left of a small blue star"
    assert sentence(forms["{0} with {1} below it"], phrases[1:]) == "a small blue star with a red object below it"
    listing = forms["left to right {0}, {1}, {2} and {3}"]
    assert sentence(listing, phrases) == "left to right orange circle, small blue star, red object and ring"


def test_captions_are_true_different_and_short() -> None:
    words: set[str] = set()
    used = set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, (1, 1, 1, 1))
        five = captions(scene, rng, 0.3)
        assert len({caption.text for caption in five}) == 5
        for text, meaning in five:
            assert describes(meaning, scene)
            assert len(text.split()) <= 17
            words |= set(bag(text))
        used |= {say(scene, rng, 0.0)[0] for _ in range(20)}
    assert used == set(FORMS)  # every wording is in use
    assert len(words) <= 60


def test_a_speaker_says_only_what_is_clear(three: tuple[Thing, ...]) -> None:
    red = three[0]
    near = (red, red._replace(colour="blue", x=red.x + 25, y=red.y + CLEAR_PX - 1))
    for seed in range(300):
        form, _ = say(near, np.random.default_rng(seed), 0.0)
        assert not {"above", "below"} & {fact.what for fact in form.facts}


def test_omission_leaves_words_out(three: tuple[Thing, ...]) -> None:
    phrases = {share: [] for share in (0.0, 0.4)}
    for share, found in phrases.items():
        for seed in range(500):
            found += say(three, np.random.default_rng(seed), share)[1].phrases
    assert all(all(phrase) for phrase in phrases[0.0])
    of = phrases[0.4]
    missing = [sum(not word for word in column) / len(of) for column in zip(*of, strict=True)]
    np.testing.assert_allclose(missing, (0.2, 0.2, 0.4), atol=0.05)  # shape, colour, size
    assert all(phrase.shape or phrase.colour for phrase in of)


def test_turned_round_is_true_of_the_mirror_image_in_the_same_words() -> None:
    found = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, (0, 1, 1, 1))
        form, meaning = say(scene, rng, 0.0, mirrorable=True)
        other = turned_round(form, meaning)
        assert describes(other, mirrored(scene)) and not describes(other, scene)
        assert describes(meaning, scene) and not describes(meaning, mirrored(scene))
        texts = sentence(form, meaning.phrases), sentence(form, other.phrases)
        assert bag(texts[0]) == bag(texts[1]) and texts[0] != texts[1]
        found += 1
    assert found == 300


def test_register_finds_what_a_loop_finds() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), (1, 1, 1, 1)) for seed in range(200)]
    register = Register(scenes)
    for seed in range(200):
        _, meaning = say(scenes[seed], np.random.default_rng(seed), 0.6)
        expected = [i for i, scene in enumerate(scenes) if describes(meaning, scene)]
        assert register.described(meaning) == expected and seed in expected
