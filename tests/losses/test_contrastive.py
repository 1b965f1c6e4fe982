"""Losses against naive loops, against the textbook forms written out, and against pytorch-metric-learning."""

import math

import pytest
import torch
from torch.nn import functional

from mm.losses import hinge, info_nce, is_collapsed, siglip, triplet
from tests.losses.loops import both_or_one, every_case, together, unit

MARGIN = 0.2


def triples(a, b, owner, both_ways):
    """Per anchor: the score with its partner and with each of its negatives, by loops; rows first, then columns."""
    anchors = []
    for i in range(len(a)):
        negatives = [a[i] @ b[j] for j in range(len(b)) if not together(owner, i, j)]
        anchors.append(("row", a[i] @ b[i], negatives))
    if both_ways:
        for j in range(len(a)):
            negatives = [a[i] @ b[j] for i in range(len(a)) if not together(owner, i, j)]
            anchors.append(("column", a[j] @ b[j], negatives))
    return anchors


def slow_hinges(a, b, owner, both_ways):
    return [[max(0.0, MARGIN - p + n) for n in negs] for _, p, negs in triples(a, b, owner, both_ways)]


def slow_hinge(a, b, owner, both_ways):
    return torch.as_tensor(sum(sum(row) for row in slow_hinges(a, b, owner, both_ways)))


def slow_hardest(a, b, owner, both_ways):
    return torch.as_tensor(sum(max(row, default=0.0) for row in slow_hinges(a, b, owner, both_ways)))


def slow_triplet(a, b, owner, both_ways):
    means = []
    for side in ("row", "column") if both_ways else ("row",):
        costs = []
        for which, positive, negatives in triples(a, b, owner, both_ways):
            if which == side:
                costs += [(2 - 2 * positive).sqrt() - (2 - 2 * n).sqrt() + MARGIN for n in negatives]
        costs = [cost for cost in costs if cost > 0]
        means.append(sum(costs) / len(costs))
    return sum(means) / len(means)


def slow_info_nce(a, b, owner, both_ways):
    sides = {"row": [], "column": []}
    for side, positive, negatives in triples(a, b, owner, both_ways):
        logits = torch.stack([positive, *negatives]) * 10
        sides[side].append(functional.cross_entropy(logits[None], torch.tensor([0])))
    means = [torch.stack(costs).mean() for costs in sides.values() if costs]
    return sum(means) / len(means)


def slow_siglip(a, b, owner, both_ways):
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            if i == j or not together(owner, i, j):
                sign = 1.0 if i == j else -1.0
                total = total - functional.logsigmoid(sign * (10 * (a[i] @ b[j]) - 3))
    return total / len(a)


FAST = {
    "hinge": lambda a, b, owner, both: hinge(a, b, owner, MARGIN, both_ways=both),
    "hardest": lambda a, b, owner, both: hinge(a, b, owner, MARGIN, hardest=True, both_ways=both),
    "triplet": lambda a, b, owner, both: triplet(a, b, owner, MARGIN, both_ways=both),
    "info_nce": lambda a, b, owner, both: info_nce(a, b, 10.0, owner, both_ways=both),
    "siglip": lambda a, b, owner, both: siglip(a, b, 10.0, -3.0, owner),
}
SLOW = {
    "hinge": slow_hinge,
    "hardest": slow_hardest,
    "triplet": slow_triplet,
    "info_nce": slow_info_nce,
    "siglip": slow_siglip,
}


@every_case
@both_or_one
@pytest.mark.parametrize("name", FAST)
def test_equals_naive_loops_in_value_and_gradient(name, a, b, owner, both_ways):
    inputs = a.clone().requires_grad_(), b.clone().requires_grad_()
    mine, slow = FAST[name](*inputs, owner, both_ways), SLOW[name](*inputs, owner, both_ways)
    torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-12)
    for mine_grad, slow_grad in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(mine_grad, slow_grad, rtol=1e-9, atol=1e-9)


def masked_max_loss(images, captions, hardest):
    """The ranking loss in its textbook form: the whole score matrix, both directions, diagonal cleared."""
    scores = images @ captions.T
    partner = scores.diagonal().reshape(-1, 1)
    eye = torch.eye(len(scores), dtype=torch.bool)
    captions_cost = (MARGIN + scores - partner.expand_as(scores)).clamp(min=0).masked_fill(eye, 0)
    images_cost = (MARGIN + scores - partner.T.expand_as(scores)).clamp(min=0).masked_fill(eye, 0)
    if hardest:
        return captions_cost.amax(dim=1).sum() + images_cost.amax(dim=0).sum()
    return captions_cost.sum() + images_cost.sum()


def two_cross_entropies(images, captions, scale):
    """InfoNCE both ways in its textbook form."""
    logits, labels = scale * images @ captions.T, torch.arange(len(images))
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


