"""Which triplets to learn from: miners give the indices of anchors, positives and negatives; a loss takes them.

An anchor is a row of `a` (B, D), its positive its partner in `b` (B', D), and a negative any row of `b` that it does
not belong together with; all are unit vectors, and distances are Euclidean. `mm.losses.contrastive` says what `owner`
is. Miners have no gradient. An anchor without a negative is in no triplet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mm.losses.rows import FromScores, by_scores, distances_of, draw, never_negatives, paired

NEAREST, FARTHEST = 0.5, 1.4  # distances between which negatives are weighed (Wu et al. 2017, their code)


class Triplets(NamedTuple):
    """Indices of T triplets, sorted by anchor."""

    anchor: Tensor  # (T,) int64, of rows of a
    positive: Tensor  # (T,) int64, of rows of b
    negative: Tensor  # (T,) int64, of rows of b


@torch.no_grad()
def hard(a: Tensor, b: Tensor, owner: Tensor | None = None) -> Triplets:
    """Every anchor with its nearest negative.

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
    """
    distances, negative = _distances(a, b, owner)
    nearest = distances.masked_fill_(~negative, float("inf")).argmin(dim=1)  # (B,)
    return _triplets(negative.any(dim=1).nonzero().squeeze(1), nearest)


@torch.no_grad()
def semi_hard(a: Tensor, b: Tensor, owner: Tensor | None = None, margin: float = 0.2) -> Triplets:
    """All triplets whose negative is farther than the positive, by less than the margin (Schroff et al. 2015).

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        margin: of the distance; the paper has it of the squared distance.
    """
    distances, negative = _distances(a, b, owner)
    positive = distances.diagonal()[:, None]  # (B, 1)
    chosen = negative & (distances > positive) & (distances < positive + margin)  # (B, B')
    anchor, column = chosen.nonzero(as_tuple=True)
    return Triplets(anchor, anchor, column)


@torch.no_grad()
def distance_weighted(
    a: Tensor, b: Tensor, owner: Tensor | None = None, margin: float | None = None, seed: int = 0
) -> Triplets:
    """Every anchor with one negative, drawn so that all distances come up alike (Wu et al. 2017, section 4.1).

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        margin: of the triplets: negatives that are farther than the positive by as much would add nothing, and are not
            drawn. None = those beyond `FARTHEST`, as in the paper's code, whose loss compares all distances with one.
        seed: of the draws; the same on every process.
    """
    distances, negative = _distances(a, b, owner)
    far = FARTHEST if margin is None else distances.diagonal()[:, None] + margin  # (B, 1)
    out = ~negative | (distances >= far)  # (B, B')
    logs = log_weights(distances, a.shape[1]).masked_fill_(out, float("-inf"))  # (B, B')
    weights = (logs - logs.amax(dim=1, keepdim=True).clamp_min(torch.finfo(logs.dtype).min)).exp_()  # (B, B')
    return _triplets(weights.any(dim=1).nonzero().squeeze(1), draw(weights, seed))


def log_weights(distances: Tensor, dim: int) -> Tensor:
    """Logarithm of one over the density of distances between points spread evenly over a sphere, up to a constant.

    q(d) = d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2). Below `NEAREST` the weight rises no more: such negatives are noise.
    Nor does it change above `FARTHEST`, where there are few points again.

    Args:
        distances: in 0..2, any shape.
        dim: D of the space the sphere lies in.
    """
    clipped = distances.clamp(NEAREST, FARTHEST)
    return (2 - dim) * clipped.log() - (dim - 3) / 2 * torch.log1p(-clipped.square() / 4)


def mined_triplet(a: Tensor, b: Tensor, triplets: Triplets, margin: float) -> Tensor:
    """|anchor - positive| - |anchor - negative| + margin, the mean over the given triplets that violate the margin.

    Args:
        a: (B, D) unit vectors, which anchors are rows of.
        b: (B', D) unit vectors, which positives and negatives are rows of.
        triplets: T of them.
        margin: of the distance.

    Returns:
        Scalar, 0 when none violates the margin.
    """
    a, b = paired(a, b, None)
    anchor, positive, negative = triplets
    with torch.autocast(a.device.type, enabled=False), torch.no_grad():
        distances = distances_of(a, b)  # (B, B')
        cost = distances[anchor, positive] - distances[anchor, negative] + margin  # (T,)
        violates = (cost > 0).to(a.dtype)  # (T,)
        count = violates.sum().clamp_min(1)
        weights = torch.zeros_like(distances)  # (B, B') whole numbers, whose sum has no order
        weights.index_put_((anchor, positive), violates, accumulate=True)
        weights.index_put_((anchor, negative), -violates, accumulate=True)
        weights = by_scores(weights, distances) / count
    return FromScores.apply(a, b, cost.clamp_min(0).sum() / count, weights)


def _triplets(anchor: Tensor, negative: Tensor) -> Triplets:
    """Some anchors (T,) with their partners and the negatives (B,) chosen for all."""
    return Triplets(anchor, anchor, negative[anchor])


def _distances(a: Tensor, b: Tensor, owner: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, B') distances, and which of these pairs are negatives."""
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False):
        return distances_of(a, b), ~never_negatives(a, b, owner)
