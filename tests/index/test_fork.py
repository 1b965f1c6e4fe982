"""Workers forked after their parent has searched must answer, whichever library was imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SEARCH_IN_WORKERS = """
import {first}
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from mm.index import Index

generator = np.random.default_rng(0)
vectors = generator.standard_normal((6000, 32)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
details = [{{"n": row}} for row in range(6000)]
indexes = [Index.build(vectors, range(6000), details, factory=factory) for factory in ("exact", {factory!r})]
expected = [index.search(vectors[:200], 1).ids for index in indexes]  # starts the parent's threads
assert indexes[1].built == {factory!r}

class Searches(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, item):
        where = {{"n": (0, 2999)}} if item % 2 else None
        index, right = indexes[item // 2 % 2], expected[item // 2 % 2]
        found = index.search(vectors[:200], 1, where).ids
        return found == right if where is None else found == index.search(vectors[:200], 1, where, exact=True).ids

if __name__ == "__main__":
    loader = DataLoader(Searches(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=20)
    assert all(loader)
"""


FAISS_AS_IT_WAS = """
import sys
import torch
import faiss
import numpy as np

def state():
    of_module = {name: id(value) for name, value in vars(faiss).items()}
    of_classes = {
        (name, method): id(value)
        for name, kind in vars(faiss).items() if isinstance(kind, type) for method, value in vars(kind).items()
    }
    settings = {name: getattr(faiss.cvar, name) for name in str(faiss.cvar).strip("()").split(", ")}
    settings = {name: value for name, value in settings.items() if isinstance(value, (int, float))}
    assert settings["distance_compute_blas_threshold"] > 0
    return of_module, of_classes, settings, faiss.omp_get_max_threads(), torch.get_num_threads()

before = state()
from mm.index import Index
assert state() == before  # importing

generator = np.random.default_rng(0)
vectors = generator.standard_normal((1000, 32)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
for factory in ("HNSW8", "PCA16,IVF4,PQ8x4fs", "IVF4,PQ8,RFlat"):
    index = Index.build(vectors, range(1000), [{"n": row} for row in range(1000)], factory=factory)
    index.search(vectors[:50], 5, {"n": (0, 500)})
    index.tune(0.9)
    index.save(sys.argv[1] + "/" + factory[:4])
    Index.load(sys.argv[1] + "/" + factory[:4], mmap=True).search_range(vectors[:2], 0.5)
assert state() == before
assert "faiss.contrib.torch_utils" not in sys.modules
"""


def run(code, *arguments):
    """What a fresh process says that may use four threads; with one nothing could hang."""
    command, environment = [sys.executable, "-c", code, *map(str, arguments)], {**os.environ, "OMP_NUM_THREADS": "4"}
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=root)


def test_nothing_of_faiss_is_changed_for_others(tmp_path):
    done = run(FAISS_AS_IT_WAS, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("first", "factory"), [("torch", "HNSW8"), ("faiss", "HNSW8"), ("faiss", "IVF16,PQ16x4fs")])
def test_forked_workers_search_after_their_parent_did(first, factory):
    done = run(SEARCH_IN_WORKERS.format(first=first, factory=factory))
    assert done.returncode == 0, done.stderr
