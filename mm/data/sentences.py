"""Sentences about scenes: a small grammar, what each sentence means, and of which scenes it is true.

A caption is a `Form` (its wording) filled with noun phrases of things of the scene. Its `Meaning` says what must hold:
different things can be found for the phrases such that every fact is so. Nothing else decides whether a caption is
true, so the score of a perfect decoder can be computed.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mm.data.scenes import COLOURS, MOST_THINGS, SHAPES, SIDE_PX, SIZES, Scene, Thing, kind

CAPTIONS = 5  # of a scene
CLEAR_PX = 5.0  # a speaker says "left of", "at the top" ... only where that holds by this much
_MIDDLE_PX = 16.0  # "in the middle" reaches this far from the centre, across and down
_HALF_PX = SIDE_PX / 2

RELATIONS: dict[str, Callable[[Thing, Thing, float], bool]] = {
    "left of": lambda a, b, by: a.x + by < b.x,
    "right of": lambda a, b, by: a.x - by > b.x,
    "above": lambda a, b, by: a.y + by < b.y,
    "below": lambda a, b, by: a.y - by > b.y,
}
PLACES: dict[str, Callable[[Thing, float], bool]] = {
    "on the left": lambda a, by: a.x + by < _HALF_PX,
    "on the right": lambda a, by: a.x - by > _HALF_PX,
    "at the top": lambda a, by: a.y + by < _HALF_PX,
    "at the bottom": lambda a, by: a.y - by > _HALF_PX,
    "in the middle": lambda a, by: max(abs(a.x - _HALF_PX), abs(a.y - _HALF_PX)) + by < _MIDDLE_PX,
}


class Phrase(NamedTuple):
    """What a noun phrase says of a thing; "" where it says nothing."""

    shape: str = ""
    colour: str = ""
    size: str = ""

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)


class Fact(NamedTuple):
    """A relation of the thing of phrase `first` to that of phrase `second`, or the place of `first` alone (-1)."""

    what: str
    first: int
    second: int = -1


class Meaning(NamedTuple):
    """The scene holds different things, one for each phrase, of which all facts are true; `only` these if so said."""

    phrases: tuple[Phrase, ...]
    facts: tuple[Fact, ...]
    only: bool


class Form(NamedTuple):
    """A wording with numbered gaps for noun phrases.

    `mirror` is the order of the phrases that says the same of the mirrored scene in the same words; None where the
    wording says nothing about left and right, or cannot be turned round without other words.
    """

    wording: str
    facts: tuple[Fact, ...] = ()
    only: bool = False
    mirror: tuple[int, ...] | None = None

    @property
    def gaps(self) -> int:
        """How many noun phrases it takes."""
        return self.wording.count("{")


class Caption(NamedTuple):
    """A sentence and what it means."""

    text: str
    meaning: Meaning


def _chain(relation: str, count: int) -> tuple[Fact, ...]:
    return tuple(Fact(relation, i, i + 1) for i in range(count - 1))


def _list(count: int) -> str:
    gaps = ["{" + str(i) + "}" for i in range(count)]
    return ", ".join(gaps[:-1]) + " and " + gaps[-1]


def _listings(count: int) -> list[Form]:
    """Sentences that name everything in the scene."""
    backwards = tuple(reversed(range(count)))
    word = ("two", "three", "four")[count - 2]
    return [
        Form("left to right " + _list(count), _chain("left of", count), True, backwards),
        Form("right to left " + _list(count), _chain("right of", count), True, backwards),
        Form("top to bottom " + _list(count), _chain("above", count), True),
        Form("bottom to top " + _list(count), _chain("below", count), True),
        Form(f"{word} objects, " + _list(count), (), True),
    ]


def _alone() -> list[Form]:
    """Sentences about a scene of one thing."""
    forms = []
    for wording in ("only {0}", "{0} alone", "one object, {0}", "just {0}", "nothing but {0}", "{0} and nothing else"):
        forms.append(Form(wording, (), True))
        forms += [Form(f"{wording} {place}", (Fact(place, 0),), True) for place in PLACES]
    return forms


def _pairs() -> list[Form]:
    """Sentences about two or three things of a scene that may hold more."""
    swap, swap_first = (1, 0), (1, 0, 2)
    sides, ways = ("left of", "right of"), ("above", "below")
    forms = [
        Form("{0} on the left and {1} on the right", (Fact("on the left", 0), Fact("on the right", 1)), mirror=swap)
    ]
    forms.append(Form("{0} at the top and {1} at the bottom", (Fact("at the top", 0), Fact("at the bottom", 1))))
    for side in sides:
        forms.append(Form("{0} " + side + " {1}", (Fact(side, 0, 1),), mirror=swap))
        forms.append(Form("{0} to the " + side + " {1}", (Fact(side, 0, 1),), mirror=swap))
    for way in ways:
        forms.append(Form("{0} " + way + " {1}", (Fact(way, 0, 1),)))
        forms.append(Form("{0} with {1} " + way + " it", (Fact(way, 1, 0),)))
    for side, place in itertools.product(sides, ("at the top", "at the bottom", "in the middle")):
        facts = (Fact(side, 0, 1), Fact(place, 2))
        forms.append(Form("{0} " + side + " {1}, {2} " + place, facts, mirror=swap_first))
    for side, way in itertools.product(sides, ways):
        forms.append(Form("{0} " + side + " {1} and " + way + " {2}", (Fact(side, 0, 1), Fact(way, 0, 2))))
    return forms


FORMS = (*_alone(), *_pairs(), *_listings(2), *_listings(3), *_listings(4))


@functools.cache
def forms_for(count: int, mirrorable: bool = False) -> tuple[Form, ...]:
    """The forms that can speak of a scene of `count` things; `mirrorable`: those that tell it from its mirror image."""
    return tuple(
        form
        for form in FORMS
        if (form.gaps == count if form.only else form.gaps <= count) and (form.mirror is not None or not mirrorable)
    )


def say(scene: Scene, rng: np.random.Generator, omission: float, mirrorable: bool = False) -> tuple[Form, Meaning]:
    """Draw a form and fill it with things of the scene such that it is clearly true.

    Args:
        scene: what to speak of.
        rng: choice of the form, the things and the words left out.
        omission: chance that a noun phrase leaves out a size; half of that a colour, or else a shape.
        mirrorable: speak of left and right in words that can be turned round; of two things or more.

    Things must stand COLUMN_GAP_PX apart, as those of `draw_scene` do: then there is always something to say.
    """
    forms = forms_for(len(scene), mirrorable)
    while True:
        form = forms[int(rng.random() * len(forms))]
        chosen = [
            things
            for things in itertools.permutations(scene, form.gaps)
            if all(_holds(fact, things, CLEAR_PX) for fact in form.facts)
        ]
        if chosen:
            chance = rng.random(1 + 2 * form.gaps).tolist()
            things = chosen[int(chance[0] * len(chosen))]
            phrases = (_phrase(thing, omission, *chance[1 + 2 * i : 3 + 2 * i]) for i, thing in enumerate(things))
            return form, Meaning(tuple(phrases), form.facts, form.only)


def _phrase(thing: Thing, omission: float, of_size: float, of_name: float) -> Phrase:
    shape = "" if of_name < omission / 2 else thing.shape
    colour = "" if omission / 2 <= of_name < omission else thing.colour
    return Phrase(shape, colour, "" if of_size < omission else thing.size)


def turned_round(form: Form, meaning: Meaning) -> Meaning:
    """What the form says of the mirrored scene in the same words, the phrases changing places."""
    assert form.mirror is not None
    return meaning._replace(phrases=tuple(meaning.phrases[i] for i in form.mirror))


def sentence(form: Form, phrases: Sequence[Phrase]) -> str:
    """The words. Lists of four leave out the articles, so that no sentence is longer than 17 words."""
    names = [str(phrase) for phrase in phrases]
    if form.gaps < MOST_THINGS:
        names = [("an " if name[0] in "aeiou" else "a ") + name for name in names]
    return form.wording.format(*names)


def captions(scene: Scene, rng: np.random.Generator, omission: float, count: int = CAPTIONS) -> tuple[Caption, ...]:
    """So many different sentences that are true of a scene (not necessarily of no other)."""
    found: dict[str, Caption] = {}
    while len(found) < count:
        form, meaning = say(scene, rng, omission)
        text = sentence(form, meaning.phrases)
        found[text] = Caption(text, meaning)
    return tuple(found.values())


def describes(meaning: Meaning, scene: Scene) -> bool:
    """Whether a sentence is true of a scene: the reference decoder, by trying every choice of things."""
    if meaning.only and len(scene) != len(meaning.phrases):
        return False
    return any(
        all(_matches(phrase, thing) for phrase, thing in zip(meaning.phrases, things, strict=True))
        and all(_holds(fact, things, 0.0) for fact in meaning.facts)
        for things in itertools.permutations(scene, len(meaning.phrases))
    )


def _matches(phrase: Phrase, thing: Thing) -> bool:
    return all(said in ("", fact) for said, fact in zip(phrase, thing[:3], strict=True))


def _holds(fact: Fact, things: Sequence[Thing], by_px: float) -> bool:
    if fact.second < 0:
        return PLACES[fact.what](things[fact.first], by_px)
    return RELATIONS[fact.what](things[fact.first], things[fact.second], by_px)


class Register:
    """Many scenes, kept so that the ones a sentence is true of are found fast."""

    def __init__(self, scenes: Iterable[Scene]):
        self.scenes = list(scenes)
        self.kinds = np.full((len(self.scenes), MOST_THINGS), -1)  # (n, things), -1 = no thing
        for row, scene in zip(self.kinds, self.scenes, strict=True):
            row[: len(scene)] = [kind(thing) for thing in scene]

    def described(self, meaning: Meaning) -> list[int]:
        """The numbers of the scenes of which a sentence is true, in order."""
        rows = np.arange(len(self.scenes))  # (candidates,)
        for phrase in sorted(set(meaning.phrases), key=lambda phrase: -len(str(phrase).split())):
            rows = rows[_kinds_of(phrase)[self.kinds[rows]].any(1)]  # (fewer candidates,)
        return [int(row) for row in rows if describes(meaning, self.scenes[row])]


@functools.cache
def _kinds_of(phrase: Phrase) -> np.ndarray:
    """(KINDS + 1,) bool: which kinds of thing a phrase matches; the last place is that of no thing."""
    words = itertools.product(SHAPES, COLOURS, SIZES)
    return np.array([_matches(phrase, Thing(*three, 0.0, 0.0)) for three in words] + [False])
