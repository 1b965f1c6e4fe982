"""The files of one saved version of an index, written and read.

manifest.json      what it is, how it is searched, and what was measured to decide that (see `mm.index.versions`)
vectors.faiss      float32 unit vectors in the order of the items
items.sqlite       ids and metadata
search.faiss       the approximate index, and
rows.npy           the keys of its rows' items: both only where there is such an index
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch

import mm
from mm.index import versions
from mm.index.approximate import Approximate
from mm.index.exact import ExactVectors
from mm.index.items import Items
from mm.index.setting import Setting, Trial

FORMAT = 2  # 1 had exact search only
METRIC = "inner_product"
VECTORS, ITEMS = "vectors.faiss", "items.sqlite"


class Contents(NamedTuple):
    """What an index holds; `approximate` and `trials` are None and empty where it is searched exactly."""

    vectors: ExactVectors
    items: Items
    approximate: Approximate | None
    trials: list[Trial]


def write(folder: Path, contents: Contents, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files of a version; returns its manifest, of which `about` is a part.

    Raises:
        OSError: the disk is full.
    """
    vectors, items, approximate, trials = contents
    try:
        vectors.save(folder / VECTORS)
        items.save(folder / ITEMS)
        if approximate is not None:
            approximate.save(folder)
    except (OSError, RuntimeError, sqlite3.Error) as error:  # what Python, FAISS and SQLite make of a full disk
        raise OSError(f"the index cannot be written to {folder}: {error}") from error
    search = None
    if approximate is not None:
        assert approximate.setting is not None
        search = {
            "factory": approximate.factory,
            "rows": len(approximate),
            "setting": asdict(approximate.setting),
            "trials": [trial._asdict() for trial in trials],
        }
    return {
        "format": FORMAT,
        "count": len(items),
        "dim": vectors.dim,
        "metric": METRIC,
        **about,
        "modalities": items.counts("modality"),
        "search": search,
        "libraries": {
            "mm": mm.__version__,
            "faiss": faiss.__version__,
            "numpy": np.__version__,
            "torch": str(torch.__version__),
            "sqlite": sqlite3.sqlite_version,
            "python": platform.python_version(),
        },
    }


def read(folder: Path, manifest: Mapping[str, Any], mmap: bool) -> Contents:
    """The contents of a version whose digests are right.

    Raises:
        IndexDamagedError: the files do not belong together.
        ValueError: made by a newer version of mm.
    """
    if manifest["format"] > FORMAT:
        raise ValueError(
            f"{folder} has format {manifest['format']}, this mm {mm.__version__} reads up to {FORMAT}: "
            f"it was made by mm {manifest['libraries']['mm']}. Install that or a newer one."
        )
    approximate, trials, after = None, [], -1
    try:
        if search := manifest.get("search"):  # format 1 had none
            approximate = Approximate.load(folder, search["factory"], Setting(**search["setting"]), mmap)
            trials = [Trial(**trial) for trial in search["trials"]]
            after = int(approximate.keys.max(initial=-1))
        vectors, items = ExactVectors.load(folder / VECTORS, mmap), Items.load(folder / ITEMS, mmap, after)
    except (RuntimeError, sqlite3.Error) as error:  # what FAISS and SQLite make of a file that is gone
        raise versions.IndexDamagedError(f"{folder} cannot be read: {error}. {versions.CURE}") from error
    found = {
        "count": (manifest["count"], len(vectors), len(items)),
        "metric": (manifest["metric"], METRIC),
        "dim": (manifest["dim"], vectors.dim, *([approximate.dim] if approximate else [])),
    }
    if search and approximate:
        found["rows"] = (search["rows"], len(approximate), len(approximate.keys))
    for what, numbers in found.items():
        if len(set(numbers)) > 1:
            raise versions.IndexDamagedError(
                f"{folder}: manifest, vectors and items must agree on the {what}: got {numbers}. {versions.CURE}"
            )
    if approximate is not None and (missing := np.setdiff1d(items.keys, approximate.keys)).size:
        raise versions.IndexDamagedError(
            f"{folder}: every item must be in the search index: {missing.size} of {len(items)} are not. {versions.CURE}"
        )
    return Contents(vectors, items, approximate, trials)
