"""Additive attention without a tanh against the tanh it stands for."""

import pytest
import torch

from mm.heads.additive_attention import BLOCK, FARTHEST, grown, place_scores


def plain(keys: torch.Tensor, query: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (keys[:, None] + query[:, :, None]).tanh() @ weight


@pytest.mark.parametrize(("inputs", "sentences", "places"), [(1, 1, 1), (3, 2, 5), (7, 3, 64), (40, 2, 150)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_weights_of_the_places_are_those_of_tanh(inputs: int, sentences: int, places: int, spread: float) -> None:
    torch.manual_seed(0)
    numbers = 96  # 40 * 150 * 96 are several blocks
    assert inputs * places * numbers < BLOCK or inputs == 40
    keys, query = spread * torch.randn(inputs, places, numbers), spread * torch.randn(inputs, sentences, numbers)
    weight = torch.randn(numbers)
    scores, expected = place_scores(grown(keys), grown(query), weight), plain(keys, query, weight)
    torch.testing.assert_close(scores.softmax(-1), expected.softmax(-1), atol=1e-5, rtol=1e-4)
    differences = scores - expected
    torch.testing.assert_close(differences, differences[..., :1].expand_as(differences), atol=2e-5, rtol=0)


def test_gradients_are_those_of_tanh() -> None:
    torch.manual_seed(0)
    given = [torch.randn(3, 5, 4), torch.randn(3, 2, 4), torch.randn(4)]
    found = []
    for function in (lambda k, q, w: place_scores(grown(k), grown(q), w), plain):
        inputs = [part.double().requires_grad_() for part in given]
        loss = (function(*inputs).softmax(-1) * torch.arange(5)).square().sum()
        found.append(torch.autograd.grad(loss, inputs))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


def test_numbers_far_out_stay_finite() -> None:
    keys = torch.tensor([[[1e4, -1e4, 300.0], [-1e4, 1e4, 0.0]]], requires_grad=True)
    query, weight = torch.tensor([[[1e4, -1e4, -2.0]]], requires_grad=True), torch.ones(3)
    scores = place_scores(grown(keys), grown(query), weight)
    assert scores.isfinite().all()
    scores.sum().backward()
    assert keys.grad.isfinite().all() and query.grad.isfinite().all()
    assert grown(torch.tensor(FARTHEST)).isfinite() and grown(torch.tensor(-1e30)) > 0
