from mm.losses.answers import answer_bce, answer_softmax
from mm.losses.captioning import (
    doubly_stochastic,
    entropy,
    hard_attention,
    self_critical,
    sentence_sums,
    word_loss,
)
from mm.losses.contrastive import hinge, info_nce, is_collapsed, siglip, triplet
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
from mm.losses.memory import Memory
from mm.losses.miners import Triplets, distance_weighted, hard, mined_triplet, semi_hard
from mm.losses.order import order_hinge, order_scores
from mm.losses.pairs import class_loss, contrastive_loss, cosine_pairs, multi_similarity, n_pair
from mm.losses.rows import belong_together
from mm.losses.separation import compressed_loss, si_sdr_loss, snr_loss
from mm.losses.settings import MARGINS, LossConfig
from mm.losses.words import negative_sampling

__all__ = [
    "MARGINS",
    "JointLoss",
    "LossConfig",
    "Memory",
    "Triplets",
    "answer_bce",
    "answer_softmax",
    "belong_together",
    "class_loss",
    "compressed_loss",
    "contrastive_loss",
    "cosine_pairs",
    "distance_weighted",
    "distillation_loss",
    "doubly_stochastic",
    "entropy",
    "hard",
    "hard_attention",
    "hard_way",
    "hinge",
    "info_nce",
    "is_collapsed",
    "labelled_mean",
    "map_cross_entropy",
    "mined_triplet",
    "multi_similarity",
    "n_pair",
    "negative_sampling",
    "order_hinge",
    "order_scores",
    "pooled_scores",
    "scores_info_nce",
    "self_critical",
    "semi_hard",
    "sentence_sums",
    "si_sdr_loss",
    "siglip",
    "snr_loss",
    "triplet",
    "two_way",
    "word_loss",
]
