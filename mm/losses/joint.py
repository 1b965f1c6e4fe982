"""The metric-learning loss of a batch in which any row may lack any modality: summed over the pairs of modalities."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from mm.distributed import gather_with_gradient, rank
from mm.losses import miners
from mm.losses.contrastive import hinge, info_nce, is_collapsed, siglip, triplet
from mm.losses.memory import Memory
from mm.losses.order import order_hinge, specific_first
from mm.losses.pairs import class_loss, contrastive_loss, cosine_pairs, multi_similarity, n_pair
from mm.losses.settings import MARGINS, LossConfig

COLLAPSE_STEPS = 20  # steps in a row that make a collapse out of chance
SUMMED = ("hinge", "hardest", "order")  # losses of which both directions are added, not averaged

Kept = tuple[Tensor, Tensor]  # vectors of earlier batches and their owners

log = logging.getLogger(__name__)


class JointLoss:
    """One loss for every pair of modalities, over the rows that have both.

    Under several processes each computes the loss over the vectors of all: the gradient that the gathering sends back,
    averaged over the processes, is then that of one process with the whole batch.

    Args:
        cfg: which loss. "hardest" takes the sum of hinges before `warmup_steps`, for it collapses from a random start
            (Faghri et al. 2018, section 4.1); a triplet loss of the hard ones takes all triplets.
        memory: {modality: vectors of earlier batches}, filled here, on every process with the vectors of all. They are
            negatives of both directions, and never rows that must be found: first comes the loss of the batch and of
            what is kept, then the batch is kept too.

    Raises:
        ValueError: `cfg.memory` asks for a memory and there is none.
    """

    def __init__(self, cfg: LossConfig, memory: Mapping[str, Memory] | None = None):
        if bool(cfg.memory) != bool(memory):
            raise ValueError(f"loss.memory={cfg.memory} needs a memory of each modality: got {list(memory or {})}.")
        self.cfg = cfg
        self.margin = cfg.margin or MARGINS.get(cfg.name, 0.0)
        self.memory = dict(memory or {})
        self.recent: dict[str, deque[float]] = {}  # hardest-negative losses of the last steps, by pair

    def __call__(
        self,
        vectors: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        owner: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        step: int,
        logits: Mapping[str, Tensor] | None = None,
        target: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """{"image_text_loss": (), ...}, and of cosine_semantic {"image_class_loss": (), ...}.

        Args:
            vectors: {modality: (b, E)}, unit vectors unless the loss asks for others; the same modalities on every
                process, b may be 0.
            rows: {modality: (b,) int64, the places of these vectors in the batch, ascending}.
            owner: (B,) or (B, C) int64, see `belong_together`.
            logit_scale: inverse temperature of info_nce and siglip.
            logit_bias: of siglip.
            step: optimiser steps made; what is drawn by chance is drawn by it.
            logits: {modality: (b, K)} of the classes, of cosine_semantic.
            target: (B,) int64 classes, -1 = not known.
        """
        first_row = rank() * len(owner)
        with torch.no_grad():
            places = {modality: gather_with_gradient(rows[modality] + first_row) for modality in vectors}
            owner = gather_with_gradient(owner)  # (B, ...)
        everywhere = {modality: gather_with_gradient(own) for modality, own in vectors.items()}
        remembers = self.memory if step >= self.cfg.memory_from else {}
        kept = {modality: memory.kept() for modality, memory in remembers.items()}
        parts = {}
        for modalities in itertools.combinations(everywhere, 2):
            first, second = specific_first(*modalities) if self.cfg.name == "order" else modalities
            has_second, has_first = torch.isin(places[first], places[second]), torch.isin(places[second], places[first])
            a, b = everywhere[first][has_second], everywhere[second][has_first]  # (B', E), (B', E)
            if len(a):
                both = owner[places[first][has_second]]  # (B', ...)
                one_way = partial(self.of_pairs, logit_scale=logit_scale, logit_bias=logit_bias, step=step)
                loss = self.of_batch(a, b, both, step, one_way, kept.get(first), kept.get(second))
                pair = "_".join(modalities)
                if self.cfg.name == "hardest" and step >= self.cfg.warmup_steps:
                    self.watch(pair, float(loss.detach()), len(a))
                parts[f"{pair}_loss"] = loss
        if self.cfg.name == "cosine_semantic":
            parts |= self.of_classes(logits, target, places)
        for modality, memory in remembers.items():
            memory.add(everywhere[modality], owner[places[modality]])
        return parts

    def of_batch(
        self,
        a: Tensor,
        b: Tensor,
        owner: Tensor,
        step: int,
        loss: Callable[..., Tensor],
        kept_a: Kept | None,
        kept_b: Kept | None,
    ) -> Tensor:
        """Find the rows of `b` for those of `a` (B, E), and back, each among the batch and what is kept of before."""
        if kept_a is None and not self.mines(step):
            return loss(a, b, owner, both_ways=True)
        if self.cfg.name == "order":  # -|max(0, b - a)|^2 is also the score of -b, now the specific one, and -a
            kept_a = kept_a and (-kept_a[0], kept_a[1])
            back = loss(-b, *_longer(-a, owner, kept_a), both_ways=False)
        else:
            back = loss(b, *_longer(a, owner, kept_a), both_ways=False)
        total = loss(a, *_longer(b, owner, kept_b), both_ways=False) + back
        return total if self.cfg.name in SUMMED else total / 2

    def of_pairs(
        self,
        a: Tensor,
        b: Tensor,
        owner: Tensor,
        both_ways: bool,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        step: int,
    ) -> Tensor:
        """The loss by its name, per row of a (B, E); rows of b (B', E) past the first B have no partner."""
        cfg, margin = self.cfg, self.margin
        if cfg.name == "info_nce":
            return info_nce(a, b, logit_scale, owner, both_ways)
        if cfg.name == "siglip":
            if logit_bias is None:
                raise ValueError("siglip needs a logit bias: build the head with one.")
            return siglip(a, b, logit_scale, logit_bias, owner)
        if self.mines(step):
            return miners.mined_triplet(a, b, self.mined(a, b, owner, step), margin)
        if cfg.name == "triplet":
            return triplet(a, b, owner, margin, both_ways)
        if cfg.name == "contrastive":
            return contrastive_loss(a, b, owner, margin)
        if cfg.name == "n_pair":
            return n_pair(a, b, owner, cfg.l2, both_ways)
        if cfg.name == "multi_similarity":
            return multi_similarity(a, b, owner, cfg.alpha, cfg.beta, cfg.base, cfg.epsilon, both_ways)
        if cfg.name == "order":
            return order_hinge(a, b, owner, margin, both_ways) / len(a)
        if cfg.name == "cosine_semantic":
            return (1 - 2 * cfg.class_weight) * cosine_pairs(a, b, owner, margin, cfg.mismatch, step)
        hardest = cfg.name == "hardest" and step >= cfg.warmup_steps
        return hinge(a, b, owner, margin, float(hardest), both_ways) / len(a)

    def mines(self, step: int) -> bool:
        """Whether triplets are chosen: the hard ones not before the end of the warm-up, for these collapse as well."""
        return self.cfg.miner != "all" and not (self.cfg.miner == "hard" and step < self.cfg.warmup_steps)

    def mined(self, a: Tensor, b: Tensor, owner: Tensor, step: int) -> miners.Triplets:
        """What the miner chooses, anchors being rows of `a`."""
        if self.cfg.miner == "hard":
            return miners.hard(a, b, owner)
        if self.cfg.miner == "semi_hard":
            return miners.semi_hard(a, b, owner, self.margin)
        return miners.distance_weighted(a, b, owner, self.margin, step)

    def of_classes(
        self, logits: Mapping[str, Tensor] | None, target: Tensor | None, places: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """How well the classes of all rows are told from each modality's vectors.

        Raises:
            ValueError: there is no logit, or no class to learn.
        """
        if not logits or target is None:
            raise ValueError('cosine_semantic needs logits of the classes, and batches with a class as "target".')
        with torch.no_grad():
            target = gather_with_gradient(target)  # (B,)
        found = {modality: gather_with_gradient(own) for modality, own in logits.items()}  # (b, K)
        return {
            f"{modality}_class_loss": self.cfg.class_weight * class_loss(own, target[places[modality]])
            for modality, own in found.items()
        }

    def watch(self, pair: str, loss: float, batch: int) -> None:
        """Say so when a pair's hardest-negative loss, per row, has stayed where it is when every score is equal."""
        recent = self.recent.setdefault(pair, deque(maxlen=COLLAPSE_STEPS))
        recent.append(loss)
        if len(recent) == COLLAPSE_STEPS and is_collapsed(list(recent), 1, self.margin):
            recent.clear()
            log.warning(
                "the hardest-negative loss of %s has stayed at 2 x margin x batch = %.4g for %d steps: the embeddings "
                "have collapsed to one point. Start again with a longer loss.warmup_steps, a larger batch or a smaller "
                "optim.lr.",
                pair,
                2 * self.margin * batch,
                COLLAPSE_STEPS,
            )


def _longer(rows: Tensor, owner: Tensor, kept: Kept | None) -> tuple[Tensor, Tensor]:
    """Rows (B, E) and their owners (B, C), and behind them what is kept of earlier batches."""
    return (rows, owner) if kept is None else (torch.cat([rows, kept[0]]), torch.cat([owner, kept[1]]))
