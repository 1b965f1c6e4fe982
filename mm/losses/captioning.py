"""Losses of captioning: the words themselves, where attention goes, places and sentences that were drawn.

The M words of C sentences come in any order, each with the number of its sentence, as `mm.heads` gives them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def word_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the words of their negative log-probability, in nats.

    Args:
        logits: (M, V).
        targets: (M,) int64.
        smoothing: this share of the target is spread evenly over all words (Szegedy et al. 2016, section 7).
    """
    return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def sentence_sums(values: Tensor, sentence: Tensor, sentences: int) -> Tensor:
    """Sums over the words of each sentence: (M, ...), (M,) int64 -> (C, ...)."""
    return values.new_zeros(sentences, *values.shape[1:]).index_add(0, sentence, values)  # (C, ...)


def doubly_stochastic(attention: Tensor, sentence: Tensor, mask: Tensor) -> Tensor:
    """How unevenly sentences look at the places: their mean of the sum over places of (1 - sum over words of alpha)^2.

    Xu et al. 2015, eq. 14, without its factor lambda. For uniform attention of T words over P places it is
    P (1 - T / P)^2.

    Args:
        attention: (M, N), each row sums to 1.
        sentence: (M,) int64, in 0..C - 1.
        mask: (C, N) bool, the real places of each sentence's input. Sentences without a word do not count.
    """
    sums = sentence_sums(attention, sentence, len(mask))  # (C, N)
    missing = (1 - sums).square().masked_fill(~mask, 0.0).sum(dim=1)  # (C,)
    told = torch.bincount(sentence, minlength=len(mask)) > 0  # (C,)
    return missing[told].mean()


def hard_attention(
    log_prob: Tensor, place_log_prob: Tensor, sentence: Tensor, baseline: Tensor, sentences: int
) -> Tensor:
    """What teaches hard attention where to look: REINFORCE with a baseline (Xu et al. 2015, eq. 11 and 12).

    Its gradient is the part of the gradient of the expected log-likelihood that goes through the choice of places:
    (log p(y | s) - b) times that of log p(s), summed over the sentences and divided by M as `word_loss` is.

    Args:
        log_prob: (M,) of the words, given the places.
        place_log_prob: (M,) of the places drawn.
        sentence: (M,) int64, in 0..C - 1.
        baseline: () b, what a sentence's log-probability has been lately; nothing that depends on these places.
        sentences: C.
    """
    reward = sentence_sums(log_prob.detach(), sentence, sentences)  # (C,)
    chosen = sentence_sums(place_log_prob, sentence, sentences)  # (C,) 0 where a sentence has no word
    return -((reward - baseline) * chosen).sum() / len(sentence)


def entropy(attention: Tensor) -> Tensor:
    """Mean entropy of the weights of the places, in nats: (M, N) -> ()."""
    least = torch.finfo(attention.dtype).tiny  # at 0 the logarithm has no gradient
    return -(attention * attention.clamp_min(least).log()).sum(dim=-1).mean()


def self_critical(log_prob: Tensor, reward: Tensor, words: int) -> Tensor:
    """REINFORCE on whole sentences, each against the mean reward of the others drawn for the same input.

    Rennie et al. 2017, eq. 8, with the baseline of Luo 2020, "A better variant of self-critical sequence training".

    Args:
        log_prob: (B, K) of the sentences, K at least 2.
        reward: (B, K).
        words: of all sentences together, which the sum is divided by.
    """
    others = (reward.sum(dim=1, keepdim=True) - reward) / (reward.shape[1] - 1)  # (B, K)
    return -((reward - others) * log_prob).sum() / words
