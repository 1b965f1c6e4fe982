"""Localisation: the whole evaluation of VGG-SS against the published loop; the loss of all pairs; their memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from benchmarks.result import STATUS, Result, alternate, extra_memory_mb, in_own_process
from mm.losses import pooled_scores, scores_info_nce
from mm.metrics import localisation as metrics
from mm.metrics.boxes import SIDE, Boxes


def drawn(images: int) -> list[list[list[list[float]]]]:
    """Boxes as in VGG-SS: one annotator, mostly one box, of any size."""
    generator = np.random.default_rng(0)
    boxes = []
    for count in generator.choice([1, 2, 3], images, p=[0.9, 0.07, 0.03]):
        corners = np.sort(generator.random((count, 2, 2)), axis=1).reshape(count, 4)  # (boxes, 4)
        boxes.append([corners.tolist()])
    return boxes


def scored(images: int) -> np.ndarray:
    """(images, 14, 14) float32 random maps."""
    return np.random.default_rng(1).standard_normal((images, 14, 14), np.float32)


def by_loop(maps: np.ndarray, boxes: Sequence[Boxes]) -> np.ndarray:
    """The published algorithm, image by image: sort all pixels, compare, add up in float64."""
    found = []
    for scores, ((*corners,),) in zip(maps, boxes, strict=True):
        truth = np.zeros((SIDE, SIDE))
        for box in corners:
            left, top, right, bottom = (int(SIDE * max(share, 0)) for share in box)
            truth[top:bottom, left:right] = 1
        plane = functional.interpolate(torch.from_numpy(scores)[None, None], (SIDE, SIDE), mode="bilinear")
        scaled = -plane[0, 0].numpy()
        scaled = 1 - (scaled - scaled.min()) / (scaled.max() - scaled.min())
        mask = (scaled > np.sort(scaled.flatten())[SIDE * SIDE // 2]).astype(np.float64)
        found.append(np.sum(mask * truth) / max(np.sum(truth) + np.sum(mask * (truth == 0)), 1))
    return np.array(found)


def evaluation_memory_mb(images: int) -> float:
    """What the evaluation of so many images adds to the memory of the process."""
    maps, boxes = scored(images), drawn(images)
    metrics.evaluate(maps[:1], boxes[:1])  # libraries take what they need once
    return extra_memory_mb(lambda: metrics.evaluate(maps, boxes))


def bench_vggss(images: int = 5158, repeats: int = 1) -> Iterator[Result]:
    """Every metric of VGG-SS, upper bound included, against the published loop, which gives cIoU alone.

    Args:
        images: of the test set.
        repeats: runs of each.
    """
    maps, boxes = scored(images), drawn(images)
    cpu, _, (_, expected) = alternate(repeats, lambda: metrics.evaluate(maps, boxes), lambda: by_loop(maps, boxes))
    checks = {"most that an image differs": (float(np.abs(metrics.ious(maps, boxes) - expected).max()), 0.0)}
    setting = f"{images:,} images, maps of 14 x 14"
    yield Result("localisation_vggss", "CPU s", *cpu, 1.1, checks, setting)
    if STATUS.exists():
        extra = in_own_process(evaluation_memory_mb, images)
        enlarged = images * SIDE * SIDE * 4e-6
        yield Result("localisation, memory", "MB", extra, enlarged, 4.0, {}, f"{setting}; against all enlarged maps")


Learned = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # a loss, and its gradients by what the encoders gave


def batch(clips: int, side: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """What encoders might give of a batch: places (B, N, E) and sounds (B, E), both with a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = (clips, side * side, dim), (clips, dim)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def learned(clips: int, side: int, dim: int, most_mb: float, dtype: torch.dtype = torch.float32) -> Learned:
    """The loss of all pairs of a batch, and its gradients."""
    raw = batch(clips, side, dim, dtype)
    places, sounds = (functional.normalize(x, dim=-1) for x in raw)
    mask = torch.ones(clips, side * side, dtype=torch.bool)
    loss = scores_info_nce(pooled_scores(places, mask, sounds, "max", most_mb), 0.07)
    return (loss.detach(), *torch.autograd.grad(loss, raw))


def learned_by_loop(clips: int, side: int, dim: int, dtype: torch.dtype = torch.float32) -> Learned:
    """The same, a sound at a time against the map of every picture."""
    raw = batch(clips, side, dim, dtype)
    places, sounds = (functional.normalize(x, dim=-1) for x in raw)
    columns = [torch.stack([(one @ sound).max() for one in places]) for sound in sounds]
    logits, target = torch.stack(columns, dim=1) / 0.07, torch.arange(clips)
    loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    return (loss.detach(), *torch.autograd.grad(loss, raw))


def step_memory_mb(clips: int, side: int, dim: int, most_mb: int) -> float:
    """What scores, loss and their gradients add to the memory that places and their gradients take anyway."""
    learned(2, side, dim, most_mb)  # libraries take what they need once
    places = clips * side * side * dim * 4e-6
    return extra_memory_mb(lambda: learned(clips, side, dim, most_mb)) - 4 * places


def bench_pairs(
    clips: int = 256, side: int = 14, dim: int = 512, most_mb: int = 16, repeats: int = 1
) -> Iterator[Result]:
    """All B x B pairs of a batch at once against a loop over them; and bounded by chunks against all at once.

    Args:
        clips: B.
        side: cells in a row of a map.
        dim: of a place and of a sound.
        most_mb: bound of the chunks.
        repeats: runs of each.
    """
    cpu, _, _ = alternate(repeats, lambda: learned(clips, side, dim, 1e9), lambda: learned_by_loop(clips, side, dim))
    few = max(clips // 8, 2)  # in float64, where no two places are equally good by rounding
    loop = learned_by_loop(few, side, dim, torch.float64)
    checks = {}
    for name, most in (("most that loss or gradient differs", 1e9), ("in chunks", 1e-3)):
        ours = learned(few, side, dim, most, torch.float64)
        checks[name] = (max(float((a - b).abs().max()) for a, b in zip(ours, loop, strict=True)), 1e-12)
    setting = f"{clips} x {clips} pairs, maps of {side} x {side} x {dim}, loss and gradients"
    yield Result("localisation_pairs", "CPU s", *cpu, 3.0, checks, setting)
    if STATUS.exists():
        many, narrow = 4 * clips, max(dim // 4, 1)  # as many numbers of places, sixteen times as many pairs
        peak = [in_own_process(step_memory_mb, many, side, narrow, most) for most in (most_mb, 10**6)]
        cosines = many * many * side * side * 4e-6
        note = f"{many} x {many} pairs of {narrow} numbers: what they add to places and gradients, in chunks of "
        note += f"{most_mb} MB of cosines against all {cosines:,.0f} MB at once"
        yield Result("localisation_pairs, memory", "MB", *peak, 2.0, {}, note)
