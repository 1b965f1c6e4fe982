"""Embed sources, batch by batch, into an index."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mm.index.items import Id, Metadata
from mm.index.store import Index

UNREADABLE = (OSError, ValueError)  # what embedding a damaged source raises
NAMED = 5  # unreadable sources named in the log

log = logging.getLogger(__name__)


class Entry(Protocol):
    """One thing to embed. Any object with these attributes will do."""

    @property
    def id(self) -> Id:
        """Unique within its modality."""

    @property
    def source(self) -> Any:
        """What the encoder prepares: a path, an array, a sentence."""

    @property
    def meta(self) -> Metadata:
        """Kept beside the vector."""


class Embedder(Protocol):
    """What embeds sources: a trained model of the joint space."""

    def embed(self, modality: str, sources: list) -> Any:
        """n sources of one modality -> (n, D) unit vectors; raises an OSError or ValueError for an unreadable one."""

    def fingerprint(self) -> str:
        """Changes whenever the vectors would."""


class Bad(NamedTuple):
    """A source that could not be read, and why."""

    id: Id
    reason: str


def build(
    embedder: Embedder,
    entries: Mapping[str, Iterable[Entry]],
    batch_size: int = 256,
    skip_bad: bool = False,
    run: str = "",
    factory: str = "auto",
) -> tuple[Index, list[Bad]]:
    """Embed entries of one or several modalities into one index; only one batch of sources is held at a time.

    Args:
        embedder: its fingerprint is kept, and asked of whoever queries.
        entries: {modality: entries}; an id in the index is `<modality>:<id of the entry>`, so that a picture and its
            sound may have one id.
        batch_size: sources embedded at once.
        skip_bad: leave out unreadable sources; otherwise the first one is an error.
        run: path of the run whose encoders these are.
        factory: kind of index, see `Index`.

    Returns:
        The index, and the sources left out.

    Raises:
        ValueError: an unreadable source (its id and the reason are named), no entry that could be read, an id twice.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}.")
    fingerprint = embedder.fingerprint()
    index: Index | None = None
    bad: list[Bad] = []
    for modality, some in entries.items():
        for batch in _batches(some, batch_size):
            good, vectors = _embed(embedder, modality, batch, skip_bad, bad)
            if not good:
                continue
            if index is None:
                index = Index(vectors.shape[1], fingerprint, run, factory)
            _add(index, modality, vectors, good)
    if index is None:
        raise ValueError(
            f"an index needs at least one entry that can be read: got none, {len(bad)} unreadable"
            + (f", first {bad[0].id!r}: {bad[0].reason}" if bad else ".")
        )
    if bad:
        names = ", ".join(str(one.id) for one in bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        log.warning("%d unreadable sources left out of the index: %s", len(bad), names)
    index.compact()
    return index, bad


def index_of(
    vectors: Mapping[str, Any],
    entries: Mapping[str, Sequence[Entry]],
    fingerprint: str = "",
    run: str = "",
    factory: str = "auto",
) -> Index:
    """An index of vectors that are at hand already.

    Args:
        vectors: {modality: (n, D) unit vectors}.
        entries: {modality: n entries}; an id in the index is `<modality>:<id of the entry>`, so that a picture and its
            sound may have one id.
        fingerprint: of the encoders.
        run: path of their run.
        factory: kind of index, see `Index`.
    """
    widths = {modality: np.shape(some)[1] for modality, some in vectors.items()}
    index = Index(next(iter(widths.values())), fingerprint, run, factory)
    for modality, some in vectors.items():
        _add(index, modality, some, entries[modality])
    index.compact()
    return index


def _add(index: Index, modality: str, vectors: Any, entries: Sequence[Entry]) -> None:
    """Append entries under ids that say what they are."""
    ids = [f"{modality}:{entry.id}" for entry in entries]
    index.add(vectors, ids, [entry.meta for entry in entries], modality=modality)


def _batches(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Lists of `size` entries, the last one shorter."""
    remaining = iter(entries)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _embed(
    embedder: Embedder, modality: str, batch: list[Entry], skip_bad: bool, bad: list[Bad]
) -> tuple[list[Entry], np.ndarray]:
    """The readable entries of a batch and their vectors (n, D); the others are appended to `bad`."""
    try:
        return batch, np.asarray(embedder.embed(modality, [entry.source for entry in batch]))
    except UNREADABLE:
        good, vectors = [], []
        for entry in batch:  # one by one, to find out which
            try:
                vectors.append(np.asarray(embedder.embed(modality, [entry.source])))
                good.append(entry)
            except UNREADABLE as error:
                if not skip_bad:
                    raise ValueError(
                        f"{modality} {entry.id!r} cannot be embedded: {error} --skip-bad (skip_bad=True) leaves such "
                        "sources out."
                    ) from error
                bad.append(Bad(entry.id, str(error)))
        return good, np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)
