"""Files that appear whole or not at all, the sums by which damage is found, and files that lie within a tar."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Member:
    """A file within an uncompressed tar.

    Attributes:
        path: of the tar.
        name: of the file in it.
        offset: of its first byte in the tar.
        size: bytes.
    """

    path: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    def read(self) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is no such tar.
            ValueError: it is empty, or the tar ends before it does.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if not content or len(content) < self.size:
            raise ValueError(f"it is cut off after {len(content)} of {self.size} bytes" if self.size else "it is empty")
        return content


def in_memory(source: Any) -> Any:
    """What a decoder opens: of bytes and of a file in a tar a file in memory, all else as it is."""
    content = source.read() if isinstance(source, Member) else source
    return io.BytesIO(content) if isinstance(content, bytes) else content


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name, then put it in its place: readers see the old file or the new one.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON as `write_text` does. Numpy and torch numbers become plain ones."""
    write_text(path, json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n")


def read_json(path: str | Path, unique: bool = False) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        unique: a key that comes twice in an object is an error; else the last one counts, as JSON's readers have it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON in UTF-8, or a key comes twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_once if unique else None)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} must be a JSON file: there is none of this name.") from error
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, and brackets without end
        raise ValueError(f"{path} must be JSON in UTF-8: {error}. Write or fetch it anew.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} comes twice")
    return found


def write_sealed(path: str | Path, value: dict[str, Any]) -> str:
    """Write JSON with its own digest in it, as `write_text` does, for `read_sealed`; returns the digest."""
    text, digest = _sealed(value)
    write_text(path, text)
    return digest


def read_sealed(path: str | Path) -> dict[str, Any]:
    """What `write_sealed` wrote, whose digest is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not to the last byte what was written.
    """
    raw = Path(path).read_bytes()
    try:
        value = json.loads(raw)
        del value["sha256"]
        whole = _sealed(value)[0].encode() == raw
    except (ValueError, RecursionError, KeyError, TypeError) as error:  # no JSON, no object, no digest
        raise ValueError(f"{path} is not what was saved: {error}.") from error
    if not whole:
        raise ValueError(f"{path} is not what was saved: its SHA-256 differs.")
    return value


def _sealed(value: dict[str, Any]) -> tuple[str, str]:
    """The text of a sealed file, and the digest in it."""
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
    return json.dumps({**value, "sha256": digest}, indent=1) + "\n", digest


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "detach"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON takes numbers, text, lists and dicts: got {type(value).__name__}.")
