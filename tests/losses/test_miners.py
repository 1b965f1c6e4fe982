"""Miners against naive loops and pytorch-metric-learning's, and the triplet loss over what they choose."""

import math

import pytest
import torch

from mm.losses import Triplets, distance_weighted, hard, mined_triplet, semi_hard, triplet
from mm.losses.miners import FARTHEST, NEAREST, log_weights
from tests.losses.loops import every_case, negatives, unit

MARGIN = 0.2


def distance(x, y):
    return float((x - y).norm())


def listed(triplets):
    return list(zip(*(part.tolist() for part in triplets), strict=True))


@every_case
def test_hard_is_the_nearest_negative(a, b, owner):
    expected = []
    for i in range(len(a)):
        others = negatives(owner, len(b), i)
        if others:
            expected.append((i, i, min(others, key=lambda j: distance(a[i], b[j]))))
    assert listed(hard(a, b, owner)) == expected


@every_case
def test_semi_hard_is_farther_than_the_positive_by_less_than_the_margin(a, b, owner):
    expected = [
        (i, i, j)
        for i in range(len(a))
        for j in negatives(owner, len(b), i)
        if 0 < distance(a[i], b[j]) - distance(a[i], b[i]) < MARGIN
    ]
    assert expected and listed(semi_hard(a, b, owner, MARGIN)) == expected


@every_case
def test_distance_weighted_draws_by_the_density_of_distances(a, b, owner):
    """Frequencies over many seeds equal min(lambda, 1 / q(d)) of Wu et al. 2017, row by row."""
    dim, draws = a.shape[1], 800
    counts = torch.zeros(len(a), len(b))
    for seed in range(draws):
        anchor, positive, negative = distance_weighted(a, b, owner, seed=seed)
        assert torch.equal(anchor, positive)
        counts[anchor, negative] += 1
    for i in range(len(a)):
        weights = torch.zeros(len(b), dtype=torch.float64)
        for j in negatives(owner, len(b), i):
            d = max(distance(a[i], b[j]), NEAREST)
            if d < FARTHEST:
                weights[j] = 1 / (d ** (dim - 2) * (1 - d * d / 4) ** ((dim - 3) / 2))
        if weights.sum():
            expected = weights / weights.sum()
            assert (counts[i] / draws - expected).abs().max() < 0.08
        else:
            assert counts[i].sum() == 0  # nothing that such a row could learn from


@every_case
def test_with_a_margin_only_negatives_that_count_are_drawn(a, b, owner):
    """Else all texts opposite to all pictures would be far enough, and nothing to learn."""
    drawn = {triplet for seed in range(200) for triplet in listed(distance_weighted(-a, b, owner, MARGIN, seed))}
    everything = {
        (i, i, j)
        for i in range(len(a))
        for j in negatives(owner, len(b), i)
        if distance(-a[i], b[j]) - distance(-a[i], b[i]) < MARGIN
    }
    assert drawn <= everything and len(drawn) > len(everything) / 2
    assert {i for i, _, _ in drawn} == {i for i, _, _ in everything}


def test_weights_make_all_distances_come_up_alike():
    """Points spread evenly over the sphere, drawn by these weights, have distances spread evenly."""
    dim = 8
    d = (unit(20_000, dim, 1) - unit(20_000, dim, 2)).norm(dim=1)
    inside = d[(d > NEAREST) & (d < FARTHEST - 1e-3)]
    shares = torch.histogram(inside, 6, range=(NEAREST, FARTHEST), weight=log_weights(inside, dim).exp()).hist
    assert (shares / shares.mean() - 1).abs().max() < 0.3 < math.log(shares.numel())
    plain = torch.histogram(inside, 6, range=(NEAREST, FARTHEST)).hist
    assert plain.max() > 10 * plain.min()  # while most distances are about the square root of 2
    ends = log_weights(torch.tensor([0.0, NEAREST / 2, NEAREST, FARTHEST, 1.7, 2.0]), dim)
    assert ends[0] == ends[1] == ends[2] > ends[3] == ends[4] == ends[5] > float("-inf")


