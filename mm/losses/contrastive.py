"""Contrastive losses: pure functions of two matrices of unit vectors whose rows pair up.

Row i of `a` (B, D) and row i of `b` (B', D), B' >= B, are two views of one thing. The rows of `b` past the first B have
no partner and serve as negatives only: a memory bank, or what other processes hold. Every other row is a negative too,
unless `owner` says that the two belong together: such rows are neither pulled nor pushed.

Each loss computes one matrix of scores and works in float32 (float64 stays), under autocast too: at a scale of 100,
bfloat16 would round a logit by up to a quarter. The gradient by the scores is written down where it is simple, so that
autograd keeps one matrix of that size instead of four; these losses have first derivatives only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

COLLAPSE_TOLERANCE = 0.01  # relative distance from 2 x margin x batch that still counts as collapsed


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


def hinge(
    a: Tensor, b: Tensor, owner: Tensor | None, margin: float, hardest: float = False, both_ways: bool = True
) -> Tensor:
    """Hinge ranking loss, summed over the batch and not divided by its size: each row's positive beats its negatives.

    The sum of hinges (Faghri et al. 2018, eq. 5) adds margin - positive + negative, where positive, for every negative
    of every row; the hardest-negative form (eq. 6) keeps the largest hinge of each row. The second often collapses from
    a cold start: train with the first for a while, or mix the two.

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None: every row is a thing of its own.
        margin: of the cosine.
        hardest: share of the hardest-negative form: False or 0 the sum, True or 1 the hardest alone, 0.3 a mix.
        both_ways: also rank the rows of `a` for each of the B rows of `b` that has a partner.

    Returns:
        Scalar. A batch of one has no negative and gives 0.
    """
    if not 0 <= hardest <= 1:
        raise ValueError(f"hardest is a share between 0 and 1: got {hardest}.")
    a, b = _paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        with torch.no_grad():
            scores = a @ b.T  # (B, B')
            scores.masked_fill_(_never_negatives(a, b, owner), float("-inf"))
        if hardest == 1:
            return _hardest_hinge(a, b, scores, margin, both_ways)
        loss = _sum_of_hinges(a, b, scores, margin, both_ways)
        if hardest == 0:
            return loss
        return torch.lerp(loss, _hardest_hinge(a, b, scores, margin, both_ways), hardest)


def triplet(a: Tensor, b: Tensor, owner: Tensor | None, margin: float, both_ways: bool = True) -> Tensor:
    """Triplet loss on the Euclidean distance: |a_i - b_i| - |a_i - b_j| + margin, over every negative j.

    It is the mean over the triplets that violate the margin (Schroff et al. 2015, eq. 2, with the distance instead of
    its square); both ways, the mean of the two directions' means.

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        margin: of the distance, which lies in 0..2.
        both_ways: also take the rows of `b` as anchors.

    Returns:
        Scalar, 0 when no triplet violates the margin.
    """
    a, b = _paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        with torch.no_grad():
            smallest = torch.finfo(a.dtype).eps  # the square root has no gradient at 0
            distances = (a @ b.T).mul_(-2).add_(2).clamp_min_(smallest).sqrt_()  # (B, B')
            positive = distances.diagonal().clone()  # (B,)
            negative = ~_never_negatives(a, b, owner)  # (B, B')
            weights = _shares((distances < positive[:, None] + margin) & negative, a.dtype)  # (B, B')
            times = weights.sum(dim=1)  # (B,) how much each positive weighs
            if both_ways:
                columns = _shares((_partnered(distances) < positive + margin) & _partnered(negative), a.dtype)  # (B, B)
                _partnered(weights).add_(columns)
                weights /= 2
                times = (times + columns.sum(dim=0)) / 2  # (B,)
            loss = (positive + margin) @ times - torch.einsum("ij,ij->", weights, distances)
            weights.diagonal().copy_(-times)
            weights.div_(distances).masked_fill_(distances**2 <= smallest, 0)  # the distance falls by score / distance
        return _FromScores.apply(a, b, loss, weights)


def info_nce(
    a: Tensor, b: Tensor, logit_scale: Tensor | float, owner: Tensor | None = None, both_ways: bool = True
) -> Tensor:
    """Cross-entropy of finding a row's partner among all rows (van den Oord et al. 2018, eq. 4; Radford et al. 2021).

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        logit_scale: what cosines are multiplied with: the inverse temperature itself, not its logarithm.
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        both_ways: also find each partner's row among the rows of `a`.

    Returns:
        Scalar, the mean over the rows; both ways, the mean of the two directions.
    """
    a, b = _paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        scaled = a * logit_scale  # (B, D)
        with torch.no_grad():
            logits = _without_relatives(scaled @ b.T, owner)  # (B, B')
            total = torch.logsumexp(logits, dim=1)  # (B,)
            weights = (logits - total[:, None]).exp_()  # (B, B')
            if both_ways:
                back = torch.logsumexp(_partnered(logits), dim=0)  # (B,)
                _partnered(weights).add_((_partnered(logits) - back).exp_())
                weights /= 2
                total = (total + back) / 2  # (B,)
            loss = (total - logits.diagonal()).mean()
            weights.diagonal().sub_(1)
            weights /= len(a)
        return _FromScores.apply(scaled, b, loss, weights)


def siglip(
    a: Tensor, b: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float, owner: Tensor | None = None
) -> Tensor:
    """Sigmoid loss: every pair of rows is its own yes-or-no question (Zhai et al. 2023, eq. 1 and algorithm 1).

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        logit_scale: what cosines are multiplied with: the inverse temperature itself, not its logarithm.
        logit_bias: added to every logit; the paper starts at -10.
        owner: (B',) or (B', C) int64, see `belong_together`, or None.

    Returns:
        Scalar: the sum over the pairs, divided by B.
    """
    a, b = _paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        scaled = a * logit_scale  # (B, D)
        logits = _without_relatives(scaled @ b.T + logit_bias, owner)  # (B, B')
        # A negative costs softplus(x), a positive softplus(-x) = softplus(x) - x.
        positive = _partner_scores(scaled, b) + logit_bias  # (B,)
        return (functional.softplus(logits).sum() - positive.sum()) / len(a)


def is_collapsed(loss: float | Sequence[float], batch: int, margin: float) -> bool:
    """Whether the hardest-negative loss says that all vectors have become one.

    When every score is equal, each of the 2 B hinges is exactly the margin, so the loss summed over the batch is
    2 x margin x B. One such step is chance; give the losses of the last steps to see whether it stays there.

    Args:
        loss: of one step, or of several, each as `hinge(..., hardest=True)` gives it, in both directions.
        batch: B, rows per step.
        margin: as given to the loss.
    """
    losses = loss if isinstance(loss, Sequence) else [loss]
    collapsed = 2 * margin * batch
    return len(losses) > 0 and all(abs(value - collapsed) <= COLLAPSE_TOLERANCE * collapsed for value in losses)


class _FromScores(torch.autograd.Function):
    """A loss of the scores a @ b.T, given with its gradient by them (B, B')."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, loss: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, weights)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, weights = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            to_a = gradient * (weights @ b) if ctx.needs_input_grad[0] else None  # (B, D)
            to_b = gradient * (weights.T @ a) if ctx.needs_input_grad[1] else None  # (B', D)
        return to_a, to_b, None, None


def _sum_of_hinges(a: Tensor, b: Tensor, scores: Tensor, margin: float, both_ways: bool) -> Tensor:
    """Eq. 5. The gradient by a negative is how many of its hinges are open, by a positive minus its open hinges."""
    with torch.no_grad():
        bound = _partner_scores(a, b) - margin  # (B,)
        excess = scores - bound[:, None]  # (B, B')
        weights = (excess > 0).to(a.dtype)  # (B, B')
        times = weights.sum(dim=1)  # (B,) how often each positive enters
        loss = excess.clamp_min_(0).sum()
        if both_ways:
            excess = _partnered(scores) - bound  # (B, B)
            is_open = excess > 0  # (B, B)
            _partnered(weights).add_(is_open)
            times += is_open.sum(dim=0)
            loss += excess.clamp_min_(0).sum()
        weights.diagonal().sub_(times)
    return _FromScores.apply(a, b, loss, weights)


def _hardest_hinge(a: Tensor, b: Tensor, scores: Tensor, margin: float, both_ways: bool) -> Tensor:
    """Eq. 6. Only the chosen pairs are scored with gradient: the backward pass is O(B D), not O(B B' D)."""
    positive = _partner_scores(a, b)  # (B,)
    highest, at = scores.max(dim=1)  # (B,), (B,)
    loss = _violation(_partner_scores(a, b[at]) - positive, highest, margin)
    if both_ways:
        highest, at = _partnered(scores).max(dim=0)  # (B,), (B,)
        loss = loss + _violation(_partner_scores(a[at], b) - positive, highest, margin)
    return loss


def _violation(excess: Tensor, highest: Tensor, margin: float) -> Tensor:
    """Sum of the hinges of the rows that have a negative at all."""
    return (excess + margin).clamp_min(0).masked_fill(highest == float("-inf"), 0).sum()


def _shares(violates: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights of the violating triplets that make their sum a mean; all zero when there are none."""
    weights = violates.to(dtype)
    return weights / weights.sum().clamp_min(1)


def _never_negatives(a: Tensor, b: Tensor, owner: Tensor | None) -> Tensor:
    """(B, B') bool: a row's partner, and the rows it belongs together with."""
    if owner is None:
        return torch.eye(len(a), len(b), dtype=torch.bool, device=a.device)  # (B, B')
    return belong_together(owner, len(a))  # (B, B')


def _without_relatives(logits: Tensor, owner: Tensor | None) -> Tensor:
    """Logits (B, B') with minus infinity, in place, where two rows belong together but are not partners.

    The softmax and the sigmoid of minus infinity are 0, and so is their gradient: autograd need not know.
    """
    if owner is not None:
        with torch.no_grad():
            logits.masked_fill_(belong_together(owner, len(logits)).fill_diagonal_(False), float("-inf"))
    return logits


def _partner_scores(a: Tensor, b: Tensor) -> Tensor:
    """(B,) inner products of the rows of `a` with their partners in `b`."""
    return torch.einsum("bd,bd->b", a, b[: len(a)])  # (B,)


def _partnered(matrix: Tensor) -> Tensor:
    """The columns (B, B) of a (B, B') matrix whose rows in `b` have a partner; no copy, and no view when B' = B."""
    return matrix if matrix.shape[0] == matrix.shape[1] else matrix[:, : len(matrix)]  # (B, B)


def _paired(a: Tensor, b: Tensor, owner: Tensor | None) -> tuple[Tensor, Tensor]:
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
