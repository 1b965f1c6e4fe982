"""`LinearClassifier`: the vector of any encoder -> logits of classes."""

from __future__ import annotations

from torch import Tensor, nn

from mm.features import Features


class LinearClassifier(nn.Module):
    """One linear layer over the normalised vector, so that whatever tells the classes apart is the encoder's.

    Args:
        vector_dim: D_v of the encoder.
        classes: K.
    """

    def __init__(self, vector_dim: int, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(vector_dim)
        self.classify = nn.Linear(vector_dim, classes)

    def forward(self, features: Features) -> Tensor:
        """Features of b inputs -> (b, K) logits."""
        return self.classify(self.norm(features.vector))  # (b, K)
