"""A folder that always holds one whole version of something, whoever is killed while writing.

    FOLDER/current               one line: the version's name and the SHA-256 of its manifest
    FOLDER/v00000003/            the version
        manifest.json            what it is, and the SHA-256 of every other file
        ...
    FOLDER/.lock                 empty; held by the process that writes

A version is written beside the one in use; then `current` is replaced in one step, and the older version removed. A
reader that finds its version gone in mid-reading reads `current` again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mm.files import sha256, sync, write_text

POINTER = "current"
MANIFEST = "manifest.json"
LOCK = ".lock"
POINTER_LINE = re.compile(r"(v\d{8}) ([0-9a-f]{64})\n")
CURE = "Restore the folder from a copy, or build the index again."

T = TypeVar("T")


class IndexDamagedError(RuntimeError):
    """Files of an index are missing, changed, or do not belong together."""


class IndexConflictError(RuntimeError):
    """Another process is writing, or has written, the folder that is to be written."""


def write(folder: Path, fill: Callable[[Path], dict[str, Any]], base: str | None = None) -> str:
    """Write a new version and make it the current one; until then, and if anything fails, the old one stays.

    Args:
        folder: made if need be.
        fill: writes the files into the folder it is given and returns the manifest; their SHA-256 are added to that.
        base: SHA-256 of the manifest that the new version was derived from; None = it replaces whatever is there.

    Returns:
        The SHA-256 of the new manifest.

    Raises:
        IndexConflictError: another process holds the lock, or `base` is no longer the current version.
        OSError: the disk is full, the folder cannot be written, ...
    """
    with locked(folder):
        current = _pointer(folder)
        if base is not None and current is not None and current[1] != base:
            raise IndexConflictError(
                f"{folder} was saved by another process since this index was loaded; saving would undo that. "
                "Load it again and repeat the changes, or save to another folder."
            )
        _remove_versions(folder, but=current[0] if current else None)  # what a killed process left
        for left in folder.glob(f".{POINTER}.*"):  # the same, of `write_text`
            left.unlink()
        name = f"v{int(current[0][1:]) + 1 if current else 1:08d}"
        target = folder / name
        try:
            target.mkdir()
            manifest = fill(target)
            files = sorted(path for path in target.iterdir() if path.name != MANIFEST)
            manifest["files"] = {path.name: sha256(path) for path in files}
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            (target / MANIFEST).write_text(text, encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            for path in (*files, target / MANIFEST, target):
                sync(path)
            write_text(folder / POINTER, f"{name} {digest}\n")
        except BaseException:
            if _pointer(folder) == current:  # an interrupt may come after the replacement
                shutil.rmtree(target, ignore_errors=True)
            raise
        sync(folder)
        _remove_versions(folder, but=name)
    return digest


def read(folder: Path, open_version: Callable[[Path, dict[str, Any]], T]) -> tuple[T, str]:
    """Verify the current version and open it.

    Args:
        folder: as given to `write`.
        open_version: makes something of the version's folder and its manifest.

    Returns:
        What `open_version` made, and the SHA-256 of the manifest.

    Raises:
        FileNotFoundError: no finished version is there.
        IndexDamagedError: a file is missing or changed; it is named.
    """
    while True:
        current = _pointer(folder)
        if current is None:
            raise FileNotFoundError(
                f"{folder} must hold an index: it has no file {POINTER!r}. Build one there, or correct the path."
            )
        try:
            return open_version(folder / current[0], _verified(folder / current[0], current[1])), current[1]
        except (FileNotFoundError, IndexDamagedError) as error:
            if _pointer(folder) != current:
                continue  # replaced by a writer while we read
            if isinstance(error, FileNotFoundError):
                raise IndexDamagedError(f"{error.filename} is missing. {CURE}") from error
            raise


def _verified(version: Path, digest: str) -> dict[str, Any]:
    """The manifest of a version, once it and every file it names have the digest they must have."""
    data = (version / MANIFEST).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise IndexDamagedError(f"{version / MANIFEST} is not what was saved: its SHA-256 differs. {CURE}")
    manifest = json.loads(data)
    for name, expected in manifest["files"].items():
        if sha256(version / name) != expected:
            raise IndexDamagedError(f"{version / name} is not what was saved: its SHA-256 differs. {CURE}")
    return manifest


def _pointer(folder: Path) -> tuple[str, str] | None:
    """Name and manifest digest of the current version; None before the first is finished."""
    try:
        line = (folder / POINTER).read_bytes()
    except FileNotFoundError:
        return None
    match = POINTER_LINE.fullmatch(line.decode("ascii", errors="replace"))
    if match is None:
        raise IndexDamagedError(f"{folder / POINTER} must be a version and a SHA-256: got {line[:100]!r}. {CURE}")
    return match[1], match[2]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however it ends.

    Raises:
        IndexConflictError: another process holds it.
        OSError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK).open("a")
    except OSError as error:
        say = f"{folder} must be a folder that can be written: {error.strerror}. Change that, or save to another one."
        raise type(error)(error.errno, say) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IndexConflictError(
                f"another process is saving to {folder}. Wait until it is done, or save to another folder."
            ) from error
        yield


def _remove_versions(folder: Path, but: str | None) -> None:
    """Remove all versions except one."""
    for path in folder.glob("v" + "[0-9]" * 8):
        if path.name != but:
            shutil.rmtree(path, ignore_errors=True)
