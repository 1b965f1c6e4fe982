"""How well sounds are localised: metrics of a split, beside the controls without which they say nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm.data import Cache, Entry, Item, prepared
from mm.data.gallery import read_all
from mm.features import Features
from mm.metrics import control_maps
from mm.metrics.boxes import Boxes, consensus_map
from mm.metrics.localisation import evaluate as evaluate_maps
from mm.metrics.localisation import ious
from mm.metrics.sources import auroc, confidence, detection, found_sources
from mm.modes import in_eval_mode
from mm.tasks.localisation import Localisation
from mm.tasks.localisation_data import SILENT, caches
from mm.tasks.localisation_model import LocalisationModel

log = logging.getLogger(__name__)

BATCH = 64
NOISE = 0.1  # deviation of the white noise that stands for a sound from nowhere
GRID = (7, 7)  # of the random map
APART = 0.2  # of a picture's side: nearer peaks are one; things of the embedded world lie 0.23 apart, or a cell less
BOUNDS = ("upper_bound@0.5", "upper_bound_AUC")  # what the rule allows, of whatever map


class Mapped(NamedTuple):
    """The score maps of the n pictures of a split.

    Attributes:
        own: (n, H, W) cosines with the picture's own sound.
        others: {control: (n, H, W)}, the same with other sounds, or with none.
    """

    own: np.ndarray
    others: dict[str, np.ndarray]


def map_items(model: LocalisationModel, items: Sequence[Item], cfg: Localisation, controls: bool = True) -> Mapped:
    """Score maps of each item's first picture with its own first sound and, as controls, with others.

    `shuffled_audio`: another item's sound, of another class where classes are known. `mean_audio`: the mean of all
    sounds of the split, so that only the picture differs. `silence`, `noise`: none, and white noise. `object_prior`:
    how strongly the picture's features respond, without any sound (Mo and Morgado 2022, section 3.3).

    Args:
        model: that localises.
        items: of one split.
        cfg: settings of the run.
        controls: also the controls but for `shuffled_audio`, which is always there. Without them, which is how weights
            are chosen, the class of a sound is not looked at.
    """
    every = list(items)
    cached = caches(model, every, cfg)
    with in_eval_mode(model):
        return _mapped(model, every, cached, np.random.default_rng(cfg.seed), controls)


def _mapped(
    model: LocalisationModel,
    items: Sequence[Item],
    cached: Mapping[str, Cache],
    generator: np.random.Generator,
    controls: bool,
) -> Mapped:
    head = model.head
    vectors = torch.cat([features.vector for features in encoded(model, items, "audio", cached, controls)])  # (n, D_v)
    sounds = {"own": vectors, "shuffled_audio": vectors[others(items, generator, by_class=controls)]}
    if controls:
        sounds["mean_audio"] = vectors.mean(dim=0, keepdim=True)
        sounds["silence"], sounds["noise"] = quiet(model, generator).split(1)
    unit = {name: head.sounds(x) for name, x in sounds.items()}  # (n or 1, E)
    maps: dict[str, list[Tensor]] = {name: [] for name in [*unit, *(["object_prior"] if controls else [])]}
    start = 0
    for image in encoded(model, items, "image", cached):
        places = head.places(image)  # (b, N, E)
        for name, of_all in unit.items():
            some = of_all[start : start + len(places)] if len(of_all) == len(items) else of_all  # (b or 1, E)
            cosines = torch.einsum("bne,be->bn", places, some.expand(len(places), -1))  # (b, N)
            maps[name].append(cosines.unflatten(1, image.grid).cpu())  # (b, H, W)
        if controls:
            strength = head.moved(image.map.float().abs().mean(dim=2), image.grid)  # (b, N)
            maps["object_prior"].append(strength.unflatten(1, image.grid).cpu())  # (b, H, W)
        start += len(places)
    found = {name: torch.cat(parts).numpy() for name, parts in maps.items()}  # (n, H, W) each
    return Mapped(found.pop("own"), found)


def encoded(
    model: LocalisationModel, items: Sequence[Item], modality: str, cached: Mapping[str, Cache], tell: bool = False
) -> Iterator[Features]:
    """Features of each item's first source of a modality, batch by batch; silent sounds are told.

    Args:
        model: that has the encoder.
        items: of one split.
        modality: "image" or "audio".
        cached: {modality: trunk outputs}.
        tell: also read cached sounds, to find the silent ones.

    Raises:
        UnreadableError: a damaged file, named.
    """
    encoder = model.encoder(modality).folded()
    entries = [Entry(item.id, item.owner, getattr(item, modality)[0], {}) for item in items]
    prepare = cached[modality].row if modality in cached else encoder.prepare
    silent = []
    if tell and modality in cached:  # what is cached is not looked at below
        waves = read_all(entries, encoder.prepare, 0, workers=2, ahead=2 * BATCH)
        silent = [entry.id for entry, wave in waves if isinstance(wave, Tensor) and wave.abs().max() < SILENT]
    for batch in prepared(entries, prepare, BATCH, workers=2):
        if modality == "audio" and modality not in cached:
            peaks = batch.values.abs().amax(dim=1)  # (b,)
            silent += [entry.id for entry, peak in zip(batch.entries, peaks, strict=True) if peak < SILENT]
        lengths = None if batch.lengths is None or modality == "image" else batch.lengths.to(model.device)
        yield encoder(batch.values.to(model.device), lengths, from_trunk=modality in cached)
    if silent:
        log.warning("%d of %d sounds are silent and count all the same: %s", len(silent), len(items), silent[:5])


def others(items: Sequence[Item], generator: np.random.Generator, by_class: bool = True) -> np.ndarray:
    """(n,) for each item the place of another one.

    Args:
        items: with `meta["category"]`, the class, where it is known.
        generator: of the choice.
        by_class: of another class; else, and where all are of one class, of another owner.
    """
    order = generator.permutation(len(items))
    rank = np.argsort(order)  # (n,) of each item in it
    kinds = [item.meta.get("category", item.owner) if by_class else item.owner for item in items]
    if len(set(kinds)) < 2:
        kinds = [item.owner for item in items]
    if len(set(kinds)) < 2:
        log.warning("all %d items are of one owner: the sound of another is their own", len(items))
        return np.arange(len(items))
    found = np.arange(len(items))
    for place in range(len(items)):
        for ahead in range(1, len(items)):  # the next in a random order that will do; nearly always the first
            other = order[(rank[place] + ahead) % len(items)]
            if kinds[other] != kinds[place]:
                found[place] = other
                break
    return found


def quiet(model: LocalisationModel, generator: np.random.Generator) -> Tensor:
    """Vectors of a second of silence and of white noise: (2, D_v)."""
    encoder = model.encoder("audio")
    noise = torch.from_numpy(NOISE * generator.standard_normal(encoder_rate(model))).float()
    waves = torch.stack([torch.zeros_like(noise), noise.clamp(-1, 1)])  # (2, T)
    return encoder(waves.to(model.device)).vector  # (2, D_v)


def encoder_rate(model: LocalisationModel) -> int:
    """Samples in a second of what the audio encoder takes."""
    return int(model.encoder("audio").config["sample_rate"])


def evaluate(model: LocalisationModel, items: Sequence[Item], cfg: Localisation) -> dict[str, float]:
    """The metrics of a split, without controls: what training watches."""
    return metrics_of(map_items(model, items, cfg, controls=False), items, cfg)


def metrics_of(mapped: Mapped, items: Sequence[Item], cfg: Localisation) -> dict[str, float]:
    """cIoU@0.5, AUC, top1 and the rest of `mm.metrics.localisation.evaluate`, of the items whose boxes are known.

    Also the AUROC of the highest score of a picture's own sound against the same of silence, of noise and of another
    item's sound (`off_screen`), and AP and max_F1 with these as negatives; and where several things sound,
    `all_found`, the share of pictures whose so many highest separate peaks lie in all of them.
    """
    boxed = [place for place, item in enumerate(items) if item.meta.get("boxes")]
    found: dict[str, float] = {}
    if boxed:
        boxes, own = [items[place].meta["boxes"] for place in boxed], mapped.own[boxed]
        found |= evaluate_maps(own, boxes, cfg.protocol, cfg.rule, cfg.threshold)
        several = [place for place, item in enumerate(items) if len(item.meta.get("sounding", ())) > 1]
        if several:
            sources = [[[box] for box in items[place].meta["boxes"][0]] for place in several]
            apart = APART * min(mapped.own.shape[1:])  # cells
            found["all_found"] = float(found_sources(mapped.own[several], sources, apart).mean())
    peaks = peak(mapped.own)
    for control, name in (("silence", "silence"), ("noise", "noise"), ("shuffled_audio", "off_screen")):
        if control in mapped.others and len(items) > 1:
            found[f"{name}_AUROC"] = auroc(peaks, peak(mapped.others[control]))
    if boxed and "silence" in mapped.others:
        negatives = np.concatenate([confidence(mapped.others[name]) for name in ("silence", "shuffled_audio")])
        detected = detection(ious(own, boxes, cfg.protocol, cfg.rule, cfg.threshold), confidence(own), negatives)
        found |= {name: detected[name] for name in ("AP", "max_F1")}
    return found


def peak(maps: np.ndarray) -> np.ndarray:
    """(n, H, W) -> (n,) the highest score of each map."""
    return maps.reshape(len(maps), -1).max(axis=1)


def score(mapped: Mapped, items: Sequence[Item], cfg: Localisation) -> tuple[dict[str, float], dict[str, dict]]:
    """The metrics of a split, and the controls that must stand beside them.

    Controls: `whole_image`, `centre_disc`, `mean_prior` (the mean truth of this very split, which favours it) and
    `random` maps, which see and hear nothing; `any_object`, the expectation of pointing at any of the things that a
    picture is known to show; and those of `map_items`.
    """
    metrics = metrics_of(mapped, items, cfg)
    boxed = [place for place, item in enumerate(items) if item.meta.get("boxes")]
    if not boxed:
        log.info("no box of this split is known: where the sounds come from is not scored")
        return metrics, {}
    boxes: list[Boxes] = [items[place].meta["boxes"] for place in boxed]
    n = len(boxes)
    maps = {
        "whole_image": control_maps.whole_image(n),
        "centre_disc": control_maps.centre_disc(n),
        "mean_prior": control_maps.mean_prior((consensus_map(each) for each in boxes), n),
        "random": control_maps.random(n, GRID, np.random.default_rng(cfg.seed)),
        **{name: of_all[boxed] for name, of_all in mapped.others.items()},
    }
    quiet_log = logging.getLogger("mm.metrics.localisation")
    level = quiet_log.level
    quiet_log.setLevel(logging.ERROR)  # what it says of the truth has been said once
    try:
        rule = cfg.protocol, cfg.rule, cfg.threshold
        controls = {name: evaluate_maps(of_all, boxes, *rule) for name, of_all in maps.items()}
    finally:
        quiet_log.setLevel(level)
    controls = {name: {k: v for k, v in row.items() if k not in BOUNDS} for name, row in controls.items()}
    if all("objects" in items[place].meta for place in boxed):
        controls["any_object"] = {"top1": any_object([items[place] for place in boxed])}
    return metrics, controls


def any_object(items: Sequence[Item]) -> float:
    """The share of the things that a picture shows which sound: what a blind pick of one of them scores."""
    return float(np.mean([len(item.meta["sounding"]) / len(item.meta["objects"]) for item in items]))
