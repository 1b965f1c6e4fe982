"""The metric-learning loss of a batch in which any row may lack any modality: summed over the pairs of modalities."""

import itertools
import logging
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from mm.distributed import gather_with_gradient, rank
from mm.losses.contrastive import hinge, info_nce, is_collapsed, siglip, triplet

COLLAPSE_STEPS = 20  # steps in a row that make a collapse out of chance

log = logging.getLogger(__name__)


class JointLoss:
    """One loss for every pair of modalities, over the rows that have both.

    Under several processes each computes the loss over the vectors of all: the gradient that the gathering sends back,
    averaged over the processes, is then that of one process with the whole batch.

    Args:
        name: "info_nce", "siglip", "hinge", "hardest" or "triplet".
        margin: of the hinges and the triplets.
        warmup_steps: "hardest" takes the sum of hinges before this step, for it collapses from a random start
            (Faghri et al. 2018, section 4.1).

    Raises:
        ValueError: no loss of this name.
    """

    def __init__(self, name: str, margin: float, warmup_steps: int = 0):
        if name not in ("info_nce", "siglip", "hinge", "hardest", "triplet"):
            raise ValueError(f"the loss must be info_nce, siglip, hinge, hardest or triplet: got {name!r}.")
        self.name, self.margin, self.warmup_steps = name, margin, warmup_steps
        self.recent: dict[str, deque[float]] = {}  # hardest-negative losses of the last steps, by pair

    def __call__(
        self,
        vectors: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        owner: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        step: int,
    ) -> dict[str, Tensor]:
        """{"image_text_loss": (), ...}.

        Args:
            vectors: {modality: (b, E) unit vectors}; the same modalities on every process, b may be 0.
            rows: {modality: (b,) int64, the places of these vectors in the batch, ascending}.
            owner: (B,) or (B, C) int64, see `belong_together`.
            logit_scale: inverse temperature of info_nce and siglip.
            logit_bias: of siglip.
            step: optimiser steps made.
        """
        first_row = rank() * len(owner)
        with torch.no_grad():
            places = {modality: gather_with_gradient(rows[modality] + first_row) for modality in vectors}
            owner = gather_with_gradient(owner)  # (B, ...)
        everywhere = {modality: gather_with_gradient(own) for modality, own in vectors.items()}
        parts = {}
        for first, second in itertools.combinations(everywhere, 2):
            has_second, has_first = torch.isin(places[first], places[second]), torch.isin(places[second], places[first])
            a, b = everywhere[first][has_second], everywhere[second][has_first]  # (B', E), (B', E)
            if len(a):
                both = owner[places[first][has_second]]  # (B', ...)
                pair = f"{first}_{second}"
                parts[f"{pair}_loss"] = self.of_pairs(a, b, both, logit_scale, logit_bias, step, pair)
        return parts

    def of_pairs(
        self,
        a: Tensor,
        b: Tensor,
        owner: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None,
        step: int,
        pair: str,
    ) -> Tensor:
        """The loss of B rows that have both modalities, a and b (B, E): per row, whatever the loss."""
        if self.name == "info_nce":
            return info_nce(a, b, logit_scale, owner)
        if self.name == "siglip":
            if logit_bias is None:
                raise ValueError("siglip needs a logit bias: build the head with one.")
            return siglip(a, b, logit_scale, logit_bias, owner)
        if self.name == "triplet":
            return triplet(a, b, owner, self.margin)
        hardest = self.name == "hardest" and step >= self.warmup_steps
        loss = hinge(a, b, owner, self.margin, hardest=float(hardest))
        if hardest:
            self.watch(pair, float(loss.detach()), len(a))
        return loss / len(a)

    def watch(self, pair: str, loss: float, batch: int) -> None:
        """Say so when the hardest-negative loss of a pair has stayed where it is when every score is equal."""
        recent = self.recent.setdefault(pair, deque(maxlen=COLLAPSE_STEPS))
        recent.append(loss / batch)
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