def test_they_equal_pytorch_metric_learnings():
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    a, b, labels = unit(40, 24, 6, torch.float32), unit(40, 24, 7, torch.float32), torch.arange(40)
    partners = labels.clone()  # the very same tensor would mean that a and b are one set
    assert listed(hard(a, b)) == listed(miners.BatchHardMiner()(a, labels, b, partners))
    theirs = miners.TripletMarginMiner(MARGIN, type_of_triplets="semihard")(a, labels, b, partners)
    assert sorted(listed(semi_hard(a, b, margin=MARGIN))) == sorted(listed(theirs))
    sampler, draws = miners.DistanceWeightedMiner(NEAREST, FARTHEST), 800
    torch.manual_seed(0)
    counts = torch.zeros(2, 40, 40)
    for seed in range(draws):
        anchor, _, negative = distance_weighted(a, b, seed=seed)
        counts[0, anchor, negative] += 1
    anchor, _, negative = sampler(a.repeat(draws, 1), labels.repeat(draws), b, partners)
    counts[1].index_put_((anchor % 40, negative), torch.ones(len(anchor)), accumulate=True)
    assert (counts[0] - counts[1]).abs().max() / draws < 0.1
    assert torch.equal(counts[0].sum(dim=1) > 0, counts[1].sum(dim=1) > 0)


def slow_mined(a, b, triplets):
    costs = [(a[i] - b[p]).norm() - (a[i] - b[n]).norm() + MARGIN for i, p, n in listed(triplets)]
    costs = [cost for cost in costs if cost > 0]
    return sum(costs) / len(costs)


@every_case
@pytest.mark.parametrize("miner", [hard, semi_hard, distance_weighted])
def test_the_loss_over_indices_equals_a_loop(miner, a, b, owner):
    triplets = miner(a, b, owner)
    inputs = a.clone().requires_grad_(), b.clone().requires_grad_()
    mine, slow = mined_triplet(*inputs, triplets, MARGIN), slow_mined(*inputs, triplets)
    torch.testing.assert_close(mine, slow, rtol=1e-9, atol=0)
    radial = [tangent(x, g) for x, g in zip(inputs, torch.autograd.grad(slow, inputs), strict=True)]
    for x, found, expected in zip(inputs, torch.autograd.grad(mine, inputs), radial, strict=True):
        torch.testing.assert_close(tangent(x, found), expected, rtol=1e-8, atol=1e-9)


def tangent(x, gradient):
    """What of a gradient moves a unit vector: |x - y| and sqrt(2 - 2 x y) differ in its length alone."""
    return gradient - (gradient * x).sum(dim=1, keepdim=True) * x


def test_all_triplets_that_violate_are_the_plain_triplet_loss():
    a, b = unit(12, seed=1), unit(12, seed=2)
    rows = torch.tensor([(i, i, j) for i in range(12) for j in range(12) if i != j])
    everything = Triplets(*rows.T)
    torch.testing.assert_close(mined_triplet(a, b, everything, MARGIN), triplet(a, b, None, MARGIN, both_ways=False))


def test_nothing_mined_costs_nothing_and_gives_finite_gradients():
    a = unit(1).expand(4, -1).clone().requires_grad_()
    same = torch.zeros(4, dtype=torch.int64)
    for miner in (hard, semi_hard, distance_weighted):
        assert listed(miner(a, a, same)) == []  # all belong together
        loss = mined_triplet(a, a, miner(a, a, same), MARGIN)
        (gradient,) = torch.autograd.grad(loss, a)
        assert loss == 0 and not gradient.any()
    collapsed = mined_triplet(a, a, hard(a, a), MARGIN)
    (gradient,) = torch.autograd.grad(collapsed, a)
    assert collapsed.item() == pytest.approx(MARGIN) and torch.isfinite(gradient).all()


def test_miners_have_no_gradient_and_are_not_rounded_by_autocast():
    a, b = unit(32, 64, 1, torch.float32).requires_grad_(), unit(32, 64, 2, torch.float32)
    for miner in (hard, semi_hard, distance_weighted):
        expected = listed(miner(a, b))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert listed(miner(a, b)) == expected
    with pytest.raises(ValueError, match=r"got \(4, 16\) and \(3, 16\)"):
        hard(unit(4), unit(3))
