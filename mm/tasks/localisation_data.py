"""What a run of localisation reads: pairs of a picture and a sound, and where in it the sound comes from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm import data
from mm.config import ConfigError
from mm.data import Batches, Cache, Item, Items, Pairs, UnreadableError, readable, stable_id
from mm.data.gallery import Prepare, read_all, unique
from mm.distributed import rank, world_size
from mm.media import MediaError
from mm.tasks.localisation import Localisation
from mm.tasks.localisation_model import MODALITIES, LocalisationModel

log = logging.getLogger(__name__)

SILENT = 1e-4  # peak below which a clip is silent: a few steps of 16 bits
DRAWN = (data.SoundingScenes, data.Mosaics)  # items that are whole by construction


def load(cfg: Localisation, splits: Sequence[str] = ("train", "val", "test")) -> list[Sequence[Item]]:
    """The items of some splits, each with a picture and a sound.

    Raises:
        UnreadableError: an item without one of them, but in a training split with data.skip_bad.
        ConfigError: boxes are to be learned from, and no training item has one.
    """
    found: list[Sequence[Item]] = []
    for split in splits:
        items = data.load_localised(cfg.data, split, cfg.seed)
        items = items if isinstance(items, DRAWN) else paired(items, split, cfg.data.skip_bad and split == "train")
        if split == "train" and cfg.labelled and not any(labelled(item, cfg) for item in items):
            raise ConfigError(
                f"mode={cfg.mode} learns from boxes: of {len(items)} training items of {cfg.data.name!r} none is "
                f"labelled at labels={cfg.labelled:g}. Set mode=unsupervised, or give more labels."
            )
        found.append(items)
    return found


def paired(items: Sequence[Item], split: str, skip: bool) -> Items:
    """The items that have a picture and a sound; those that lack one are named and counted, or are an error.

    Raises:
        UnreadableError: an item lacks one, and may not be left out.
    """
    faults = data.Faults(f"{split} pairs", skip)
    kept = []
    for item in items:
        if lacking := [modality for modality in MODALITIES if not getattr(item, modality)]:
            faults.add(f"{item.id} has no {' and no '.join(lacking)}: every item must have a picture and a sound.")
        else:
            kept.append(item)
    return faults.items(kept)


def labelled(item: Item, cfg: Localisation) -> bool:
    """Whether it is known in training where the sound of an item comes from: a draw by its id, alike in every run."""
    known = "boxes" in item.meta or item.meta.get("sounding") == []  # of noise it is known that nothing sounds
    return known and stable_id(f"{cfg.seed} {item.id}") / 2**63 < cfg.labelled


class Target:
    """An item -> (N + 1,) the share of its sound that comes from each cell, and from nowhere; zeros = not labelled.

    The boxes of all annotators count alike, and so does each pixel of them; sources of several things share.

    Args:
        cfg: which items are labelled.
        grid: (H, W) of the map of the image encoder.
    """

    def __init__(self, cfg: Localisation, grid: tuple[int, int]):
        self.cfg, self.grid = cfg, grid

    def __call__(self, item: Item) -> Tensor:
        """(N + 1,) float32."""
        rows, columns = self.grid
        target = torch.zeros(rows * columns + 1)  # (N + 1,)
        if not labelled(item, self.cfg):
            return target
        boxes = [box for boxes in item.meta.get("boxes", []) for box in boxes]
        if not boxes:
            target[-1] = 1.0
            return target
        shares = np.zeros((rows, columns))  # (H, W)
        for left, top, right, bottom in boxes:
            shares += np.outer(covered(top, bottom, rows), covered(left, right, columns))
        if not shares.any():
            raise ValueError(f"{item.id}: its boxes {boxes} cover nothing of the picture. Repair them.")
        target[:-1] = torch.from_numpy((shares / shares.sum()).ravel())
        return target


def covered(start: float, end: float, cells: int) -> np.ndarray:
    """How much of each of `cells` equal parts of 0..1 lies between start and end: (cells,) in 0..1."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None) * cells


class Audible:
    """Reads a sound as an encoder does, and rejects silence: it would be learned to come from where a picture shows.

    Args:
        prepare: of the audio encoder.
    """

    def __init__(self, prepare: Prepare):
        self.prepare = prepare

    def __call__(self, source: Any, view: int = 0) -> Tensor:
        """(T,).

        Raises:
            MediaError: it is silent.
        """
        wave = self.prepare(source, view)
        if float(wave.abs().max()) < SILENT:
            name = source if isinstance(source, (str, Path)) else "the given wave"
            raise MediaError(f"{name} is silent: its peak is below {SILENT}. Leave it out of the training pairs.")
        return wave


def training_batches(model: LocalisationModel, items: Sequence[Item], cfg: Localisation) -> Batches:
    """The batches of a run: a pure function of the seed and the step.

    Raises:
        UnreadableError: a damaged or silent file, but with data.skip_bad.
    """
    prepare: dict[str, Prepare] = {
        "image": model.encoder("image").prepare,
        "audio": Audible(model.encoder("audio").prepare),
    }
    if cfg.data.skip_bad and not isinstance(items, DRAWN):
        items = readable(items, prepare, cfg.data.workers)  # before the caches, which would stop at a damaged file
        items = paired(items, "train", skip=True)  # what has a text too is left with it alone
    elif "audio" in model.cached:
        for _, wave in read_all(unique(items, "audio"), prepare["audio"], 0, workers=2, ahead=2):
            if isinstance(wave, UnreadableError):  # what is cached is not looked at while training
                raise wave
    grid = grid_of(model, items[0])
    if grid[0] * grid[1] < 2:
        raise ConfigError(
            f"a map must have cells to point at: got {grid}. Set encoder.image.layer to an earlier layer."
        )
    pairs = Pairs(
        items,
        {modality: function for modality, function in prepare.items() if modality not in model.cached},
        cfg.seed,
        cache=caches(model, items, cfg),
        target=Target(cfg, grid) if cfg.labelled else None,
    )
    return Batches(pairs, cfg.data.batch_size, cfg.seed, cfg.data.workers, rank(), world_size())


def caches(model: LocalisationModel, items: Sequence[Item], cfg: Localisation) -> dict[str, Cache]:
    """What the frozen parts say of every source of some items, read from disk or computed now."""
    return data.caches({m: model.encoder(m) for m in sorted(model.cached)}, items, cfg.data, 1)


def grid_of(model: LocalisationModel, item: Item) -> tuple[int, int]:
    """(H, W) of the map of the image encoder."""
    rows, columns = model.encoder("image").encode(item.image[:1]).grid
    return rows, columns


def decides(val: Sequence[Item], cfg: Localisation) -> str:
    """The metric that says which weights of a run are best: without boxes in training, none are used to choose."""
    if cfg.mode != "unsupervised" and any("boxes" in item.meta for item in val):
        return "top1"
    if len(val) < 2:
        raise ConfigError(
            f"what has no box is judged by other sounds: val must have two items at least, got {len(val)}. Give more."
        )
    return "off_screen_AUROC"
