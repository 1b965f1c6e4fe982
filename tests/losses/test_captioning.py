"""Losses of captioning against loops and closed forms."""

import math

import pytest
import torch

from mm.losses import doubly_stochastic, entropy, hard_attention, self_critical, sentence_sums, word_loss

SENTENCE = torch.tensor([0, 0, 2, 2, 2])  # of three, the second has no word


def test_word_loss_is_the_mean_over_words() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.tensor([1, 4, 2, 6, 0])
    by_hand = [-(math.log(row.softmax(0)[t])) for row, t in zip(logits, targets, strict=True)]
    assert word_loss(logits, targets).item() == pytest.approx(sum(by_hand) / 5, abs=1e-6)
    spread = [0.9 * loss - 0.1 * row.log_softmax(0).mean().item() for loss, row in zip(by_hand, logits, strict=True)]
    assert word_loss(logits, targets, 0.1).item() == pytest.approx(sum(spread) / 5, abs=1e-6)


def test_sums_of_sentences() -> None:
    sums = sentence_sums(torch.arange(5.0), SENTENCE, 3)
    assert sums.tolist() == [1.0, 0.0, 9.0]
    pairs = sentence_sums(torch.arange(10.0).view(5, 2), SENTENCE, 3)
    assert pairs.tolist() == [[2, 4], [0, 0], [18, 21]]


@pytest.mark.parametrize(("words", "places", "expected"), [(21, 196, 156.25), (5, 5, 0.0), (1, 1, 0.0), (2, 8, 4.5)])
def test_doubly_stochastic_of_uniform_attention(words: int, places: int, expected: float) -> None:
    """P (1 - T / P)^2, whatever else is in the batch."""
    attention = torch.zeros(words + 3, places + 4)
    attention[:words, :places] = 1 / places
    attention[words:, : places + 4] = 1 / (places + 4)
    mask = torch.ones(2, places + 4, dtype=torch.bool)
    mask[0, places:] = False
    sentence = torch.tensor([0] * words + [1] * 3)
    other = (places + 4) * (1 - 3 / (places + 4)) ** 2
    assert expected == pytest.approx(places * (1 - words / places) ** 2)
    assert doubly_stochastic(attention, sentence, mask).item() == pytest.approx((expected + other) / 2, rel=1e-5)
    alone = doubly_stochastic(attention[:words], sentence[:words], mask)  # the second has no word: it does not count
    assert alone.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_entropy() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert entropy(rows).item() == pytest.approx(math.log(2) / 2)
    scores = torch.tensor([[0.0, -200.0, 0.0]], requires_grad=True)  # the second weight is 0
    entropy(scores.softmax(-1)).backward()
    assert scores.grad.abs().max() < 1e-6


def test_hard_attention_rewards_places_of_sentences_above_the_baseline() -> None:
    log_prob = torch.tensor([-1.0, -2.0, -0.5, -0.5, -1.0], requires_grad=True)
    place = torch.tensor([-1.0, -1.0, -2.0, 0.0, -1.0], requires_grad=True)
    loss = hard_attention(log_prob, place, SENTENCE, torch.tensor(-2.5), 3)
    # sentence 0: reward -3, places -2; sentence 2: reward -2, places -3
    assert loss.item() == pytest.approx(-((-3 + 2.5) * -2 + (-2 + 2.5) * -3) / 5)
    loss.backward()
    assert log_prob.grad is None  # the words are taught by their own loss
    assert place.grad.tolist() == pytest.approx([0.1, 0.1, -0.1, -0.1, -0.1])


def test_self_critical_compares_each_sentence_with_the_others_of_its_input() -> None:
    log_prob = torch.tensor([[-2.0, -3.0, -4.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    reward = torch.tensor([[1.0, 0.0, 2.0], [5.0, 5.0, 5.0]])
    loss = self_critical(log_prob, reward, words=10)
    advantages = torch.tensor([[0.0, -1.5, 1.5], [0.0, 0.0, 0.0]])
    assert loss.item() == pytest.approx(-(advantages * log_prob).sum().item() / 10)
    loss.backward()
    torch.testing.assert_close(log_prob.grad, -advantages / 10)
