"""Single sources instead of items: what an evaluation, an index or a cache embeds, prepared in threads."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from mm.data.item import MODALITIES, Item, Items, Source, UnreadableError
from mm.data.synthetic import Scenes
from mm.features import pad
from mm.files import Member
from mm.naming import hint, known
from mm.vocabulary import tokenize

logger = logging.getLogger(__name__)

Prepare: TypeAlias = Callable[[Any, int], Tensor]

SUFFIXES = {
    "image": frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")),
    "audio": frozenset((".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff")),
}
READ_ERRORS = (OSError, ValueError, RuntimeError, EOFError, SyntaxError)  # PIL and soundfile raise all of these


class Entry(NamedTuple):
    """One source of one modality.

    Attributes:
        id: unique within the modality: the item's id, with "#k" behind it where an item has several sources.
        owner: of the item.
        source: what an encoder prepares.
        meta: the item's, and "item", and "text" or "path" where the source is a sentence or a file.
    """

    id: str
    owner: str
    source: Source
    meta: dict[str, Any]


class Prepared(NamedTuple):
    """One batch of prepared entries: values (b, ...) and lengths (b,) or None as `mm.features.pad` gives them."""

    entries: list[Entry]
    values: Tensor
    lengths: Tensor | None


def gallery(items: Iterable[Item], modality: str) -> list[Entry]:
    """Every source of one modality, in the order of the items.

    Raises:
        ValueError: unknown modality, or no item has it.
    """
    known(modality, MODALITIES, "modality")
    entries = [entry for item in items for entry in entries_of(item, modality)]
    if not entries:
        raise ValueError(f"no item of this data set has {modality}: choose another modality or another data set.")
    return entries


def entries_of(item: Item, modality: str) -> Iterator[Entry]:
    """Every source of one modality of an item."""
    sources: tuple[Source, ...] = getattr(item, modality)
    for k, source in enumerate(sources):
        name = item.id if len(sources) == 1 else f"{item.id}#{k}"
        yield Entry(name, item.owner, source, {**item.meta, "item": item.id, **shown(source)})


def texts(items: Sequence[Item]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Owner and sentences of every item, without drawing pictures where they are drawn when asked for."""
    if isinstance(items, Scenes):
        for i in range(len(items)):
            yield items.name(i), tuple(caption.text for caption in items.captions(i))
    else:
        yield from ((item.owner, item.text) for item in items)


def sentences(items: Sequence[Item]) -> Iterator[str]:
    """Every sentence of a split."""
    return (text for _, said in texts(items) for text in said)


def shown(source: Source) -> dict[str, str]:
    """What of a source can be shown beside a result."""
    if isinstance(source, Path):
        return {"path": str(source)}
    if isinstance(source, Member):
        return {"shard": str(source.path), "member": source.name}
    return {"text": source} if isinstance(source, str) else {}


def folder(path: str | Path, modality: str) -> list[Entry]:
    """Every picture or sound file below a folder, sorted; the id is the path within the folder.

    Raises:
        ValueError: neither "image" nor "audio".
        FileNotFoundError: no such folder, or no such file in it.
    """
    return [file_entry(Path(path), name) for name in files_below(path, modality)]


def file_entry(root: Path, name: str) -> Entry:
    """The entry of a file by its path within a folder."""
    return Entry(name, name, root / name, {"path": str(root / name)})


def files_below(path: str | Path, modality: str) -> Iterator[str]:
    """The paths within a folder of its picture or sound files, sorted; the names of one directory are held at a time.

    Links to files count as files, links to folders are not followed.

    Raises:
        ValueError, FileNotFoundError: as of `folder`.
        OSError: a directory that cannot be read.
    """
    if modality not in SUFFIXES:
        raise ValueError(f"a folder holds files of 'image' or 'audio': got {modality!r}.{hint(modality, SUFFIXES)}")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{path} must be a folder: there is none of this name.")
    names = _below(path, "", SUFFIXES[modality])
    if (first := next(names, None)) is None:
        raise FileNotFoundError(f"{path} holds no {modality} file: looked for {', '.join(sorted(SUFFIXES[modality]))}.")
    yield first
    yield from names


def _below(directory: str | Path | os.DirEntry[str], inside: str, suffixes: Collection[str]) -> Iterator[str]:
    with os.scandir(directory) as names:
        found = sorted(names, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry, f"{inside}{entry.name}/", suffixes)
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
            yield f"{inside}{entry.name}"


