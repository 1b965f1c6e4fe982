"""Losses of pairs against naive loops, against the formulas as published, and against pytorch-metric-learning."""

import math

import pytest
import torch
from torch.nn import functional

from mm.losses import class_loss, contrastive_loss, cosine_pairs, info_nce, multi_similarity, n_pair
from tests.losses.loops import both_or_one, every_case, negatives, together, unit

MARGIN = 1.3  # a third of random negatives are nearer
ALPHA, BETA, BASE, EPSILON, L2 = 2.0, 50.0, 0.5, 0.1, 0.3


def slow_contrastive(a, b, owner, both_ways):
    """Hadsell et al. 2006, eq. 4, with Y = 0 for partners; the same whichever side asks."""
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        for j in range(len(b)):
            if i == j or not together(owner, i, j):
                distance = (2 - 2 * a[i] @ b[j]).sqrt()
                y = 0 if i == j else 1
                total = total + (1 - y) / 2 * distance**2 + y / 2 * (MARGIN - distance).clamp_min(0) ** 2
    return total / len(a)


def mean_over_anchors(cost, a, b, owner, both_ways):
    """cost(score of the partner, scores of the negatives), by rows, and with both ways by columns too."""
    rows = [cost(a[i] @ b[i], [a[i] @ b[j] for j in negatives(owner, len(b), i)]) for i in range(len(a))]
    if not both_ways:
        return sum(rows) / len(rows)
    columns = [cost(a[i] @ b[i], [a[j] @ b[i] for j in negatives(owner, len(a), i)]) for i in range(len(a))]
    return (sum(rows) + sum(columns)) / (2 * len(rows))


def slow_n_pair(a, b, owner, both_ways):
    """Sohn 2016: log(1 + sum exp(negative - positive)), and half the squared lengths of both sides."""

    def cost(positive, others):
        return torch.log(1 + sum(torch.exp(other - positive) for other in others))

    lengths = sum(row @ row / 2 for row in [*a, *b[: len(a)]]) / (2 * len(a))
    return mean_over_anchors(cost, a, b, owner, both_ways) + L2 * lengths


def slow_multi_similarity(a, b, owner, both_ways):
    """Wang et al. 2019: pairs are mined against one another, then weighed softly."""

    def cost(positive, others):
        kept = [s for s in others if s > positive - EPSILON]
        mined = positive < max(others, default=torch.tensor(-9.0)) + EPSILON
        pull = torch.log(1 + torch.exp(-ALPHA * (positive - BASE))) / ALPHA if mined else 0 * positive
        return pull + torch.log(1 + sum(torch.exp(BETA * (s - BASE)) for s in kept)) / BETA

    return mean_over_anchors(cost, a, b, owner, both_ways)


FAST = {
    "contrastive": lambda a, b, owner, both: contrastive_loss(a, b, owner, MARGIN),
    "n_pair": lambda a, b, owner, both: n_pair(a, b, owner, L2, both_ways=both),
    "multi_similarity": lambda a, b, owner, both: multi_similarity(a, b, owner, both_ways=both),
}
SLOW = {"contrastive": slow_contrastive, "n_pair": slow_n_pair, "multi_similarity": slow_multi_similarity}
every_loss = pytest.mark.parametrize("name", FAST)


@every_case
@both_or_one
@every_loss
def test_equals_naive_loops_in_value_and_gradient(name, a, b, owner, both_ways):
    factor = 3.0 if name == "n_pair" else 1.0  # whose vectors have any length
    inputs = (factor * a).requires_grad_(), (factor * b).requires_grad_()
    mine, slow = FAST[name](*inputs, owner, both_ways), SLOW[name](*inputs, owner, both_ways)
    torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-12)
    assert mine > 0
    for mine_grad, slow_grad in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(mine_grad, slow_grad, rtol=1e-8, atol=1e-9)


def near_pairs(rows=40, dim=24):
    """Partners that are near one another, as after some training: not all are mined."""
    a = unit(rows, dim, 6, torch.float32)
    return a, functional.normalize(a + 1.3 * unit(rows, dim, 7, torch.float32), dim=-1)


