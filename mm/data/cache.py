"""Trunk outputs on disk: computed once over all sources and views, read back row by row.

A cache is a folder `<name>/` of three files: `rows.bin` (the numbers of all rows, one behind the other), `index.bin`
(per row its first byte, its length and a checksum) and `manifest.json`. It is written as `<name>.part/`, and the
manifest comes last: what was killed half-way has none and is never taken for a cache. The next process that wants it
checks the rows that are there against their checksums and goes on behind the last good batch. A lock lets one process
write while the others wait for it; the system releases the lock of a process that dies.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mm.data.cache_writer import FORMAT, ROW, Writer
from mm.data.gallery import source_key
from mm.data.item import Source
from mm.files import Member

logger = logging.getLogger(__name__)

Compute = Callable[[list[Source], int], tuple[Tensor, Tensor | None]]


class Cache:
    """A finished cache. `cache[index, view]` is one row as a tensor, checked against its checksum.

    Args:
        folder: of the cache.
        sources: what it was computed over, in that order.

    Attributes:
        views: fixed crops per source.

    Raises:
        DamagedCacheError: the files are not the ones that the manifest describes.
    """

    def __init__(self, folder: Path, sources: Sequence[Source]):
        self.folder = folder
        self._positions = {source_key(source): position for position, source in enumerate(sources)}
        self._open()

    def _open(self) -> None:
        self._manifest = _manifest(self.folder)
        self.views: int = self._manifest["views"]
        self._index = np.fromfile(self.folder / "index.bin", dtype=ROW)  # (views * n,)
        self._dtype = np.dtype(self._manifest["dtype"])
        # Read, not mapped: pages of a map stay in the process for as long as there is memory, and count as its own.
        self._rows = os.open(self.folder / "rows.bin", os.O_RDONLY)
        weakref.finalize(self, os.close, self._rows)

    def __len__(self) -> int:
        return len(self._index) // self.views

    def find(self, source: Source) -> int:
        """The index of a source.

        Raises:
            KeyError: the cache was not computed over it.
        """
        position = self._positions.get(source_key(source))
        if position is None:
            raise KeyError(
                f"{source_key(source)} is not in the cache {self.folder}: compute it over all sources first."
            )
        return position

    def row(self, source: Source, view: int = 0) -> Tensor:
        """The row of a source: what takes the place of an encoder's `prepare`."""
        return self[self.find(source), view]

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        """The row of one source and view: (...) of a fixed shape, or (n, ...) where rows have lengths.

        float32, but uint8 where that is what was kept.

        Raises:
            IndexError: no such source or view.
            DamagedCacheError: the bytes on disk have changed since they were written.
        """
        index, view = key
        if not (0 <= index < len(self) and 0 <= view < self.views):
            raise IndexError(
                f"index must be in 0..{len(self) - 1} and view in 0..{self.views - 1}: got {index} and {view}."
            )
        row = self._index[view * len(self) + index]
        tail = self._manifest["tail"]
        size = int(row["length"]) * math.prod(tail) * self._dtype.itemsize  # bytes
        raw = os.pread(self._rows, size, int(row["first"]))
        if zlib.crc32(raw) != row["crc"]:
            raise DamagedCacheError(
                f"row {index} (view {view}) of the cache {self.folder} has changed on disk. Delete the folder: "
                "the next run computes it again."
            )
        shaped = np.frombuffer(raw, self._dtype).reshape(int(row["length"]), *tail)  # (n, ...)
        return torch.from_numpy(shaped.astype(np.uint8 if self._dtype == np.uint8 else np.float32))

    def __getstate__(self) -> dict[str, Any]:  # a loading process opens the file for itself
        return {"folder": self.folder, "_positions": self._positions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class DamagedCacheError(ValueError):
    """The files of a cache are not what was written."""


def cached(
    compute: Compute,
    sources: Sequence[Source],
    fingerprint: str,
    folder: str | Path,
    views: int = 1,
    dtype: Literal["float16", "float32", "uint8"] = "float16",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Cache:
    """What `compute` says of every source and view: read from disk, or computed now and kept.

    The name of a cache is made of `fingerprint`, of the data, of `views` and of `dtype`; another of any of them is
    another cache, but one of more views serves as well. A file counts as the same data while its name, size and
    modification time stay: reading the contents of every file at each start would take minutes on a large set, and
    moving or unpacking a set anew keeps all three. Sentences and arrays count by their contents.

    Args:
        compute: (list of b sources, view) -> values (b, n, ...) and lengths (b,) of their axis n, or None where all
            rows have one shape. Must be deterministic.
        sources: each once, see `mm.data.gallery.unique`.
        fingerprint: of the weights and the transform behind `compute`.
        folder: of all caches; made if missing.
        views: fixed crops, 0..views-1.
        dtype: of the numbers on disk; "uint8" for frames of pictures.
        batch_size: sources per call of `compute`.
        progress: told (rows done, rows in all) after every batch.

    Raises:
        ValueError: nothing to compute over, a source twice, `compute` gave another number of rows or a number that
            is not finite in `dtype`.
        OSError: the disk is full; what was computed stays and the next run goes on from there.
    """
    if views < 1 or batch_size < 1 or not len(sources):
        raise ValueError(
            f"a cache needs sources, views >= 1 and batch_size >= 1: got {len(sources)}, {views} and {batch_size}."
        )
    if dtype not in ("float16", "float32", "uint8"):
        raise ValueError(f"dtype must be 'float16', 'float32' or 'uint8': got {dtype!r}.")
    if len({source_key(source) for source in sources}) < len(sources):
        raise ValueError("every source must be there once: use mm.data.gallery.unique.")
    stem = f"{fingerprint}-{data_fingerprint(sources)}"
    final = Path(folder) / f"{stem}-{views}x-{dtype}"
    for candidate in (final, *sorted(Path(folder).glob(f"{stem}-*x-{dtype}"))):
        finished = _finished(candidate, sources)
        if finished is not None and finished.views >= views:
            return finished
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.with_name(f"{final.name}.lock")):
        if (finished := _finished(final, sources)) is not None:
            return finished  # by the process that had the lock
        if final.exists():
            logger.warning("the cache %s is damaged and is computed again", final)
            shutil.rmtree(final)
        part = final.with_name(f"{final.name}.part")
        with Writer(part, len(sources), views, np.dtype(dtype), batch_size) as writer:
            for start, view in writer.missing():
                batch = list(sources[start : start + batch_size])
                writer.write(batch, *compute(batch, view))
                if progress is not None:
                    progress(writer.done, writer.total)
            writer.finish()
        os.replace(part, final)
    return Cache(final, sources)


def _finished(folder: Path, sources: Sequence[Source]) -> Cache | None:
    try:
        return Cache(folder, sources) if folder.exists() else None
    except DamagedCacheError:
        return None


def data_fingerprint(sources: Sequence[Source]) -> str:
    """16 hex digits over the sources in order: files by name, size and time of change, all else by its contents."""
    digest = hashlib.sha256()
    stat_of = functools.cache(Path.stat)  # a tar holds thousands of sources
    for source in sources:
        if isinstance(source, Path | Member):
            path = source if isinstance(source, Path) else source.path
            stat = stat_of(path)
            where = "" if isinstance(source, Path) else f" {source.name} {source.offset} {source.size}"
            digest.update(f"file {path.name} {stat.st_size} {stat.st_mtime_ns}{where}\n".encode())
        else:
            digest.update(f"{source_key(source)}\n".encode())
    return digest.hexdigest()[:16]


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished cache whose files are as long as it says and whose index is the one it says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        index = (folder / "index.bin").read_bytes()
        size = (folder / "rows.bin").stat().st_size
    except (FileNotFoundError, ValueError) as error:
        raise DamagedCacheError(f"the cache {folder} is not whole: {error}. Delete the folder.") from error
    if manifest.get("format") != FORMAT:
        raise DamagedCacheError(f"the cache {folder} is of format {manifest.get('format')}, not {FORMAT}. Delete it.")
    if size != manifest["bytes"] or hashlib.sha256(index).hexdigest() != manifest["index_sha256"]:
        raise DamagedCacheError(
            f"the cache {folder} must hold {manifest['bytes']} bytes of rows and the index written with them: "
            f"got {size} bytes, or another index. Delete the folder."
        )
    return manifest


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on `path`; wait while another process holds it."""
    import fcntl  # not on every system, and only needed to write

    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process computes %s: waiting for it", path.with_suffix(""))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
