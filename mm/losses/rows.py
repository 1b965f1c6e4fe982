"""What losses of two matrices of rows share: who is whose partner, who belongs together, gradients by the scores.

Row i of `a` (B, D) and row i of `b` (B', D), B' >= B, are two views of one thing; the rows of `b` past the first B have
no partner.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def paired(a: Tensor, b: Tensor, owner: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check the shapes once; half precision becomes float32."""
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or not 1 <= len(a) <= len(b):
        raise ValueError(
            "a and b must be matrices of equal width, b with a partner for every row of a, and at least one row: "
            f"got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if owner is not None and (owner.dim() not in (1, 2) or len(owner) != len(b)):
        raise ValueError(
            f"owner must have one row for each row of b: got {tuple(owner.shape)} for {tuple(b.shape)}. "
            "Gather or extend the owners together with the vectors."
        )
    half = (torch.float16, torch.bfloat16)
    return a.float() if a.dtype in half else a, b.float() if b.dtype in half else b


def belong_together(owner: Tensor, rows: int | None = None) -> Tensor:
    """Which of the first `rows` rows and which of all rows are views of one thing.

    Args:
        owner: (B,) or (B, C) int64: two rows belong together when any of the C columns agrees. A negative id agrees
            with nothing. With C = 2, say, the picture and the sentence: two captions of one picture belong together,
            and so do two equal captions of different pictures.
        rows: how many rows to compare with all; None = all.

    Returns:
        (rows, B) bool; a row always belongs to itself.

    >>> belong_together(torch.tensor([4, 7, 4])).int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    columns = owner[:, None] if owner.dim() == 1 else owner  # (B, C)
    rows = len(owner) if rows is None else rows
    same = torch.eye(rows, len(owner), dtype=torch.bool, device=owner.device)  # (rows, B)
    for column in columns.T:
        same |= (column[:rows, None] == column) & (column[:rows, None] >= 0)  # (rows, B)
    return same


def never_negatives(a: Tensor, b: Tensor, owner: Tensor | None) -> Tensor:
    """(B, B') bool: a row's partner, and the rows it belongs together with."""
    if owner is None:
        return torch.eye(len(a), len(b), dtype=torch.bool, device=a.device)  # (B, B')
    return belong_together(owner, len(a))  # (B, B')


def without_relatives(logits: Tensor, owner: Tensor | None) -> Tensor:
    """Logits (B, B') with minus infinity, in place, where two rows belong together but are not partners.

    The softmax and the sigmoid of minus infinity are 0, and so is their gradient: autograd need not know.
    """
    if owner is not None:
        with torch.no_grad():
            logits.masked_fill_(belong_together(owner, len(logits)).fill_diagonal_(False), float("-inf"))
    return logits


def partner_scores(a: Tensor, b: Tensor) -> Tensor:
    """(B,) inner products of the rows of `a` with their partners in `b`."""
    return torch.einsum("bd,bd->b", a, b[: len(a)])  # (B,)


def partnered(matrix: Tensor) -> Tensor:
    """The columns (B, B) of a (B, B') matrix whose rows in `b` have a partner; no copy, and no view when B' = B."""
    return matrix if matrix.shape[0] == matrix.shape[1] else matrix[:, : len(matrix)]  # (B, B)


def distances_of(a: Tensor, b: Tensor) -> Tensor:
    """(B, B') Euclidean distances of unit vectors, of which the smallest is no less than that of equal rows, rounded.

    At 0 a distance has no gradient.
    """
    return (a @ b.T).mul_(-2).add_(2).clamp_min_(torch.finfo(a.dtype).eps).sqrt_()  # (B, B')


def by_scores(weights: Tensor, distances: Tensor) -> Tensor:
    """A gradient by distances (B, B') becomes, in place, one by scores; between rows that are equal it is 0."""
    equal = distances.square() <= torch.finfo(distances.dtype).eps  # (B, B')
    return weights.div_(-distances).masked_fill_(equal, 0)  # a distance falls by score / distance


class FromScores(torch.autograd.Function):
    """A loss of the scores a @ b.T, given with its gradient by them (B, B')."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, loss: Tensor, weights: Tensor) -> Tensor:
        """The loss (), as it was given."""
        ctx.save_for_backward(a, b, weights)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Its gradient by a (B, D) and b (B', D)."""
        a, b, weights = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            to_a = gradient * (weights @ b) if ctx.needs_input_grad[0] else None  # (B, D)
            to_b = gradient * (weights.T @ a) if ctx.needs_input_grad[1] else None  # (B', D)
        return to_a, to_b, None, None


def draw(weights: Tensor, seed: int) -> Tensor:
    """For each row one column, drawn with these weights: the same for a seed on every device and process.

    Args:
        weights: (B, B'), at least 0; a row of zeros gives column 0.
        seed: of the B random numbers.

    Returns:
        (B,) int64.
    """
    chance = torch.rand(len(weights), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))  # (B, 1)
    heap = weights.double().cumsum(dim=1)  # (B, B')
    column = torch.searchsorted(heap, chance.to(weights.device) * heap[:, -1:], right=True)  # (B, 1)
    return column.squeeze(1).masked_fill(heap[:, -1] == 0, 0)  # (B,)
