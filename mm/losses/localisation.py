"""Losses of sound-source localisation: pictures as maps of places, sounds as vectors, all of unit length.

The places of picture b (N, E) and row b of the sounds (B', E), B' >= B, are of one clip. Sounds past the first B belong
to no picture, such as silence: they are negatives of all. `owner` says which clips belong together and are therefore
never each other's negatives, see `mm.losses.belong_together`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mm.distributed import gather_with_gradient
from mm.features import masked_mean
from mm.losses.rows import belong_together

MOST_MB = 256  # of cosines at once, unless told otherwise; some four times that with all that follows from them
TRI_MAP = (0.65, 0.4)  # cosines above the first are the object, below the second the background (Chen et al. 2021)
TRI_MAP_WIDTH = 0.03  # how softly these two borders are drawn
TRI_MAP_TEMPERATURE = 0.07

Pool = Literal["max", "mean", "object"]


def pooled_scores(places: Tensor, mask: Tensor, sounds: Tensor, pool: Pool = "max", most_mb: float = MOST_MB) -> Tensor:
    """How well each picture and each sound go together: (B, B').

    One product of all places with all sounds; where its (B, B', N) cosines would take more than `most_mb`, so many
    pictures at a time, whose cosines are computed once more for the gradient instead of being kept.

    Args:
        places: (B, N, E) unit vectors.
        mask: (B, N) bool, True = real place.
        sounds: (B', E) unit vectors.
        pool: "max": the cosine of the best place (Mo and Morgado 2022, eq. 3); "mean": their mean, to which every
            source and every part of it adds; "object": the mean over the places whose cosine is above `TRI_MAP`[0],
            softly (Chen et al. 2021).
        most_mb: bound of the memory of the cosines.
    """
    pooled = {"max": _best_place, "mean": _mean_place, "object": _object_mean}[pool]
    row_mb = len(sounds) * places.shape[1] * places.element_size() * 1e-6
    rows = max(int(most_mb / row_mb), 1)
    if rows >= len(places) or pool == "mean":  # which needs no cosine of a place
        return pooled(places, mask, sounds)
    return _InChunks.apply(places, mask, sounds, pooled, rows)


class _InChunks(torch.autograd.Function):
    """A function of so many pictures at a time and all sounds, computed anew for its gradient."""

    @staticmethod
    def forward(
        ctx: Any, places: Tensor, mask: Tensor, sounds: Tensor, pooled: Callable[..., Tensor], rows: int
    ) -> Tensor:
        ctx.save_for_backward(places, mask, sounds)
        ctx.pooled, ctx.rows = pooled, rows
        parts = zip(places.split(rows), mask.split(rows), strict=True)
        return torch.cat([pooled(part, real, sounds) for part, real in parts])  # (B, B')

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, mask, sounds = ctx.saved_tensors
        to_places, to_sounds = torch.empty_like(places), torch.zeros_like(sounds)  # (B, N, E), (B', E)
        sounds = sounds.detach().requires_grad_()
        for start in range(0, len(places), ctx.rows):
            some = slice(start, start + ctx.rows)
            with torch.enable_grad():
                part = places[some].detach().requires_grad_()  # (rows, N, E)
                scores = ctx.pooled(part, mask[some], sounds)  # (rows, B')
            to_places[some], more = torch.autograd.grad(scores, (part, sounds), gradient[some])
            to_sounds += more
        return to_places, None, to_sounds, None, None


def _cosines(equation: str, places: Tensor, sounds: Tensor) -> Tensor:
    """Inner products, in float32 under autocast too: a temperature makes small differences large."""
    with torch.autocast(places.device.type, enabled=False):
        return torch.einsum(equation, places, sounds)


def _best_place(places: Tensor, mask: Tensor, sounds: Tensor) -> Tensor:
    cosines = _cosines("bne,ce->bcn", places, sounds)  # (B, B', N)
    return cosines.masked_fill(~mask[:, None], float("-inf")).amax(dim=2)  # (B, B')


def _mean_place(places: Tensor, mask: Tensor, sounds: Tensor) -> Tensor:
    with torch.autocast(places.device.type, enabled=False):
        means = masked_mean(places, mask)  # (B, E)
    return _cosines("be,ce->bc", means, sounds)  # (B, B')


def _object_mean(places: Tensor, mask: Tensor, sounds: Tensor) -> Tensor:
    cosines = _cosines("bne,ce->bcn", places, sounds)  # (B, B', N)
    return _weighted_mean(cosines, mask[:, None], _above(TRI_MAP[0]))  # (B, B')


def _above(border: float) -> Callable[[Tensor], Tensor]:
    return lambda cosines: torch.sigmoid((cosines - border) / TRI_MAP_WIDTH)


def _below(border: float) -> Callable[[Tensor], Tensor]:
    """1 - `_above`, which in float32 would be 0 from a cosine of 0.9 on."""
    return lambda cosines: torch.sigmoid((border - cosines) / TRI_MAP_WIDTH)


def _weighted_mean(cosines: Tensor, mask: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the last axis with weights that the cosines decide, and that have a gradient too."""
    weights = weigh(cosines) * mask
    return (weights * cosines).sum(dim=-1) / weights.sum(dim=-1).clamp_min(torch.finfo(cosines.dtype).tiny)


def scores_info_nce(scores: Tensor, temperature: Tensor | float, owner: Tensor | None = None) -> Tensor:
    """Find a picture's sound among all sounds, and a sound's picture among all pictures (Mo and Morgado 2022, eq. 4).

    Args:
        scores: (B, B'), see `pooled_scores`.
        temperature: scores are divided by it.
        owner: (B'',) or (B'', C) int64 of the first B'' >= B sounds, or None: every clip is a thing of its own.

    Returns:
        Scalar, the mean of the two directions' means.
    """
    rows = len(scores)
    target = torch.arange(rows, device=scores.device)  # (B,)
    logits = _without_relatives(scores / temperature, owner)  # (B, B')
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :rows].T, target)) / 2


