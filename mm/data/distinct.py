"""Scenes for val and test that can be told apart by each of their captions and by their sounds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mm.data.scenes import COLOURS, Scene, draw_scene, kind, mirrored, recoloured
from mm.data.sentences import CAPTIONS, Caption, Form, Register, say, sentence, turned_round

_TRIES = 60  # sentences tried for the captions of one scene before it is drawn anew
_OF_A_FORM = 2  # captions of a scene with the same wording around other noun phrases, at most
_DRAWS = 1000  # scenes drawn in search of one with a sound of its own
_ROUNDS = 100  # of drawing anew
_TOO_MANY = (
    "the scenes of a split must be told apart by their captions and sounds, and there are more of them than this world "
    "can tell apart. Ask for fewer scenes, allow more things in a scene, lower omission, or set identified=False."
)


def draw_pair(rng: np.random.Generator, what: str, shares: Sequence[float]) -> tuple[Scene, Scene]:
    """Two scenes: "twins" are mirror images, "variants" differ in the colour of one thing, "single" in everything."""
    if what == "single":
        return draw_scene(rng, shares), draw_scene(rng, shares)
    if what == "twins":
        scene = draw_scene(rng, (0.0, *shares[1:]))
        return scene, mirrored(scene)
    scene = draw_scene(rng, shares)
    number = int(rng.integers(len(scene)))
    others = [colour for colour in COLOURS if colour != scene[number].colour]
    return scene, recoloured(scene, number, others[int(rng.integers(len(others)))])


class Told(NamedTuple):
    """A scene and what is said of it."""

    scene: Scene
    captions: tuple[Caption, ...]


class _Group:
    """Scenes that belong together: a pair of "twins", of "variants", or one "single" scene."""

    def __init__(self, what: str, first: int):
        self.what = what
        self.first = first  # number of its first scene in the split
        self.attempt = 0
        self.scenes: tuple[Scene, ...] = ()
        self.captions: tuple[tuple[Caption, ...], ...] = ()  # of each scene; () = still to be found


def tell_apart(
    n: int, entropy: Sequence[int], *, shares: Sequence[float], omission: float, twins: float, variants: float
) -> list[Told]:
    """Draw n scenes of which each caption is true of one alone, and no two of which hold the same voices in a row.

    All scenes are drawn first. A group for which no captions are found that are true of its scenes alone is drawn anew,
    and captions of others that would be true of the new scenes are replaced, until nothing is left to do.

    Args:
        n: scenes of the split.
        entropy: numbers that everything follows from.
        shares: of the scenes with 1, 2, ... things.
        omission: see `mm.data.sentences.say`.
        twins: share of scenes that come as a scene and its mirror image. Their captions differ in the order of the
            words alone.
        variants: share of scenes that are another one with a thing recoloured.

    Raises:
        ValueError: it does not end, because there are more scenes than captions or sounds can tell apart.
    """
    twin_pairs, variant_pairs = int(n * twins / 2), int(n * variants)
    kinds = ["twins"] * twin_pairs + ["variants"] * variant_pairs
    kinds += ["single"] * (n - 2 * len(kinds))
    np.random.default_rng((*entropy, n)).shuffle(kinds)
    groups: list[_Group] = []
    first = 0
    for what in kinds:
        groups.append(_Group(what, first))
        first += 1 if what == "single" else 2

    todo = groups
    for _ in range(_ROUNDS):
        sounds = {_voices(scene) for group in groups for scene in group.scenes}
        for group in todo:
            _draw(group, entropy, shares, sounds)
        _forget_ambiguous(groups, Register(scene for group in todo for scene in group.scenes))
        register = Register(scene for group in groups for scene in group.scenes)
        todo = [group for group in groups if not group.captions and not _speak(group, entropy, register, omission)]
        if not todo:
            return [Told(*told) for group in groups for told in zip(group.scenes, group.captions, strict=True)]
        for group in todo:
            group.scenes = ()
    raise ValueError(_TOO_MANY)


def _voices(scene: Scene) -> tuple[int, ...]:
    return tuple(kind(thing) for thing in scene)


def _draw(group: _Group, entropy: Sequence[int], shares: Sequence[float], sounds: set[tuple[int, ...]]) -> None:
    """Give a group scenes whose voices in a row are new, and add these to `sounds`."""
    for _ in range(_DRAWS):
        group.attempt += 1
        rng = np.random.default_rng((*entropy, group.first, group.attempt, 0))
        group.scenes = draw_pair(rng, group.what, shares)[: 1 if group.what == "single" else 2]
        new = {_voices(scene) for scene in group.scenes}
        if len(new) == len(group.scenes) and not new & sounds:
            sounds |= new
            return
    raise ValueError(_TOO_MANY)


def _forget_ambiguous(groups: Sequence[_Group], drawn: Register) -> None:
    """Take back the captions of scenes of which one is also true of a scene drawn since they were found."""
    for group in groups:
        if any(drawn.described(caption.meaning) for captions in group.captions for caption in captions):
            group.captions = ()


def _speak(group: _Group, entropy: Sequence[int], register: Register, omission: float) -> bool:
    """Give every scene of a group five captions that are true of it alone, if they are found."""
    rng = np.random.default_rng((*entropy, group.first, group.attempt, 1))
    together = [group.scenes] if group.what == "twins" else [(scene,) for scene in group.scenes]
    first, found = group.first, []
    for scenes in together:
        captions = _captions(scenes, first, register, rng, omission)
        if not captions:
            return False
        first += len(scenes)
        found += captions
    group.captions = tuple(found)
    return True


def _captions(
    scenes: tuple[Scene, ...], first: int, register: Register, rng: np.random.Generator, omission: float
) -> list[tuple[Caption, ...]]:
    """Five captions for a scene, or for a scene and its mirror image, that are true of no other; [] if too rare."""
    found: list[dict[str, Caption]] = [{} for _ in scenes]
    used: list[Form] = []
    for _ in range(_TRIES):
        form, meaning = say(scenes[0], rng, omission, mirrorable=len(scenes) == 2)
        if used.count(form) == _OF_A_FORM:
            continue
        meanings = [meaning] if len(scenes) == 1 else [meaning, turned_round(form, meaning)]
        if all(register.described(each) == [first + i] for i, each in enumerate(meanings)):
            used.append(form)
            for captions, each in zip(found, meanings, strict=True):
                text = sentence(form, each.phrases)
                captions[text] = Caption(text, each)
            if len(found[0]) == CAPTIONS:
                return [tuple(captions.values()) for captions in found]
    return []
