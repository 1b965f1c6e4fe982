"""Cross-batch memory: what earlier batches were embedded to serves as further negatives (Wang et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """The latest vectors of one modality and what they belong to, the newest first.

    Its state lies in buffers, so that it is in every checkpoint: a run that is killed goes on with the very same
    negatives. Vectors are kept as the bits of their float32 numbers, because averages of weights (`loop.ema`) take in
    all buffers of floating-point numbers, and yesterday's negatives are nothing to average.

    Args:
        rows: M, vectors kept.
        dim: E.
        columns: C of `owner`, see `mm.losses.belong_together`.
    """

    bits: Tensor
    owners: Tensor
    count: Tensor

    def __init__(self, rows: int, dim: int, columns: int = 2):
        super().__init__()
        self.register_buffer("bits", torch.zeros(rows, dim, dtype=torch.int32))  # (M, E)
        self.register_buffer("owners", torch.zeros(rows, columns, dtype=torch.int64))  # (M, C)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of the rows that are filled

    def kept(self) -> tuple[Tensor, Tensor]:
        """The vectors (m, E) float32 and their owners (m, C), m = 0 at first and M in the end."""
        count = int(self.count)
        return self.bits[:count].view(torch.float32), self.owners[:count]

    @torch.no_grad()
    def add(self, vectors: Tensor, owners: Tensor) -> None:
        """Keep (b, E) vectors with their owners (b, C); the oldest are forgotten."""
        bits = vectors.to(torch.float32).contiguous().view(torch.int32)  # (b, E)
        rows = len(self.bits)
        self.bits.copy_(torch.cat([bits, self.bits])[:rows])
        self.owners.copy_(torch.cat([owners, self.owners])[:rows])
        self.count.add_(len(vectors)).clamp_(max=rows)
