"""Order embeddings against naive loops, and how much memory their differences take."""

import pytest
import torch

from mm.losses import order, order_hinge, order_scores
from tests.losses.loops import both_or_one, every_case, negatives, unit

MARGIN = 0.05


def violation(specific, abstract):
    """Vendrov et al. 2016, eq. 2, by coordinates."""
    return sum(max(0.0, float(y) - float(x)) ** 2 for x, y in zip(specific, abstract, strict=True))


def slow_order(a, b, owner, both_ways):
    def score(i, j):
        return -(b[j] - a[i]).clamp_min(0).square().sum()

    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        for j in negatives(owner, len(b), i):
            total = total + (MARGIN - score(i, i) + score(i, j)).clamp_min(0)
        for j in negatives(owner, len(a), i) if both_ways else ():
            total = total + (MARGIN - score(i, i) + score(j, i)).clamp_min(0)
    return total


@every_case
@both_or_one
def test_equals_naive_loops_in_value_and_gradient(a, b, owner, both_ways):
    inputs = a.abs().requires_grad_(), b.abs().requires_grad_()
    mine, slow = order_hinge(*inputs, owner, MARGIN, both_ways), slow_order(*inputs, owner, both_ways)
    torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-12)
    assert mine > 0
    for mine_grad, slow_grad in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(mine_grad, slow_grad, rtol=1e-9, atol=1e-12)


def test_the_score_is_the_published_penalty():
    a, b = unit(3, 5, 1).abs(), unit(4, 5, 2).abs()
    expected = torch.tensor([[-violation(x, y) for y in b] for x in a], dtype=torch.float64)
    torch.testing.assert_close(order_scores(a, b), expected)
    assert order_scores(a, torch.minimum(a[:1], a[1:2]))[:2].abs().max() == 0  # what is below both is said by both


def test_the_roles_change_places_with_the_signs():
    """How the rows of `a` are ranked for `b` against more rows of `a`, see JointLoss."""
    a, b = unit(6, seed=1).abs(), unit(4, seed=2).abs()
    torch.testing.assert_close(order_scores(-b, -a), order_scores(a, b).T)


def test_parts_of_any_size_give_the_same(monkeypatch):
    a, b = unit(9, seed=1).abs().requires_grad_(), unit(9, seed=2).abs()
    found = []
    for megabytes in (1e-9, 2e-3, 1e3):  # one row at a time, two, all
        monkeypatch.setattr(order, "CHUNK_MB", megabytes)
        loss = order_hinge(a, b, None, MARGIN)
        found.append((loss, *torch.autograd.grad(loss, a)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-15)


def test_the_differences_of_all_pairs_are_never_held_at_once():
    a = unit(64, 512, 1, torch.float32).abs().requires_grad_()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.nbytes)
            return out

    with Watch():
        order_hinge(a, a.detach().roll(1, 0), None, MARGIN).backward()
    assert 1e5 < largest <= order.CHUNK_MB * 1e6 < 64 * 64 * 512 * 4 / 4
    assert a.grad.norm() > 0


def test_autocast_does_not_round_the_scores():
    a, b = unit(32, 64, 1, torch.float32).abs(), unit(32, 64, 2, torch.float32).abs()
    expected = order_hinge(a, b, None, MARGIN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(order_hinge(a, b, None, MARGIN), expected)


def test_one_row_costs_nothing_and_shapes_must_pair():
    assert order_hinge(unit(1), unit(1, seed=3), None, MARGIN) == 0
    with pytest.raises(ValueError, match=r"got \(4, 16\) and \(3, 16\)"):
        order_hinge(unit(4), unit(3), None, MARGIN)