@pytest.mark.parametrize("hardest", [False, True])
def test_hinge_equals_the_textbook_form_in_float32(hardest):
    a, b = unit(64, 32, 4, torch.float32).requires_grad_(), unit(64, 32, 5, torch.float32).requires_grad_()
    mine, theirs = hinge(a, b, None, MARGIN, hardest), masked_max_loss(a, b, hardest)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0)
    for x, y in zip(torch.autograd.grad(mine, (a, b)), torch.autograd.grad(theirs, (a, b)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_info_nce_equals_the_textbook_form_and_trains_the_scale():
    a, b = unit(64, 32, 4, torch.float32).requires_grad_(), unit(64, 32, 5, torch.float32).requires_grad_()
    scale = torch.tensor(14.0, requires_grad=True)
    mine, theirs = info_nce(a, b, scale), two_cross_entropies(a, b, scale)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
    for x, y in zip(torch.autograd.grad(mine, (a, b, scale)), torch.autograd.grad(theirs, (a, b, scale)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)


def test_equals_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    a, b, labels = unit(40, 24, 6, torch.float32), unit(40, 24, 7, torch.float32), torch.arange(40)
    partners = labels.clone()  # the very same tensor would mean that a and b are one set
    temperature = 0.1
    sup_con = losses.SupConLoss(temperature=temperature)
    both = (sup_con(a, labels, ref_emb=b, ref_labels=partners) + sup_con(b, labels, ref_emb=a, ref_labels=partners)) / 2
    torch.testing.assert_close(info_nce(a, b, 1 / temperature), both, rtol=1e-5, atol=0)
    one_way = losses.TripletMarginLoss(margin=MARGIN)
    forth = one_way(a, labels, ref_emb=b, ref_labels=partners)
    back = one_way(b, labels, ref_emb=a, ref_labels=partners)
    torch.testing.assert_close(triplet(a, b, None, MARGIN, both_ways=False), forth, rtol=1e-4, atol=0)
    torch.testing.assert_close(triplet(a, b, None, MARGIN), (forth + back) / 2, rtol=1e-4, atol=0)


def test_sharing_an_owner_removes_the_pull_and_the_push():
    """Rows 0 and 1 are captions of one picture: with nothing else in the batch there is nothing to rank."""
    a, b, owner = unit(2, seed=1), unit(2, seed=2), torch.tensor([[5, 0], [5, 1]])
    assert hinge(a, b, owner, MARGIN) == 0
    assert hinge(a, b, owner, MARGIN, hardest=True) == 0
    assert triplet(a, b, owner, MARGIN) == 0
    assert info_nce(a, b, 10.0, owner).abs() < 1e-12
    assert hinge(a, b, torch.tensor([[5, 0], [6, 1]]), 1.9) > 0


def test_hardest_as_a_share_mixes_the_two_forms():
    a, b = unit(9, seed=1), unit(9, seed=2)
    low, high = hinge(a, b, None, MARGIN), hinge(a, b, None, MARGIN, hardest=True)
    torch.testing.assert_close(hinge(a, b, None, MARGIN, hardest=0.25), 0.75 * low + 0.25 * high)


def test_bank_only_adds_negatives():
    """Splitting the batch over processes: own rows first, all others behind, one way each, equals the whole batch."""
    a, b, owner = unit(12, seed=1), unit(12, seed=2), torch.randint(0, 8, (12,), generator=torch.manual_seed(0))
    parts = []
    for start in (0, 6):
        own = slice(start, start + 6)
        all_a, all_b, all_owner = (torch.roll(x, -start, 0) for x in (a, b, owner))
        parts.append(
            info_nce(a[own], all_b, 10.0, all_owner, both_ways=False)
            + info_nce(b[own], all_a, 10.0, all_owner, both_ways=False)
        )
    torch.testing.assert_close(sum(parts) / 4, info_nce(a, b, 10.0, owner))


@pytest.mark.parametrize("name", FAST)
def test_one_row_is_no_error_and_gives_finite_gradients(name):
    a = unit(1).requires_grad_()
    loss = FAST[name](a, unit(1, seed=9), None, True)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("name", FAST)
def test_equal_vectors_give_finite_gradients(name):
    a = unit(1).expand(5, -1).clone().requires_grad_()
    FAST[name](a, a, None, True).backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("name", FAST)
def test_autocast_does_not_round_the_scores(name):
    a, b = unit(32, 64, 1, torch.float32), unit(32, 64, 2, torch.float32)
    expected = FAST[name](a, b, None, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FAST[name](a, b, None, True), expected)
    assert FAST[name](a.bfloat16(), b.bfloat16(), None, True).dtype == torch.float32


def test_collapse_is_told_from_learning():
    same = unit(1).expand(20, -1)
    loss = hinge(same, same, None, MARGIN, hardest=True).item()
    assert loss == pytest.approx(2 * MARGIN * 20)
    assert is_collapsed(loss, 20, MARGIN)
    assert is_collapsed([loss, loss * 1.001], 20, MARGIN)
    assert not is_collapsed([loss, loss * 0.8], 20, MARGIN)
    assert not is_collapsed([], 20, MARGIN)
    assert not is_collapsed(hinge(unit(20, seed=1), unit(20, seed=2), None, MARGIN, hardest=True).item(), 20, MARGIN)


def test_info_nce_of_collapsed_vectors_is_the_logarithm_of_the_batch():
    same = unit(1).expand(20, -1)
    assert info_nce(same, same, 10.0).item() == pytest.approx(math.log(20))


@pytest.mark.parametrize(
    ("a", "b", "owner", "message"),
    [
        (unit(4), unit(3), None, r"a partner for every row of a.*got \(4, 16\) and \(3, 16\)"),
        (unit(4), unit(4, 8), None, r"equal width.*got \(4, 16\) and \(4, 8\)"),
        (unit(4)[0], unit(4), None, r"got \(16,\) and \(4, 16\)"),
        (unit(4)[:0], unit(4)[:0], None, r"at least one row: got \(0, 16\)"),
        (unit(4), unit(6), torch.arange(4), r"one row for each row of b: got \(4,\) for \(6, 16\)"),
    ],
)
def test_shapes_that_do_not_pair_are_errors(a, b, owner, message):
    for loss in FAST.values():
        with pytest.raises(ValueError, match=message):
            loss(a, b, owner, True)


def test_hardest_outside_a_share_is_an_error():
    with pytest.raises(ValueError, match="share between 0 and 1: got 2"):
        hinge(unit(3), unit(3), None, MARGIN, hardest=2)
