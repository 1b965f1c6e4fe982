"""Which metric-learning loss, and what each of them can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mm.config import ConfigError

Name = Literal[
    "info_nce",
    "siglip",
    "hinge",
    "hardest",
    "triplet",
    "contrastive",
    "n_pair",
    "multi_similarity",
    "order",
    "cosine_semantic",
]
Miner = Literal["all", "hard", "semi_hard", "distance_weighted"]

MARGINS = {  # the usual ones
    "hinge": 0.2,  # of the cosine; Faghri et al. 2018
    "hardest": 0.2,  # the same
    "triplet": 0.2,  # of the distance; Schroff et al. 2015 have it of its square
    "contrastive": 1.0,  # a distance: vectors that are 60 degrees apart are far enough
    "order": 0.05,  # of the order score; Vendrov et al. 2016, images and captions
    "cosine_semantic": 0.1,  # of the cosine; the code of Salvador et al. 2017
}
READ_BY = {  # setting: the losses that read it
    "margin": tuple(MARGINS),
    "warmup_steps": ("hardest",),
    "miner": ("triplet",),
    "l2": ("n_pair",),
    **dict.fromkeys(("alpha", "beta", "base", "epsilon"), ("multi_similarity",)),
    **dict.fromkeys(("mismatch", "class_weight"), ("cosine_semantic",)),
}


@dataclass
class LossConfig:
    """Metric-learning loss, summed over the pairs of modalities."""

    name: Name = "info_nce"  # see mm.losses
    margin: float = 0.0  # of all but info_nce, siglip, n_pair and multi_similarity; 0 = the usual, mm.losses.MARGINS
    warmup_steps: int = 200  # hardest, and miner=hard: steps before, with the sum of hinges or all triplets
    miner: Miner = "all"  # triplet only: which triplets, see mm.losses.miners
    l2: float = 0.002  # n_pair only: weight of half the mean square of the vectors' lengths
    alpha: float = 2.0  # multi_similarity only: steepness of the pull
    beta: float = 50.0  # multi_similarity only: steepness of the push
    base: float = 0.5  # multi_similarity only: cosine at which both are half as strong as they get
    epsilon: float = 0.1  # multi_similarity only: a negative is kept if it is no worse than the partner by more
    mismatch: float = 0.8  # cosine_semantic only: share of the rows that are beside another one's partner
    class_weight: float = 0.01  # cosine_semantic only: of each modality's classes; the pairs weigh 1 less twice that
    chunk: int = 0  # rows encoded at a time on each process, and once more for the gradient; 0 = all of a batch
    memory: int = 0  # vectors of earlier batches, of each modality, that are negatives too
    memory_from: int = 200  # step from which they are kept: vectors that still change fast teach nothing


def idle(cfg: LossConfig) -> list[str]:
    """The settings that this loss does not read."""
    keys = {key for key, names in READ_BY.items() if cfg.name not in names}
    if cfg.name == "triplet" and cfg.miner == "hard":
        keys.discard("warmup_steps")
    return sorted(keys if cfg.memory else keys | {"memory_from"})


def check(cfg: LossConfig) -> None:
    """Reject settings that are out of their range.

    Raises:
        ConfigError: there is one.
    """
    for key in ("margin", "warmup_steps", "l2", "epsilon", "chunk", "memory", "memory_from"):
        if not getattr(cfg, key) >= 0:
            raise ConfigError(f"loss.{key} must be at least 0: got {getattr(cfg, key)}.")
    for key in ("alpha", "beta"):
        if not getattr(cfg, key) > 0:
            raise ConfigError(f"loss.{key} must be positive: got {getattr(cfg, key)}.")
    for key, most in (("mismatch", 1.0), ("class_weight", 0.5)):
        if not 0 <= getattr(cfg, key) <= most:
            raise ConfigError(f"loss.{key} must lie in 0..{most:g}: got {getattr(cfg, key)}.")
