"""The training data set: every look-up draws one source of each modality of an item and prepares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mm.data.cache import Cache
from mm.data.gallery import Prepare, read, stable_id, text_key
from mm.data.item import MODALITIES, Item, Source
from mm.naming import known


class Pairs(Dataset):
    """Items as training examples; `pairs[(epoch, index)]` is a pure function of the seed, the epoch and the index.

    Which picture, crop and clip: drawn by a generator of (seed, epoch, index). Which caption: they take turns, so
    that n captions are all used once in n epochs. An item that lacks a modality gives an example without it.

    A damaged file is an error; `mm.data.gallery.readable` finds and leaves out all of them beforehand, so that batches
    stay what they are for any number of workers and at any resume, and the count is known before the first step.

    Args:
        items: the items of a training split.
        prepare: {modality: prepare(source, view) -> tensor}; other modalities are left out.
        seed: of all draws, at least 0.
        views: fixed crops of a picture that are drawn from.
        cache: {modality: trunk outputs of all its sources}, that of pictures in `views` crops or more; these
            modalities are never decoded.

    Attributes:
        items: those given.
        modalities: those that are drawn.

    Raises:
        ValueError: no item, an unknown modality, `views` below 1 or above those of a cache, a negative seed.
        UnreadableError: (at look-up) a damaged file, named.
    """

    def __init__(
        self,
        items: Sequence[Item],
        prepare: Mapping[str, Prepare],
        seed: int = 0,
        views: int = 1,
        cache: Mapping[str, Cache] | None = None,
    ):
        self.prepare = dict(prepare)
        self.cache = dict(cache or {})
        for name in [*self.prepare, *self.cache]:
            known(name, MODALITIES, "modality")
        if views < 1 or seed < 0:
            raise ValueError(f"views must be at least 1 and the seed at least 0: got {views} and {seed}.")
        if "image" in self.cache and self.cache["image"].views < views:
            raise ValueError(f"the cache must hold {views} crops of a picture: it holds {self.cache['image'].views}.")
        if not len(items):
            raise ValueError("training needs at least one item: got none.")
        self.modalities = tuple(m for m in MODALITIES if m in self.prepare or m in self.cache)
        self.seed = seed
        self.views = views
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """{"owner": int, "text_key": int where a text was drawn, <modality>: Tensor}."""
        epoch, index = key
        item = self.items[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        example: dict[str, Any] = {"owner": stable_id(item.owner)}
        for modality in self.modalities:
            sources: tuple[Source, ...] = getattr(item, modality)
            if not sources:
                continue
            if modality == "text":
                source = sources[(epoch + index + self.seed) % len(sources)]
                example["text_key"] = text_key(str(source))
            else:
                source = sources[rng.integers(len(sources))]
            if modality in self.cache:
                cache = self.cache[modality]
                example[modality] = cache.row(source, int(rng.integers(self.views if modality == "image" else 1)))
            else:
                view = int(rng.integers(self.views)) if modality == "image" else 0
                example[modality] = read(self.prepare[modality], source, view, item.id)
        return example