def hard_way(places: Tensor, mask: Tensor, sounds: Tensor, owner: Tensor | None = None) -> Tensor:
    """A clip's object against other sounds' objects and its own background (Chen et al. 2021, eq. 5, as released).

    The tri-map: the object is where the cosine with the clip's own sound is above the upper border, the background
    where it is below the lower one, and what lies between is nobody's. The paper adds up the negatives; the authors'
    code, as here, makes each of them a class of its own (and the clip's own score a second one, times -99; here it
    stands once).

    Args:
        places, mask, sounds: see `pooled_scores`.
        owner: see `scores_info_nce`.
    """
    rows = len(places)
    own = _cosines("bne,be->bn", places, sounds[:rows])  # (B, N)
    background = _weighted_mean(own, mask, _below(TRI_MAP[1]))  # (B,)
    scores = _without_relatives(pooled_scores(places, mask, sounds, "object"), owner)  # (B, B')
    logits = torch.cat([scores, background[:, None]], dim=1) / TRI_MAP_TEMPERATURE  # (B, B' + 1)
    return functional.cross_entropy(logits, torch.arange(rows, device=logits.device))


def two_way(seen: Tensor, sounds: Tensor, owner: Tensor | None = None) -> Tensor:
    """What is seen is nearer to its own sound than to another one (Senocak et al. 2018, eq. 4 and 5).

    The softmax of the two distances should be (0, 1). The paper draws one other sound for each clip; here the mean is
    over all that the batch has. Vectors are of unit length: the authors' raw ones lose all gradient where distances
    differ by more than 20. Both entries of the softmax are added up; the authors' code takes their mean.

    Args:
        seen: (B, E) unit vectors of what the pictures show where they are attended to for their own sounds.
        sounds: (B', E) unit vectors.
        owner: see `scores_info_nce`.

    Returns:
        Scalar; a batch without negatives gives 0.
    """
    cosines = _cosines("be,ce->bc", seen, sounds)  # (B, B')
    distance = (2 - 2 * cosines).clamp_min(torch.finfo(cosines.dtype).eps).sqrt()  # (B, B')
    own = distance.diagonal()[:, None]  # (B, 1)
    negative = ~_relatives(len(seen), len(sounds), owner, seen.device)  # (B, B')
    wrong = torch.sigmoid(own - distance)  # (B, B') the softmax's first entry
    return (2 * wrong.square() * negative).sum() / negative.sum().clamp_min(1)


def map_cross_entropy(scores: Tensor, mask: Tensor, target: Tensor, temperature: Tensor | float) -> Tensor:
    """Cross-entropy of score maps with where the sound comes from (Senocak et al. 2018, section 3.4): (B,).

    Beside its places a picture has one more answer, "nowhere", whose cosine is 0: silence and sounds that come from
    outside belong there, so that the height of a peak says whether there is anything to point at.

    Args:
        scores: (B, N) cosines; those of padding may be anything.
        mask: (B, N) bool, True = real place.
        target: (B, N + 1) shares that sum to 1, nowhere last; several sources share. A row of zeros is not labelled
            and gives 0.
        temperature: cosines are divided by it.
    """
    nowhere = scores.new_zeros(len(scores), 1)  # (B, 1)
    scores = scores.masked_fill(~mask, 0)  # (B, N) finite, for the temperature's gradient
    logits = torch.cat([scores, nowhere], dim=1) / temperature  # (B, N + 1)
    padded = functional.pad(~mask, (0, 1))  # (B, N + 1)
    logits = logits.masked_fill(padded, torch.finfo(logits.dtype).min)  # finite, for its product with a target of 0
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)  # (B,)


def labelled_mean(losses: Tensor, target: Tensor) -> Tensor:
    """Mean over the labelled rows alone, so that their share does not change the learning rate; 0 if there are none.

    Under several processes: their sum by the mean number of labelled rows, so that the gradients averaged over the
    processes are those of one with all rows.

    Args:
        losses: (B,), 0 where not labelled.
        target: (B, N + 1), see `map_cross_entropy`.
    """
    with torch.no_grad():
        counts = gather_with_gradient((target.sum(dim=1) > 0).sum().to(losses.dtype)[None])  # (processes,)
    return losses.sum() / counts.mean().clamp_min(1 / len(counts))


def _relatives(rows: int, columns: int, owner: Tensor | None, device: torch.device) -> Tensor:
    """(B, B') bool: a clip's own sound, and those it belongs together with."""
    same = torch.eye(rows, columns, dtype=torch.bool, device=device)  # (B, B')
    if owner is not None:
        same[:, : len(owner)] |= belong_together(owner, rows)
    return same


def _without_relatives(logits: Tensor, owner: Tensor | None) -> Tensor:
    """Logits (B, B') with minus infinity where two clips belong together but are not one."""
    rows, columns = logits.shape
    same = _relatives(rows, columns, owner, logits.device).fill_diagonal_(False)  # (B, B')
    return logits.masked_fill(same, float("-inf"))
