"""Float32 unit vectors in a FAISS index, and their exact nearest neighbours, by position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from mm.index.products import NO_SCORE, k_best

UNIT_TOLERANCE = 1e-3  # how far a length may be from 1


class ExactVectors:
    """n float32 vectors (D,) in the order of their adding, searched by inner product.

    Args:
        dim: D.
    """

    def __init__(self, dim: int):
        self._flat: Any = faiss.IndexFlatIP(dim)

    def __len__(self) -> int:
        return self._flat.ntotal

    @property
    def dim(self) -> int:
        """D of the vectors."""
        return self._flat.d

    @property
    def stored(self) -> np.ndarray:
        """(n, D) float32: the very memory, to be read until the next change."""
        if not len(self):
            return np.zeros((0, self.dim), np.float32)
        return faiss.rev_swig_ptr(self._flat.get_xb(), len(self) * self.dim).reshape(-1, self.dim)  # (n, D)

    def add(self, vectors: np.ndarray) -> None:
        """Append vectors (n, D) float32."""
        self._flat.add(vectors)

    def remove(self, positions: np.ndarray) -> None:
        """Take vectors out; the later ones move up."""
        self._flat.remove_ids(faiss.IDSelectorBatch(positions))

    def get(self, positions: np.ndarray) -> np.ndarray:
        """(len(positions), D) float32."""
        return self._flat.reconstruct_batch(positions)

    def scores(self, queries: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(Q, m) float32 inner products of each query (Q, D) with vectors of its own, (Q, m) int64; NO_SCORE for -1."""
        scores = np.empty(positions.shape, np.float32)  # (Q, m)
        pointers = faiss.swig_ptr(scores), faiss.swig_ptr(queries), self._flat.get_xb(), faiss.swig_ptr(positions)
        faiss.fvec_inner_products_by_idx(*pointers, self.dim, *positions.shape)  # type: ignore[attr-defined]
        return scores

    def nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The best candidates of each query; among equal scores the lower positions come first and win.

        Args:
            queries: (Q, D) float32.
            k: how many, at least 1; fewer come back when there are fewer candidates.
            allowed: (m,) int64 ascending positions of the candidates; None = all.

        Returns:
            (Q, k) float32 scores and (Q, k) int64 positions.
        """
        candidates = len(self) if allowed is None else len(allowed)
        if not candidates:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        return k_best(queries, min(k, candidates), self.stored, allowed)

    def within(
        self, queries: np.ndarray, score: float, allowed: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each query all candidates of at least this score: (m,) falling scores and (m,) int64 positions."""
        above = float(np.nextafter(np.float32(score), NO_SCORE))  # FAISS leaves out those that are equal
        params = None if allowed is None else faiss.SearchParameters(sel=self._selector(allowed))  # type: ignore[call-arg]
        for query in queries:
            _, scores, positions = self._flat.range_search(query[None], above, params=params)  # (m,), (m,)
            order = np.lexsort((positions, -scores))  # (m,)
            yield scores[order], positions[order]

    def save(self, path: Path) -> None:
        """Write a FAISS file."""
        write_faiss(self._flat, path)

    @classmethod
    def load(cls, path: Path, mmap: bool = False) -> ExactVectors:
        """Read a FAISS file, or map it: then nothing can be added or removed.

        Raises:
            ValueError: it holds another kind of index.
        """
        vectors = cls.__new__(cls)
        vectors._flat = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
        if not isinstance(vectors._flat, faiss.IndexFlatIP):
            raise ValueError(f"{path} must hold an exact index by inner product: got {type(vectors._flat).__name__}.")
        return vectors

    def _selector(self, allowed: np.ndarray) -> Any:
        """What lets FAISS see these positions only."""
        is_allowed = np.zeros(len(self), bool)
        is_allowed[allowed] = True
        return faiss.IDSelectorBitmap(np.packbits(is_allowed, bitorder="little"))  # type: ignore[call-arg,arg-type]


def write_faiss(index: Any, path: Path) -> None:
    """Write an index to a file, through Python: FAISS's own writer does not see that the disk is full on closing.

    Raises:
        OSError, RuntimeError: the disk is full.
    """
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def unit_vectors(values: Any, dim: int, what: str) -> np.ndarray:
    """(n, D) float32 rows in one piece of memory.

    Args:
        values: (n, D) or (D,) array or tensor of floats.
        dim: D.
        what: they are, for the messages.

    Raises:
        ValueError: not floats, not of width D, not finite or not of unit length; the row is named.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy()
    array = np.atleast_2d(np.asarray(values))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{what} must be floating-point numbers: got {array.dtype}.")
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{what} must have the width of the index, {dim}: got shape {np.shape(values)}.")
    array = np.ascontiguousarray(array, np.float32)  # (n, D)
    lengths = np.sqrt(np.einsum("nd,nd->n", array, array))  # (n,)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))  # NaN is not near 1 either
    if len(wrong):
        row = int(wrong[0])
        say = f"has length {lengths[row]:.6g}" if np.isfinite(array[row]).all() else "is not finite"
        raise ValueError(
            f"{what} must be finite and of unit length: row {row} {say}, {len(wrong)} of {len(array)} rows in all. "
            "Divide each vector by its length; a zero or non-finite one means nothing was embedded."
        )
    return array
