"""`Index`: unit vectors with stable ids and metadata, nearest-neighbour search, and a folder that keeps them whole.

The face (build, add, remove, search, vectors, save, load) takes and gives vectors, ids and metadata only, never
positions, so that another engine can stand behind it.
"""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch

import mm
from mm.index import versions
from mm.index.exact import ExactVectors, unit_vectors
from mm.index.items import Id, Items, Metadata, Where

FORMAT = 1
FACTORIES = ("exact",)
VECTORS, ITEMS = "vectors.faiss", "items.sqlite"


class Hit(NamedTuple):
    """One answer; `score` is the cosine."""

    id: Id
    score: float
    metadata: Metadata


@dataclass
class Hits:
    """Answers to Q queries, the best first, equal scores in the order in which the items were added.

    Attributes:
        ids: Q lists of k ids.
        scores: (Q, k) float32 cosines.
    """

    ids: list[list[Id]]
    scores: np.ndarray
    _keys: np.ndarray = field(repr=False)
    _items: Items = field(repr=False)

    @cached_property
    def metadata(self) -> list[list[Metadata]]:
        """Q lists of k dicts, read when first asked for.

        Raises:
            LookupError: an answer was removed from the index since.
        """
        rows = iter(self._items.metadata(self._keys.ravel().tolist()))
        return [[next(rows) for _ in ids] for ids in self.ids]

    def rows(self, query: int = 0) -> list[Hit]:
        """The answers to one query."""
        return list(map(Hit, self.ids[query], self.scores[query].tolist(), self.metadata[query]))

    def __iter__(self) -> Iterator[list[Hit]]:
        """The answers to each query."""
        return (self.rows(query) for query in range(len(self.ids)))


