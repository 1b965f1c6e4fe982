"""A training set made of several, each of which has its share of the examples however many items it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from mm.config import DataConfig
from mm.data.item import Item, Items, Share, parts
from mm.naming import known

OF_A_FILE = ("table", "shards")  # are named with what they read: table:FILE.csv
NOT_MIXED = ("mixed", "synthetic", *OF_A_FILE)  # the embedded world is drawn when asked for, too large to be kept
_WITHIN = 1  # stream of random numbers, beside those of (seed, epoch) and (seed, epoch, index)

Readers = Mapping[str, Callable[[DataConfig, str, int], Sequence[Item]]]


def mixed(cfg: DataConfig, split: str, seed: int, readers: Readers) -> Items:
    """One split of the sets in `cfg.sets`: of train (and trainval) all of them, of val and test the first.

    Ids and owners have the name of the set and "/" before them, and `meta["set"]` is that name, unless an item has such
    a column of its own. Settings such as `fold`, `speaker` or `skip_bad` hold for every set that reads them.

    Args:
        cfg: with the sets and their weights.
        split: "train", "val", "test" or "trainval".
        seed: given on.
        readers: {data set: its reader}.

    Raises:
        ValueError: no set, an unknown one, one without its file, or a weight that is not positive.
    """
    if not cfg.sets:
        raise ValueError("data.name=mixed needs data.sets={NAME: WEIGHT, ...}, see docs/data.md: got none.")
    if cfg.file:
        raise ValueError(f"files of mixed sets are named in data.sets, as table:FILE: got data.file={cfg.file}.")
    for name, weight in cfg.sets.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"data.sets: the weight of {name!r} must be a positive number: got {weight}.")
    settings = {name: _settings(cfg, name, readers) for name in cfg.sets}  # all are checked before any is read
    training = "train" in parts(split)
    items: list[Item] = []
    skipped: list[str] = []
    for name in list(settings) if training else list(settings)[:1]:
        part = readers[settings[name].name](settings[name], split, seed)
        share = Share(name, dict(cfg.sets)) if training else None
        items += [_marked(item, name, share) for item in part]
        skipped += getattr(part, "skipped", ())
    return Items(items, skipped)


def _settings(cfg: DataConfig, name: str, readers: Readers) -> DataConfig:
    """What the reader of one of the sets is given."""
    kind, colon, file = name.partition(":")
    with_file = [reader for reader in OF_A_FILE if reader in readers]
    if colon:
        known(kind, with_file, "kind of data set with a file")
    if kind in with_file:
        if not file:
            raise ValueError(f"data.sets: {kind} is named with its file, {kind}:FILE: got {name!r}.")
        return replace(cfg, name=kind, file=file, sets={})
    names = [reader for reader in readers if reader not in NOT_MIXED] + [f"{reader}:FILE" for reader in with_file]
    return replace(cfg, name=known(name, names, "data set to mix"), sets={})


def _marked(item: Item, name: str, share: Share | None) -> Item:
    """An item as it is among those of other sets."""
    meta = {"set": name, **item.meta}
    return item._replace(id=f"{name}/{item.id}", owner=f"{name}/{item.owner}", meta=meta, share=share)


class Shares:
    """The order in which the items of mixed sets train: a function of the seed and the epoch alone.

    Of the examples of an epoch each set has its share, to the nearest example, at places drawn anew; there its items
    come one after the other, in a new order for every pass over the set. A pass goes on from one epoch to the next: of
    a large set with a small share, too, all items come before one comes again.

    Args:
        items: of the training split, or some of them, in any order.
        examples: of an epoch.

    Attributes:
        members: {set: (n_s,) indices of its items}.
        counts: {set: its examples of an epoch}.

    Raises:
        ValueError: a set is left without any item, or its weight is too small for one example of an epoch.
    """

    def __init__(self, items: Sequence[Item], examples: int):
        marks = [cast(Share, item.share) for item in items]
        weights = marks[0].weights
        names = np.array([mark.set for mark in marks])
        self.members = {name: np.flatnonzero(names == name) for name in weights}
        if empty := [name for name, members in self.members.items() if not len(members)]:
            raise ValueError(
                f"each of the mixed sets must have items to train on: {', '.join(empty)} has none that is known in "
                "enough of the run's modalities. Take it out of data.sets, or choose other modalities."
            )
        exact = {name: examples * weight / math.fsum(weights.values()) for name, weight in weights.items()}
        self.counts = {name: math.floor(number) for name, number in exact.items()}
        largest = sorted(exact, key=lambda name: self.counts[name] - exact[name])  # what is cut off, the largest first
        for name in largest[: examples - sum(self.counts.values())]:
            self.counts[name] += 1
        if idle := [name for name, count in self.counts.items() if not count]:
            raise ValueError(
                f"each of the mixed sets must have one of the {examples} examples of an epoch at least: "
                f"{', '.join(idle)} has none with the weights {weights}. Raise its weight in data.sets, or take it out."
            )

    def keys(self, seed: int, epoch: int) -> np.ndarray:
        """(n, 2) int64: (pass over its set, index) of the examples of an epoch, in their order."""
        rng = np.random.default_rng((seed, epoch))
        whose = rng.permutation(np.repeat(np.arange(len(self.counts)), list(self.counts.values())))  # (n,)
        keys = np.empty((len(whose), 2), dtype=np.int64)  # (n, 2)
        for number, (name, count) in enumerate(self.counts.items()):
            members = self.members[name]
            turns, places = np.divmod(epoch * count + np.arange(count), len(members))  # (count,), (count,)
            orders = {
                turn: np.random.default_rng((seed, turn, number, _WITHIN)).permutation(members)
                for turn in range(turns[0], turns[-1] + 1)
            }
            drawn = [orders[turn][place] for turn, place in zip(turns.tolist(), places.tolist(), strict=True)]
            keys[whose == number] = np.stack([turns, drawn], axis=1)  # (count, 2)
        return keys


def shares(items: Sequence[Item], examples: int) -> Shares | None:
    """How the items of mixed sets are drawn; None for those of one set."""
    return Shares(items, examples) if items[0].share else None
