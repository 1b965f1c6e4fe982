"""`Features`: the one thing every encoder returns and every head takes, and how to pool and mask it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WAVES = 4  # wavelengths of the code of a place: twice the grid, the grid, a half, a quarter


class Features(NamedTuple):
    """What an encoder says of a batch of inputs, whatever their modality.

    Attributes:
        map: (B, N, D) one vector per place: a grid cell, a token, a frame.
        mask: (B, N) bool, True = real place, False = padding.
        vector: (B, D_v) the whole input; D_v may differ from D.
        grid: the places as laid out, (H, W), (L,), (frames,) or (F, frames); their product is N.
    """

    map: Tensor
    mask: Tensor
    vector: Tensor
    grid: tuple[int, ...]

    def to(self, device: torch.device | str) -> Features:
        """The same features on another device."""
        return Features(self.map.to(device), self.mask.to(device), self.vector.to(device), self.grid)

    def unit(self) -> Tensor:
        """(B, D_v) the vectors at unit length, so that inner products are cosines; a zero vector stays zero."""
        return torch.nn.functional.normalize(self.vector, dim=-1)  # (B, D_v)


def mask_from_lengths(lengths: Tensor, places: int) -> Tensor:
    """True at the first `lengths[b]` of `places` places.

    Args:
        lengths: (B,) int64.
        places: N.

    Returns:
        (B, N) bool.
    """
    return torch.arange(places, device=lengths.device) < lengths[:, None]  # (B, N)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis that gives padding exactly zero; a row of nothing but padding is all zeros.

    Args:
        scores: (..., N).
        mask: bool, broadcastable to `scores`, True = real.
    """
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)  # (..., N)
    return weights.masked_fill(~mask, 0.0)  # (..., N)


def masked_mean(map: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real places: (B, N, D), (B, N) -> (B, D). An input with no real place gives zeros."""
    weights = mask.to(map.dtype)  # (B, N)
    total = torch.einsum("bnd,bn->bd", map, weights)  # (B, D)
    return total / weights.sum(dim=1, keepdim=True).clamp_min(1.0)  # (B, D)


def masked_max(map: Tensor, mask: Tensor) -> Tensor:
    """Maximum over the real places: (B, N, D), (B, N) -> (B, D). An input with no real place gives zeros."""
    highest = map.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)  # (B, D)
    return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)  # (B, D)


def coordinates(features: Features) -> Tensor:
    """Row and column of every place in 0..1, as shares of the real part of each input: (b, N, 2).

    The grid's last axis (columns, frames, tokens) may be padded; one axis is laid out as a single row.
    """
    rows, columns = features.grid if len(features.grid) == 2 else (1, *features.grid)
    real = features.mask.unflatten(1, (rows, columns)).any(dim=1).sum(dim=1).clamp_min(1)  # (b,) columns
    device = features.map.device
    row = ((torch.arange(rows, device=device) + 0.5) / rows)[None, :, None]  # (1, rows, 1)
    column = ((torch.arange(columns, device=device) + 0.5) / real[:, None])[:, None]  # (b, 1, columns)
    return torch.stack(torch.broadcast_tensors(row, column), dim=-1).flatten(1, 2)  # (b, N, 2)


def place_code(features: Features) -> Tensor:
    """Where each place lies: sines and cosines of its row and column at `WAVES` wavelengths, (B, N, 4 WAVES)."""
    angle = coordinates(features) * torch.pi  # (B, N, 2)
    angles = torch.cat([angle * 2**octave for octave in range(WAVES)], dim=-1)  # (B, N, 2 WAVES)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (B, N, 4 WAVES)


def advanced(map: Tensor, grid: tuple[int, int], cells: float) -> Tensor:
    """What lies part of a cell further down and right of each place, between the cells there; the edge goes on.

    Args:
        map: (B, N, ...).
        grid: (H, W), H W = N.
        cells: 0 to 1, of both axes.
    """
    x = map.unflatten(1, grid)  # (B, H, W, ...)
    for axis in (1, 2):
        next_ = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, x.shape[axis] - 1, 1)], dim=axis)
        x = torch.lerp(x, next_, cells)  # (B, H, W, ...)
    return x.flatten(1, 2)  # (B, N, ...)


def pad(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Stack tensors that may differ along their first axis, with zeros behind the shorter ones.

    Args:
        tensors: B tensors of shapes (n_b, ...).

    Returns:
        values: (B, max n, ...), and lengths: (B,) int64. Tensors of three axes are pictures or grids (C, H, W) of one
        size: they are stacked as they are and lengths is None.

    Raises:
        ValueError: `tensors` is empty, or pictures differ in size.
    """
    if not tensors:
        raise ValueError("pad needs at least one tensor: got an empty list.")
    if tensors[0].dim() == 3:
        shapes = {tuple(t.shape) for t in tensors}
        if len(shapes) > 1:
            raise ValueError(f"pictures of a batch must have one size: got {sorted(shapes)}. Resize them first.")
        return torch.stack(list(tensors)), None  # (B, C, H, W)
    lengths = torch.tensor([len(t) for t in tensors])  # (B,)
    values = tensors[0].new_zeros(len(tensors), int(lengths.max()), *tensors[0].shape[1:])  # (B, max n, ...)
    for row, tensor in zip(values, tensors, strict=True):
        row[: len(tensor)] = tensor
    return values, lengths
