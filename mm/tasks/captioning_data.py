"""What a captioning run reads: its sentences, its batches, and what its frozen encoder says of every source."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mm import data
from mm.data import Batches, Cache, Item, Pairs, Scenes, readable, stable_id
from mm.data.gallery import Prepare
from mm.distributed import rank, world_size
from mm.tasks.captioning import Captioning, SelfCritical, Words
from mm.tasks.captioning_model import CaptionModel

log = logging.getLogger(__name__)


def described(items: Sequence[Item], modality: str) -> Sequence[Item]:
    """The items that can be described and are: those with the modality and with sentences.

    Raises:
        ValueError: there is none.
    """
    if isinstance(items, Scenes):  # which lack nothing
        return items
    kept = [item for item in items if getattr(item, modality) and item.text]
    if not kept:
        raise ValueError(f"captioning needs items with {modality} and sentences: none of {len(items)} has both.")
    if len(kept) < len(items):
        log.info("%d items of %d have %s and sentences", len(kept), len(items), modality)
    return kept


def training_batches(model: CaptionModel, items: Sequence[Item], cfg: Captioning) -> Batches:
    """The batches of a run: a pure function of the seed and the step."""
    prepare = model.encoder.prepare
    if cfg.data.skip_bad:
        items = readable(items, {model.modality: prepare}, cfg.data.workers)  # before the cache, which would stop there
    items = described(items, model.modality)
    readers: dict[str, Prepare] = {} if model.cached else {model.modality: prepare}
    if cfg.loss.name == "words":  # else the model writes its own
        readers["text"] = sentence_reader(model, cfg)
    pairs = Pairs(
        items,
        readers,
        cfg.seed,
        views=cfg.data.views,
        texts=cfg.captions,
        cache=caches(model, items, cfg, cfg.data.views),
    )
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def sentence_reader(model: CaptionModel, cfg: Captioning) -> Prepare:
    """prepare(sentence, view) -> its tokens (L,), <start> and <end> among them, as the decoder learns them."""
    encode, longest = model.head.encode, cfg.decoding.max_length
    return lambda sentence, view: encode(sentence, longest)


def caches(model: CaptionModel, items: Sequence[Item], cfg: Captioning, views: int = 1) -> dict[str, Cache]:
    """What the frozen part of the encoder says of every source of some items, if the run keeps that."""
    return data.caches({model.modality: model.encoder} if model.cached else {}, items, cfg.data, views)


def objective(model: CaptionModel, items: Sequence[Item], cfg: Captioning) -> Words | SelfCritical:
    """The training step that the settings ask for."""
    if cfg.loss.name == "words":
        return Words(cfg.loss, cfg.loop.steps)
    numbers: dict[int, int] = {}
    references: list[list[list[int]]] = []
    for number, item in enumerate(described(items, model.modality)):
        numbers[stable_id(item.owner)] = number
        references.append([model.head.encode(text, cfg.decoding.max_length)[1:].tolist() for text in item.text])
    return SelfCritical(references, numbers, cfg.loss, cfg.decoding.max_length)
