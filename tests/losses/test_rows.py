"""Who belongs together, and draws that are the same on every process."""

import pytest
import torch

from mm.losses import belong_together
from mm.losses.rows import draw


def test_equal_captions_belong_together_in_the_second_column_and_unknown_ids_never():
    owner = torch.tensor([[0, 9], [1, 9], [2, -1], [3, -1], [0, 4]])
    expected = torch.eye(5, dtype=torch.bool)
    for i, j in ((0, 1), (0, 4)):
        expected[i, j] = expected[j, i] = True
    assert torch.equal(belong_together(owner), expected)
    assert torch.equal(belong_together(owner, 2), expected[:2])


def test_columns_are_drawn_by_their_weights():
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0]]).expand(20_000, -1)
    found = torch.bincount(draw(weights, seed=0), minlength=4) / 20_000
    assert found[0] == found[3] == 0
    assert found[1:3].tolist() == pytest.approx([0.25, 0.75], abs=0.01)


def test_a_seed_draws_the_same_and_leaves_the_other_random_numbers_alone():
    weights = torch.rand(50, 9, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    assert torch.equal(draw(weights, 3), draw(weights.double(), 3))
    assert not torch.equal(draw(weights, 3), draw(weights, 4))
    assert torch.equal(torch.get_rng_state(), before)
    weights[7] = 0
    assert draw(weights, 3)[7] == 0
