"""What a generated sentence says about a scene of the embedded world, and whether it is so.

`mm.data.sentences` turns meanings into words; this is the way back. A captioner writes words without commas, so
commas mean nothing here: every wording of the grammar is told from all others by its words alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mm.data.scenes import COLOURS, MOST_THINGS, SHAPES, SIZES, Scene
from mm.data.sentences import FORMS, Form, Meaning, Phrase, describes, sentence
from mm.vocabulary import tokenize

_ORDER = ("size", "colour", "shape")  # of the words in a noun phrase
_KIND = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys((*SHAPES, "object"), "shape"),
}
_BARE = rf"(?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)}|object)\b"


def _by_wording(forms: Sequence[Form]) -> dict[str, Form]:
    """Forms by their words, commas left out and "{}" for each gap; the gaps are numbered in order."""
    return {re.sub(r"\{\d\}", "{}", form.wording.replace(",", "")): form for form in forms}


# Lists of four leave out the articles; the other sentences must have them, so "one object" is no noun phrase there.
_READINGS = (
    (re.compile(rf"\ban? {_BARE}"), _by_wording([form for form in FORMS if form.gaps < MOST_THINGS])),
    (re.compile(rf"\b{_BARE}"), _by_wording([form for form in FORMS if form.gaps == MOST_THINGS])),
)


class Judged(NamedTuple):
    """What is right about a sentence. Each answer implies those before it.

    Attributes:
        grammatical: it is a sentence of the grammar.
        attributes: different things of the scene have the sizes, colours and shapes of its noun phrases, and there are
            no others if it says so.
        true: it describes the scene: relations and places hold too.
    """

    grammatical: bool
    attributes: bool
    true: bool


def parse(text: str) -> Meaning | None:
    """What a sentence means: the inverse of `sentences.sentence`, with or without the commas.

    Returns:
        Its noun phrases and facts; None if it is no sentence of the grammar, to the article.

    >>> parse("a red star left of an orange object").phrases
    (Phrase(shape='star', colour='red', size=''), Phrase(shape='', colour='orange', size=''))
    >>> parse("a star red") is None
    True
    """
    words = " ".join(tokenize(text))
    for noun_phrase, by_wording in _READINGS:
        form = by_wording.get(noun_phrase.sub("{}", words))
        if form is None:
            continue
        found = noun_phrase.findall(words)
        phrases = tuple(Phrase("" if shape == "object" else shape, colour, size) for size, colour, shape in found)
        if sentence(form, phrases).replace(",", "") == words:  # "a orange star" is not
            return Meaning(phrases, form.facts, form.only)
    return None


def judge(text: str, scene: Scene) -> Judged:
    """What is right about a sentence that was said of a scene; nothing, where it is no sentence of the grammar."""
    meaning = parse(text)
    if meaning is None:
        return Judged(False, False, False)
    return Judged(True, describes(meaning._replace(facts=()), scene), describes(meaning, scene))


def named(words: Sequence[str], scene: Scene) -> list[tuple[int, list[int]]]:
    """Which things of a scene the content words of a sentence speak of; it need not be a sentence of the grammar.

    A noun phrase is size, colour, shape or "object", in this order, each at most once and at least one of them. Its
    words speak of all things that match the phrase; if there is none, each of those that the word alone is true of.

    Args:
        words: of the sentence, in lower case.
        scene: what it speaks of.

    Returns:
        (position in `words`, numbers of the things, ascending) of each shape, colour and size word, in order; words
        that are true of nothing in the scene are left out.
    """
    found = []
    for places in _noun_phrases(words):
        said = {kind: words[place] for kind, place in places.items() if words[place] != "object"}
        whole = _matching(said, scene)
        for kind, word in said.items():
            numbers = whole or _matching({kind: word}, scene)
            if numbers:
                found.append((places[kind], numbers))
    return found


def _noun_phrases(words: Sequence[str]) -> Iterator[dict[str, int]]:
    """Position of the size, the colour and the shape of each noun phrase, as far as it has them."""
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        kind = _KIND.get(word)
        if places and (kind is None or any(_ORDER.index(kind) <= _ORDER.index(earlier) for earlier in places)):
            yield places
            places = {}
        if kind is not None:
            places[kind] = place
    if places:
        yield places


def _matching(said: dict[str, str], scene: Scene) -> list[int]:
    """Numbers of the things of which a phrase is true."""
    alone = Meaning((Phrase(**said),), (), False)
    return [number for number, thing in enumerate(scene) if describes(alone, (thing,))]
