"""The loss of a student, against a loop over inputs and classes."""

import math

import pytest
import torch

from mm.losses import distillation_loss


def slow(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for said, taught in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(logit / temperature) for logit in row] for row in (taught, said))
        p, q = ([share / sum(row) for share in row] for row in (p, q))
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_against_a_loop(temperature: float) -> None:
    for seed in range(20):
        student, teacher = 3 * torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(seed))
        found = distillation_loss(student, teacher, temperature).item()
        assert found == pytest.approx(slow(student, teacher, temperature), rel=1e-4)


def test_against_a_certain_teacher_it_is_cross_entropy() -> None:
    student = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    right = torch.tensor([0, 3, 6, 6, 2])
    certain = torch.full((5, 7), -1e4).scatter(1, right[:, None], 1e4)
    torch.testing.assert_close(distillation_loss(student, certain), torch.nn.functional.cross_entropy(student, right))


def test_it_is_least_where_both_say_the_same_and_moves_the_student_alone() -> None:
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    student = (teacher.detach() + 3.0).requires_grad_()  # logits are known up to a constant
    loss = distillation_loss(student, teacher, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros(4, 5), atol=1e-6, rtol=0)
    distillation_loss(torch.randn(4, 5, requires_grad=True), teacher).backward()
    assert teacher.grad is None


def test_a_temperature_keeps_the_size_of_the_gradient() -> None:
    """At high temperatures it is that of half the squared difference of centred logits (Hinton et al. 2015, eq. 4)."""
    generator = torch.Generator().manual_seed(2)
    teacher, student = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator).requires_grad_()
    distillation_loss(student, teacher, 1000.0).backward()
    apart = student.detach() - student.detach().mean(1, keepdim=True) - teacher + teacher.mean(1, keepdim=True)
    torch.testing.assert_close(student.grad, apart / (3 * 4), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_finite_at_extreme_logits(dtype: torch.dtype) -> None:
    most = 3e4  # next to the largest of float16
    student = torch.tensor([[most, -most, 0.0], [-most] * 3], dtype=dtype).requires_grad_()
    loss = distillation_loss(student, torch.tensor([[-most, most, 0.0], [0.0, most, -most]], dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and student.grad.isfinite().all()


def test_what_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"must both be \(B, K\): got \(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"must both be \(B, K\): got \(3,\) and \(3,\)"):
        distillation_loss(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="temperature must be positive: got 0"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), 0)
