"""What a retrieval run reads: its words, its batches, and what its frozen encoders say of every source."""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from mm import data
from mm.data import Batches, Cache, Item, Pairs, readable
from mm.data.entries import Entries, Named
from mm.data.item import Source
from mm.data.synthetic import Scenes
from mm.distributed import rank, world_size
from mm.losses.pairs import UNKNOWN
from mm.tasks.retrieval import Retrieval
from mm.tasks.retrieval_model import JointModel
from mm.vocabulary import tokenize

log = logging.getLogger(__name__)


def word_counts(items: Sequence[Item], min_count: int) -> dict[str, int]:
    """How often each word occurs in the sentences of a split, the most frequent first; rarer ones are left out."""
    counts = Counter(word for sentence in data.sentences(items) for word in tokenize(sentence))
    return {word: count for word, count in counts.most_common() if count >= min_count}


def sources(cfg: Retrieval) -> Callable[[str, str], Mapping[str, Source]]:
    """(split, modality) -> {id of an entry: its picture, sentence or sound}, to show what an index found.

    A split is loaded once, when it is first asked for.
    """
    named = functools.cache(lambda split: Named(data.load(cfg.data, split, cfg.seed)))
    return lambda split, modality: Entries(named(split), modality)


def classes_of(items: Sequence[Item], cfg: Retrieval) -> list[str]:
    """The classes of a training split, sorted, where the loss learns them: what items have as `meta["class"]`."""
    if cfg.loss.name != "cosine_semantic" or isinstance(items, Scenes):  # which have none, and are drawn when asked for
        return []
    return sorted({name for item in items if (name := class_name(item)) is not None})


def class_name(item: Item) -> str | None:
    """The class of an item, as text; None where it is not known: nothing, an empty cell or -1."""
    name = item.meta.get("class")
    return None if name in (None, "", UNKNOWN, str(UNKNOWN)) else str(name)


def class_number(numbers: dict[str, int], item: Item) -> Tensor:
    """() int64 of an item's class, by which the head knows it."""
    return torch.tensor(numbers.get(class_name(item) or "", UNKNOWN))


def training_batches(model: JointModel, items: Sequence[Item], cfg: Retrieval) -> Batches:
    """The batches of a run: a pure function of the seed and the step. Items in one modality alone teach nothing."""
    prepare = {modality: model.encoder(modality).prepare for modality in cfg.modalities}
    if cfg.data.skip_bad:
        items = readable(items, prepare, cfg.data.workers)  # before the caches, which would stop at a damaged file
    if not isinstance(items, Scenes):  # which lack nothing
        known = [sum(bool(getattr(item, modality)) for modality in cfg.modalities) for item in items]
        items = [item for item, count in zip(items, known, strict=True) if count > 1]
        if len(items) < len(known):
            log.info("%d training items of %d are known in two modalities or more", len(items), len(known))
    pairs = Pairs(
        items,
        {modality: function for modality, function in prepare.items() if modality not in model.cached},
        cfg.seed,
        views=cfg.data.views,
        cache=caches(model, items, cfg, cfg.data.views),
        target=partial(class_number, {name: k for k, name in enumerate(model.classes)}) if model.classes else None,
    )
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def caches(
    model: JointModel, items: Sequence[Item], cfg: Retrieval, views: int, modalities: Sequence[str] = data.MODALITIES
) -> dict[str, Cache]:
    """What the frozen parts say of every source of some items, read from disk or computed now."""
    return data.caches({m: model.encoder(m) for m in model.cached & set(modalities)}, items, cfg.data, views)