class Index:
    """Exact search by inner product over unit vectors, which is the cosine; made by `Index.build` or `Index.load`.

    Several modalities may live in one index: metadata key "modality" tells them apart. Several threads may search at
    once; adding, removing and saving are for one.

    Attributes:
        dim: D of the vectors.
        factory: kind of index: "exact".
        fingerprint: of the encoders whose vectors these are; "" = not known.
        run: path of the run whose encoders embed queries; "" = none.
    """

    def __init__(self, dim: int, fingerprint: str = "", run: str = "", factory: str = "exact"):
        if dim < 1:
            raise ValueError(f"vectors must have at least one number: got dim {dim}.")
        if factory not in FACTORIES:
            raise ValueError(f"factory must be one of {', '.join(FACTORIES)}: got {factory!r}.")
        self.dim, self.factory, self.fingerprint, self.run = dim, factory, fingerprint, run
        self._vectors = ExactVectors(dim)
        self._items = Items()
        self._saved: dict[Path, str] = {}  # folder -> digest of the version that this index equals or grew from

    @classmethod
    def build(
        cls,
        embeddings: Any,
        ids: Sequence[Id],
        metadata: Sequence[Metadata] | None = None,
        *,
        modality: str = "",
        fingerprint: str = "",
        run: str = "",
        factory: str = "exact",
    ) -> Index:
        """Make an index of n vectors; the arguments are those of `add` and of the class.

        >>> index = Index.build(np.eye(3), ["x", "y", "z"], modality="image")
        >>> index.search([0.0, 1.0, 0.0], k=1).rows()
        [Hit(id='y', score=1.0, metadata={'modality': 'image'})]
        """
        shape = np.shape(embeddings)
        if len(shape) != 2:
            raise ValueError(f"embeddings must be a matrix (n, D): got shape {shape}.")
        index = cls(shape[1], fingerprint, run, factory)
        index.add(embeddings, ids, metadata, modality=modality)
        return index

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ids(self) -> list[Id]:
        """All ids, in the order of adding."""
        return list(self._items.ids)

    @property
    def modalities(self) -> dict[str, int]:
        """{modality: number of items}."""
        return self._items.counts("modality")

    def add(
        self, embeddings: Any, ids: Sequence[Id], metadata: Sequence[Metadata] | None = None, *, modality: str = ""
    ) -> None:
        """Append n vectors: all of them, or none if one is wrong.

        Args:
            embeddings: (n, D) unit vectors, array or tensor of floats.
            ids: (n,) strings or integers, none of which is in the index; 1 and "1" are different.
            metadata: (n,) dicts of JSON values; None = nothing.
            modality: what all of them are; kept as metadata "modality".

        Raises:
            ValueError: a vector that is not finite, not of unit length or not of width D, an id that is taken, metadata
                that is not JSON, or lengths that differ; the row is named.
        """
        vectors = unit_vectors(embeddings, self.dim, "embeddings")  # (n, D)
        plain = [_plain_id(id_, row) for row, id_ in enumerate(ids)]
        rows = [{} for _ in plain] if metadata is None else [dict(values) for values in metadata]
        if not len(vectors) == len(plain) == len(rows):
            raise ValueError(
                "embeddings, ids and metadata must be equally many: "
                f"got {len(vectors)} embeddings, {len(plain)} ids and {len(rows)} metadata."
            )
        for row, values in enumerate(rows):
            if modality and values.setdefault("modality", modality) != modality:
                raise ValueError(f"row {row} has metadata modality {values['modality']!r}, but modality={modality!r}.")
        self._items.add(plain, rows)
        self._vectors.add(vectors)

    def remove(self, ids: Iterable[Id]) -> None:
        """Take items out: all of them, or none if an id is not there.

        Raises:
            LookupError: an id that is not in the index.
        """
        positions = np.unique(self._items.positions(map(_plain_id, ids)))
        self._vectors.remove(positions)
        self._items.remove(positions)

    def vectors(self, ids: Iterable[Id]) -> np.ndarray:
        """(n, D) float32 unit vectors of items.

        Raises:
            LookupError: an id that is not in the index.
        """
        return self._vectors.get(self._items.positions(map(_plain_id, ids)))  # (n, D)

    def metadata(self, ids: Iterable[Id]) -> list[Metadata]:
        """Metadata of items.

        Raises:
            LookupError: an id that is not in the index.
        """
        return self._items.metadata(self._items.keys[self._items.positions(map(_plain_id, ids))].tolist())

    def search(self, vectors: Any, k: int, where: Where | None = None, exclude: Iterable[Id] = ()) -> Hits:
        """The k items nearest to each query, of all that meet the conditions: k come back when k exist.

        Args:
            vectors: (Q, D) or (D,) unit vectors.
            k: answers wanted per query.
            where: {metadata key: value | list or set of values | (low, high)}, see `Items.where`; all must be met.
            exclude: ids that are no answers, such as the query's own; unknown ones are of no effect.

        Raises:
            ValueError: a query that is not finite, not of unit length or not of width D, k below 1, or a key in `where`
                that no item has.
        """
        queries = unit_vectors(vectors, self.dim, "queries")  # (Q, D)
        if k < 1:
            raise ValueError(f"k must be at least 1: got {k}.")
        allowed = None
        if len(self) and where:
            allowed = self._items.where(where)  # (m,)
        unwanted = self._items.known(map(_plain_id, exclude))
        if len(unwanted):
            allowed = np.setdiff1d(np.arange(len(self)) if allowed is None else allowed, unwanted)  # (m,)
        scores, positions = self._vectors.nearest(queries, k, allowed)  # (Q, k), (Q, k)
        ids = [[self._items.ids[position] for position in row] for row in positions.tolist()]
        return Hits(ids, scores, self._items.keys[positions], self._items)

    def save(self, folder: str | Path) -> None:
        """Write a new version into a folder; the one that is there stays loadable until the new one is complete.

        Raises:
            IndexConflictError: another process is saving there, or has saved since this index was loaded from there.
            OSError: the disk is full, the folder cannot be written; what is there stays.
        """
        folder = Path(folder).absolute()
        self._saved[folder] = versions.write(folder, self._write, self._saved.get(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Read an index after checking every file against the digests it was saved with.

        Raises:
            FileNotFoundError: there is no index.
            IndexDamagedError: a file is missing or changed, or files do not belong together.
            ValueError: made by a newer version of mm.
        """
        folder = Path(folder).absolute()
        index, digest = versions.read(folder, cls._open)
        index._saved[folder] = digest
        return index

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the files of a version; returns its manifest."""
        try:
            self._vectors.save(folder / VECTORS)
            self._items.save(folder / ITEMS)
        except (RuntimeError, sqlite3.Error) as error:  # what FAISS and SQLite make of a full disk
            raise OSError(f"the index cannot be written to {folder}: {error}") from error
        return {
            "format": FORMAT,
            "count": len(self),
            "dim": self.dim,
            "metric": "inner_product",
            "factory": self.factory,
            "fingerprint": self.fingerprint,
            "run": self.run,
            "modalities": self.modalities,
            "libraries": {
                "mm": mm.__version__,
                "faiss": faiss.__version__,
                "numpy": np.__version__,
                "torch": str(torch.__version__),
                "sqlite": sqlite3.sqlite_version,
                "python": platform.python_version(),
            },
        }

    @classmethod
    def _open(cls, folder: Path, manifest: Mapping[str, Any]) -> Index:
        """An index from the files of a version whose digests are right."""
        if manifest["format"] > FORMAT:
            raise ValueError(
                f"{folder} has format {manifest['format']}, this mm {mm.__version__} reads up to {FORMAT}: "
                f"it was made by mm {manifest['libraries']['mm']}. Install that or a newer one."
            )
        index = cls(manifest["dim"], manifest["fingerprint"], manifest["run"], manifest["factory"])
        index._vectors = ExactVectors.load(folder / VECTORS)
        index._items = Items.load(folder / ITEMS)
        found = {
            "count": (manifest["count"], len(index._vectors), len(index._items)),
            "dim": (manifest["dim"], index._vectors.dim),
        }
        for what, numbers in found.items():
            if len(set(numbers)) > 1:
                raise versions.IndexDamagedError(
                    f"{folder}: manifest, vectors and items must agree on the {what}: got {numbers}. {versions.CURE}"
                )
        return index


def _plain_id(id_: Any, row: int | None = None) -> Id:
    """A string or an integer of Python's own."""
    id_ = id_.item() if isinstance(id_, np.generic) else id_
    if not isinstance(id_, (str, int)) or isinstance(id_, bool):
        raise ValueError(f"ids must be strings or integers: got {id_!r}" + ("." if row is None else f" in row {row}."))
    return id_
