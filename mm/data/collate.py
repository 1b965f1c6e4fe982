"""Examples -> a batch, in which any row may lack any modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mm.data.item import MODALITIES
from mm.features import pad


class Inputs(NamedTuple):
    """What a batch holds of one modality.

    Attributes:
        values: (b, 3, H, W) pictures, (b, L) tokens, (b, T) waves, or the trunk outputs that a cache kept.
        lengths: (b,) int64, the real part of each row; None for pictures.
        rows: (b,) int64, which item of the batch each row belongs to, ascending; several texts may belong to one.
    """

    values: Tensor
    lengths: Tensor | None
    rows: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Inputs:
        """The same inputs on another device; `non_blocking` overlaps the copy of pinned memory with other work."""
        lengths = self.lengths if self.lengths is None else self.lengths.to(device, non_blocking=non_blocking)
        rows = self.rows.to(device, non_blocking=non_blocking)
        return Inputs(self.values.to(device, non_blocking=non_blocking), lengths, rows)


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One batch of B examples.

    Args:
        examples: dicts {"owner": int, "text_key": int, <modality>: Tensor or list of Tensors}. A modality that an
            example lacks is simply not in it; one without text, or with several, has no "text_key".

    Returns:
        {"owner": (B, 2) int64, <modality>: Inputs, ...}. Two rows belong together when any column of `owner` agrees:
        column 0 is the item's owner, column 1 the text that was drawn (or the owner once more where there is none). A
        modality that no example has is not in the batch. With answers "answer": (b, K), of the rows of "text"; with
        targets "target": (B, ...).

    Raises:
        ValueError: no examples, or pictures of different sizes.
    """
    if not examples:
        raise ValueError("a batch needs at least one example: got none.")
    owners = [(example["owner"], example.get("text_key", example["owner"])) for example in examples]
    batch: dict[str, Any] = {"owner": torch.tensor(owners, dtype=torch.int64)}  # (B, 2)
    for modality in MODALITIES:
        held = [(row, tensor) for row, example in enumerate(examples) for tensor in listed(example.get(modality, []))]
        if held:
            values, lengths = pad([tensor for _, tensor in held])
            if modality == "image":  # also a trunk's (N, D) places: pictures of one size have no lengths
                lengths = None
            batch[modality] = Inputs(values, lengths, torch.tensor([row for row, _ in held]))
    if answers := [answer for example in examples for answer in example.get("answer", [])]:
        batch["answer"] = torch.stack(answers)  # (b, K)
    if "target" in examples[0]:
        batch["target"] = torch.stack([example["target"] for example in examples])  # (B, ...)
    return batch


def listed(value: Tensor | list[Tensor]) -> list[Tensor]:
    """What an example holds of a modality, as a list."""
    return [value] if isinstance(value, Tensor) else value
