"""The embedded world: scenes with a picture, five captions and a sound, made from (seed, split, index) alone.

No file and no download. A scene's things are the ground truth (`mm.data.scenes`); captions come from a grammar whose
sentences can be decided (`mm.data.sentences`), sounds from one voice per thing (`mm.data.voices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mm.data.distinct import Told, draw_pair, tell_apart
from mm.data.item import Item
from mm.data.scenes import MOST_THINGS, Scene, picture, recoloured
from mm.data.sentences import CAPTIONS, Caption, Register, captions
from mm.data.voices import moments, sound
from mm.naming import known

SPLITS = {"train": 0, "val": 1, "test": 2}  # each its own range of seeds: (seed, number of the split, index)


@dataclass(frozen=True)
class World:
    """How difficult the world is.

    Val and test scenes are told apart: each caption, and each row of voices, is that of one scene alone. Scenes of
    the train split come in neighbours: 2 k and 2 k + 1 are twins or variants of one another in the shares below.

    Raises:
        ValueError: a share outside 0..1, a negative strength, or an unknown choice.
    """

    objects: tuple[float, ...] = (0.05, 0.35, 0.4, 0.2)  # shares of the scenes with 1, 2, 3 and 4 things
    texture: float = 0.6  # strength of the background's pattern
    pixel_noise: float = 10.0  # standard deviation in grey levels of 255
    light: float = 0.2  # exposure varies by this share either way
    tilt_deg: float = 12.0  # things are turned by up to this angle either way
    omission: float = 0.25  # chance that a noun phrase leaves out a size; as often a colour or a shape
    sounding: Literal["all", "one", "several", "none"] = "all"  # which things are heard; "several": two or more
    order: Literal["sequence", "together"] = "sequence"  # one after another from left to right, or all at once
    snr_db: float = 14.0  # level of a voice over the noise, 3 dB more or less
    twins: float = (
        0.5  # share of scenes that are mirror images of one another; in val and test with captions of equal words
    )
    variants: float = 0.2  # share of scenes that are another one with a single thing recoloured
    identified: bool = True  # tell val and test scenes apart; False draws them like train scenes

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MOST_THINGS or min(self.objects) < 0 or sum(self.objects) <= 0:
            raise ValueError(f"objects must be 1 to {MOST_THINGS} shares, not all of them 0: got {self.objects}.")
        for name in ("texture", "pixel_noise", "tilt_deg"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0: got {getattr(self, name)}.")
        for name in ("light", "omission", "twins", "variants"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1: got {getattr(self, name)}.")
        if self.twins + 2 * self.variants > 1:
            raise ValueError(
                f"twins + 2 x variants must not exceed 1, for a variant needs a scene to be a variant of: got "
                f"{self.twins} and {self.variants}."
            )
        if self.twins > 0 and sum(self.objects[1:]) <= 0:
            raise ValueError("twins need scenes of two or more things: set twins=0, or give objects such shares.")
        for name, choices in (("sounding", ("all", "one", "several", "none")), ("order", ("sequence", "together"))):
            known(getattr(self, name), choices, name)


class Scenes(Sequence[Item]):
    """The scenes of one split; each is drawn when it is asked for, the same on every call.

    Args:
        split: "train", "val" or "test".
        n: how many scenes. Scene i of the train split is the same for every n; val and test are chosen together.
        seed: of the world, at least 0.
        world: its difficulty.

    Raises:
        ValueError: an unknown split, a negative number, or so many scenes that they cannot be told apart.
    """

    def __init__(self, split: str, n: int, seed: int = 0, world: World = World()):
        known(split, SPLITS, "split")
        if n < 1 or seed < 0:
            raise ValueError(f"a split needs at least one scene, and a seed of at least 0: got n={n}, seed={seed}.")
        self.split = split
        self.n = n
        self.seed = seed
        self.world = world
        self._chosen: list[Told] | None = None  # what scenes that must be told apart hold and what is said of them
        if split != "train" and world.identified:
            self._chosen = tell_apart(
                n,
                (seed, SPLITS[split]),
                shares=world.objects,
                omission=world.omission,
                twins=world.twins,
                variants=world.variants,
            )

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Item `index`: its picture, captions, sound, and as `meta` the truth about each thing and the sound."""
        scene, rng, world = self.scene(index), self._rng(index, 2), self.world
        image, boxes = picture(
            scene,
            rng,
            texture=world.texture,
            pixel_noise=world.pixel_noise,
            light=world.light,
            tilt_deg=world.tilt_deg,
        )
        heard = _heard(len(scene), world.sounding, rng)
        together = world.order == "together"
        meta = {
            "objects": truth(scene, boxes),
            "sounding": heard,  # places in "objects", in the order in which they are heard
            "moments_s": moments(len(heard), rng, together=together),  # [start, end] of each of them
        }
        wave = sound([scene[i] for i in heard], rng, together=together, snr_db=world.snr_db)
        name = self.name(index)
        text = tuple(caption.text for caption in self.captions(index))
        return Item(name, name, (image,), text, (wave,), meta)

    def name(self, index: int) -> str:
        """Id and owner of item `index`."""
        return f"{self.split}-{self._checked(index):05d}"

    def scene(self, index: int) -> Scene:
        """What scene `index` holds, from left to right."""
        if self._chosen is not None:
            return self._chosen[self._checked(index)].scene
        rng, world = self._rng(index // 2 * 2, 0), self.world
        chance = rng.random()
        what = (
            "twins" if chance < world.twins else "variants" if chance < world.twins + 2 * world.variants else "single"
        )
        return draw_pair(rng, what, world.objects)[index % 2]

    def captions(self, index: int) -> tuple[Caption, ...]:
        """The five sentences of scene `index` and what they mean."""
        if self._chosen is not None:
            return self._chosen[self._checked(index)].captions
        return captions(self.scene(index), self._rng(index, 1), self.world.omission)

    def _rng(self, index: int, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, SPLITS[self.split], self._checked(index), part))

    def _checked(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise IndexError(f"the {self.split} split has scenes 0 to {self.n - 1}: got {index}.")
        return index % self.n


def truth(scene: Scene, boxes: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """What is known of each thing of a scene, as plain JSON values."""
    return [
        {
            "shape": thing.shape,
            "colour": thing.colour,
            "size": thing.size,
            "centre_px": [thing.x, thing.y],
            "box_xyxy_px": box,
        }
        for thing, box in zip(scene, boxes, strict=True)
    ]


def _heard(count: int, sounding: str, rng: np.random.Generator) -> list[int]:
    if sounding == "all":
        return list(range(count))
    several = min(2, count)
    fewest, most = {"one": (1, 1), "several": (several, max(several, count - 1)), "none": (0, 0)}[sounding]
    return sorted(rng.permutation(count)[: rng.integers(fewest, most + 1)].tolist())


def perfect_decoder_scores(scenes: Scenes, heard_only: bool = False) -> np.ndarray:
    """1 where a caption is true of a scene: what a model scores that understands and sees, or hears, everything.

    The ranks of this matrix are the ceiling of a split; where captions identify their scenes, R@1 is 100 %.

    Args:
        scenes: n scenes.
        heard_only: the decoder hears the things one after another but does not see them, so it knows what is left of
            what, but takes any height and any absolute place for possible: the ceiling between sentences and sounds.

    Returns:
        (5 n, n) float32; the captions of scene i are rows 5 i to 5 i + 4.
    """
    register = Register(scenes.scene(i) for i in range(len(scenes)))
    scores = np.zeros((CAPTIONS * len(scenes), len(scenes)), np.float32)  # (5 n, n)
    for row, caption in enumerate(_all_captions(scenes)):
        meaning = caption.meaning
        if heard_only:
            audible = (fact for fact in meaning.facts if fact.what in ("left of", "right of"))
            meaning = meaning._replace(facts=tuple(audible))
        scores[row, register.described(meaning)] = 1
    return scores


def bag_of_words_scores(scenes: Scenes) -> np.ndarray:
    """1 where a caption has the words of one of a scene's captions in any order: no model that ignores order is better.

    Twins tie, for each has the other's words, so R@1 falls short by half of their share.

    Returns:
        (5 n, n) float32; the captions of scene i are rows 5 i to 5 i + 4.
    """
    bags = [tuple(sorted(caption.text.replace(",", "").split())) for caption in _all_captions(scenes)]  # 5 n of them
    speakers: dict[tuple[str, ...], set[int]] = {}
    for row, bag in enumerate(bags):
        speakers.setdefault(bag, set()).add(row // CAPTIONS)
    scores = np.zeros((len(bags), len(scenes)), np.float32)  # (5 n, n)
    for row, bag in enumerate(bags):
        scores[row, sorted(speakers[bag])] = 1
    return scores


def _all_captions(scenes: Scenes) -> list[Caption]:
    return [caption for i in range(len(scenes)) for caption in scenes.captions(i)]


class Analogy(NamedTuple):
    """Scene `query` with the colour `old` of one thing replaced by `new` is each of the scenes `targets`."""

    query: int
    old: str
    new: str
    targets: tuple[int, ...]


def analogies(scenes: Scenes) -> list[Analogy]:
    """Every question "this scene, minus its colour word, plus another" that a scene of the split answers.

    Scenes count as equal when all things agree in shape, size and place and all but the one in colour.
    """
    alike: dict[tuple[int, Scene], dict[str, list[int]]] = {}  # all but one colour -> that colour -> scenes
    for i in range(len(scenes)):
        scene = scenes.scene(i)
        for number, thing in enumerate(scene):
            rest = recoloured(scene, number, "")
            alike.setdefault((number, rest), {}).setdefault(thing.colour, []).append(i)
    return [
        Analogy(query, old, new, tuple(targets))
        for by_colour in alike.values()
        for old, queries in by_colour.items()
        for query in queries
        for new, targets in by_colour.items()
        if new != old
    ]
