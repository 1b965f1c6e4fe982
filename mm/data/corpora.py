"""What is to be embedded, listed cheaply and in an order that stays, then opened part by part.

A folder of files, tar shards, a table of one's own, or a split of a data set. Of the first two no more is held than the
names of one directory or the headers of one shard; a table and a data set are held whole, without their files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mm.data.gallery import Entry, entries_of, file_entry, files_below
from mm.data.item import MODALITIES, Item
from mm.data.shards import Fault, Sample, files, item_of, samples, say_ignored
from mm.data.table import table

Listed: TypeAlias = tuple[str, Any]  # the name of a thing, and what `entries` takes


class Corpus(NamedTuple):
    """Things in an order that stays.

    Attributes:
        description: what it is, JSON; two corpora of one description and equal names are taken for the same.
        modalities: those that are embedded unless others are asked for.
        listing: listing(modality, fault) -> (name, thing) of everything that may have the modality; `fault` is told the
            name of what is left out and why, or raises.
        entries: entries(modality, things, fault) -> the sources of some of these things.
    """

    description: dict[str, Any]
    modalities: tuple[str, ...]
    listing: Callable[[str, Fault], Iterator[Listed]]
    entries: Callable[[str, Sequence[Any], Fault], list[Entry]]


def of_folder(folder: str | Path) -> Corpus:
    """Every picture or sound file below a folder; ids are the paths within it."""
    root = Path(folder)

    def listing(modality: str, fault: Fault) -> Iterator[Listed]:
        return ((name, name) for name in files_below(root, modality))

    def entries(modality: str, things: Sequence[str], fault: Fault) -> list[Entry]:
        return [file_entry(root, name) for name in things]

    return Corpus({"kind": "folder", "folder": str(root)}, ("image",), listing, entries)


def of_shards(pattern: str) -> Corpus:
    """The samples of tar shards, see `mm.data.shards`; the modalities are those of the first sample.

    Raises:
        FileNotFoundError, ValueError: as of `mm.data.shards.files`; or none of them has a sample.
    """
    paths = files(pattern)
    said = set[str]()

    def listing(modality: str, fault: Fault) -> Iterator[Listed]:
        ignored: Counter[str] = Counter()
        for sample in samples(paths, fault, ignored):
            yield sample.key, sample
        if not said:  # of several listings the first one tells
            say_ignored(ignored)
        said.add(modality)

    def entries(modality: str, things: Sequence[Sample], fault: Fault) -> list[Entry]:
        items = (item_of(sample, fault, texts=modality == "text") for sample in things)
        return [entry for item in items if item for entry in entries_of(item, modality)]

    wrong: dict[str, str] = {}
    if next(samples(paths, wrong.__setitem__, Counter()), None) is None:
        raise ValueError(f"the shards {pattern} must have a sample: {next(iter(wrong.values()))}")
    some = (item_of(sample, lambda *_: None) for sample in samples(paths, lambda *_: None, Counter()))
    first = next((item for item in some if item), Item("", ""))
    description = {"kind": "shards", "pattern": pattern, "shards": len(paths)}
    return Corpus(description, _modalities([first]), listing, entries)


def of_table(file: str | Path) -> Corpus:
    """Every row of a CSV or JSONL, see `mm.data.table`; what is wrong with files is told by the listing.

    Raises:
        FileNotFoundError, ValueError: as of `mm.data.table.table`.
    """
    return of_items(table(Path(file), "", skip_bad=True), {"kind": "table", "file": str(file)})


def of_items(items: Sequence[Item], description: dict[str, Any], meta: dict[str, Any] | None = None) -> Corpus:
    """Items that are at hand.

    Args:
        items: of which those that lack a modality are passed over.
        description: of them.
        meta: metadata for all of them.
    """

    def listing(modality: str, fault: Fault) -> Iterator[Listed]:
        for line in getattr(items, "skipped", ()):
            fault(str(description.get("file", "row")), line)
        yield from ((item.id, item) for item in items)

    def entries(modality: str, things: Sequence[Item], fault: Fault) -> list[Entry]:
        return [
            entry._replace(meta={**entry.meta, **(meta or {})})
            for item in things
            for entry in entries_of(item, modality)
        ]

    return Corpus(description, _modalities(items), listing, entries)


OF_FILES: dict[str, Callable[[str], Corpus]] = {"folder": of_folder, "csv": of_table, "shards": of_shards}


def _modalities(items: Sequence[Item]) -> tuple[str, ...]:
    """Those of which there is a source."""
    return tuple(modality for modality in MODALITIES if any(getattr(item, modality) for item in items))
