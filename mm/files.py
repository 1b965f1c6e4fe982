"""Files that appear whole or not at all, and the sums by which damage is found."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


def write_text(path: str | Path, text: str) -> None:
    """Write a file under a temporary name, then put it in its place: readers see the old file or the new one.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
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
