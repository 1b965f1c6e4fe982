import math

import pytest
import torch
from torch import Tensor

from mm.losses import negative_sampling


def case(pairs: list[int], noise: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(sum(pairs), generator=generator, dtype=dtype)
    return positive, torch.randn(len(pairs), noise, generator=generator, dtype=dtype), torch.tensor(pairs)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("negatives", [1, 5])
def test_it_equals_a_loop_over_the_published_objective(negatives: int) -> None:
    """Mikolov et al. 2013, eq. 4, for each pair; the mean over all noise words is the expectation of one of them."""
    positive, negative, pairs = case([3, 0, 1, 2], noise=7)
    words = [word for word, count in enumerate(pairs.tolist()) for _ in range(count)]
    objective = 0.0
    for score, word in zip(positive.tolist(), words, strict=True):
        drawn = [math.log(sigmoid(-noise)) for noise in negative[word].tolist()]
        objective += math.log(sigmoid(score)) + negatives * sum(drawn) / len(drawn)
    assert negative_sampling(positive, negative, pairs, negatives).item() == pytest.approx(-objective / 6, rel=1e-12)
    summed = negative_sampling(positive, negative, pairs, negatives, total=torch.tensor(1.0))
    assert summed.item() == pytest.approx(-objective, rel=1e-12)


def test_its_minimum_is_the_shifted_mutual_information() -> None:
    """Levy and Goldberg 2014, eq. 7: where every score is log(#(w, c) / (#(w) q(c))) - log k, its gradient is zero."""
    together = torch.tensor([[3, 1, 4, 2], [1, 5, 2, 2], [4, 2, 1, 3]])  # pairs of 3 words with 4 contexts
    noise = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    shares = torch.bincount(noise) / len(noise)
    scores = (together / (together.sum(dim=1, keepdim=True) * shares * 5)).double().log().requires_grad_()
    word, context = (together > 0).nonzero().repeat_interleave(together[together > 0], dim=0).T
    loss = negative_sampling(scores[word, context], scores[:, noise], together.sum(dim=1), negatives=5)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.abs().max() < 1e-7
    (moved,) = torch.autograd.grad(
        negative_sampling(scores[word, context] + 0.1, scores[:, noise] + 0.1, together.sum(dim=1), 5), scores
    )
    assert moved.abs().max() > 1e-3


def test_low_precision_is_summed_in_float32() -> None:
    positive, negative, pairs = case([500, 500], noise=64, dtype=torch.bfloat16)
    loss = negative_sampling(positive, negative, pairs, 5)
    assert loss.dtype == torch.float32
    exact = negative_sampling(positive.double(), negative.double(), pairs, 5)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_words_without_their_pairs_are_refused() -> None:
    positive, negative, pairs = case([1, 2], noise=4)
    with pytest.raises(ValueError, match="each word must have its number of pairs: got 1 for 2 words"):
        negative_sampling(positive, negative, pairs[:1], 5)
