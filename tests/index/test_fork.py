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
vectors = generator.standard_normal((20000, 32)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
index = Index.build(vectors, range(20000), [{{"n": row}} for row in range(20000)])
expected = index.search(vectors[:200], 1).ids  # starts the parent's threads

class Searches(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, item):
        where = {{"n": (0, 9999)}} if item % 2 else None
        return index.search(vectors[:200], 1, where).ids == expected

if __name__ == "__main__":
    loader = DataLoader(Searches(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=20)
    assert all(loader)
"""


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_forked_workers_search_after_their_parent_did(first):
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}  # with one thread nothing could hang
    done = subprocess.run(
        [sys.executable, "-c", SEARCH_IN_WORKERS.format(first=first)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
