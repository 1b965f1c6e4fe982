"""The training data set: every look-up draws one source of each modality of an item and prepares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from mm.data.cache import Cache
from mm.data.gallery import Prepare, read, stable_id, text_key
from mm.data.item import MODALITIES, Item, Question, Source
from mm.naming import known

T = TypeVar("T")


class Pairs(Dataset):
    """Items as training examples; `pairs[(epoch, index)]` is a pure function of the seed, the epoch and the index.

    Which picture, crop and clip: drawn by a generator of (seed, epoch, index). Which captions: they take turns, so
    that with one of n at a time all are used once in n epochs. An item that lacks a modality gives an example
    without it.

    A damaged file is an error; `mm.data.gallery.readable` finds and leaves out all of them beforehand, so that batches
    stay what they are for any number of workers and at any resume, and the count is known before the first step.

    Args:
        items: the items of a training split.
        prepare: {modality: prepare(source, view) -> tensor}; other modalities are left out.
        seed: of all draws, at least 0.
        views: fixed crops of a picture that are drawn from.
        texts: captions or questions of an example, at most those that the item has; 0 = all.
        cache: {modality: trunk outputs of all its sources}, that of pictures in `views` crops or more; these
            modalities are never decoded.
        answer: what a question's answers are to learn from; given, the texts are an item's questions.
        target: what is to be learned of an item as a whole; one shape for all.

    Attributes:
        items: those given.
        modalities: those that are drawn.

    Raises:
        ValueError: no item, an unknown modality, `views` below 1 or above those of a cache, negative `texts` or seed,
            or `answer` without "text".
        UnreadableError: (at look-up) a damaged file, named.
    """

    def __init__(
        self,
        items: Sequence[Item],
        prepare: Mapping[str, Prepare],
        seed: int = 0,
        views: int = 1,
        texts: int = 1,
        cache: Mapping[str, Cache] | None = None,
        answer: Callable[[Question], Tensor] | None = None,
        target: Callable[[Item], Tensor] | None = None,
    ):
        self.prepare = dict(prepare)
        self.cache = dict(cache or {})
        for name in [*self.prepare, *self.cache]:
            known(name, MODALITIES, "modality")
        if views < 1 or min(texts, seed) < 0:
            raise ValueError(
                f"views must be at least 1, texts and the seed at least 0: got {views}, {texts} and {seed}."
            )
        if "image" in self.cache and self.cache["image"].views < views:
            raise ValueError(f"the cache must hold {views} crops of a picture: it holds {self.cache['image'].views}.")
        if not len(items):
            raise ValueError("training needs at least one item: got none.")
        self.modalities = tuple(m for m in MODALITIES if m in self.prepare or m in self.cache)
        if answer and "text" not in self.modalities:
            raise ValueError(f"answers need questions, which are text: got {', '.join(self.modalities) or 'nothing'}.")
        self.seed = seed
        self.views = views
        self.texts = texts
        self.answer = answer
        self.target = target
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """{"owner": int, "text_key": int where one text was drawn, <modality>: Tensor, or a list of several texts}.

        With questions "answer" is a list of what `answer` says of those that are in "text"; "target" is what `target`
        says of the item.
        """
        epoch, index = key
        item = self.items[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        example: dict[str, Any] = {"owner": stable_id(item.owner)}
        if self.target:
            example["target"] = self.target(item)
        for modality in self.modalities:
            sources: tuple[Source, ...] = getattr(item, modality)
            if modality == "text" and self.answer:
                asked = self.turns(item.questions, epoch, index)
                example["text"] = [self.prepared("text", question.text, 0, question.id) for question in asked]
                example["answer"] = [self.answer(question) for question in asked]
                continue
            if not sources:
                continue
            if modality == "text":
                drawn = self.turns(sources, epoch, index)
                tensors = [self.prepared(modality, source, 0, item.id) for source in drawn]
                example[modality] = tensors[0] if self.texts == 1 else tensors
                if self.texts == 1:
                    example["text_key"] = text_key(str(drawn[0]))
                continue
            source = sources[rng.integers(len(sources))]
            view = int(rng.integers(self.views if modality == "image" else 1))
            example[modality] = self.prepared(modality, source, view, item.id)
        return example

    def turns(self, sources: Sequence[T], epoch: int, index: int) -> list[T]:
        """Those of an item's texts whose turn it is."""
        count = min(self.texts or len(sources), len(sources))
        first = epoch * count + index + self.seed
        return [sources[(first + k) % len(sources)] for k in range(count)]

    def prepared(self, modality: str, source: Source, view: int, name: str) -> Tensor:
        """One source as a batch holds it: from the cache, or read now.

        Raises:
            UnreadableError: it is damaged.
        """
        if modality in self.cache:
            return self.cache[modality].row(source, view)
        return read(self.prepare[modality], source, view, name)
