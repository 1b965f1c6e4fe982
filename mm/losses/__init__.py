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
from mm.losses.distillation import distillation_loss
from mm.losses.joint import JointLoss
from mm.losses.localisation import (
    hard_way,
    labelled_mean,
    map_cross_entropy,
    pooled_scores,
    scores_info_nce,
    two_way,
)
from mm.losses.separation import compressed_loss, si_sdr_loss, snr_loss

__all__ = [
    "JointLoss",
    "answer_bce",
    "answer_softmax",
    "belong_together",
    "compressed_loss",
    "distillation_loss",
    "doubly_stochastic",
    "entropy",
    "hard_attention",
    "hard_way",
    "hinge",
    "info_nce",
    "is_collapsed",
    "labelled_mean",
    "map_cross_entropy",
    "pooled_scores",
    "scores_info_nce",
    "self_critical",
    "sentence_sums",
    "si_sdr_loss",
    "siglip",
    "snr_loss",
    "triplet",
    "two_way",
    "word_loss",
]
