"""A FAISS index of any type beside the exact vectors: it proposes candidates, and exact scores decide among them.

Its rows are numbered in the order of their adding and carry the keys of items. A row whose item has gone is dead: it
stays where it is and is no answer, for some types cannot remove and the others would renumber what is left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mm.index.exact import ExactVectors, write_faiss
from mm.index.products import NO_SCORE, best_of_many, query_slices
from mm.index.setting import Setting, fetched

SEARCH, ROWS = "search.faiss", "rows.npy"
PER_LIST = 39  # training vectors per list, below which FAISS warns that the lists will be poor
MOST_PER_LIST = 64  # of more, lists get slower to find and hardly better
MOST_TRAINING = 65_536  # what FAISS itself takes for codes: 256 for each of 256 centroids
OPQ_VECTORS = 39 * 256  # the same for the 256 centroids in each part of a rotation that is learnt with a quantiser
REASON = re.compile(r"\.(?:cpp|h):\d+: (?:Error: )?(.*)", re.DOTALL)  # what follows the place in FAISS's own code


class Approximate:
    """Rows of vectors (D,) in a FAISS index.

    Args:
        dim: D.
        factory: as `faiss.index_factory` takes it.

    Attributes:
        keys: (rows,) int64 the key of each row's item.
        setting: how it is asked; None until it is measured.

    Raises:
        ValueError: FAISS cannot make such an index for this width and the inner product, or cannot add to it.
    """

    def __init__(self, dim: int, factory: str):
        self.factory = factory
        self.keys = np.zeros(0, np.int64)
        self.setting: Setting | None = None
        self._index: Any = _made(dim, factory)
        self._at: tuple[np.ndarray, np.ndarray] | None = None  # keys of the items, and what _positions made of them

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def dim(self) -> int:
        """D of the vectors."""
        return self._index.d

    @property
    def training_vectors(self) -> int:
        """How many vectors it takes to train it."""
        return _training_vectors(self._index)

    @property
    def most_training_vectors(self) -> int:
        """How many vectors make it hardly better."""
        return max(MOST_TRAINING, *(MOST_PER_LIST * getattr(part, "nlist", 0) for part in _layers(self._index)))

    @property
    def size(self) -> int:
        """Bytes in a file, and about as many in memory."""
        sizes: list[int] = []
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(lambda piece: sizes.append(len(piece))))  # type: ignore[attr-defined]
        return sum(sizes) + self.keys.nbytes

    def train(self, vectors: np.ndarray) -> None:
        """Learn lists and codes from vectors (n, D) float32.

        Raises:
            ValueError: FAISS cannot; its reason is given.
        """
        for part in _layers(self._index):
            for clustering in (getattr(part, "cp", None), getattr(getattr(part, "pq", None), "cp", None)):
                if clustering is not None:
                    clustering.min_points_per_centroid = 1  # what it finds is measured: no warnings on the way
            if hasattr(part, "do_polysemous_training"):
                part.do_polysemous_training = (
                    False  # 40 s for a numbering of 8 x 256 codes, of which no search makes use
                )
        try:
            self._index.train(vectors)
        except RuntimeError as error:
            raise ValueError(f"factory {self.factory!r} cannot be trained: {_reason(error)}.") from error

    def add(self, vectors: np.ndarray, keys: np.ndarray) -> None:
        """Append rows: vectors (n, D) float32 and the keys (n,) int64 of their items."""
        self._index.add(vectors)
        self.keys = np.concatenate([self.keys, keys])
        self._at = None

    @property
    def efforts(self) -> list[int]:
        """The efforts to choose from: powers of two."""
        for part in _layers(self._index):
            if isinstance(part, faiss.IndexIVF):
                return [2**power for power in range(part.nlist.bit_length() - 1)] + [part.nlist]
            if isinstance(part, faiss.IndexHNSW):
                return [2**power for power in range(4, 11)]  # 16..1024
        return [1]

    @property
    def effort_name(self) -> str | None:
        """What FAISS calls effort for this type; None = it has none."""
        for part in _layers(self._index):
            if isinstance(part, (faiss.IndexIVF, faiss.IndexHNSW)):
                return "nprobe" if isinstance(part, faiss.IndexIVF) else "efSearch"
        return None

    def nearest(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None, vectors: ExactVectors, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `ExactVectors.nearest`, but some of the k best may be missed for others; k come back when k exist.

        A filter, and dead rows, leave some of the candidates: so as many more are asked for, and a query that has too
        few of them left all the same is answered exactly. So is every query where that takes less time.

        Args:
            queries: (Q, D) float32.
            k: answers, at least 1.
            allowed: (m,) int64 ascending positions of the candidates; None = all.
            vectors: of the n items.
            keys: (n,) int64 ascending keys of the items.
        """
        assert self.setting is not None
        candidates = len(vectors) if allowed is None else len(allowed)
        k = min(k, candidates)
        wider = max(1, k / self.setting.k) * len(self) / max(candidates, 1)
        if not k or not len(queries) or not self.setting.pays(wider, candidates, len(queries)):
            return vectors.nearest(queries, k or 1, allowed)
        share, effort, rerank = candidates / len(self), self.setting.effort_for(wider), self.setting.rerank_for(wider)
        fetch = fetched(k, rerank, share)
        enough = k if share == 1 else min(max(k, k * rerank // 2), candidates)
        scores, positions = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for some in query_slices(np.arange(len(queries)), fetch):
            scores[some], positions[some], left = self.reranked(queries[some], k, fetch, effort, allowed, vectors, keys)
            if len(short := some[left < enough]):
                scores[short], positions[short] = vectors.nearest(queries[short], k, allowed)
        return scores, positions

    def reranked(
        self,
        queries: np.ndarray,
        k: int,
        fetch: int,
        effort: int,
        allowed: np.ndarray | None,
        vectors: ExactVectors,
        keys: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The k best by exact score of `fetch` candidates found with this effort; see `nearest`.

        Returns:
            (Q, k) float32 scores, NO_SCORE where there is no answer; (Q, k) int64 positions, -1 there; and how many of
            each query's candidates were alive and allowed, (Q,).
        """
        fetch = min(max(fetch, k), len(self))
        _, rows = self._index.search(queries, fetch, params=_parameters(self._index, effort))  # (Q, fetch)
        positions = self._positions(keys)[rows]  # (Q, fetch); row -1, which is none, takes the -1 at the end
        if allowed is not None:
            is_allowed = np.zeros(len(keys) + 1, bool)  # the last one is for position -1
            is_allowed[allowed] = True
            positions[~is_allowed[positions]] = -1
        scores = vectors.scores(queries, positions)  # (Q, fetch)
        left = np.count_nonzero(positions >= 0, axis=1)  # (Q,)
        if fetch < k:
            empty = ((0, 0), (0, k - fetch))
            scores, positions = np.pad(scores, empty, constant_values=NO_SCORE), np.pad(positions, empty)
        scores, positions = best_of_many(scores, positions, k)  # (Q, k), (Q, k)
        positions[scores == NO_SCORE] = -1
        return scores, positions, left

    def save(self, folder: Path) -> None:
        """Write the index and its keys."""
        write_faiss(self._index, folder / SEARCH)
        np.save(folder / ROWS, self.keys)

    @classmethod
    def load(cls, folder: Path, factory: str, setting: Setting, mmap: bool = False) -> Approximate:
        """What was saved, read or mapped: then nothing can be added."""
        approximate = cls.__new__(cls)
        approximate._index = faiss.read_index(str(folder / SEARCH), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
        approximate.keys = np.load(folder / ROWS, allow_pickle=False)
        approximate.factory, approximate.setting, approximate._at = factory, setting, None
        return approximate

    def _positions(self, keys: np.ndarray) -> np.ndarray:
        """(rows + 1,) int64 the position of each row's item, -1 = dead, and -1; kept until the items change."""
        if self._at is None or self._at[0] is not keys:
            at = np.minimum(np.searchsorted(keys, self.keys), len(keys) - 1)  # (rows,)
            self._at = keys, np.append(np.where(keys[at] == self.keys, at, -1), -1)
        return self._at[1]


def _made(dim: int, factory: str) -> Any:
    """An empty index, of a type that can serve."""
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"factory must be auto, exact or what FAISS makes for inner products of width {dim}: "
            f"got {factory!r}: {_reason(error)}."
        ) from error
    for part in _layers(index):
        wrong = ""
        if isinstance(part, faiss.IndexIDMap):
            wrong = "ids are kept beside it"
        elif isinstance(part, faiss.IndexNSG):
            wrong = "nothing can be added to it once it is built"
        elif isinstance(part, faiss.IndexHNSW) and _neighbours(part) < 4:
            wrong = "a graph needs at least 2 neighbours each"  # FAISS itself would crash
        elif isinstance(part, faiss.IndexIVF) and part.nlist < 1:
            wrong = "there must be at least one list"
        elif isinstance(part, faiss.PCAMatrix) and not 1 <= part.d_out <= part.d_in:
            wrong = f"PCA leads from {part.d_in} numbers to 1..{part.d_in}"
        if wrong:
            raise ValueError(f"factory {factory!r} cannot be used: {wrong}. Choose auto, exact or another type.")
    return index


def _neighbours(graph: Any) -> int:
    """How many neighbours a place of the lowest layer has: twice as many as the factory says."""
    upto = graph.hnsw.cum_nneighbor_per_level
    return upto.at(1) if upto.size() > 1 else 0


def _layers(index: Any) -> list[Any]:
    """Transforms and indexes that an index is made of, from the outside in."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        transforms = [faiss.downcast_VectorTransform(chain.at(at)) for at in range(chain.size())]
        return [*transforms, index, *_layers(index.index)]
    if isinstance(index, (faiss.IndexRefine, faiss.IndexIDMap)):
        inner = index.base_index if isinstance(index, faiss.IndexRefine) else index.index
        return [index, *_layers(inner)]
    return [index, *_layers(index.storage)] if isinstance(index, faiss.IndexHNSW) else [index]


def _training_vectors(index: Any) -> int:
    """How many vectors it takes to train an index."""
    wanted = [1]
    for part in _layers(index):
        if isinstance(part, faiss.OPQMatrix):
            wanted.append(OPQ_VECTORS)
        elif isinstance(part, faiss.VectorTransform) and not part.is_trained:
            wanted.append(part.d_out)
        elif isinstance(part, faiss.IndexIVF):
            wanted.append(PER_LIST * part.nlist)
        if hasattr(part, "pq") and not isinstance(part, faiss.VectorTransform):
            wanted.append(part.pq.ksub)
    return max(wanted)


def _parameters(index: Any, effort: int) -> Any:
    """What asks an index with this effort: an object for this one search, for others search at the same time."""
    index = faiss.downcast_index(index)
    inner, made = None, None
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(index.index, effort)
        made = inner and faiss.SearchParametersPreTransform(index_params=inner)  # type: ignore[call-arg]
    elif isinstance(index, faiss.IndexRefine):
        inner = _parameters(index.base_index, effort)
        made = inner and faiss.IndexRefineSearchParameters(k_factor=1.0, base_index_params=inner)  # type: ignore[call-arg]
    elif isinstance(index, faiss.IndexHNSW):
        made = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
    elif isinstance(index, faiss.IndexIVF):
        made = faiss.SearchParametersIVF(nprobe=min(effort, index.nlist))  # type: ignore[call-arg]
    return made


def _reason(error: Exception) -> str:
    """What FAISS says is wrong, without where in its code."""
    found = REASON.search(str(error))
    return " ".join((found[1] if found else str(error)).split()).rstrip(".")
