"""What the loop does with a batch and with what a step gives."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mm.engine.stream import Stream, count_items, losses, next_batch, to_device


class Pair(NamedTuple):
    values: Tensor
    lengths: Tensor | None


def stream(batches=lambda start: iter([])) -> Stream:
    return Stream("digits", batches, lambda model, batch, number: {})


def test_every_tensor_of_a_batch_is_moved_and_nothing_else_changes() -> None:
    batch = {"a": torch.ones(2), "b": Pair(torch.ones(3), None), "c": [torch.ones(1), ("x", torch.ones(4))], "d": 5}
    moved = to_device(batch, "meta")
    assert moved["a"].is_meta
    assert isinstance(moved["b"], Pair)
    assert moved["b"].values.is_meta
    assert moved["b"].lengths is None
    assert moved["c"][0].is_meta
    assert moved["c"][1][0] == "x"
    assert moved["c"][1][1].is_meta
    assert moved["d"] == 5
    assert not batch["a"].is_meta
    assert to_device(batch, "cpu")["a"] is batch["a"]


@pytest.mark.parametrize(
    ("batch", "items"),
    [
        (torch.zeros(4, 2), 4),
        ({"name": "x", "owner": torch.zeros(3, 2), "image": Pair(torch.zeros(2), None)}, 3),
        (Pair(torch.zeros(5), None), 5),
        ([{"a": ()}, torch.zeros(6)], 6),
        ({"a": "b"}, 0),
        (torch.tensor(1.0), 0),
    ],
)
def test_items_are_counted_in_the_first_tensor(batch, items: int) -> None:
    assert count_items(batch) == items


def test_only_losses_are_minimised_in_float32() -> None:
    parts = {
        "a_loss": torch.tensor(1.0, dtype=torch.bfloat16),
        "accuracy": torch.tensor(0.5),
        "loss": torch.tensor(2.0),
    }
    found = losses(stream(), parts)
    assert [float(part) for part in found] == [1.0, 2.0]
    assert {part.dtype for part in found} == {torch.float32}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"accuracy": torch.tensor(1.0)}, r"whose name ends in 'loss': 'digits' gave \['accuracy'\]"),
        ({}, r"'digits' gave \[\]"),
        ({"loss": torch.ones(3)}, r"scalar tensors: 'loss' of 'digits' is shape \(3,\)"),
        ({"loss": 0.5}, r"scalar tensors: 'loss' of 'digits' is float"),
    ],
)
def test_wrong_parts_are_named(parts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses(stream(), parts)


def test_batches_that_end_are_an_error() -> None:
    with pytest.raises(ValueError, match="the batches of 'digits' must never end"):
        next_batch(stream(), iter([]), torch.device("cpu"))
