"""Analogies: whether a vector that was moved in the embedding space lands near the right item."""

from collections.abc import Sequence

import torch
from torch import Tensor


def analogy_recall(
    moved: Tensor, gallery: Tensor, origins: Tensor, targets: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Share of questions with a target among the nearest 1 and 10, the item that the question started from left out.

    Args:
        moved: (Q, E) unit vectors after the arithmetic.
        gallery: (n, E) unit vectors.
        origins: (Q,) int64, the item that each question started from; it is no answer.
        targets: Q lists of the items that are right.

    Returns:
        {"analogy_R@1": share, "analogy_R@10": share}. Equal scores count against the model.

    >>> circle = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> analogy_recall(circle[[1]], circle, torch.tensor([0]), [[1]])
    {'analogy_R@1': 1.0, 'analogy_R@10': 1.0}
    """
    scores = moved @ gallery.T  # (Q, n)
    scores[torch.arange(len(origins)), origins] = float("-inf")
    right = torch.zeros_like(scores, dtype=torch.bool)  # (Q, n)
    for row, items in zip(right, targets, strict=True):
        row[list(items)] = True
    best = scores.masked_fill(~right, float("-inf")).amax(dim=1, keepdim=True)  # (Q, 1)
    above = ((scores >= best) & ~right).sum(dim=1)  # (Q,)
    return {f"analogy_R@{k}": (above < k).float().mean().item() for k in (1, 10)}
