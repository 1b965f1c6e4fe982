"""`Index`: unit vectors with stable ids and metadata, nearest-neighbour search, and a folder that keeps them whole.

The face takes and gives vectors, ids and metadata only, never positions, so that another engine can stand behind it.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mm.index import contents, tuning, versions
from mm.index.approximate import Approximate
from mm.index.exact import ExactVectors, unit_vectors
from mm.index.hits import Hits
from mm.index.items import Id, Items, Metadata, Where, plain_ids
from mm.index.setting import Trial

MERGED = 65_536  # items copied together from another index
CROWDED = 4  # rows per item of an approximate index, above which a save says so; HNSW finds less from about 12 on

log = logging.getLogger(__name__)


class Index:
    """Search by inner product over unit vectors, which is the cosine; made by `Index.build` or `Index.load`.

    All vectors are kept as they are, and every score is exact. An approximate index may stand beside them: it proposes
    candidates, so that of the k best some may be missed, but k come back when k exist. `compact` builds it.

    Several modalities may live in one index: metadata key "modality" tells them apart. Several threads may search at
    once; changing and saving are for one.

    Attributes:
        dim: D of the vectors.
        factory: "auto" (exact up to 100,000 items, above that approximate where that is quicker and finds 99 % of the
            ten best for queries like the items), "exact", or any string of FAISS's factory, such as "HNSW32,SQ8".
        fingerprint: of the encoders whose vectors these are; "" = not known.
        run: path of the run whose encoders embed queries; "" = none.
        trials: what `tune` measured last, also on its own at the end of `build`; empty for exact search.

    Raises:
        ValueError: FAISS has no such index for this width and inner products.
    """

    def __init__(self, dim: int, fingerprint: str = "", run: str = "", factory: str = "auto"):
        if dim < 1:
            raise ValueError(f"vectors must have at least one number: got dim {dim}.")
        self.dim, self.fingerprint, self.run = dim, fingerprint, run
        self.factory = factory
        self.trials: list[Trial] = []
        self._vectors = ExactVectors(dim)
        self._items = Items()
        self._approximate: Approximate | None = None
        self._is_mapped = False
        self._told = False  # that compact() would build something
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
        factory: str = "auto",
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
        index.compact()
        return index

    def __len__(self) -> int:
        return len(self._items)

    @property
    def factory(self) -> str:
        """What `compact` builds; another one may be set."""
        return self._factory

    @factory.setter
    def factory(self, factory: str) -> None:
        self._least_items = tuning.least_items(factory, self.dim)  # refuses one that FAISS does not have
        self._factory = factory

    @property
    def ids(self) -> list[Id]:
        """All ids, in the order of adding."""
        return list(self._items.ids)

    @property
    def modalities(self) -> dict[str, int]:
        """{modality: number of items}."""
        return self._items.counts("modality")

    @property
    def built(self) -> str:
        """The factory that searches are really made with: "exact", or FAISS's string."""
        return self._approximate.factory if self._approximate else "exact"

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of what searches read: the exact "vectors", and what is "approximate" beside them."""
        beside = self._approximate.size if self._approximate else 0
        return {"vectors": len(self) * self.dim * 4, "approximate": beside}  # float32

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
        vectors, plain, rows = self._checked(embeddings, ids, metadata)
        for row, values in enumerate(rows):
            if modality and values.setdefault("modality", modality) != modality:
                raise ValueError(f"row {row} has metadata modality {values['modality']!r}, but modality={modality!r}.")
        self._items.add(plain, rows)
        self._append(vectors)

    def remove(self, ids: Iterable[Id]) -> None:
        """Take items out: all of them, or none if an id is not there.

        Raises:
            LookupError: an id that is not in the index.
        """
        self._check_writable()
        positions = np.unique(self._items.positions(plain_ids(ids)))
        self._vectors.remove(positions)
        self._items.remove(positions)

    def update(self, embeddings: Any, ids: Sequence[Id], metadata: Sequence[Metadata] | None = None) -> None:
        """Give items new vectors: all of them, or none if something is wrong. They move to the end of the order.

        Args:
            embeddings: (n, D) unit vectors.
            ids: (n,) different ids that are in the index.
            metadata: (n,) dicts that replace what was known, but for a "modality" they do not give; None = as it was.

        Raises:
            LookupError: an id that is not in the index.
            ValueError: what `add` refuses, or an id twice.
        """
        vectors, plain, rows = self._checked(embeddings, ids, metadata)
        positions = self._items.positions(plain)
        if len(np.unique(positions)) < len(positions):
            raise ValueError(f"ids must be different: got {len(plain)}, of which {len(set(plain))} are different.")
        if metadata is not None:
            known = self._items.metadata(self._items.keys[positions].tolist())
            modalities = [{key: old[key] for key in ("modality",) if key in old} for old in known]
            rows = [old | new for old, new in zip(modalities, rows, strict=True)]
        self._items.renew(positions, None if metadata is None else rows)
        self._vectors.remove(np.sort(positions))
        self._append(vectors)

    def merge(self, other: Index) -> None:
        """Append all items of another index: all of them, or none if an id is in both.

        Raises:
            ValueError: an id is in both, or the other one has another width or is of other encoders.
        """
        self._check_writable()
        for what, ours, its in (("dim", self.dim, other.dim), ("fingerprint", self.fingerprint, other.fingerprint)):
            if ours != its:
                raise ValueError(f"indexes that are merged must have one {what}: got {ours!r} and {its!r}.")
        ids = other.ids
        if len(both := self._items.known(ids)):
            raise ValueError(
                f"ids must be unique: {self._items.ids[both[0]]!r} is in both indexes, {len(both)} are in all. "
                "Remove them from one."
            )
        for start in range(0, len(ids), MERGED):
            some = ids[start : start + MERGED]
            self.add(other.vectors(some), some, other.metadata(some))

    def compact(self) -> None:
        """Build the approximate index anew, or for the first time: rows of items that are gone no longer take room.

        What "auto" means is decided anew too. Where there are too few items for the factory, a warning says how many
        it takes, and they are searched exactly.

        Raises:
            ValueError: FAISS cannot train such an index; its reason is given.
        """
        self._check_writable()
        found = tuning.build(self.factory, self._vectors, self._items.keys)
        self._approximate, self.trials = found or (None, [])
        self._told = len(self) >= self._least_items  # where it was not built, it is of no use

    def vectors(self, ids: Iterable[Id]) -> np.ndarray:
        """(n, D) float32 unit vectors of items.

        Raises:
            LookupError: an id that is not in the index.
        """
        return self._vectors.get(self._items.positions(plain_ids(ids)))  # (n, D)

    def metadata(self, ids: Iterable[Id]) -> list[Metadata]:
        """Metadata of items.

        Raises:
            LookupError: an id that is not in the index.
        """
        return self._items.metadata(self._items.keys[self._items.positions(plain_ids(ids))].tolist())

    def search(
        self, vectors: Any, k: int, where: Where | None = None, exclude: Iterable[Id] = (), exact: bool = False
    ) -> Hits:
        """The k items nearest to each query, of all that meet the conditions: k come back when k exist.

        Args:
            vectors: (Q, D) or (D,) unit vectors.
            k: answers wanted per query.
            where: {metadata key: value | list or set of values | (low, high)}, see `Items.where`; all must be met.
            exclude: ids that are no answers, such as the query's own; unknown ones are of no effect.
            exact: leave the approximate index aside.

        Raises:
            ValueError: a query that is not finite, not of unit length or not of width D, k below 1, or a key in `where`
                that no item has.
        """
        queries, k = unit_vectors(vectors, self.dim, "queries"), _plain_k(k)  # (Q, D)
        allowed = self._items.allowed(where, exclude)  # (m,)
        if self._approximate is None and len(self) >= self._least_items and not self._told:
            self._told = True
            log.warning("%d items are searched exactly: compact() builds %s for them", len(self), self.factory)
        if self._approximate is None or exact:
            scores, positions = self._vectors.nearest(queries, k, allowed)  # (Q, k), (Q, k)
        else:
            scores, positions = self._approximate.nearest(queries, k, allowed, self._vectors, self._items.keys)
        return Hits.of(self._items, scores, positions)

    def search_range(self, vectors: Any, score: float, where: Where | None = None, exclude: Iterable[Id] = ()) -> Hits:
        """Every item with at least this cosine to a query, the best first, by exact search.

        Args:
            vectors: (Q, D) or (D,) unit vectors.
            score: least cosine, -1..1. Equal vectors have one of 1 give or take 1e-6.
            where: as in `search`.
            exclude: as in `search`.

        Raises:
            ValueError: what `search` refuses, or a score that is no cosine.
        """
        queries = unit_vectors(vectors, self.dim, "queries")  # (Q, D)
        if not -1 <= score <= 1:
            raise ValueError(f"score must be a cosine, from -1 to 1: got {score}.")
        found = list(self._vectors.within(queries, score, self._items.allowed(where, exclude)))
        return Hits.of(self._items, [scores for scores, _ in found], [positions for _, positions in found])

    def recall(self, k: int, queries: Any, self_queries: bool = False) -> float:
        """Share of the k best answers of exact search that `search` finds; equally good ones count as found.

        Args:
            k: answers per query.
            queries: (Q, D) unit vectors, such as are going to be asked.
            self_queries: take queries that are items, too; they find themselves, which flatters.

        Raises:
            ValueError: a query is an item, there are no queries or no items, or k is below 1.
        """
        vectors = tuning.asked(self._vectors, queries, self_queries)  # (Q, D)
        sample = tuning.Sample(self._vectors, self._items.keys, vectors, _plain_k(k))
        return sample.recall(np.asarray(self.search(vectors, k).scores))

    def tune(self, recall: float = 0.95, k: int = 10, queries: Any = None) -> list[Trial]:
        """Measure ways to ask the approximate index, and set the quickest that reaches a recall@k.

        Args:
            recall: wanted, in 0..1. If none reaches it, the best is set and a warning says so.
            k: answers per query.
            queries: (Q, D) unit vectors like those that are going to be asked, none of them an item; None = vectors of
                items, each without itself as an answer. These flatter types that are graphs (HNSW); `compact` is free
                of that, for it leaves its queries out while it builds.

        Returns:
            The trials that no other beats in both recall and time, the quickest first. `save` keeps them.

        Raises:
            ValueError: recall or k out of range, a query is an item, or there are no queries or too few items.
        """
        if not 0 <= recall <= 1:
            raise ValueError(f"recall must lie in 0..1: got {recall}.")
        k = _plain_k(k)
        if queries is None and len(self) < 2:
            raise ValueError(f"an index must have at least 2 items to be tuned without queries: it has {len(self)}.")
        own = None if queries is not None else tuning.some_of(len(self))  # (Q,)
        vectors = tuning.asked(self._vectors, queries) if own is None else self._vectors.get(own)  # (Q, D)
        sample = tuning.Sample(self._vectors, self._items.keys, vectors, k, own=own)
        if self._approximate is None:
            return [Trial(1.0, sample.exact_many_ms, {})]
        self.trials, _ = tuning.tune(self._approximate, sample, recall)
        return self.trials

    def save(self, folder: str | Path) -> None:
        """Write a new version into a folder; the one that is there stays loadable until the new one is complete.

        Raises:
            IndexConflictError: another process is saving there, or has saved since this index was loaded from there.
            OSError: the disk is full, the folder cannot be written; what is there stays.
        """
        folder = Path(folder).absolute()
        if self._approximate is not None and len(self._approximate) > CROWDED * len(self):
            gone = len(self._approximate) - len(self)
            say = "%d rows of %s are of items that are gone, and %d of others: compact() finds more, and sooner"
            log.warning(say, gone, self.built, len(self))
        all_of_it = contents.Contents(self._vectors, self._items, self._approximate, self.trials)
        about = {"factory": self.factory, "fingerprint": self.fingerprint, "run": self.run}
        fill = partial(contents.write, contents=all_of_it, about=about)
        self._saved[folder] = versions.write(folder, fill, self._saved.get(folder))

    @classmethod
    def load(cls, folder: str | Path, mmap: bool = False) -> Index:
        """Read an index after checking every file against the digests it was saved with.

        Args:
            folder: as given to `save`.
            mmap: leave vectors and metadata in their files, of which what a search needs is then read; such an index
                cannot be changed.

        Raises:
            FileNotFoundError: there is no index.
            IndexDamagedError: a file is missing or changed, or files do not belong together.
            ValueError: made by a newer version of mm.
        """
        folder = Path(folder).absolute()
        index, digest = versions.read(folder, partial(cls._open, mmap=mmap))
        index._saved[folder] = digest
        return index

    @classmethod
    def _open(cls, folder: Path, manifest: Mapping[str, Any], mmap: bool) -> Index:
        """An index from the files of a version whose digests are right."""
        found = contents.read(folder, manifest, mmap)
        index = cls(manifest["dim"], manifest["fingerprint"], manifest["run"], manifest["factory"])
        index._vectors, index._items, index._approximate, index.trials = found
        index._is_mapped = mmap
        index._told = len(index) >= index._least_items  # whoever saved it was told, or saw that it does not pay
        return index

    def _append(self, vectors: np.ndarray) -> None:
        """Append the vectors (n, D) of the n last items."""
        self._vectors.add(vectors)
        if self._approximate is not None:
            self._approximate.add(vectors, self._items.keys[len(self) - len(vectors) :])

    def _checked(
        self, embeddings: Any, ids: Sequence[Id], metadata: Sequence[Metadata] | None
    ) -> tuple[np.ndarray, list[Id], list[Metadata]]:
        """(n, D) unit vectors, n ids and n dicts."""
        self._check_writable()
        vectors = unit_vectors(embeddings, self.dim, "embeddings")  # (n, D)
        plain = plain_ids(ids)
        rows = [{} for _ in plain] if metadata is None else list(metadata)
        for row, values in enumerate(rows):
            if not isinstance(values, Mapping):
                raise ValueError(f"metadata must be a dict of JSON values: row {row} is {type(values).__name__}.")
        if not len(vectors) == len(plain) == len(rows):
            raise ValueError(
                "embeddings, ids and metadata must be equally many: "
                f"got {len(vectors)} embeddings, {len(plain)} ids and {len(rows)} metadata."
            )
        return vectors, plain, [dict(values) for values in rows]

    def _check_writable(self) -> None:
        """Refuse to change what is in files."""
        if self._is_mapped:
            raise ValueError("an index that was loaded with mmap=True cannot be changed. Load it with mmap=False.")


def _plain_k(k: Any) -> int:
    """How many answers, as an integer of Python's own: FAISS takes no other."""
    if (plain := int(operator.index(k))) < 1:
        raise ValueError(f"k must be at least 1: got {plain}.")
    return plain
