"""Random generators: what is drawn after their state was put back is what would have been drawn."""

import random

import numpy as np
import pytest
import torch

from mm.engine.rng import preserved_rng, rng_state, seed_everything, set_rng_state


def draw() -> list[float]:
    numbers = [random.random(), random.gauss(0, 1), *np.random.rand(3), *np.random.randn(3), *torch.randn(3).tolist()]
    return [*map(float, numbers), float(torch.nn.functional.dropout(torch.ones(64), 0.5).sum())]


@pytest.mark.parametrize("odd", [0, 1])
def test_the_state_is_complete(odd: int) -> None:
    seed_everything(5)
    for _ in range(odd):  # an odd number of normals leaves one waiting in Python's and in numpy's generator
        random.gauss(0, 1)
        np.random.randn()
    state = {name: value.clone() for name, value in rng_state().items()}
    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


def test_seeds_and_ranks_differ_and_repeat() -> None:
    drawn = {}
    for seed, rank in ((0, 0), (0, 1), (1, 0), (0, 0)):
        seed_everything(seed, rank)
        numbers = tuple(draw())
        assert drawn.setdefault((seed, rank), numbers) == numbers
    assert len(set(drawn.values())) == 3


def test_what_is_drawn_inside_goes_unnoticed() -> None:
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    with pytest.raises(KeyError), preserved_rng():
        draw()
        raise KeyError("an evaluation that fails")
    assert draw() == expected
