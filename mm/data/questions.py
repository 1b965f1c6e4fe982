"""Questions about scenes of the embedded world, whose words say nothing about the answer.

Whoever reads the question alone is at chance, exactly: either the words and the answer are drawn first, independently,
and then a scene for which the answer holds (`anchored`), or the question speaks of a random thing of a random scene in
whose making all colours, shapes, sides and orders are alike (`ASKERS`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mm.data.scenes import COLOURS, KINDS, MOST_THINGS, SHAPES, SIZES, Scene, Thing, place, words_of
from mm.data.sentences import CLEAR_PX, RELATIONS, Phrase

TYPES = ("colour", "shape", "count", "exists", "relation", "comparison", "sound")
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
_WORDS = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES)}
_KINDS = [Phrase(*words_of(number)) for number in range(KINDS)]
_HOW_MANY = [(x, y) for x, y in itertools.product(range(MOST_THINGS + 1), repeat=2) if 1 <= x + y <= MOST_THINGS]


class Asked(NamedTuple):
    """A question, its answer, and of which of `TYPES` it is."""

    text: str
    answer: str
    type: str


def anchored(rng: np.random.Generator) -> tuple[Scene, Asked]:
    """A scene made for a question of counting or comparison: words first, then the answer, then the scene."""
    makers = ((count_things,), (compare_counts, compare_names, compare_sizes))[rng.integers(2)]
    numbers, asked = makers[rng.integers(len(makers))](rng)
    while True:
        if scene := place(rng.permutation(numbers).tolist(), rng):
            return scene, asked


def count_things(rng: np.random.Generator) -> tuple[list[int], Asked]:
    """How many of a shape, a colour or a size: 0 to 4, equally often."""
    attribute = ("shape", "colour", "size")[rng.integers(3)]
    (word,) = different(_WORDS[attribute], 1, rng)
    answer = int(rng.integers(MOST_THINGS + 1))
    counted = kinds(**{attribute: word})
    numbers = draw(counted, answer, rng) + draw(others(counted), more(max(answer, 1), rng) - answer, rng)
    return numbers, Asked(f"how many {plural(attribute, word)} are there?", str(answer), "count")


def compare_counts(rng: np.random.Generator) -> tuple[list[int], Asked]:
    """Are there more of one colour or shape than of another?"""
    attribute = ("shape", "colour")[rng.integers(2)]
    words = different(_WORDS[attribute], 2, rng)
    answer = rng.random() < 0.5
    fitting = [pair for pair in _HOW_MANY if (pair[0] > pair[1]) == answer]
    counts = fitting[rng.integers(len(fitting))]
    groups = [kinds(**{attribute: word}) for word in words]
    numbers = [number for group, count in zip(groups, counts, strict=True) for number in draw(group, count, rng)]
    numbers += draw(others(*groups), more(sum(counts), rng) - sum(counts), rng)
    first, second = (plural(attribute, word) for word in words)
    return numbers, Asked(f"are there more {first} than {second}?", yes_no(answer), "comparison")


def compare_names(rng: np.random.Generator) -> tuple[list[int], Asked]:
    """Are two things, known by their shapes, of the same colour, or two of known colours of the same shape?"""
    known, compared = (("shape", "colour"), ("colour", "shape"))[rng.integers(2)]
    words = different(_WORDS[known], 2, rng)
    answer = rng.random() < 0.5
    values = different(_WORDS[compared], 1, rng) * 2 if answer else different(_WORDS[compared], 2, rng)
    numbers: list[int] = []
    for word, value in zip(words, values, strict=True):
        numbers += draw(kinds(**{known: word, compared: value}), 1, rng)
    numbers += draw(others(*(kinds(**{known: word}) for word in words)), more(2, rng) - 2, rng)
    first, second = (Phrase(**{known: word}) for word in words)
    return numbers, Asked(f"is the {first} the same {compared} as the {second}?", yes_no(answer), "comparison")


def compare_sizes(rng: np.random.Generator) -> tuple[list[int], Asked]:
    """Is one thing, known by shape and colour, larger than another?"""
    both = [Phrase(shape, colour) for shape, colour in itertools.product(SHAPES, COLOURS)]
    first, second = different(both, 2, rng)
    answer = rng.random() < 0.5
    no = (("small", "large"), ("small", "small"), ("large", "large"))
    sizes = ("large", "small") if answer else no[rng.integers(len(no))]
    numbers: list[int] = []
    for phrase, size in zip((first, second), sizes, strict=True):
        numbers += kinds(phrase.shape, phrase.colour, size)
    named = (kinds(phrase.shape, phrase.colour) for phrase in (first, second))
    numbers += draw(others(*named), more(2, rng) - 2, rng)
    return numbers, Asked(f"is the {first} larger than the {second}?", yes_no(answer), "comparison")


def ask_colour(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """What colour is a thing that its shape, or its shape and size, tells from all others?"""
    found = unmistakable(scene, (("shape",), ("shape", "size")))
    if not found:
        return None
    phrase, number = found[rng.integers(len(found))]
    return Asked(f"what colour is the {phrase}?", scene[number].colour, "colour")


def ask_shape(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """What shape is a thing that its colour, or its colour and size, tells from all others?"""
    found = unmistakable(scene, (("colour",), ("colour", "size")))
    if not found:
        return None
    phrase, number = found[rng.integers(len(found))]
    return Asked(f"what shape is the {phrase}?", scene[number].shape, "shape")


def ask_exists(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """Is a thing there? If not, one is that has all but its shape, or all but its colour."""
    thing = scene[rng.integers(len(scene))]
    phrase = Phrase(thing.shape, thing.colour, thing.size if rng.random() < 0.5 else "")
    if answer := rng.random() < 0.5:
        return Asked(f"is there {a(phrase)}?", yes_no(answer), "exists")
    attribute = ("shape", "colour")[rng.integers(2)]
    absent = [
        changed
        for word in _WORDS[attribute]
        if not any(matches(changed := phrase._replace(**{attribute: word}), thing) for thing in scene)
    ]
    return Asked(f"is there {a(absent[rng.integers(len(absent))])}?", yes_no(answer), "exists")


def ask_relation(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """Does a thing lie left of, right of, above or below another?"""
    found = unmistakable(scene, (("shape", "colour"),))
    if len(found) < 2:
        return None
    (first, number), (second, other) = different(found, 2, rng)
    relations = clear(scene[number], scene[other])
    relation = relations[rng.integers(len(relations))]
    answer = RELATIONS[relation](scene[number], scene[other], CLEAR_PX)
    return Asked(f"is the {first} {relation} the {second}?", yes_no(answer), "relation")


def ask_heard(scene: Scene, heard: int, seen: bool, rng: np.random.Generator) -> Asked:
    """About the one thing that sounds: its shape, its colour, its size where it is not seen, else where it lies."""
    thing = scene[heard]
    form = rng.integers(3)
    if form == 0:
        return Asked("which object do you hear?", thing.shape, "sound")
    if form == 1:
        return Asked("what colour is the object that you hear?", thing.colour, "sound")
    if not seen:
        return Asked("what size is the object that you hear?", thing.size, "sound")
    named = [(phrase, number) for phrase, number in unmistakable(scene, (("shape", "colour"),)) if number != heard]
    if not named:
        return ask_heard(scene, heard, seen, rng)
    phrase, number = named[rng.integers(len(named))]
    relations = clear(thing, scene[number])
    relation = relations[rng.integers(len(relations))]
    answer = RELATIONS[relation](thing, scene[number], CLEAR_PX)
    return Asked(f"is the object that you hear {relation} the {phrase}?", yes_no(answer), "sound")


ASKERS: dict[str, Callable[[Scene, np.random.Generator], Asked | None]] = {
    "colour": ask_colour,
    "shape": ask_shape,
    "exists": ask_exists,
    "relation": ask_relation,
}


def about(scene: Scene, rng: np.random.Generator) -> Iterator[Asked]:
    """A question of each type of `ASKERS` that the scene lets be asked, in random order."""
    for name in different(tuple(ASKERS), len(ASKERS), rng):
        if asked := ASKERS[name](scene, rng):
            yield asked


def unmistakable(scene: Scene, ways: Sequence[Sequence[str]]) -> list[tuple[Phrase, int]]:
    """Phrases of given attributes that are true of one thing alone, and the number of the thing."""
    found = []
    for number, thing in enumerate(scene):
        for attributes in ways:
            phrase = Phrase(**{attribute: getattr(thing, attribute) for attribute in attributes})
            if sum(matches(phrase, other) for other in scene) == 1:
                found.append((phrase, number))
    return found


def matches(phrase: Phrase, thing: Thing | Phrase) -> bool:
    """Whether a phrase is true of a thing, or of a kind of things."""
    return all(said in ("", fact) for said, fact in zip(phrase, thing[:3], strict=True))


@functools.cache
def kinds(shape: str = "", colour: str = "", size: str = "") -> tuple[int, ...]:
    """The kinds that a phrase is true of."""
    phrase = Phrase(shape, colour, size)
    return tuple(number for number, kind in enumerate(_KINDS) if matches(phrase, kind))


def others(*groups: Sequence[int]) -> list[int]:
    """The kinds that are in no group."""
    return sorted(set(range(KINDS)).difference(*groups))


def draw(numbers: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """So many different ones of some kinds."""
    return [numbers[i] for i in rng.permutation(len(numbers))[:count]]


def different(things: Sequence, count: int, rng: np.random.Generator) -> list:
    """So many different ones, in random order."""
    return [things[i] for i in rng.permutation(len(things))[:count]]


def more(least: int, rng: np.random.Generator) -> int:
    """How many things the scene holds, at least so many."""
    return int(rng.integers(least, MOST_THINGS + 1))


def clear(one: Thing, other: Thing) -> list[str]:
    """The relations in which two things clearly stand, in one order or the other."""
    orders = (one, other), (other, one)
    return [relation for relation, holds in RELATIONS.items() if any(holds(*order, CLEAR_PX) for order in orders)]


def a(phrase: Phrase) -> str:
    """A noun phrase with its article."""
    name = str(phrase)
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(attribute: str, word: str) -> str:
    """Many things of a shape, a colour or a size."""
    return PLURALS[word] if attribute == "shape" else f"{word} objects"


def yes_no(answer: bool) -> str:
    """The word."""
    return "yes" if answer else "no"
