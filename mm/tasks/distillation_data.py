"""What a run of distillation reads: pictures with classes for the teacher, pairs without for the student."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mm import data
from mm.data import Batches, Item, Items, Pairs, Scenes, readable, unique
from mm.data.gallery import Prepare
from mm.data.item import Source
from mm.data.scenes import COLOURS, SHAPES
from mm.data.synthetic import World
from mm.distributed import rank, world_size
from mm.tasks.distillation import Distillation
from mm.tasks.distillation_model import ClassModel

ONE_THING = World(objects=(1.0,), twins=0.0, variants=0.0, identified=False)
CLASSES = sorted(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)  # of the things there
_ORDER = (0, 0, 9)  # shuffled pairs draw from chance of their own: (seed, 0, 0, 9)


class OneThing(Sequence[Item]):
    """Scenes of the embedded world with a single thing, seen and heard; the owner of each says what it is: "red star".

    Args:
        split: "train", "val" or "test".
        n: how many scenes.
        seed: of the world.
        first: number of the first scene within the split.
    """

    def __init__(self, split: str, n: int, seed: int, first: int = 0):
        self.numbers = range(first, first + n)
        self.scenes = Scenes(split, first + n, seed, ONE_THING)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        item = self.scenes[self.numbers[index]]
        (thing,) = item.meta["objects"]
        return item._replace(owner=f"{thing['colour']} {thing['shape']}", text=())


class ShuffledPairs(Sequence[Item]):
    """The same sounds, each with the pictures of a random item, drawn once and for all: what pairs say is gone.

    Args:
        items: with pictures and sounds.
        seed: of the order.
    """

    def __init__(self, items: Sequence[Item], seed: int):
        self.items = items
        self.order = np.random.default_rng((seed, *_ORDER)).permutation(len(items)).tolist()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        return self.items[index]._replace(image=self.items[self.order[index]].image)


def load_pictures(cfg: Distillation, split: str) -> Sequence[Item]:
    """Pictures with a class, an item each, whose owner is the class: what a teacher learns from, or is tested on.

    Those that it learns from are new to the pairs wherever that can be: other scenes of the embedded world; of training
    items with several pictures the first, third, ... while the pairs have the others.
    """
    if cfg.data.name == "synthetic":
        training = split == "train"
        n = cfg.data.scenes if training else data.EVALUATION_SCENES
        return OneThing(split, n, cfg.seed, first=n if training else 0)
    items = data.load(cfg.data, split, cfg.seed)
    if split == "train":
        items = Items(item._replace(image=item.image[::2]) for item in items)
    entries = unique(items, "image")
    return Items(Item(f"{entry.id}-{k}", entry.owner, (entry.source,)) for k, entry in enumerate(entries))


def load_pairs(cfg: Distillation, split: str) -> Sequence[Item]:
    """Sounds with pictures, whose owner is the class; of val and test each sound with one picture.

    A sound of val or test that has no picture gets one of its class, in turn.

    Raises:
        ValueError: (of a split on disk) a training item lacks a picture or sound, named; no sound to test on, or one
            whose class has no picture.
    """
    if cfg.data.name == "synthetic":
        n = cfg.data.scenes if split == "train" else data.EVALUATION_SCENES
        pairs: Sequence[Item] = OneThing(split, n, cfg.seed)
        return pairs if split == "train" else Items(pairs)
    items = Items(item._replace(text=()) for item in data.load(cfg.data, split, cfg.seed))
    if split != "train":
        return with_pictures(items, cfg.data.name)
    check_pairs(items)
    return Items(item._replace(image=item.image[1::2] or item.image) for item in items)


def with_pictures(items: Sequence[Item], name: str) -> Items:
    """Every sound of a split with one picture, see `load_pairs`."""
    pictures: dict[str, list[Source]] = defaultdict(list)
    for item in items:
        pictures[item.owner] += item.image
    turns: Counter[str] = Counter()
    pairs = []
    for item in items:
        if not item.audio:
            continue
        if not pictures[item.owner]:
            raise ValueError(
                f"the sound {item.id} of {name!r} needs a picture, its own or another of its class: there is none of "
                f"the class {item.owner!r}. Name a data set that has pictures and sounds."
            )
        own = item.image or (pictures[item.owner][turns[item.owner] % len(pictures[item.owner])],)
        turns[item.owner] += not item.image
        pairs.append(item._replace(image=own[:1], audio=item.audio[:1]))
    if not pairs:
        raise ValueError(f"{name!r} must have sounds to test on: it has none. Name another data set.")
    return Items(pairs)


def check_pairs(items: Sequence[Item]) -> None:
    """Reject training items that are no pairs.

    Raises:
        ValueError: one lacks a picture or a sound.
    """
    if isinstance(items, OneThing):  # which lack nothing
        return
    for item in items:
        if missing := [what for what, there in (("picture", item.image), ("sound", item.audio)) if not there]:
            raise ValueError(
                f"every training item must be a pair of picture and sound: {item.id} has no {' and no '.join(missing)}."
                " Complete it, or take it out of the train split."
            )


def classes_of(pictures: Sequence[Item]) -> list[str]:
    """The classes that a teacher is to tell apart, sorted.

    Raises:
        ValueError: there is but one, or each picture has one of its own.
    """
    if isinstance(pictures, OneThing):
        return CLASSES
    found = sorted({item.owner for item in pictures})
    if not 1 < len(found) < len(pictures):
        raise ValueError(
            f"a teacher needs classes that several pictures share: got {len(found)} of {len(pictures)} pictures. Name "
            "a data set whose owners are classes, or a finished run with teacher=RUN."
        )
    return found


def training_batches(model: ClassModel, items: Sequence[Item], cfg: Distillation, teacher: ClassModel) -> Batches:
    """The batches of a student: pairs and nothing else."""
    prepare = {"image": teacher.encoder.prepare, "audio": model.encoder.prepare}
    items = undamaged(items, prepare, cfg)
    check_pairs(items)
    return batches(ShuffledPairs(items, cfg.seed) if cfg.shuffle_pairs else items, prepare, cfg)


def picture_batches(model: ClassModel, items: Sequence[Item], cfg: Distillation) -> Batches:
    """The batches of a teacher: pictures and, as owners, their classes."""
    prepare = {"image": model.encoder.prepare}
    return batches(undamaged(items, prepare, cfg), prepare, cfg)


def undamaged(items: Sequence[Item], prepare: Mapping[str, Prepare], cfg: Distillation) -> Sequence[Item]:
    """The items without damaged files, where they may be left out."""
    if not cfg.data.skip_bad or isinstance(items, OneThing):  # which has no files
        return items
    return readable(items, prepare, cfg.data.workers)


def batches(items: Sequence[Item], prepare: Mapping[str, Prepare], cfg: Distillation) -> Batches:
    """This process's part of the batches of a run: a pure function of the seed and the step."""
    pairs = Pairs(items, prepare, cfg.seed, views=cfg.data.views)
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def few(items: Sequence[Item], shots: int, seed: int) -> Items:
    """So many items of each class, or all that it has, drawn at random: what a probe is fitted on."""
    lacking = dict.fromkeys(CLASSES if isinstance(items, OneThing) else (item.owner for item in items), shots)
    chosen = []
    for number in np.random.default_rng(seed).permutation(len(items)).tolist():
        item = items[number]
        if item.owner in lacking:
            chosen.append(item)
            lacking[item.owner] -= 1
            if not lacking[item.owner]:
                del lacking[item.owner]
        if not lacking:
            break
    return Items(chosen)


def first_sources(items: Sequence[Item], modality: str) -> list[Source]:
    """The first source of each item in a modality."""
    return [source for item in items for source in itertools.islice(getattr(item, modality), 1)]
