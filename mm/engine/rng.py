"""Random generators of Python, numpy and torch: seed them, keep their state, put it back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed every generator of this process, differently for each rank. Call it before a model is built.

    Args:
        seed: at least 0.
        rank: of the process; all ranks that build one model use the same.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"the seed must be at least 0: got {seed}.")
    numbers = np.random.SeedSequence((seed, rank)).generate_state(3)
    random.seed(int(numbers[0]))
    np.random.seed(int(numbers[1]))
    torch.manual_seed(int(numbers[2]))  # GPUs too


def rng_state(device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The state of Python's, numpy's and torch's generators, and of the GPU's if `device` is one, as tensors."""
    _, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, numpy_gauss = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor(numbers, dtype=torch.int64),  # (625,)
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),  # (0,) or (1,)
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),  # (624,)
        "numpy_position": torch.tensor([position, has_gauss]),  # (2,)
        "numpy_gauss": torch.tensor([numpy_gauss], dtype=torch.float64),  # (1,)
        "torch": torch.get_rng_state(),
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
    """Set every generator to what `rng_state` gave; a GPU's only if it was asked for then and now."""
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_position"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, state["numpy_gauss"].item()))
    torch.set_rng_state(state["torch"])
    if torch.device(device).type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def preserved_rng(device: torch.device | str = "cpu") -> Iterator[None]:
    """Within it, anything may draw random numbers; afterwards the generators are as they were."""
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)
