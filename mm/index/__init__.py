import os

# torch comes first: the two then share one OpenMP runtime, so that the one thread that a DataLoader worker is given
# holds for both. With faiss first, such a worker waits for ever for the threads of its parent's faiss.
# isort: off
import torch  # noqa: F401
import faiss

# isort: on
from mm.index.build import Bad, Embedder, Entry, build, index_of
from mm.index.hits import Hit, Hits
from mm.index.searcher import Searcher, combine, parse_where, read_vectors
from mm.index.setting import Trial
from mm.index.store import Index
from mm.index.versions import IndexConflictError, IndexDamagedError

# Threads do not survive a fork, but OpenMP in the child would wait for those that the parent had started.
os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))

__all__ = [
    "Bad",
    "Embedder",
    "Entry",
    "Hit",
    "Hits",
    "Index",
    "IndexConflictError",
    "IndexDamagedError",
    "Searcher",
    "Trial",
    "build",
    "combine",
    "index_of",
    "parse_where",
    "read_vectors",
]
