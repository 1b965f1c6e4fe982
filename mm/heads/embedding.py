"""Joint embedding: the features of any modality -> points of one unit sphere, where near means alike."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import Features, masked_softmax

FREQUENCIES = 6  # octaves of the place code: from one period over 64 places to one over 2


class JointEmbedding(nn.Module):
    """One linear map per modality onto the unit sphere, after pooling.

    Args:
        inputs: {modality: (D, D_v)} of the encoders.
        embed_dim: E.
        pool: {modality: "vector" | "attention"}: the encoder's own vector, or that vector beside learned attention over
            the map, which keeps where things are.
        heads: attention heads, each a weighted mean of the map.
        dropout: share of the pooled vector hidden while training.
        temperature: start of the learnable temperature. Its inverse is kept as a logarithm, so that it stays positive
            (Radford et al. 2021, section 2.5).
        bias: start of the logit bias of the sigmoid loss (Zhai et al. 2023, section 3.2); None for other losses.

    Raises:
        ValueError: a pool that does not exist, or a temperature that is not positive.
    """

    def __init__(
        self,
        inputs: Mapping[str, tuple[int, int]],
        *,
        embed_dim: int,
        pool: Mapping[str, str],
        heads: int,
        dropout: float,
        temperature: float,
        bias: float | None = None,
    ):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"the temperature must be positive: got {temperature}.")
        self.embed_dim = embed_dim
        self.pools = nn.ModuleDict()
        self.project = nn.ModuleDict()
        for modality, (dim, vector_dim) in inputs.items():
            if pool[modality] not in ("vector", "attention"):
                raise ValueError(f"{modality}: pool must be 'vector' or 'attention': got {pool[modality]!r}.")
            pooled_dim = vector_dim
            if pool[modality] == "attention":
                self.pools[modality] = AttentionPool(dim, heads)
                pooled_dim += dim
            self.project[modality] = nn.Sequential(
                nn.LayerNorm(pooled_dim), nn.Dropout(dropout), nn.Linear(pooled_dim, embed_dim)
            )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """{modality: Features of b inputs} -> {modality: (b, E) unit vectors}, for any subset of the modalities."""
        return {modality: self.embed(modality, feature) for modality, feature in features.items()}

    def embed(self, modality: str, features: Features) -> Tensor:
        """Features of b inputs of one modality -> (b, E) unit vectors."""
        pooled = features.vector  # (b, D_v)
        if modality in self.pools:
            attended = self.pools[modality](features)  # (b, D)
            pooled = torch.cat([pooled, attended], dim=-1)  # (b, D_v + D)
        return functional.normalize(self.project[modality](pooled), dim=-1)  # (b, E)


class AttentionPool(nn.Module):
    """Each head looks at the places with its own learned query and keeps its own slice of what it sees.

    A place's key and value carry its content and a sinusoidal code of where it is, so the result can tell left from
    right and first from last. Places may be of any number; padding has a weight of exactly zero.

    Args:
        dim: D of the map; a multiple of `heads`.
        heads: number of weighted means.

    Raises:
        ValueError: `dim` is not a multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"the width of the map must be a multiple of the heads: got {dim} and {heads}.")
        self.norm = nn.LayerNorm(dim)
        self.place = nn.Linear(4 * FREQUENCIES, dim)
        self.score = nn.Linear(dim, heads)
        self.value = nn.Parameter(torch.randn(heads, dim, dim // heads) / math.sqrt(dim))

    def forward(self, features: Features) -> Tensor:
        """Features of b inputs -> (b, D)."""
        code = place_code(features.grid).to(features.map)  # (N, 4 * FREQUENCIES)
        content = self.norm(features.map) + self.place(code)  # (b, N, D)
        scores = self.score(content).transpose(1, 2)  # (b, heads, N)
        weights = masked_softmax(scores, features.mask[:, None])  # (b, heads, N)
        attended = weights @ content  # (b, heads, D)
        # The value map is linear, so it may follow the weighted mean: once a head instead of once a place.
        return torch.einsum("bhd,hde->bhe", attended, self.value).flatten(1)  # (b, D)


def place_code(grid: tuple[int, ...]) -> Tensor:
    """Sine and cosine of each place's row and column at octave-spaced wavelengths (after Vaswani et al. 2017, 3.5).

    Args:
        grid: (H, W), (L,) or (F, frames); one axis is laid out as a single row.

    Returns:
        (N, 4 * FREQUENCIES) float32, N = the product of the grid.
    """
    rows, columns = grid if len(grid) == 2 else (1, *grid)
    octaves = 2 * math.pi / 64 * 2.0 ** torch.arange(FREQUENCIES)  # (FREQUENCIES,) radians a place
    by_row = torch.arange(rows)[:, None, None] * octaves  # (rows, 1, FREQUENCIES)
    by_column = torch.arange(columns)[None, :, None] * octaves  # (1, columns, FREQUENCIES)
    angles = torch.cat(torch.broadcast_tensors(by_row, by_column), dim=-1).flatten(0, 1)  # (N, 2 * FREQUENCIES)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (N, 4 * FREQUENCIES)
