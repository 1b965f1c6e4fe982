"""Joint embedding: the features of any modality -> points of one unit sphere, where near means alike."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import Features, coordinates, masked_softmax

Form = Literal["unit", "positive", "free"]


class JointEmbedding(nn.Module):
    """One linear map per modality onto the unit sphere, after pooling.

    Args:
        inputs: {modality: (D, D_v)} of the encoders.
        embed_dim: E.
        pool: {modality: "vector" | "attention"}: the encoder's own vector, or that vector beside learned attention over
            the map, which keeps where things are.
        heads: windows of the attention, a square number.
        head_dim: what each keeps of what it sees.
        dropout: share of the pooled vector hidden while training.
        temperature: start of the learnable temperature. Its inverse is kept as a logarithm, so that it stays positive
            (Radford et al. 2021, section 2.5).
        bias: start of the logit bias of the sigmoid loss (Zhai et al. 2023, section 3.2); None for other losses.
        form: of the vectors: "unit" length; "positive": their absolute values, of unit length (Vendrov et al. 2016);
            "free": of any length (Sohn 2016).
        classes: K, that one linear map tells from the vectors of every modality (Salvador et al. 2017); 0 = none.

    Raises:
        ValueError: a pool or a form that does not exist, or a temperature that is not positive.
    """

    def __init__(
        self,
        inputs: Mapping[str, tuple[int, int]],
        *,
        embed_dim: int,
        pool: Mapping[str, str],
        heads: int,
        head_dim: int,
        dropout: float,
        temperature: float,
        bias: float | None = None,
        form: Form = "unit",
        classes: int = 0,
    ):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"the temperature must be positive: got {temperature}.")
        if form not in get_args(Form):
            raise ValueError(f"the form of vectors must be one of {', '.join(get_args(Form))}: got {form!r}.")
        self.embed_dim, self.form = embed_dim, form
        self.pools = nn.ModuleDict()
        self.project = nn.ModuleDict()
        for modality, (dim, vector_dim) in inputs.items():
            if pool[modality] not in ("vector", "attention"):
                raise ValueError(f"{modality}: pool must be 'vector' or 'attention': got {pool[modality]!r}.")
            pooled_dim = vector_dim
            if pool[modality] == "attention":
                self.pools[modality] = AttentionPool(dim, heads, head_dim)
                pooled_dim += heads * head_dim
            self.project[modality] = nn.Sequential(
                nn.LayerNorm(pooled_dim), nn.Dropout(dropout), nn.Linear(pooled_dim, embed_dim)
            )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.classify = nn.Linear(embed_dim, classes) if classes else None

    def forward(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """{modality: Features of b inputs} -> {modality: (b, E)}, for any subset of the modalities."""
        return {modality: self.embed(modality, feature) for modality, feature in features.items()}

    def embed(self, modality: str, features: Features) -> Tensor:
        """Features of b inputs of one modality -> (b, E) vectors of unit length, unless their form is free."""
        pooled = features.vector  # (b, D_v)
        if modality in self.pools:
            attended = self.pools[modality](features)  # (b, heads * head_dim)
            pooled = torch.cat([pooled, attended], dim=-1)  # (b, D_v + heads * head_dim)
        vectors = self.project[modality](pooled)  # (b, E)
        # In float32 whatever autocast computed with: in bfloat16 a unit vector is off by up to 0.4 %.
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        if self.form == "free":
            return vectors
        vectors = functional.normalize(vectors, dim=-1)  # (b, E)
        return vectors.abs() if self.form == "positive" else vectors

    def class_logits(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{modality: (b, E)} -> {modality: (b, K)} float32; nothing where there are no classes."""
        if self.classify is None:
            return {}
        return {modality: self.classify(own).float() for modality, own in vectors.items()}


class AttentionPool(nn.Module):
    """Weighted means of the map, each head looking mostly through its own soft window of the grid.

    A head's weight at a place is the softmax of what it thinks of the content plus a Gaussian of the distance to the
    head's window. Windows start on a regular grid and move and widen by learning; without them all heads would start
    alike, and a model of two things learns what they are long before it learns which is on the left. Places are
    counted in shares of the real part of each input, so padding changes nothing.

    Args:
        dim: D of the map.
        heads: number of windows, a square number.
        width: what each head keeps of what it sees.

    Raises:
        ValueError: `heads` is not a square number.
    """

    def __init__(self, dim: int, heads: int, width: int):
        super().__init__()
        side = math.isqrt(heads)
        if side * side != heads or heads < 1:
            raise ValueError(f"heads must be a square number, such as 4, 9 or 16: got {heads}.")
        self.norm = nn.LayerNorm(dim)
        self.score = nn.Linear(dim, heads)
        self.value = nn.Linear(dim, width)
        self.relu = nn.ReLU()
        middles = (torch.arange(side) + 0.5) / side  # (side,)
        self.row = nn.Parameter(middles.repeat_interleave(side))  # (heads,) middle of each window in 0..1
        self.column = nn.Parameter(middles.repeat(side))  # (heads,)
        self.log_spread = nn.Parameter(torch.full((heads,), math.log(0.5 / side)))  # (heads,) in shares of the grid

    def forward(self, features: Features) -> Tensor:
        """Features of b inputs -> (b, heads * width)."""
        content = self.norm(features.map)  # (b, N, D)
        centre = torch.stack([self.row, self.column], dim=-1)  # (heads, 2)
        offset = coordinates(features)[:, None] - centre[:, None]  # (b, heads, N, 2)
        window = -offset.square().sum(-1) / (2 * (2 * self.log_spread).exp()[:, None])  # (b, heads, N)
        scores = self.score(content).transpose(1, 2) + window  # (b, heads, N)
        weights = masked_softmax(scores, features.mask[:, None])  # (b, heads, N)
        values = self.relu(self.value(content))  # (b, N, width)
        return (weights.to(values.dtype) @ values).flatten(1)  # (b, heads * width)
