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

import torch
from torch import Tensor
from torch.nn import functional

from mm.losses.rows import (
    FromScores,
    by_scores,
    distances_of,
    never_negatives,
    paired,
    partner_scores,
    partnered,
    without_relatives,
)

COLLAPSE_TOLERANCE = 0.01  # relative distance from 2 x margin x batch that still counts as collapsed


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
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        with torch.no_grad():
            scores = a @ b.T  # (B, B')
            scores.masked_fill_(never_negatives(a, b, owner), float("-inf"))
        if hardest == 1:
            return _hardest_hinge(a, b, scores, margin, both_ways)
        with torch.no_grad():
            parts = open_hinges(scores, partner_scores(a, b), margin, both_ways)
        loss = FromScores.apply(a, b, *parts)
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
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        with torch.no_grad():
            distances = distances_of(a, b)  # (B, B')
            positive = distances.diagonal().clone()  # (B,)
            negative = ~never_negatives(a, b, owner)  # (B, B')
            weights = _shares((distances < positive[:, None] + margin) & negative, a.dtype)  # (B, B')
            times = weights.sum(dim=1)  # (B,) how much each positive weighs
            if both_ways:
                columns = _shares((partnered(distances) < positive + margin) & partnered(negative), a.dtype)  # (B, B)
                partnered(weights).add_(columns)
                weights /= 2
                times = (times + columns.sum(dim=0)) / 2  # (B,)
            loss = (positive + margin) @ times - torch.einsum("ij,ij->", weights, distances)
            weights.neg_().diagonal().copy_(times)
            weights = by_scores(weights, distances)
        return FromScores.apply(a, b, loss, weights)


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
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        scaled = a * logit_scale  # (B, D)
        with torch.no_grad():
            logits = without_relatives(scaled @ b.T, owner)  # (B, B')
            total = torch.logsumexp(logits, dim=1)  # (B,)
            weights = (logits - total[:, None]).exp_()  # (B, B')
            if both_ways:
                back = torch.logsumexp(partnered(logits), dim=0)  # (B,)
                partnered(weights).add_((partnered(logits) - back).exp_())
                weights /= 2
                total = (total + back) / 2  # (B,)
            loss = (total - logits.diagonal()).mean()
            weights.diagonal().sub_(1)
            weights /= len(a)
        return FromScores.apply(scaled, b, loss, weights)


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
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        scaled = a * logit_scale  # (B, D)
        logits = without_relatives(scaled @ b.T + logit_bias, owner)  # (B, B')
        # A negative costs softplus(x), a positive softplus(-x) = softplus(x) - x.
        positive = partner_scores(scaled, b) + logit_bias  # (B,)
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


def open_hinges(scores: Tensor, positive: Tensor, margin: float, both_ways: bool) -> tuple[Tensor, Tensor]:
    """The sum of all hinges (), and its gradient by the scores (B, B').

    The gradient by a negative is how many of its hinges are open, by a positive minus its open hinges.

    Args:
        scores: (B, B'), minus infinity for what is no negative of a row.
        positive: (B,) scores of the partners.
        margin: of the score.
        both_ways: also rank the rows for each of the first B columns.
    """
    bound = positive - margin  # (B,)
    excess = scores - bound[:, None]  # (B, B')
    weights = (excess > 0).to(scores.dtype)  # (B, B')
    times = weights.sum(dim=1)  # (B,) how often each positive enters
    loss = excess.clamp_min_(0).sum()
    if both_ways:
        excess = partnered(scores) - bound  # (B, B)
        is_open = excess > 0  # (B, B)
        partnered(weights).add_(is_open)
        times += is_open.sum(dim=0)
        loss += excess.clamp_min_(0).sum()
    weights.diagonal().sub_(times)
    return loss, weights


def _hardest_hinge(a: Tensor, b: Tensor, scores: Tensor, margin: float, both_ways: bool) -> Tensor:
    """Eq. 6. Only the chosen pairs are scored with gradient: the backward pass is O(B D), not O(B B' D)."""
    positive = partner_scores(a, b)  # (B,)
    highest, at = scores.max(dim=1)  # (B,), (B,)
    loss = _violation(partner_scores(a, b[at]) - positive, highest, margin)
    if both_ways:
        highest, at = partnered(scores).max(dim=0)  # (B,), (B,)
        loss = loss + _violation(partner_scores(a[at], b) - positive, highest, margin)
    return loss


def _violation(excess: Tensor, highest: Tensor, margin: float) -> Tensor:
    """Sum of the hinges of the rows that have a negative at all."""
    return (excess + margin).clamp_min(0).masked_fill(highest == float("-inf"), 0).sum()


def _shares(violates: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights of the violating triplets that make their sum a mean; all zero when there are none."""
    weights = violates.to(dtype)
    return weights / weights.sum().clamp_min(1)
