"""More losses of two matrices whose rows pair up: contrastive, N-pair, multi-similarity, and im2recipe's with classes.

What `a`, `b` and `owner` are, and that all is computed in float32, is said in `mm.losses.contrastive`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mm.losses.contrastive import info_nce
from mm.losses.rows import FromScores, by_scores, distances_of, draw, never_negatives, paired, partner_scores, partnered

UNKNOWN = -1  # a class that is not known


def contrastive_loss(a: Tensor, b: Tensor, owner: Tensor | None, margin: float) -> Tensor:
    """Partners are pulled together, others are pushed out of a ball around each row (Hadsell et al. 2006, eq. 4).

    A pair costs |a_i - b_i|^2 / 2, a negative max(0, margin - |a_i - b_j|)^2 / 2; each pair counts once, whichever of
    the two is the query.

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        margin: radius of the ball, a distance in 0..2.

    Returns:
        Scalar: the sum over the pairs, divided by B.
    """
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False), torch.no_grad():
        distances = distances_of(a, b)  # (B, B')
        missing = (margin - distances).clamp_min_(0).masked_fill_(never_negatives(a, b, owner), 0)  # (B, B')
        positive = distances.diagonal()  # (B,)
        loss = (positive.square().sum() + missing.square().sum()) / (2 * len(a))
        weights = missing.neg_()  # (B, B')
        weights.diagonal().copy_(positive)
        weights = by_scores(weights, distances) / len(a)
    return FromScores.apply(a, b, loss, weights)


def n_pair(a: Tensor, b: Tensor, owner: Tensor | None, l2: float = 0.0, both_ways: bool = True) -> Tensor:
    """Each row's partner against all negatives at once, by inner products (Sohn 2016, N-pair-mc).

    log(1 + sum over j of exp(a_i b_j - a_i b_i)), which is the cross-entropy of finding the partner. Vectors are not of
    unit length: the paper finds a product of at most 1 too stringent, and keeps lengths small instead.

    Args:
        a: (B, D) vectors of any length.
        b: (B', D) vectors of any length, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        l2: weight of half the mean square of the lengths.
        both_ways: also find each partner's row among the rows of `a`.

    Returns:
        Scalar, the mean over the rows; both ways, the mean of the two directions.
    """
    a, b = paired(a, b, owner)
    lengths = a.square().sum(dim=1).mean() + b[: len(a)].square().sum(dim=1).mean()  # ()
    return info_nce(a, b, 1.0, owner, both_ways) + l2 * lengths / 4


def multi_similarity(
    a: Tensor,
    b: Tensor,
    owner: Tensor | None,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
    both_ways: bool = True,
) -> Tensor:
    """Multi-similarity loss on the pairs that its mining leaves (Wang et al. 2019, section 4).

    A negative is kept when its score is above that of the partner less epsilon, the partner when there is such a
    negative. With S_ij the cosines, a row costs log(1 + exp(-alpha (S_ii - base))) / alpha for the partner and
    log(1 + sum over kept j of exp(beta (S_ij - base))) / beta for the negatives.

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        alpha: steepness of the pull.
        beta: steepness of the push.
        base: cosine at which pull and push are half as strong as they get; lambda in the paper.
        epsilon: by how much a negative may be worse than the partner and is kept.
        both_ways: also take the rows of `b` as anchors.

    Returns:
        Scalar, the mean over the rows; both ways, the mean of the two directions.
    """
    a, b = paired(a, b, owner)

    def of_rows(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (), and its gradients by the scores of the negatives (R, C) and by those of the partners (R,)."""
        kept = scores > positive[:, None] - epsilon  # (R, C)
        logits = ((scores - base) * beta).masked_fill_(~kept, float("-inf"))  # (R, C)
        push = torch.logaddexp(logits.logsumexp(dim=1), torch.zeros_like(positive))  # (R,)
        pull = alpha * (base - positive)  # (R,)
        mined = kept.any(dim=1)  # (R,)
        loss = push / beta + mined * torch.logaddexp(pull, torch.zeros_like(pull)) / alpha  # (R,)
        return loss.mean(), (logits - push[:, None]).exp_() / len(a), mined * pull.sigmoid() / -len(a)

    with torch.autocast(a.device.type, enabled=False), torch.no_grad():
        scores = a @ b.T  # (B, B')
        positive = scores.diagonal().clone()  # (B,)
        scores.masked_fill_(never_negatives(a, b, owner), float("-inf"))
        loss, weights, pulls = of_rows(scores, positive)
        if both_ways:
            back, columns, more = of_rows(partnered(scores).T, positive)
            loss, pulls = (loss + back) / 2, (pulls + more) / 2
            partnered(weights).add_(columns.T)
            weights /= 2
        weights.diagonal().copy_(pulls)
    return FromScores.apply(a, b, loss, weights)


def cosine_pairs(a: Tensor, b: Tensor, owner: Tensor | None, margin: float, mismatch: float, seed: int) -> Tensor:
    """Each row beside its partner or, drawn by chance, beside another's (Salvador et al. 2017).

    A matching pair costs 1 - cosine, a mismatched one max(0, cosine - margin).

    Args:
        a: (B, D) unit vectors.
        b: (B', D) unit vectors, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        margin: cosine that mismatched pairs may have.
        mismatch: share of the rows, in 0..1, that are beside a negative, any with the same chance; rows without a
            negative keep their partner.
        seed: of the draws; the same on every process.

    Returns:
        Scalar, the mean over the rows.
    """
    if not 0 <= mismatch <= 1:
        raise ValueError(f"mismatch is a share between 0 and 1: got {mismatch}.")
    a, b = paired(a, b, owner)
    with torch.no_grad():
        negative = ~never_negatives(a, b, owner)  # (B, B')
        odds = negative * (mismatch / negative.sum(dim=1, keepdim=True).clamp_min(1))  # (B, B')
        odds.diagonal().copy_(1 - odds.sum(dim=1))
        beside = draw(odds, seed)  # (B,)
        matching = beside == torch.arange(len(a), device=a.device)  # (B,)
    with torch.autocast(a.device.type, enabled=False):
        cosines = partner_scores(a, b[beside])  # (B,)
    return torch.where(matching, 1 - cosines, (cosines - margin).clamp_min(0)).mean()


def class_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the rows whose class is known, in nats; 0 where none is.

    Args:
        logits: (b, K).
        target: (b,) int64, -1 = not known.
    """
    total = functional.cross_entropy(logits.float(), target, ignore_index=UNKNOWN, reduction="sum")
    return total / (target != UNKNOWN).sum().clamp_min(1)
