"""Losses of answers that several people gave: soft scores instead of one right class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def answer_bce(logits: Tensor, scores: Tensor) -> Tensor:
    """Each answer is right or wrong by itself, as far as people gave it (Teney et al. 2018, eq. 5): () float32.

    The sum over the answers, on average over the questions; the mean over both would leave next to no gradient where
    there are thousands of answers.

    Args:
        logits: (Q, K).
        scores: (Q, K) in 0..1; a row of zeros is a question whose answers are unknown words.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(), scores, reduction="sum") / len(logits)


def answer_softmax(logits: Tensor, scores: Tensor) -> Tensor:
    """One answer is right, and people are in doubt which: cross-entropy with their shares, () float32.

    Args:
        logits: (Q, K).
        scores: (Q, K) in 0..1; a question without any has no say.
    """
    total = scores.sum(dim=-1)  # (Q,)
    surprise = -(scores * logits.float().log_softmax(dim=-1)).sum(dim=-1) / total.clamp_min(1e-9)  # (Q,)
    return surprise.sum() / (total > 0).sum().clamp_min(1)
