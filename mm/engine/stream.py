"""What is trained on: batches, the step that turns one into losses, and how a batch gets onto the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Stream(NamedTuple):
    """One kind of batches and what is done with them.

    Attributes:
        name: the parts of its loss are logged as train/<name>/<part>.
        batches: batches(start) gives an endless iterator over batches start, start + 1, ...; batch k must depend on
            nothing but k, which is what makes a resumed run exact. Its `per_epoch`, if it has one, tells epochs.
        step: step(model, batch, number) gives {part: scalar tensor}, `number` being the optimiser steps made so far.
            Parts whose name ends in "loss" are summed and minimised, the others are only logged. It may use the model
            only by calling it, `model(...)`: under torchrun it is wrapped.
        weight: factor on the loss.
    """

    name: str
    batches: Callable[[int], Iterator[Any]]
    step: Callable[[nn.Module, Any, int], Mapping[str, Tensor]]
    weight: float = 1.0


def next_batch(stream: Stream, iterator: Iterator[Any], device: torch.device) -> Any:
    """The next batch of a stream, on the device.

    Raises:
        ValueError: there is none.
    """
    try:
        return to_device(next(iterator), device)
    except StopIteration as error:
        raise ValueError(f"the batches of {stream.name!r} must never end: begin again with the next epoch.") from error


def losses(stream: Stream, parts: Mapping[str, Tensor]) -> list[Tensor]:
    """Those parts of what a step gave that are minimised, in float32.

    Raises:
        ValueError: there is none, or a part is no scalar tensor.
    """
    for name, part in parts.items():
        if not isinstance(part, Tensor) or part.dim() != 0:
            came = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"a step must give scalar tensors: {name!r} of {stream.name!r} is {came}.")
    minimised = [part.float() for name, part in parts.items() if name.endswith("loss")]
    if not minimised:
        raise ValueError(f"a step must give a part whose name ends in 'loss': {stream.name!r} gave {list(parts)}.")
    return minimised


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The same batch with every tensor on a device; copies of pinned memory overlap with other work.

    Args:
        batch: tensors in any nesting of dicts, lists, tuples and NamedTuples; anything else stays as it is.
        device: where to.
    """
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def map_tensors(function: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """The same nesting of dicts, lists, tuples and NamedTuples with the function applied to every tensor."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, Mapping):
        return {key: map_tensors(function, value) for key, value in nested.items()}
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(map_tensors(function, value) for value in nested))
    if isinstance(nested, list | tuple):
        return type(nested)(map_tensors(function, value) for value in nested)
    return nested


def count_items(batch: Any) -> int:
    """Number of items in a batch: the length of its first tensor, 0 if it has none.

    >>> count_items({"owner": torch.zeros(3, 2), "image": torch.zeros(2, 3, 8, 8)})
    3
    """
    first = next(_tensors(batch), None)
    return 0 if first is None or first.dim() == 0 else len(first)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, list | tuple | Mapping):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(value)
