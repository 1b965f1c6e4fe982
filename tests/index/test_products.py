"""The k largest inner products against a full sort, wherever blocks, groups and parts of the queries end."""

import numpy as np
import pytest

from mm.index import products


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of 64 vectors for 16 queries, of more for fewer; so that all of the ways through are taken."""
    for name, value in {"SCORES": 1024, "QUERIES": 16, "BLOCK": 64, "GROUP": 8, "MOST_RESULTS": 3000}.items():
        monkeypatch.setattr(products, name, value)


def expected(queries, k, vectors, allowed):
    scores = queries @ vectors[allowed].T  # small integers: exact, and many are equal
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), allowed[order]


@pytest.mark.parametrize("n", [1, 7, 8, 63, 64, 65, 200, 1000])
@pytest.mark.parametrize("Q", [0, 1, 2, 16, 17, 40])
def test_k_best_equal_a_full_sort(n, Q):
    chance = np.random.default_rng(n + Q)
    vectors = chance.integers(-2, 3, (n, 5)).astype(np.float32)
    queries = chance.integers(-2, 3, (Q, 5)).astype(np.float32)
    for share in (None, 1.0, 0.5, 0.1):
        allowed = np.arange(n) if share is None else np.sort(chance.choice(n, max(1, int(n * share)), replace=False))
        for k in {1, 10, len(allowed) // 2, len(allowed) - 1, len(allowed)} & set(range(1, len(allowed) + 1)):
            scores, positions = products.k_best(queries, k, vectors, None if share is None else allowed)
            right, at = expected(queries, k, vectors, allowed)
            np.testing.assert_array_equal(positions, at)
            np.testing.assert_array_equal(scores, right)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("k", [1, 9, 150])
def test_vectors_that_get_better_or_worse_one_by_one(order, k):
    vectors = np.arange(1, 1001, dtype=np.float32)[::order, None] // 3  # in threes
    queries = np.ones((20, 1), np.float32)
    scores, positions = products.k_best(queries, k, vectors, None)
    right, at = expected(queries, k, vectors, np.arange(1000))
    np.testing.assert_array_equal(positions, at)
    np.testing.assert_array_equal(scores, right)
