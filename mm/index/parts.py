"""The files of an embedded corpus: parts that are there whole or not at all, and a manifest over them.

    FOLDER/image-00000003.npy      the vectors of a part: (n, D) float32, of unit length
    FOLDER/image-00000003.jsonl    a line for each: {"id": ..., "metadata": {...}}
    FOLDER/image-00000003.json     the part: what was left out and why, the SHA-256 of the two files
    FOLDER/manifest.json           the corpus, the encoders, and at the end the SHA-256 of every part
    FOLDER/.lock                   empty; held while it is written

A part is there once its `.json` is, which comes last. Both kinds of JSON have their own digest in them.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mm.files import read_sealed, sha256, sync, write_bytes, write_sealed
from mm.index.items import Id, Metadata
from mm.index.versions import MANIFEST, IndexDamagedError

FORMAT = 1
NAME = "{}-{:08d}"  # of a part: modality and number
FILE = re.compile(r"[a-z]+-\d{8}\.(npy|jsonl|json)|manifest\.json")
LEFT = re.compile(rf"\.({FILE.pattern})\.\d+")  # what a killed process may leave
CURE = "Remove the file and repeat the command that embedded the corpus: it is made again."

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """What was embedded of some things."""

    modality: str
    ids: list[Id]
    metadata: list[Metadata]
    vectors: np.ndarray  # (n, D)


def read(folder: str | Path) -> Iterator[Part]:
    """The parts of a finished folder, in order, each once its files have the digests they must have.

    Raises:
        FileNotFoundError: nothing was embedded there.
        ValueError: it is not finished, or of a newer format.
        IndexDamagedError: a file is missing or changed, or files do not belong together; the part is named.
    """
    folder = Path(folder)
    manifest = describe(folder)
    for name, digest in manifest["parts"].items():
        found = part_manifest(folder, name)
        if sha256(folder / f"{name}.json") != digest:
            raise IndexDamagedError(f"{folder / name}.json is not that of this corpus: its SHA-256 differs. {CURE}")
        contents = _contents(folder, name, found["files"])
        rows = [json.loads(line) for line in contents[".jsonl"].splitlines()]
        vectors = np.load(io.BytesIO(contents[".npy"]))  # (n, D)
        yield Part(found["modality"], [row["id"] for row in rows], [row["metadata"] for row in rows], vectors)


def describe(folder: str | Path, finished: bool = True) -> dict[str, Any]:
    """The manifest of a folder; a finished one has the digest of each of its "parts", and "counts" by modality.

    Raises:
        FileNotFoundError, ValueError, IndexDamagedError: as of `read`.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = read_sealed(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} must hold an embedded corpus: it has no {MANIFEST}. Embed one.") from error
    except ValueError as error:
        raise IndexDamagedError(f"{error} {CURE}") from error
    if manifest.get("format", 0) > FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}, this reads up to {FORMAT}. Install a newer mm.")
    if finished and "parts" not in manifest:
        raise ValueError(f"{folder} is not finished: repeat the command that embedded the corpus, and it goes on.")
    return manifest


def save(folder: Path, name: str, part: Part, more: dict[str, Any]) -> None:
    """Write the files of a part, the one that says that it is there last."""
    numbers = io.BytesIO()
    np.save(numbers, part.vectors)
    rows = zip(part.ids, part.metadata, strict=True)
    lines = "".join(json.dumps({"id": id_, "metadata": meta}, ensure_ascii=False) + "\n" for id_, meta in rows)
    contents = {".npy": numbers.getvalue(), ".jsonl": lines.encode()}
    try:
        for suffix, content in contents.items():
            write_bytes(folder / f"{name}{suffix}", content)
        digests = {suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()}
        write_sealed(
            folder / f"{name}.json", {**more, "modality": part.modality, "count": len(part.ids), "files": digests}
        )
        sync(folder)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder / name} cannot be written: {error.strerror}. What is embedded so far stays, and the same command "
            "goes on from there",
        ) from error


def part_manifest(folder: Path, name: str) -> dict[str, Any]:
    """What a part says of itself, once its own digest is right."""
    try:
        return read_sealed(folder / f"{name}.json")
    except FileNotFoundError as error:
        raise IndexDamagedError(f"{folder / name}.json is missing. {CURE}") from error
    except ValueError as error:
        raise IndexDamagedError(f"{error} {CURE}") from error


def _contents(folder: Path, name: str, digests: Mapping[str, str]) -> dict[str, bytes]:
    """{suffix: what is in that file of a part}, once their digests are right."""
    contents = {}
    for suffix, expected in digests.items():
        path = folder / f"{name}{suffix}"
        try:
            contents[suffix] = path.read_bytes()
        except FileNotFoundError as error:
            raise IndexDamagedError(f"{path} is missing. {CURE}") from error
        if hashlib.sha256(contents[suffix]).hexdigest() != expected:
            raise IndexDamagedError(f"{path} is not what was saved: its SHA-256 differs. {CURE}")
    return contents


def whole(folder: Path, name: str, digest: str) -> bool:
    """Whether a part is there, of this corpus and undamaged."""
    if not (folder / f"{name}.json").exists():
        return False
    try:
        found = part_manifest(folder, name)
        if found["of"] == digest:
            _contents(folder, name, found["files"])
            return True
    except IndexDamagedError as error:
        log.warning("%s", error)
    return False
