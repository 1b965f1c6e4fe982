from mm.losses.contrastive import belong_together, hinge, info_nce, is_collapsed, siglip, triplet
from mm.losses.joint import JointLoss

__all__ = ["JointLoss", "belong_together", "hinge", "info_nce", "is_collapsed", "siglip", "triplet"]
