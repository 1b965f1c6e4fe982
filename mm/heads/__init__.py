"""Task heads: modules that take `Features`, whatever encoder or modality they come from."""

from mm.heads.embedding import AttentionPool, JointEmbedding

__all__ = ["AttentionPool", "JointEmbedding"]
