"""Ranks of partners against a full sort and against the mean over random orders of equals."""

import itertools

import numpy as np
import pytest

from mm.index import ranks as module
from mm.index.ranks import Ranks, ranks
from tests.shared import unit


def over_orders(scores, own, k):
    """Mean place of the first partner and share of orders with a partner among the k nearest, over all orders."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda answer: -scores[answer])  # stable
        found.append(1 + next(at for at, answer in enumerate(ranked) if own[answer]))
    return np.mean(found), np.mean(np.array(found) <= k)


@pytest.mark.parametrize("scores", [1, 2**24])
def test_ranks_are_those_of_a_full_sort(scores, monkeypatch):
    monkeypatch.setattr(module, "SCORES", scores)
    queries, answers = unit(40), unit(100, seed=1)
    codes, its = np.arange(40), np.arange(100) % 40
    found = ranks(queries, answers, codes, its)
    for query, place in enumerate(found.places.tolist()):
        order = np.argsort(-(queries[query] @ answers.T)).tolist()
        assert place == 1 + next(at for at, answer in enumerate(order) if its[answer] == query)
    assert found.recall(5) == pytest.approx(np.mean(found.places <= 5))
    with pytest.raises(ValueError, match="row 3 has none"):
        ranks(queries, answers, np.where(codes == 3, 99, codes), its)


def test_equals_share_their_places():
    same = np.repeat(unit(1), 10, axis=0)
    found = ranks(same, same, np.arange(10), np.arange(10))
    assert found.recall(1) == pytest.approx(0.1) and found.recall(5) == pytest.approx(0.5)  # chance, never 100 %
    assert found.places.tolist() == [5.5] * 10
    twice = ranks(unit(10), np.concatenate([unit(10), unit(10)]), np.arange(10), np.arange(20))  # copies are rivals
    assert twice.recall(1) == 0.5 and twice.places.tolist() == [1.5] * 10


def test_equals_of_several_partners_share_their_places():
    found = ranks(unit(50), np.repeat(unit(1), 250, axis=0), np.arange(50), np.arange(250) // 5)
    assert found.recall(1) == pytest.approx(5 / 250)
    assert found.places == pytest.approx(np.full(50, 251 / 6))  # the least of 5 that are drawn of 1..250
    places = np.array([np.random.default_rng(seed).permutation(250)[:5].min() for seed in range(4000)])
    assert found.recall(20) == pytest.approx((places < 20).mean(), abs=0.03)
    assert found.places[0] == pytest.approx(1 + places.mean(), rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_means_over_all_orders_of_equals(seed):
    chance = np.random.default_rng(seed)
    answers = np.eye(3, dtype=np.float32)[chance.integers(0, 3, 7)]  # (7, 3): three heaps of equals
    queries = unit(6, 3, seed)
    codes, its = np.arange(6) % 2, np.array([0, 1, *chance.integers(0, 3, 5)])
    found = ranks(queries, answers, codes, its)
    for k in range(1, 8):
        orders = [over_orders(queries[q] @ answers.T, its == codes[q], k) for q in range(6)]
        assert found.places == pytest.approx([place for place, _ in orders])
        assert found.recall(k) == pytest.approx(np.mean([share for _, share in orders]))


def test_figures_of_known_counts():
    found = Ranks(np.array([0, 3]), np.array([0, 2]), np.array([2, 1]))
    assert found.places.tolist() == [1, 5]  # the first of two partners; the middle of places 4, 5 and 6
    assert [found.recall(k) for k in (1, 3, 4, 5, 6, 60)] == pytest.approx([1 / 2, 1 / 2, 2 / 3, 5 / 6, 1, 1])


@pytest.mark.parametrize("dim", [2, 16, 100, 256, 513])
def test_equal_answers_are_equal_whatever_the_shape(dim):
    """A product of ragged edges may round the last columns otherwise, and a collapsed side would win or lose by it."""
    for answers, queries in itertools.product((1, 2, 5, 17, 33, 50, 250), (1, 5, 31, 50, 64)):
        same = np.repeat(unit(1, dim, seed=2), answers, axis=0)
        found = ranks(unit(queries, dim), same, np.zeros(queries, int), np.arange(answers) // 3)
        assert not found.above.any(), (answers, queries)
        assert (found.equal + found.partners == answers).all() and (found.partners == min(3, answers)).all()
