from mm.losses.answers import answer_bce, answer_softmax
from mm.losses.captioning import (
    doubly_stochastic,
    entropy,
    hard_attention,
    self_critical,
    sentence_sums,
    word_loss,
)
from mm.losses.contrastive import belong_together, hinge, info_nce, is_collapsed, siglip, triplet
from mm.losses.joint import JointLoss

__all__ = [
    "JointLoss",
    "answer_bce",
    "answer_softmax",
    "belong_together",
    "doubly_stochastic",
    "entropy",
    "hard_attention",
    "hinge",
    "info_nce",
    "is_collapsed",
    "self_critical",
    "sentence_sums",
    "siglip",
    "triplet",
    "word_loss",
]
