"""Checkpoints that are there whole or not at all.

RUN/checkpoints/last and RUN/checkpoints/best are text files that name a folder beside them. Such a folder is written
under a temporary name and renamed, the pointer is then replaced, and only then are folders without a pointer deleted: a
run that is killed at any moment keeps a whole checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mm import __version__
from mm.files import sha256, sync, write_json, write_text

Pointer = Literal["last", "best"]
POINTERS: tuple[Pointer, ...] = ("last", "best")
OURS = re.compile(
    r"step-\d{8,}(-best)?(\.\d+)?|\.writing-\d+"
)  # folders that may be deleted when nothing points to them
LEFT_OVER = re.compile(r"\.(last|best)\.\d+")  # a pointer that was being written by a process that was killed
MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or believed; the message says what to do."""


def save(
    run: str | Path,
    pointer: Pointer,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    config: str,
) -> Path:
    """Write a checkpoint and point to it.

    Args:
        run: run folder.
        pointer: "last" or "best".
        step: optimiser steps made.
        tensors: {"model": {name: tensor}, ...}, a safetensors file each. Tied tensors are written under every name.
        documents: {"encoders.json": JSON value, ...}.
        config: text of config.yaml.

    Returns:
        The folder, such as RUN/checkpoints/step-00000120.

    Raises:
        CheckpointError: the disk is full or cannot be written; earlier checkpoints are as they were.
    """
    root = Path(run, "checkpoints")
    temporary = root / f".writing-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        tidy(run)
        temporary.mkdir()
        for stem, values in tensors.items():
            save_file(_owned(values), temporary / f"{stem}.safetensors", metadata={"format": "pt"})
        for name, document in documents.items():
            write_json(temporary / name, document)
        write_text(temporary / "config.yaml", config)
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST, {"mm_version": __version__, "step": step, "files": files})
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        folder = _new_folder(root, pointer, step)
        os.replace(temporary, folder)
        write_text(root / pointer, folder.name + "\n")
        sync(root)
        tidy(run)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written under {root}: {error}. Earlier checkpoints are as "
            "they were. Free disk space or mend the folder, then start the same command: it goes on from the last one."
        ) from error
    return folder


def find(run: str | Path, pointer: Pointer) -> Path | None:
    """The folder that a pointer of a run names, or None where there is no such pointer.

    Raises:
        CheckpointError: the folder is gone.
    """
    file = Path(run, "checkpoints", pointer)
    if not file.exists():
        return None
    folder = file.parent / file.read_text(encoding="utf-8").strip()
    if not (folder / MANIFEST).is_file() or folder == file.parent:
        raise CheckpointError(
            f"{file} must name a checkpoint beside it: {folder} holds no {MANIFEST}. {_remedy(folder)}"
        )
    return folder


def tidy(run: str | Path) -> None:
    """Delete the folders that no pointer names, such as what a killed process left behind."""
    root = Path(run, "checkpoints")
    named = {(root / pointer).read_text(encoding="utf-8").strip() for pointer in POINTERS if (root / pointer).exists()}
    for folder in root.iterdir() if root.is_dir() else ():
        if OURS.fullmatch(folder.name) and folder.name not in named:
            shutil.rmtree(folder, ignore_errors=True)
        elif LEFT_OVER.fullmatch(folder.name):
            folder.unlink(missing_ok=True)


def verify(folder: str | Path) -> dict[str, Any]:
    """Read every file of a checkpoint and compare it with the manifest.

    Returns:
        The manifest: {"mm_version", "step", "files": {name: {"bytes", "sha256"}}}.

    Raises:
        CheckpointError: a file is missing or damaged, or another version of mm wrote the checkpoint.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = str(manifest["mm_version"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is missing or damaged: {error}. {_remedy(folder)}") from error
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise CheckpointError(
            f"{folder} must have been written by mm {__version__}: it was by {version}. Install mm {version} to go on "
            "with this run, or start a new run (another out=) from its encoders (encoder.<modality>.init=RUN)."
        )
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. {_remedy(folder)}")
        if (found := _fingerprint(path)) != expected:
            sizes = f"{found['bytes']} bytes, {expected['bytes']} were written"
            raise CheckpointError(f"{path} is damaged: {sizes}, and its sha256 differs. {_remedy(folder)}")
    return manifest


def read_tensors(folder: str | Path, stem: str) -> dict[str, Tensor]:
    """The tensors of one safetensors file of a checkpoint, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(folder, f"{stem}.safetensors")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged: {error}. {_remedy(path.parent)}") from error


def _owned(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, each with memory of its own, as safetensors asks for."""
    owned = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in values.items()}
    return {
        name: value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
        for name, value in owned.items()
    }


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _new_folder(root: Path, pointer: Pointer, step: int) -> Path:
    """A name that nothing has yet: nothing on disk is ever overwritten."""
    name = f"step-{step:08d}" + ("-best" if pointer == "best" else "")
    numbered = (root / (f"{name}.{number}" if number else name) for number in range(1000))
    return next(folder for folder in numbered if not folder.exists())


def _remedy(folder: Path) -> str:
    return f"Put back a good copy of {folder}, or train anew with another out=."
