"""What a captioning run reads: its sentences, its batches, and what its frozen encoder says of every source."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from torch import Tensor

from mm import data
from mm.data import Batches, Cache, Item, Pairs, Scenes, readable, stable_id, texts
from mm.data.gallery import Prepare
from mm.distributed import rank, world_size
from mm.heads.captioner import encoded
from mm.tasks.captioning import Captioning, SelfCritical, Words
from mm.tasks.captioning_model import CaptionModel
from mm.vocabulary import Vocabulary

log = logging.getLogger(__name__)


def described(items: Sequence[Item], modality: str, training: bool = False) -> Sequence[Item]:
    """The items that can be described and are: those with the modality and with sentences.

    Raises:
        ValueError: there is none, or one of val or test is not of them.
    """
    if isinstance(items, Scenes):  # which lack nothing
        return items
    kept = [item for item in items if getattr(item, modality) and item.text]
    lacking = next((item.id for item in items if not (getattr(item, modality) and item.text)), None)
    if not kept or (lacking and not training):
        raise ValueError(
            f"captioning needs items with {modality} and sentences: {len(kept)} of {len(items)} have both, {lacking!r} "
            "lacks one. Training items may, others must not."
        )
    if lacking:
        log.info("%d training items of %d have %s and sentences", len(kept), len(items), modality)
    return kept


def training_batches(model: CaptionModel, items: Sequence[Item], cfg: Captioning) -> Batches:
    """The batches of a run: a pure function of the seed and the step."""
    prepare = model.encoder.prepare
    if cfg.data.skip_bad:
        items = readable(items, {model.modality: prepare}, cfg.data.workers)  # before the cache, which would stop there
    items = described(items, model.modality, training=True)
    readers: dict[str, Prepare] = {} if model.cached else {model.modality: prepare}
    if cfg.loss.name == "words":  # else the model writes its own
        readers["text"] = functools.partial(read_sentence, model.head.vocabulary, cfg.decoding.max_length)
    pairs = Pairs(
        items,
        readers,
        cfg.seed,
        views=cfg.data.views,
        texts=cfg.captions,
        cache=caches(model, items, cfg, cfg.data.views),
    )
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def read_sentence(vocabulary: Vocabulary, max_length: int, sentence: str, view: int) -> Tensor:
    """The tokens (L,) of a sentence, <start> and <end> among them, as the decoder learns them."""
    return encoded(sentence, vocabulary, max_length)


def caches(model: CaptionModel, items: Sequence[Item], cfg: Captioning, views: int = 1) -> dict[str, Cache]:
    """What the frozen part of the encoder says of every source of some items, if the run keeps that."""
    return data.caches({model.modality: model.encoder} if model.cached else {}, items, cfg.data, views)


def objective(model: CaptionModel, items: Sequence[Item], cfg: Captioning) -> Words | SelfCritical:
    """The training step that the settings ask for."""
    if cfg.loss.name == "words":
        return Words(cfg.loss, cfg.loop.steps)
    references: dict[int, list[list[int]]] = {}  # of an owner, whose items mean the same
    for owner, sentences in texts(items):
        tokens = [model.head.encode(sentence, cfg.decoding.max_length)[1:].tolist() for sentence in sentences]
        references.setdefault(stable_id(owner), []).extend(tokens)
    return SelfCritical(references, cfg.loss, cfg.decoding.max_length)
