"""Losses of answers that several people gave, against loops over questions and answers."""

import math

import pytest
import torch

from mm.losses import answer_bce, answer_softmax

SCORES = torch.tensor([[1.0, 0.3, 0.0, 0.0], [0.6, 0.6, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])


def slow_bce(logits: torch.Tensor, scores: torch.Tensor) -> float:
    total = 0.0
    for row, wanted in zip(logits.tolist(), scores.tolist(), strict=True):
        for logit, score in zip(row, wanted, strict=True):
            right = 1 / (1 + math.exp(-logit))
            total -= score * math.log(right) + (1 - score) * math.log(1 - right)
    return total / len(logits)


def slow_softmax(logits: torch.Tensor, scores: torch.Tensor) -> float:
    losses = []
    for row, wanted in zip(logits.tolist(), scores.tolist(), strict=True):
        if sum(wanted):
            whole = sum(math.exp(logit) for logit in row)
            shares = [score / sum(wanted) for score in wanted]
            losses.append(-sum(s * math.log(math.exp(logit) / whole) for s, logit in zip(shares, row, strict=True)))
    return sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize(("loss", "slow"), [(answer_bce, slow_bce), (answer_softmax, slow_softmax)])
def test_losses_against_loops(loss, slow) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(6, 9, generator=generator)
        scores = torch.tensor([0.0, 0.0, 0.3, 0.6, 0.9, 1.0])[torch.randint(6, (6, 9), generator=generator)]
        scores[seed % 6] = 0
        assert loss(logits, scores).item() == pytest.approx(slow(logits, scores), rel=1e-5)
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    assert loss(logits, SCORES).item() == pytest.approx(slow(logits, SCORES), rel=1e-5)


def test_bce_is_least_where_each_probability_is_its_score() -> None:
    scores = torch.tensor([[0.9, 0.3, 0.6, 0.01]])
    logits = torch.logit(scores).requires_grad_()
    answer_bce(logits, scores).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 4), atol=1e-6, rtol=0)
    more = torch.cat([logits.detach()] * 3), torch.cat([scores] * 3)
    torch.testing.assert_close(answer_bce(*more), answer_bce(logits.detach(), scores))  # a mean over questions ...
    wide = torch.cat([logits.detach()] * 3, dim=1), torch.cat([scores] * 3, dim=1)
    torch.testing.assert_close(answer_bce(*wide), 3 * answer_bce(logits.detach(), scores))  # ... a sum over answers


def test_softmax_of_one_right_answer_is_cross_entropy_whatever_it_earns() -> None:
    logits, right = torch.randn(5, 7, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 3, 6, 6, 2])
    expected = torch.nn.functional.cross_entropy(logits, right)
    for score in (1.0, 0.3):
        scores = score * torch.nn.functional.one_hot(right, 7)
        torch.testing.assert_close(answer_softmax(logits, scores), expected)


def test_softmax_is_least_where_probabilities_are_the_shares() -> None:
    scores = torch.tensor([[0.9, 0.3, 0.6]])
    logits = (scores / scores.sum()).log().requires_grad_()
    answer_softmax(logits, scores).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_a_question_whose_answers_are_all_unknown() -> None:
    """It says that every answer is wrong, or, where one answer must be right, nothing."""
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    answer_softmax(logits, SCORES).backward()
    assert not logits.grad[3].any() and logits.grad[:3].any(dim=1).all()
    torch.testing.assert_close(answer_softmax(logits, SCORES), answer_softmax(logits[:3], SCORES[:3]))
    nothing = answer_softmax(logits, torch.zeros(4, 4))
    assert nothing.item() == 0
    nothing.backward()
    assert logits.grad.isfinite().all()
    logits.grad = None
    answer_bce(logits, SCORES).backward()
    torch.testing.assert_close(logits.grad[3], logits.detach()[3].sigmoid() / 4)


@pytest.mark.parametrize("loss", [answer_bce, answer_softmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_finite_at_extreme_logits(loss, dtype) -> None:
    most = 3e4  # next to the largest of float16
    logits = torch.tensor([[most, -most, 0.0, 90.0], [-most, -most, -most, most], [-most] * 4, [most] * 4])
    logits = logits.to(dtype).requires_grad_()
    value = loss(logits, SCORES)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and logits.grad.isfinite().all()
    wrong = loss(torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert wrong.item() == pytest.approx(1000, rel=1e-2)  # and no less than how wrong it is
