"""How a cache gets onto the disk: batch by batch, each row with a checksum, so that a killed run can go on."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from torch import Tensor

from mm.data.gallery import source_key
from mm.data.item import Source
from mm.files import write_json

logger = logging.getLogger(__name__)

ROW = np.dtype([("first", "<i8"), ("length", "<i8"), ("crc", "<i8")])  # byte in rows.bin, length of axis 0, CRC-32
FORMAT = 1


class Writer:
    """Rows appended to a `.part` folder, in the order view 0 of all sources, view 1 of all, ..."""

    def __init__(self, part: Path, count: int, views: int, dtype: np.dtype, batch_size: int):
        self.part = part
        self.count = count
        self.total = count * views
        self.dtype = dtype
        self.batch_size = batch_size
        self.layout: dict[str, Any] = {"format": FORMAT, "views": views, "dtype": dtype.name, "batch_size": batch_size}
        self.done, self.end = self._resume()  # rows and bytes that are there
        if self.done:
            logger.info("%s: going on behind row %d of %d", part, self.done, self.total)
        self.rows: BinaryIO = open(part / "rows.bin", "ab")  # noqa: SIM115 (closed by __exit__)
        self.index: BinaryIO = open(part / "index.bin", "ab")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.rows.close()
            self.index.close()
        except OSError as closing:  # a full disk also refuses what is still in the buffers
            if error is None:
                raise self._full(closing) from closing

    def missing(self) -> Iterator[tuple[int, int]]:
        """(first source, view) of every batch that is not there yet."""
        while self.done < self.total:
            view, start = divmod(self.done, self.count)
            yield start, view

    def write(self, batch: list[Source], values: Tensor, lengths: Tensor | None) -> None:
        """Append the rows of one batch."""
        if values.dim() < 2 or len(values) != len(batch):
            raise ValueError(
                f"compute must give one row of at least one axis per source: "
                f"got {tuple(values.shape)} for {len(batch)} sources."
            )
        tail = list(values.shape[2:])
        if self.layout.setdefault("tail", tail) != tail:
            raise ValueError(f"all rows must end in one shape: got {tail} after {self.layout['tail']}.")
        numbers = values.detach().cpu().to(getattr(torch, self.dtype.name)).numpy()  # (b, n, ...)
        sizes = [numbers.shape[1]] * len(batch) if lengths is None else lengths.tolist()
        if len(sizes) != len(batch) or min(sizes) < 0 or max(sizes) > numbers.shape[1]:
            raise ValueError(f"lengths must be one per source, in 0..{numbers.shape[1]}: got {sizes}.")
        kept = [np.ascontiguousarray(row[:size]) for row, size in zip(numbers, sizes, strict=True)]
        for row, source in zip(kept, batch, strict=True):
            if not np.isfinite(row).all():
                raise ValueError(
                    f"compute gave a number that is not finite in {self.dtype.name} for {source_key(source)}. "
                    "Check the weights; numbers beyond 65,504 need dtype='float32'."
                )
        index = np.empty(len(kept), dtype=ROW)
        for record, row in zip(index, kept, strict=True):
            record["first"], record["length"], record["crc"] = self.end, len(row), zlib.crc32(row.data)
            self.end += row.nbytes
        try:
            if self.done == 0:
                if lengths is None:
                    self._check_room(self.end / len(batch) * self.total)
                write_json(self.part / "layout.json", self.layout)
            for file, pieces in ((self.rows, kept), (self.index, [index])):  # a row is there once its index is
                for piece in pieces:
                    file.write(piece.data if piece.size else b"")
                file.flush()
        except OSError as error:
            raise self._full(error) from error
        self.done += len(batch)

    def finish(self) -> None:
        """Write the manifest, once all that it speaks of is on the disk."""
        try:
            for file in (self.rows, self.index):
                file.flush()
                os.fsync(file.fileno())
            index = (self.part / "index.bin").read_bytes()
            sums = {"rows": self.total, "bytes": self.end, "index_sha256": hashlib.sha256(index).hexdigest()}
            write_json(self.part / "manifest.json", {**self.layout, **sums})
        except OSError as error:
            raise self._full(error) from error

    def _resume(self) -> tuple[int, int]:
        """Keep the whole batches that a killed process left, drop what is behind them."""
        self.part.mkdir(exist_ok=True)
        rows, index = self.part / "rows.bin", self.part / "index.bin"
        done, ends = 0, [0]
        try:
            left = json.loads((self.part / "layout.json").read_text())
            if {name: left.get(name) for name in self.layout} == self.layout:
                self.layout["tail"] = left["tail"]
                done, ends = _intact(rows, index, math.prod(left["tail"]) * self.dtype.itemsize)
        except (FileNotFoundError, ValueError, KeyError):
            done = 0
        if done == 0:
            self.layout.pop("tail", None)
        view, start = divmod(min(done, self.total), self.count)
        done = view * self.count + start // self.batch_size * self.batch_size  # batches are what they would have been
        for path, size in ((rows, ends[done]), (index, done * ROW.itemsize)):
            with open(path, "ab") as file:
                file.truncate(size)
        return done, ends[done]

    def _check_room(self, needed: float) -> None:
        free = shutil.disk_usage(self.part).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")

    def _full(self, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"the cache {self.part} cannot be written: {error.strerror}. Make room or name another folder; what is "
            "computed so far is kept and the next run goes on from there",
        )


def _intact(rows: Path, index: Path, place: int) -> tuple[int, list[int]]:
    """How many rows from the first on agree with their checksums, and in which byte each of them ends (after a 0)."""
    raw = index.read_bytes()
    ends = [0]
    with open(rows, "rb") as file:
        for record in np.frombuffer(raw[: len(raw) // ROW.itemsize * ROW.itemsize], dtype=ROW):
            size = int(record["length"]) * place
            values = file.read(size)
            if record["first"] != ends[-1] or len(values) < size or zlib.crc32(values) != record["crc"]:
                break
            ends.append(ends[-1] + size)
    return len(ends) - 1, ends
