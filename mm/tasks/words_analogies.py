"""Word analogies: a small set of our own, of words that captions have, and the reader of sets in Google's format."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from mm.vocabulary import tokenize

Questions = dict[str, list[tuple[str, ...]]]  # {section: [(a, b, c, d)]}: a is to b as c is to d

PAIRS = {  # {section: pairs of words that stand in one relation}
    "female": "man woman, boy girl, men women, boys girls, he she, his her, himself herself, father mother, "
    "son daughter, brother sister, husband wife, groom bride, male female, grandfather grandmother, king queen",
    "plural": "dog dogs, boy boys, girl girls, man men, woman women, child children, kid kids, player players, "
    "rock rocks, tree trees, bike bikes, car cars, ball balls, bird birds, horse horses, mountain mountains, "
    "building buildings, toy toys, flower flowers, adult adults, object objects, boat boats, puppy puppies",
    "running": "run running, jump jumping, walk walking, play playing, sit sitting, stand standing, ride riding, "
    "look looking, climb climbing, hold holding, smile smiling, wear wearing, throw throwing, catch catching, "
    "swim swimming, leap leaping, wait waiting, watch watching, carry carrying, pose posing",
    "runs": "run runs, jump jumps, walk walks, play plays, sit sits, stand stands, ride rides, look looks, "
    "climb climbs, hold holds, smile smiles, wear wears, throw throws, catch catches, swim swims, leap leaps, "
    "wait waits, watch watches, carry carries, pose poses",
    "doer": "ski skier, surf surfer, swim swimmer, climb climber, skateboard skateboarder, snowboard snowboarder, "
    "bike biker, bicycle bicyclist, run runner, dance dancer, ride rider, skate skater, wrestle wrestler",
    "opposite": "left right, top bottom, above below, up down, small large, little big, young old, black white, "
    "inside outside, front back, day night, over under, tall short, wet dry, light dark, hot cold, open closed",
    "next": "one two, two three, three four, four five, five six",
}
KINDS = {  # {kind: words of it}, no word in two
    "colours": "red orange yellow green blue purple pink white black brown grey cyan tan",
    "shapes": "circle square triangle ring star cross",
    "sizes": "small large little big huge tiny",
    "numbers": "one two three four five six",
    "places": "above below left right top bottom middle",
    "animals": "dog cat horse bird cow sheep duck puppy",
    "people": "man woman boy girl child baby lady guy person toddler",
    "clothes": "shirt jacket hat coat dress pants shorts jeans sweater shoes helmet",
    "vehicles": "car bike bicycle motorcycle boat truck bus train",
    "sports": "soccer football basketball baseball tennis hockey volleyball rugby",
    "nature": "grass snow sand water dirt mud ice",
    "actions": "running walking jumping sitting standing playing climbing swimming riding",
}


def own_questions() -> Questions:
    """Every two pairs of a section as a question, both ways round, unless they share a word."""
    sections = {name: [tuple(pair.split()) for pair in text.split(", ")] for name, text in PAIRS.items()}
    return {
        name: [(*one, *other) for one, other in itertools.permutations(pairs, 2) if not set(one) & set(other)]
        for name, pairs in sections.items()
    }


def read_questions(path: str | Path) -> Questions:
    """The questions of a file in the format of Google's set: lines ": section", and lines of four words below them.

    Words are taken as `mm.vocabulary.tokenize` takes them: in lower case.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text in UTF-8, has no question, or a line is neither; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"analogies must be a file of questions: {path} not found.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}. Convert it first.") from error
    found: Questions = {}
    section = ""
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields and fields[0].startswith(":"):
            section = " ".join(fields).removeprefix(":").strip()
            found.setdefault(section, [])
        elif fields:
            if len(fields) != 4 or not section:
                raise ValueError(
                    f"line {number} of {path} must be four words below a line ': section': got {line.strip()[:60]!r}. "
                    "Take it out, or name its section."
                )
            found[section].append(tuple(" ".join(tokenize(field)) or field for field in fields))
    if not any(found.values()):
        raise ValueError(f"{path} must have questions, four words a line below a line ': section': it has none.")
    return found


def answerable(questions: Sequence[tuple[str, ...]], words: Sequence[str]) -> list[list[int]]:
    """The questions all whose words are known, as rows of four numbers."""
    numbers = {word: number for number, word in enumerate(words)}
    return [[numbers[word] for word in question] for question in questions if numbers.keys() >= set(question)]