def prepared(
    entries: Sequence[Entry],
    prepare: Prepare,
    batch_size: int = 64,
    workers: int = 2,
    view: int = 0,
    bad: Callable[[Entry, str], None] | None = None,
) -> Iterator[Prepared]:
    """Entries in order, prepared by threads while the caller computes on the batch before.

    Threads, not processes: reading, decoding and resizing release Python's lock, and no picture has to be copied from
    one process to another.

    Args:
        entries: as `gallery` and `folder` list them.
        prepare: prepare(source, view) -> tensor.
        batch_size: entries of a batch; the last may be smaller.
        workers: threads; 0 = prepare in the caller's.
        view: fixed crop of pictures.
        bad: None = a damaged file is an error; else it is left out, and this is told its entry and what is wrong.

    Raises:
        UnreadableError: a damaged file, named.
        ValueError: batch_size below 1 or workers below 0.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be at least 1 and workers at least 0: got {batch_size} and {workers}.")
    with closing(read_all(entries, prepare, view, workers, ahead=2 * batch_size)) as results:
        while chunk := list(itertools.islice(results, batch_size)):
            good = []
            for entry, result in chunk:
                if not isinstance(result, UnreadableError):
                    good.append((entry, result))
                elif bad is None:
                    raise result
                else:
                    bad(entry, str(result))
            if good:
                values, lengths = pad([tensor for _, tensor in good])
                yield Prepared([entry for entry, _ in good], values, lengths)


def read_all(
    entries: Sequence[Entry], prepare: Prepare, view: int, workers: int, ahead: int
) -> Generator[tuple[Entry, Tensor | UnreadableError]]:
    """Each entry with its tensor, or with the error that reading it gave; at most `ahead` wait to be fetched."""

    def attempt(entry: Entry) -> Tensor | UnreadableError:
        try:
            return read(prepare, entry.source, view, entry.id)
        except UnreadableError as error:
            return error

    if workers == 0:
        for entry in entries:
            yield entry, attempt(entry)
        return
    waiting: deque[tuple[Entry, Future[Tensor | UnreadableError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        for entry in entries:
            waiting.append((entry, pool.submit(attempt, entry)))
            if len(waiting) >= ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()
    finally:  # also when the caller stops early
        pool.shutdown(cancel_futures=True)


def read(prepare: Prepare, source: Source, view: int, name: str) -> Tensor:
    """One prepared source.

    Raises:
        UnreadableError: it is damaged; the message names it.
    """
    try:
        return prepare(source, view)
    except READ_ERRORS as error:
        shape = getattr(source, "shape", "")  # a PIL image and bytes have none
        what = str(source) if isinstance(source, (Path, Member, str)) else f"{type(source).__name__} {shape}".rstrip()
        reason = str(error) or type(error).__name__
        raise UnreadableError(f"{name}: {reason if what in reason else f'{what} cannot be read: {reason}'}") from error


def readable(items: Sequence[Item], prepare: Mapping[str, Prepare], workers: int = 2) -> Sequence[Item]:
    """The items without their damaged pictures and clips: each file is read once, before training starts.

    A damaged file leaves its item; an item that is left with fewer modalities than it takes to train on it (two, or the
    one that it had) goes with it. Without damage the items come back as they are; else `skipped` of what is returned
    says a line per file, and the count is logged.

    Args:
        items: of a training split.
        prepare: {modality: prepare(source, view) -> tensor}; files of other modalities are not read.
        workers: reading threads.
    """
    bad: dict[str, str] = {}  # key of a damaged source -> the line about it
    for modality in sorted(set(prepare) & set(SUFFIXES)):
        files = [entry for entry in unique(items, modality) if isinstance(entry.source, Path | Member)]
        for entry, result in read_all(files, prepare[modality], 0, workers, ahead=64):
            if isinstance(result, UnreadableError):
                bad[source_key(entry.source)] = str(result)
    if not bad:
        return items
    kept = []
    for item in items:
        had = [modality for modality in MODALITIES if getattr(item, modality)]
        for modality in had:
            good = tuple(source for source in getattr(item, modality) if source_key(source) not in bad)
            item = item._replace(**{modality: good})  # type: ignore[arg-type]
        if sum(bool(getattr(item, modality)) for modality in had) >= min(2, len(had)):
            kept.append(item)
    logger.warning("left out %d damaged files and with them %d items", len(bad), len(items) - len(kept))
    return Items(kept, [*getattr(items, "skipped", ()), *bad.values()])


def unique(items: Iterable[Item], modality: str) -> list[Entry]:
    """Every source of a modality once, though items may share it (digits of one kind do): what a cache is made over."""
    found: dict[str, Entry] = {}
    for item in items:
        for source in getattr(item, modality):
            found.setdefault(source_key(source), Entry(item.id, item.owner, source, {}))
    return list(found.values())


def source_key(source: Source) -> str:
    """Equal for equal sources: the path, the place in a tar, the sentence, or the hash of an array's numbers."""
    if isinstance(source, Path | Member):
        return f"file {source}"
    if isinstance(source, str):
        return f"text {source}"
    array = np.ascontiguousarray(source)
    return f"array {array.dtype} {array.shape} {hashlib.sha256(array.data).hexdigest()}"


def stable_id(name: str) -> int:
    """A number that is the same for equal names in every process and run: 63 bits of their SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def text_key(sentence: str) -> int:
    """A number that is equal for sentences of equal words, whatever their case, spaces and punctuation."""
    return stable_id(" ".join(tokenize(sentence)) or sentence)
