"""A corpus embedded into a folder, part by part, by as many processes as there are; a killed one goes on.

A part is so many things of the corpus in its order, whatever the number of processes; these take turns, part by part.
What is in the folder is said in `mm.index.parts`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from mm import distributed
from mm.files import sha256, sync, write_sealed
from mm.index.build import NAMED, Entry
from mm.index.exact import unit_vectors
from mm.index.items import Id, Metadata, as_json
from mm.index.parts import FILE, FORMAT, LEFT, NAME, Part, describe, part_manifest, read, save, whole
from mm.index.store import Index
from mm.index.versions import MANIFEST, IndexDamagedError, locked

__all__ = ["PART", "Corpus", "Embed", "Part", "describe", "index_of_corpus", "read", "say_left_out", "write"]

PART = 4096  # things of a part: 4 MB of 256 numbers each

log = logging.getLogger(__name__)

T = TypeVar("T")
Fault = Callable[[str, str], None]


class Corpus(Protocol):
    """What `mm.data.corpora` gives."""

    @property
    def description(self) -> Metadata:
        """What it is."""

    @property
    def listing(self) -> Callable[[str, Fault], Iterator[tuple[str, Any]]]:
        """(modality, fault) -> the name of each thing, and the thing, in an order that stays."""

    @property
    def entries(self) -> Callable[[str, Sequence[Any], Fault], Sequence[Entry]]:
        """(modality, things, fault) -> what of them is embedded."""


class Embed(Protocol):
    """Makes vectors of sources; `JointModel.embed` is one."""

    def __call__(self, modality: str, sources: list, *, bad: Callable[[int, str], None]) -> Any:
        """n sources -> a unit vector for each; `bad` is told the place of one that is left out, and why, or raises."""


def write(
    folder: str | Path,
    corpus: Corpus,
    embed: Embed,
    modalities: Sequence[str],
    *,
    dim: int,
    fingerprint: str,
    run: str = "",
    settings: Mapping[str, Any] | None = None,
    skip_bad: bool = False,
    size: int = PART,
    anew: bool = False,
) -> dict[str, Any]:
    """Embed what is not in the folder yet. Every process of a torchrun calls it.

    Args:
        folder: made if need be.
        corpus: is listed twice: once to see that it is the same as before, and once to be embedded.
        embed: gives the vectors.
        modalities: embedded one after the other.
        dim: D of the vectors.
        fingerprint: of the encoders.
        run: path of their run.
        settings: whatever else changes the vectors, JSON.
        skip_bad: leave out and count what cannot be read; otherwise it is an error.
        size: things of a part.
        anew: start again if the folder is of another corpus, of other encoders or settings; otherwise that is an error.

    Returns:
        The finished manifest.

    Raises:
        ValueError: a source that cannot be read (its id and the reason are named), no modality or nothing to embed, a
            name twice, or the folder is of something else: what differs is named; or the corpus changes meanwhile.
        IndexConflictError: another process is writing the folder.
        IndexDamagedError: its manifest is damaged.
        OSError: the disk is full, the folder cannot be written, ...; what is there stays.
    """
    folder = Path(folder)
    if not modalities:
        raise ValueError(
            f"there must be a modality to embed of {corpus.description}: got none. Name it, --modality "
            "(modalities=[...]), and a run that has it."
        )
    values = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "run": run,
        "dim": dim,
        "modalities": list(modalities),
        "source": corpus.description,
        "settings": dict(settings or {}),
        "size": size,
    }
    with ExitStack() as held:

        def begin() -> tuple[str, dict[str, Any]]:
            for modality in modalities:  # what cannot be listed leaves no folder behind
                next(corpus.listing(modality, _fault([], skip_bad)), None)
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder))
            seen = _listed(corpus, modalities, skip_bad)
            return _begin(folder, values | seen, anew), seen["listed"]

        digest, listed = _first_of_all(begin)
        bad: list[tuple[str, str]] = []
        fault = _fault(bad, skip_bad)
        turns = itertools.cycle(range(distributed.world_size()))
        for modality in modalities:
            names = hashlib.sha256()
            things = (thing for _, thing in _digested(corpus.listing(modality, _fault([], skip_bad)), names))
            for number in itertools.count():
                if not (some := list(itertools.islice(things, size))):
                    break
                name = NAME.format(modality, number)
                if next(turns) == distributed.rank() and not whole(folder, name, digest):
                    bad.clear()
                    begun = time.perf_counter()
                    part = _part(corpus, embed, modality, some, dim, fault)
                    save(folder, name, part, {"of": digest, "bad": bad})
                    rate = len(part.ids) / (time.perf_counter() - begun)
                    log.info("%s: %s vectors, %.0f a second", name, f"{len(part.ids):,}", rate)
            if names.hexdigest() != listed[modality]["sha256"]:
                raise ValueError(f"{corpus.description} must not change while it is embedded: it did. Remove {folder}.")
        distributed.barrier()
        return _first_of_all(lambda: _finish(folder))


def index_of_corpus(folder: str | Path, run: str = "", factory: str = "auto") -> Index:
    """An index of a finished folder, read part by part.

    Args:
        folder: as for `read`.
        run: of the encoders, where it is another copy than the one that they were embedded with.
        factory: kind of index, see `Index`.

    Raises:
        FileNotFoundError, IndexDamagedError: as of `read`.
        ValueError: so too, an id that comes twice, or a factory that FAISS does not know or cannot train.
    """
    manifest = describe(folder)
    index = Index(manifest["dim"], manifest["fingerprint"], run or manifest["run"], factory)
    for part in read(folder):
        index.add(part.vectors, part.ids, part.metadata)
    index.compact()  # what searches is built once, when everything is there
    say_left_out(manifest, "the index")
    return index


def say_left_out(manifest: Mapping[str, Any], what: str) -> None:
    """Log how much could not be read, and the first names."""
    if bad := manifest["bad"]:
        names = ", ".join(manifest["first_bad"]) + (", ..." if bad > len(manifest["first_bad"]) else "")
        log.warning("%d unreadable sources left out of %s: %s", bad, what, names)


def _first_of_all(job: Callable[[], T]) -> T:
    """What the first process makes of a job, or its error, for every process."""
    value: T | Exception | None = None
    if distributed.is_main():
        try:
            value = job()
        except Exception as error:
            value = error
    value = distributed.broadcast(value)
    if isinstance(value, Exception):
        raise value
    return cast(T, value)


def _fault(bad: list[tuple[str, str]], skip_bad: bool) -> Fault:
    """Notes what is left out, or refuses it."""

    def fault(name: str, reason: str) -> None:
        if not skip_bad:
            raise ValueError(
                f"{name!r} cannot be embedded: {reason} --skip-bad (skip_bad=True) leaves such sources out."
            )
        bad.append((name, reason))

    return fault


def _listed(corpus: Corpus, modalities: Iterable[str], skip_bad: bool) -> dict[str, Any]:
    """How many things there are for each modality, a digest of their names, and what is wrong with their files.

    Names in ascending order are unique; of others 8 bytes each are held to see that they are.
    """
    listed, damaged = {}, list[tuple[str, str]]()
    fault = _fault(damaged, skip_bad)
    for modality in modalities:
        digest, count, ascending, before = hashlib.sha256(), 0, True, [""]
        for name, _ in _digested(corpus.listing(modality, fault), digest):
            parts = name.split("/")
            ascending, before, count = ascending and before < parts, parts, count + 1
        if not ascending:
            _check_unique(corpus, modality)
        if not count:
            raise ValueError(f"there must be something to embed: {corpus.description} has no {modality}.")
        listed[modality] = {"count": count, "sha256": digest.hexdigest()}
    return {"listed": listed, "damaged": [list(one) for one in dict.fromkeys(damaged)]}


def _digested(listed: Iterable[tuple[str, Any]], digest: Any) -> Iterator[tuple[str, Any]]:
    """The same, whose names go into a digest on the way."""
    for name, thing in listed:
        digest.update(f"{name}\0".encode(errors="surrogateescape"))
        yield name, thing


def _check_unique(corpus: Corpus, modality: str) -> None:
    def things() -> Iterator[tuple[str, Any]]:
        return corpus.listing(modality, _fault([], skip_bad=True))

    hashes = np.fromiter((hash(name) for name, _ in things()), np.int64)  # (n,)
    values, counts = np.unique(hashes, return_counts=True)
    suspects = set(values[counts > 1].tolist())
    first: dict[str, Any] = {}
    for name, thing in things() if suspects else ():
        if hash(name) in suspects and name in first:
            both = " and ".join(shorten(str(one), 200) for one in (first[name], thing))
            raise ValueError(f"ids of a corpus must be unique: {name!r} comes twice, {both}.")
        if hash(name) in suspects:
            first[name] = thing


def _begin(folder: Path, values: dict[str, Any], anew: bool) -> str:
    """Write the manifest, unless it is there; returns the digest of what it says of the corpus and the encoders."""
    for path in folder.iterdir():
        if LEFT.fullmatch(path.name):
            path.unlink()
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    if (folder / MANIFEST).exists():
        try:
            there = describe(folder, finished=False)
        except (IndexDamagedError, ValueError):
            if not anew:
                raise
            there = {}
        other = [key for key in values if there.get(key) != values[key]]
        if not other:
            return digest
        if not anew:
            what = ", ".join(f"{key} is {there.get(key)!r} there and {values[key]!r} now" for key in other)
            raise ValueError(
                f"{folder} holds a corpus that was embedded otherwise: {what}. Name another folder, or remove this one."
            )
        log.info("%s is of another corpus or of other encoders (%s): starting again", folder, ", ".join(other))
        for path in folder.iterdir():
            if FILE.fullmatch(path.name):
                path.unlink()
    write_sealed(folder / MANIFEST, values)
    return digest


def _part(corpus: Corpus, embed: Embed, modality: str, things: Sequence[Any], dim: int, fault: Fault) -> Part:
    """Embed some things."""
    entries: list[tuple[Entry, Metadata]] = []
    for entry in corpus.entries(modality, things, fault):
        meta = {**entry.meta}
        try:
            if (said := meta.setdefault("modality", modality)) != modality:
                raise ValueError(f"metadata 'modality' says what an item is, {modality!r}: got {said!r}.")
            as_json(meta, 0)
            entries.append((entry, meta))
        except ValueError as error:
            fault(str(entry.id), str(error))
    left_out = set[int]()

    def bad(row: int, reason: str) -> None:
        fault(str(entries[row][0].id), reason)
        left_out.add(row)

    vectors = embed(modality, [entry.source for entry, _ in entries], bad=bad) if entries else np.zeros((0, dim))
    kept = [pair for row, pair in enumerate(entries) if row not in left_out]
    ids: list[Id] = [f"{modality}:{entry.id}" for entry, _ in kept]
    found = unit_vectors(vectors, dim, "vectors")  # (n, D)
    if len(found) != len(kept):
        raise ValueError(f"there must be a vector for each source: got {len(found)} for {len(kept)} of {modality}.")
    return Part(modality, ids, [meta for _, meta in kept], found)


def _finish(folder: Path) -> dict[str, Any]:
    """Add the digest of every part to the manifest, and what they hold."""
    manifest = describe(folder, finished=False)
    parts: dict[str, str] = {}
    counts = dict.fromkeys(manifest["modalities"], 0)
    bad = [name for name, _ in manifest["damaged"]]
    for modality, listed in manifest["listed"].items():
        for number in range(-(-listed["count"] // manifest["size"])):
            name = NAME.format(modality, number)
            found = part_manifest(folder, name)
            parts[name] = sha256(folder / f"{name}.json")
            counts[modality] += found["count"]
            bad += [left_out for left_out, _ in found["bad"]]
    for modality, count in counts.items():
        if not count:
            first = f", {len(bad)} unreadable, the first is {bad[0]!r}" if bad else ""
            raise ValueError(f"there must be at least one {modality} that can be embedded: got none{first}.")
    manifest |= {"parts": parts, "counts": counts, "bad": len(bad), "first_bad": bad[:NAMED]}
    write_sealed(folder / MANIFEST, manifest)
    sync(folder)
    return manifest
