"""Order embeddings: of two things that go together, the more abstract is smaller in every coordinate.

The score of a specific thing a and an abstract one b is -|max(0, b - a)|^2: by how much b fails to be below a (Vendrov
et al. 2016, eq. 2). It is no inner product: all B x B' x D differences are computed, some of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mm.losses.contrastive import open_hinges
from mm.losses.rows import FromScores, never_negatives, paired

ABSTRACT = {"audio": 1, "text": 2}  # a sentence may say less than a sound, and both less than a picture
CHUNK_MB = 2  # of differences at once: about what a core keeps at hand


def specific_first(one: str, other: str) -> tuple[str, str]:
    """Two modalities, the more abstract one last; two of them together say more than any.

    >>> specific_first("text", "image"), specific_first("audio", "image+text")
    (('image', 'text'), ('image+text', 'audio'))
    """
    first, last = sorted((one, other), key=lambda modality: ABSTRACT.get(modality, 0))
    return first, last


@torch.no_grad()
def order_scores(a: Tensor, b: Tensor) -> Tensor:
    """-|max(0, b_j - a_i)|^2 of every pair: (B, D), (B', D) -> (B, B'), without gradient."""
    scores = a.new_empty(len(a), len(b))  # (B, B')
    for rows, missing in _missing(a, b):
        scores[rows] = -torch.linalg.vector_norm(missing, dim=2).square_()
    return scores


def order_hinge(a: Tensor, b: Tensor, owner: Tensor | None, margin: float, both_ways: bool = True) -> Tensor:
    """The sum of hinges of `mm.losses.hinge`, on the scores of order embeddings (Vendrov et al. 2016).

    Args:
        a: (B, D) the specific ones.
        b: (B', D) the abstract ones, B' >= B, b[i] the partner of a[i].
        owner: (B',) or (B', C) int64, see `belong_together`, or None.
        margin: of the score.
        both_ways: also rank the rows of `a` for each of the B rows of `b` that has a partner.

    Returns:
        Scalar, not divided by B. A batch of one has no negative and gives 0.
    """
    a, b = paired(a, b, owner)
    with torch.autocast(a.device.type, enabled=False), torch.no_grad():
        scores = order_scores(a, b)  # (B, B')
        positive = scores.diagonal().clone()  # (B,)
        scores.masked_fill_(never_negatives(a, b, owner), float("-inf"))
        loss, weights = open_hinges(scores, positive, margin, both_ways)
    return _FromOrderScores.apply(a, b, loss, weights)


class _FromOrderScores(FromScores):
    """The same of the scores of order embeddings."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Its gradient by a (B, D) and b (B', D)."""
        a, b, weights = ctx.saved_tensors
        to_a, to_b = torch.empty_like(a), torch.zeros_like(b)  # (B, D), (B', D)
        with torch.autocast(a.device.type, enabled=False):
            for rows, missing in _missing(a, b):
                missing *= weights[rows, :, None]  # (r, B', D)
                to_a[rows] = missing.sum(dim=1)
                to_b -= missing.sum(dim=0)
        return 2 * gradient * to_a, 2 * gradient * to_b, None, None


def _missing(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """max(0, b_j - a_i) of some rows of `a` at a time: which, and (r, B', D)."""
    rows = max(int(CHUNK_MB * 1e6 / (b.numel() * b.element_size())), 1)
    for start in range(0, len(a), rows):
        some = slice(start, start + rows)
        yield some, (b - a[some, None]).clamp_min_(0)  # (r, B', D)
