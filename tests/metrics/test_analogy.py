"""Analogies: the share of questions with a right answer near, against a naive loop and the cases known by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mm.metrics import analogy_recall


def unit(rows, seed, dim=3):
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(values, dim=-1)


def slow(moved, gallery, origins, targets):
    """Question by question: how many wrong items, the origin aside, are at least as near as the nearest target?"""
    found = {1: [], 10: []}
    for question, origin, right in zip(moved, origins.tolist(), targets, strict=True):
        scores = {item: float(gallery[item] @ question) for item in range(len(gallery)) if item != origin}
        best = max((scores[item] for item in right if item in scores), default=-np.inf)
        above = sum(score >= best for item, score in scores.items() if item not in right)
        for k, hits in found.items():
            hits.append(above < k)
    return {f"analogy_R@{k}": float(np.mean(hits)) for k, hits in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_naive_loop(seed):
    generator = np.random.default_rng(seed)
    gallery, moved = unit(40, seed), unit(60, 100 + seed)
    origins = torch.from_numpy(generator.integers(0, 40, 60))
    targets = [generator.choice(40, generator.integers(1, 4), replace=False).tolist() for _ in range(60)]
    found = analogy_recall(moved, gallery, origins, targets)
    assert found == pytest.approx(slow(moved, gallery, origins, targets), abs=1e-7)
    assert 0 < found["analogy_R@1"] < found["analogy_R@10"] < 1


def test_the_origin_is_no_answer_and_in_nobodys_way():
    gallery = torch.eye(12)
    question = functional.normalize(gallery[3] + 0.5 * gallery[4], dim=0)[None]  # nearest: 3 itself, then 4
    assert analogy_recall(question, gallery, torch.tensor([3]), [[4]])["analogy_R@1"] == 1
    assert analogy_recall(question, gallery, torch.tensor([0]), [[4]])["analogy_R@1"] == 0
    assert analogy_recall(question, gallery, torch.tensor([3]), [[3]])["analogy_R@10"] == 0  # cannot be found


def test_one_of_several_right_items_is_enough():
    gallery = torch.eye(4)
    assert analogy_recall(gallery[[1]], gallery, torch.tensor([0]), [[3, 1]])["analogy_R@1"] == 1


def test_equal_scores_count_against_the_model():
    same = functional.normalize(torch.ones(30, 5), dim=-1)
    found = analogy_recall(same[:6], same, torch.arange(6), [[20]] * 6)
    assert found == {"analogy_R@1": 0, "analogy_R@10": 0}


def test_what_it_is_given_stays_as_it_was():
    gallery, moved = unit(5, 0), unit(2, 1)
    before = gallery.clone(), moved.clone()
    analogy_recall(moved, gallery, torch.tensor([0, 1]), [[2], [3]])
    assert torch.equal(gallery, before[0])
    assert torch.equal(moved, before[1])


def test_as_many_targets_as_questions():
    with pytest.raises(ValueError, match="shorter"):
        analogy_recall(unit(3, 0), unit(5, 1), torch.tensor([0, 1, 2]), [[1], [2]])
