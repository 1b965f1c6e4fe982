"""What frozen encoders say of every source of a data set: read from a cache, or computed now and kept."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from mm.config import DataConfig
from mm.data.cache import Cache, cached
from mm.data.gallery import Entry, prepared, unique
from mm.data.item import Item, Source

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0  # between two lines about a cache that is being filled


class Trunk(Protocol):
    """What a cache needs of an encoder; every `mm.encoders.Encoder` has it, and says what these are."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def prepare(self, source: Any, view: int = 0) -> Tensor:
        """One raw item -> one tensor."""

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The frozen part over a batch."""

    def folded(self) -> Any:
        """The same function, faster."""

    def fingerprint(self, part: Literal["all", "trunk"] = "all") -> str:
        """Changes with the frozen weights."""


def caches(encoders: Mapping[str, Trunk], items: Sequence[Item], cfg: DataConfig, views: int) -> dict[str, Cache]:
    """What the frozen parts of encoders say of every source of some items.

    Args:
        encoders: {modality: encoder}.
        items: of one split.
        cfg: where caches are kept, and in which numbers.
        views: fixed crops of each picture.
    """
    found = {}
    for modality, encoder in sorted(encoders.items()):
        entries = unique(items, modality)
        with tqdm(desc=f"{modality} cache", unit=modality, disable=None) as bar:
            found[modality] = cached(
                functools.partial(trunk_outputs, encoder.folded()),
                [entry.source for entry in entries],
                encoder.fingerprint("trunk"),
                cfg.cache,
                views=views if modality == "image" else 1,
                dtype=cfg.cache_dtype,
                progress=CacheProgress(f"{modality} cache", bar),
            )
    return found


@torch.no_grad()
def trunk_outputs(encoder: Trunk, sources: list[Source], view: int) -> tuple[Tensor, Tensor | None]:
    """What the frozen part of an encoder says of some sources, on the CPU; they are read by two threads."""
    entries = [Entry(str(number), "", source, {}) for number, source in enumerate(sources)]
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
