"""The embedded world with questions: scenes with a picture, a sound, and questions whose words betray no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from mm.data.item import Item, Items, Question
from mm.data.questions import Asked, about, anchored, ask_heard
from mm.data.scenes import Scene, picture
from mm.data.synthetic import SPLITS, World, truth
from mm.data.voices import sound
from mm.naming import known

SOUNDING = 0.5  # share of the scenes that are heard, in which one thing sounds
_WORLD = World()  # of the default difficulty
_STREAM = 4  # questions draw from chance of their own: (seed, split, index, 4 or more)


def answer_type(answer: str) -> str:
    """As VQA has it: "yes/no", "number" or "other"."""
    answer = answer.strip().lower()
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


class AskedScenes(Sequence[Item]):
    """Scenes of one split with questions; each is drawn when it is asked for, the same on every call.

    Args:
        split: "train", "val" or "test".
        n: how many scenes.
        seed: of the world, at least 0.
        world: how hard it is to see and hear. What the scenes hold is drawn for the questions.
        seen: there are pictures, and questions that take them.
        heard: half of the scenes (all, if none is seen) sound, with a question about what is heard.
        keep: which questions to ask; others are left out, and scenes of which nothing is asked.

    Raises:
        ValueError: an unknown split, a negative number, or neither seen nor heard.
    """

    def __init__(
        self,
        split: str,
        n: int,
        seed: int = 0,
        world: World = _WORLD,
        *,
        seen: bool = True,
        heard: bool = True,
        keep: Callable[[Question], bool] | None = None,
    ):
        known(split, SPLITS, "split")
        if n < 1 or seed < 0:
            raise ValueError(f"a split needs at least one scene, and a seed of at least 0: got n={n}, seed={seed}.")
        if not (seen or heard):
            raise ValueError("scenes must be seen or heard to be asked about: got seen=False and heard=False.")
        self.split, self.n, self.seed, self.world = split, n, seed, world
        self.seen, self.heard, self.keep = seen, heard, keep
        self._asked: dict[int, tuple[Question, ...]] = {}  # by the number of the scene
        self._numbers: Sequence[int] = range(n)
        if keep:
            self._numbers = [number for number in range(n) if self.questions(number)]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Item `index`: its picture, sound and questions, and as `meta` the truth about each thing."""
        name, world = self.name(index), self.world
        scene, sounding, asked = self.drawn(index)
        image, boxes = picture(
            scene,
            self._rng(index, 1),
            texture=world.texture,
            pixel_noise=world.pixel_noise,
            light=world.light,
            tilt_deg=world.tilt_deg,
        )
        heard = [scene[number] for number in sounding]
        wave = sound(heard, self._rng(index, 2), together=False, snr_db=world.snr_db) if heard else None
        return Item(
            name,
            name,
            image=(image,) if self.seen else (),
            audio=() if wave is None else (wave,),
            meta={"objects": truth(scene, boxes), "sounding": sounding},
            questions=self._questions(index, asked),
        )

    def name(self, index: int) -> str:
        """Id and owner of item `index`."""
        return f"{self.split}-{self._checked(index):05d}"

    def questions(self, index: int) -> tuple[Question, ...]:
        """What is asked about scene `index`, without drawing it; kept, for words, priors and controls ask for it."""
        number = self._checked(index)
        if number not in self._asked:
            self._asked[number] = self._questions(index, self.drawn(index)[2])
        return self._asked[number]

    def __getstate__(self) -> dict[str, Any]:  # a loading process that is spawned needs none of them
        return self.__dict__ | {"_asked": {}}

    def _questions(self, index: int, asked: Sequence[Asked]) -> tuple[Question, ...]:
        questions = (
            Question(f"{self.name(index)}#{k}", one.text, (one.answer,), one.type, answer_type(one.answer))
            for k, one in enumerate(asked)
        )
        return tuple(question for question in questions if self.keep is None or self.keep(question))

    def drawn(self, index: int) -> tuple[Scene, list[int], list[Asked]]:
        """What scene `index` holds, which of its things sound, and what is asked."""
        rng = self._rng(index, 0)
        scene, first = anchored(rng)
        asked = [first, *about(scene, rng)] if self.seen else []
        if not self.heard or (self.seen and rng.random() >= SOUNDING):
            return scene, [], asked
        sounding = int(rng.integers(len(scene)))
        return scene, [sounding], [*asked, ask_heard(scene, sounding, self.seen, rng)]

    def _rng(self, index: int, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, SPLITS[self.split], self._checked(index), _STREAM + part))

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"the {self.split} split has scenes 0 to {len(self) - 1}: got {index}.")
        return self._numbers[index]


def kept(items: Sequence[Item], keep: Callable[[Question], bool]) -> Sequence[Item]:
    """The same items with those of their questions that `keep` is true of; without items that have none left."""
    if isinstance(items, AskedScenes):
        if items.keep:
            keep = partial(_both, items.keep, keep)
        more: dict[str, Any] = {"seen": items.seen, "heard": items.heard, "keep": keep}
        return AskedScenes(items.split, items.n, items.seed, items.world, **more)
    left = (item._replace(questions=tuple(filter(keep, item.questions))) for item in items)
    return Items(item for item in left if item.questions)


def _both(one: Callable[[Question], bool], other: Callable[[Question], bool], question: Question) -> bool:
    return one(question) and other(question)


def unseen(items: Sequence[Item]) -> Items:
    """The same items with nothing but their questions: what a question-only model reads."""
    if isinstance(items, AskedScenes):
        return Items(Item(name := items.name(i), name, questions=items.questions(i)) for i in range(len(items)))
    return Items(Item(item.id, item.owner, meta=item.meta, questions=item.questions) for item in items)


def questions_of(items: Sequence[Item]) -> Iterator[Question]:
    """Every question of a split, without drawing pictures where they are drawn when asked for."""
    if isinstance(items, AskedScenes):
        for index in range(len(items)):
            yield from items.questions(index)
    else:
        yield from (question for item in items for question in item.questions)
