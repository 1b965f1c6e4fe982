"""Loss of a student that learns what a teacher thinks of the same thing."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) on average over the inputs: () float32, 0 where both say the same.

    At temperature 1 it is the loss of SoundNet (Aytar et al. 2016, section 3.2). Above that both distributions are
    softened, and the square of the temperature keeps the size of the gradient (Hinton et al. 2015, section 2).

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits, no gradient flows to them.
        temperature: positive.

    Raises:
        ValueError: shapes that differ, or a temperature that is not positive.

    >>> import torch
    >>> round(distillation_loss(torch.zeros(1, 2), torch.tensor([[0.0, 99.0]])).item(), 4)  # even, certain: ln 2
    0.6931
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(
            f"logits of student and teacher must both be (B, K): got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Give both the same inputs and classes."
        )
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive: got {temperature}.")
    said = (student.float() / temperature).log_softmax(dim=-1)  # (B, K)
    taught = (teacher.detach().float() / temperature).log_softmax(dim=-1)  # (B, K)
    return temperature**2 * functional.kl_div(said, taught, reduction="batchmean", log_target=True)
