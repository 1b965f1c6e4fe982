"""Additive attention (Bahdanau et al. 2015) without a tanh, and without keeping what its gradient can compute again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**18  # numbers that attention works on at a time on a CPU: they stay in its cache
FARTHEST = 40.0  # keys and queries are cut off here: exp(2 x) and exp(-2 x) of more would soon be no float32


def grown(x: Tensor) -> Tensor:
    """exp(2 x), at least in float32: a key or a query as `place_scores` takes it."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (2 * x.clamp(-FARTHEST, FARTHEST)).exp()


def place_scores(keys: Tensor, query: Tensor, weight: Tensor) -> Tensor:
    """Additive attention: the scores weight . tanh(key + query) of all places, up to a constant that softmax ignores.

    With keys and queries given as exp(2 x) no tanh is left to compute, which takes five times as long as the rest:
    tanh(k + q) = 1 - 2 / (1 + exp(2 k) exp(2 q)).

    Args:
        keys: (B, N, A), `grown`.
        query: (B, K, A), `grown`.
        weight: (A,).

    Returns:
        (B, K, N).
    """
    with torch.autocast(keys.device.type, enabled=False):
        return _PlaceScores.apply(keys, query, -2 * weight.to(keys.dtype))  # (B, K, N)


class _PlaceScores(torch.autograd.Function):
    """weight . 1 / (1 + key * query). Of (B, K, N, A) numbers none are kept: the gradient computes them again."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, query: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(keys, query, weight)
        scores = keys.new_empty(len(keys), query.shape[1], keys.shape[1])  # (B, K, N)
        for rows, k in blocks(keys, query.shape[1]):
            scores[rows, k] = away(keys[rows], query[rows, k, None]) @ weight  # (b, N)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, query, weight = ctx.saved_tensors
        of_keys, of_query, of_weight = torch.empty_like(keys), torch.empty_like(query), torch.zeros_like(weight)
        scale = -weight * query  # (B, K, A)
        for rows, k in blocks(keys, query.shape[1]):
            share = away(keys[rows], query[rows, k, None])  # (b, N, A)
            of_weight += grad[rows, k].flatten() @ share.flatten(0, 1)  # (A,)
            share.square_().mul_(grad[rows, k, :, None])  # (b, N, A)
            if k == 0:
                torch.mul(share, scale[rows, k, None], out=of_keys[rows])  # (b, N, A)
            else:
                of_keys[rows].addcmul_(share, scale[rows, k, None])  # (b, N, A)
            of_query[rows, k] = share.mul_(keys[rows]).sum(dim=1)  # (b, A)
        return of_keys, of_query.mul_(-weight), of_weight


def away(keys: Tensor, query: Tensor) -> Tensor:
    """1 / (1 + key * query): (b, N, A), (b, 1, A) -> (b, N, A)."""
    return (keys * query).add_(1).reciprocal_()  # (b, N, A)


def blocks(keys: Tensor, sentences: int) -> Iterator[tuple[slice, int]]:
    """Which inputs, and which sentence of each, attention works on at a time."""
    size = BLOCK // max(keys.shape[1:].numel(), 1) if keys.device.type == "cpu" else len(keys)
    size = max(size, 1)
    return itertools.product((slice(start, start + size) for start in range(0, len(keys), size)), range(sentences))
