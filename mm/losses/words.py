"""Skip-gram with negative sampling: a word's vector tells the words that stand near it from words drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def negative_sampling(
    positive: Tensor, negative: Tensor, pairs: Tensor, negatives: float, total: Tensor | float | None = None
) -> Tensor:
    """Minus the objective of skip-gram with negative sampling (Mikolov et al. 2013, eq. 4), the mean over the pairs.

    A pair (w, c) of a word and one near it costs -log s(u_c . v_w) - k E_n[log s(-u_n . v_w)], s the logistic function
    and n drawn from the noise. The published program draws k noise words for every pair; here the pairs of a batch
    share M of them, and k times the mean over the M stands for the sum over k: its expectation is the same, and it is
    a matrix product (Ji et al. 2016).

    Args:
        positive: (P,) score u_c . v_w of each pair.
        negative: (C, M) score u_n . v_w of each of C words with each of M noise words.
        pairs: (C,) how many of the pairs each word has.
        negatives: k, the noise words that stand against a pair.
        total: what the sum is divided by; None = P. Of a batch that several processes share, the pairs of all divided
            by the processes: the mean of their losses is then the loss of the whole.

    Returns:
        Scalar; scores are taken in float32 at least.

    >>> two = torch.zeros(3), torch.zeros(2, 8), torch.tensor([2, 1])
    >>> round(negative_sampling(*two, negatives=5).item() / torch.tensor(2.0).log().item(), 3)
    6.0
    """
    if len(pairs) != len(negative):
        raise ValueError(f"each word must have its number of pairs: got {len(pairs)} for {len(negative)} words.")
    dtype = torch.promote_types(positive.dtype, torch.float32)
    near = functional.softplus(-positive.to(dtype)).sum()  # ()
    noise = functional.softplus(negative.to(dtype)).mean(dim=1)  # (C,)
    return (near + negatives * (noise * pairs).sum()) / (len(positive) if total is None else total)