def test_contrastive_is_the_square_of_pytorch_metric_learnings_per_pair():
    """Theirs adds distances and hinges, the paper's squares them; theirs is the mean over pairs that cost anything."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.reducers import DoNothingReducer

    a, b = near_pairs()
    labels = torch.arange(len(a))
    theirs = losses.ContrastiveLoss(pos_margin=0, neg_margin=MARGIN, reducer=DoNothingReducer())
    parts = theirs(a, labels, ref_emb=b, ref_labels=labels.clone())
    total = sum(parts[kind]["losses"].square().sum() / 2 for kind in ("pos_loss", "neg_loss"))
    torch.testing.assert_close(contrastive_loss(a, b, None, MARGIN), total / len(a), rtol=1e-4, atol=0)


def test_n_pair_equals_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.distances import DotProductSimilarity

    a, b = (3 * x for x in near_pairs())
    theirs = losses.NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False))
    labels = torch.arange(len(a)).repeat(2)  # it takes the first of a label as the anchor, the second as the positive
    found = theirs(torch.cat([a, b]), labels)
    torch.testing.assert_close(n_pair(a, b, None, both_ways=False), found, rtol=1e-5, atol=0)
    torch.testing.assert_close(n_pair(a, b, None), info_nce(a, b, 1.0), rtol=1e-6, atol=0)  # without a temperature


def test_multi_similarity_with_its_mining_equals_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    a, b = near_pairs()
    labels, partners = torch.arange(len(a)), torch.arange(len(a))
    both = []
    for x, y in ((a, b), (b, a)):
        mined = miners.MultiSimilarityMiner(epsilon=EPSILON)(x, labels, y, partners)
        assert 0 < len(mined[0]) < len(a)  # some anchors have nothing to learn
        both.append(losses.MultiSimilarityLoss(ALPHA, BETA, BASE)(x, labels, mined, y, partners))
    torch.testing.assert_close(multi_similarity(a, b, None, both_ways=False), both[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(multi_similarity(a, b, None), sum(both) / 2, rtol=1e-4, atol=0)


def test_what_is_far_enough_costs_nothing():
    a = torch.eye(6, dtype=torch.float64)  # partners are equal, others at a right angle
    assert contrastive_loss(a, a, None, 1.0).abs() < 1e-12
    assert contrastive_loss(a, a, None, 1.5) == pytest.approx(5 * (1.5 - math.sqrt(2)) ** 2 / 2, rel=1e-9)
    assert multi_similarity(a, a, None) == 0


@every_loss
def test_equal_vectors_and_a_batch_of_one_give_finite_gradients(name):
    for rows in (1, 5):
        a = unit(1).expand(rows, -1).clone().requires_grad_()
        loss = FAST[name](a, unit(1).expand(rows, -1), None, True)
        (gradient,) = torch.autograd.grad(loss, a)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


@every_loss
def test_autocast_does_not_round_the_scores(name):
    a, b = unit(32, 64, 1, torch.float32), unit(32, 64, 2, torch.float32)
    expected = FAST[name](a, b, None, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FAST[name](a, b, None, True), expected)
        assert torch.equal(cosine_pairs(a, b, None, 0.1, 0.8, 0), cosine_outside(a, b))
    assert FAST[name](a.bfloat16(), b.bfloat16(), None, True).dtype == torch.float32


def cosine_outside(a, b):
    with torch.autocast("cpu", enabled=False):
        return cosine_pairs(a, b, None, 0.1, 0.8, 0)


@every_loss
def test_shapes_that_do_not_pair_are_errors(name):
    with pytest.raises(ValueError, match=r"a partner for every row of a.*got \(4, 16\) and \(3, 16\)"):
        FAST[name](unit(4), unit(3), None, True)


# im2recipe ----------------------------------------------------------------------------------------------------------


@every_case
def test_no_mismatch_and_nothing_but_mismatches(a, b, owner):
    """The two ends of the share; in between it is the one or the other for each row."""
    matching = sum(1 - a[i] @ b[i] for i in range(len(a))) / len(a)
    torch.testing.assert_close(cosine_pairs(a, b, owner, 0.1, 0.0, 0), matching)
    costs = [[max(0.0, float(a[i] @ b[j]) - 0.1) for j in negatives(owner, len(b), i)] for i in range(len(a))]
    kept = sum(float(1 - a[i] @ b[i]) for i in range(len(a)) if not costs[i])  # a row without a negative
    expected = (sum(sum(row) / len(row) for row in costs if row) + kept) / len(a)
    found = torch.stack([cosine_pairs(a, b, owner, 0.1, 1.0, seed) for seed in range(2000)])
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / 2000**0.5)


def test_a_seed_names_the_pairs_and_their_loss_is_torchs():
    a, b = unit(400, seed=1), unit(400, seed=2)
    loss = cosine_pairs(a.requires_grad_(), b, None, 0.1, 0.8, seed=5)
    assert loss == cosine_pairs(a, b, None, 0.1, 0.8, seed=5) != cosine_pairs(a, b, None, 0.1, 0.8, seed=6)
    (gradient,) = torch.autograd.grad(loss, a)
    beside = (functional.normalize(gradient, dim=-1) @ b.T).abs().argmax(dim=1)  # who each row was pulled to or from
    learned = gradient.norm(dim=1) > 0
    matching = beside == torch.arange(400)
    target = torch.where(matching, 1, -1)
    assert 0.15 < float((matching & learned).float().mean()) < 0.25
    theirs = functional.cosine_embedding_loss(a, b[beside], target, margin=0.1, reduction="none")
    torch.testing.assert_close(theirs[learned].sum() / 400, loss)  # the others are apart already


def test_a_share_of_mismatches_outside_0_to_1_is_an_error():
    with pytest.raises(ValueError, match="mismatch is a share between 0 and 1: got 2"):
        cosine_pairs(unit(3), unit(3), None, 0.1, 2, 0)


def test_classes_that_are_not_known_have_no_say():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([2, -1, 0, 3, -1])
    known = functional.cross_entropy(logits[[0, 2, 3]], target[[0, 2, 3]])
    torch.testing.assert_close(class_loss(logits, target), known)
    nothing = class_loss(logits, torch.full((5,), -1))
    assert nothing == 0 and not torch.autograd.grad(nothing, logits)[0].any()
    assert class_loss(logits[:0], target[:0]) == 0
