"""What a retrieval run reads: its sentences, its batches, and what its frozen encoders say of every source."""

import functools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from mm import data, encoders
from mm.data import Batches, Cache, Entry, Item, Pairs, cached, gallery, prepared, readable, unique
from mm.data.item import Source
from mm.data.synthetic import Scenes
from mm.distributed import rank, world_size
from mm.tasks.retrieval import JointModel, Retrieval
from mm.vocabulary import tokenize

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0  # between two lines about a cache that is being filled


def sentences(items: Sequence[Item]) -> Iterator[str]:
    """Every sentence of a split, without drawing pictures where they are drawn when asked for."""
    if isinstance(items, Scenes):
        yield from (caption.text for i in range(len(items)) for caption in items.captions(i))
    else:
        yield from (text for item in items for text in item.text)


def word_counts(items: Sequence[Item], min_count: int) -> dict[str, int]:
    """How often each word occurs in the sentences of a split, the most frequent first; rarer ones are left out."""
    counts = Counter(word for sentence in sentences(items) for word in tokenize(sentence))
    return {word: count for word, count in counts.most_common() if count >= min_count}


def sources(cfg: Retrieval, split: str, modality: str) -> dict[str, Source]:
    """{id of an entry: its picture, sentence or sound} of a split, to show what an index found where it is no file."""
    return {entry.id: entry.source for entry in gallery(data.load(cfg.data, split, cfg.seed), modality)}


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
    )
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def caches(
    model: JointModel, items: Sequence[Item], cfg: Retrieval, views: int, modalities: Sequence[str] = data.MODALITIES
) -> dict[str, Cache]:
    """What the frozen parts say of every source of some items, read from disk or computed now."""
    found = {}
    for modality in sorted(model.cached & set(modalities)):
        encoder = model.encoder(modality)
        entries = unique(items, modality)
        with tqdm(desc=f"{modality} cache", unit=modality, disable=None) as bar:
            found[modality] = cached(
                functools.partial(trunk_outputs, encoder.folded()),
                [entry.source for entry in entries],
                encoder.fingerprint("trunk"),
                cfg.data.cache,
                views=views if modality == "image" else 1,
                dtype=cfg.data.cache_dtype,
                progress=CacheProgress(f"{modality} cache", bar),
            )
    return found


@torch.no_grad()
def trunk_outputs(encoder: encoders.Encoder, sources: list[Source], view: int) -> tuple[Tensor, Tensor | None]:
    """What the frozen part of an encoder says of some sources, on the CPU; they are read by two threads."""
    entries = [Entry(f"{encoder.modality} {i}", "", source, {}) for i, source in enumerate(sources)]
    ((_, values, lengths),) = prepared(entries, encoder.prepare, len(entries), view=view)
    values, lengths = encoder.trunk(values.to(encoder.device), None if lengths is None else lengths.to(encoder.device))
    return values.cpu(), lengths


class CacheProgress:
    """Moves a bar to `done` of `total`, or writes a line a minute where there is no bar."""

    def __init__(self, name: str, bar: tqdm):
        self.name, self.bar = name, bar
        self.said = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` rows are there."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)
        if self.bar.disable and time.perf_counter() - self.said > LINE_SECONDS:
            self.said = time.perf_counter()
            log.info("%s: %s of %s", self.name, f"{done:,}", f"{total:,}")
