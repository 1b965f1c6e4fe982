"""How good a student's ear is: a linear probe and its own classifier, beside the controls."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from mm import encoders
from mm.data import Item
from mm.data.item import Source
from mm.encoders.audio import RANGE
from mm.features import pad
from mm.metrics.probe import probe_accuracy
from mm.signal import Stft, clip_peak, log_mel
from mm.tasks.distillation import Distillation
from mm.tasks.distillation_data import few, first_sources
from mm.tasks.distillation_model import ClassModel

Numbers = dict[str, float]
SETTLING, SETTLING_SOUNDS = 32, 32  # batches, and sounds of each, that set the BatchNorm statistics of a random encoder


def evaluate_teacher(teacher: ClassModel, pictures: Sequence[Item]) -> Numbers:
    """The accuracy on pictures that have a class."""
    items = list(pictures)
    return {"accuracy": shared(seen(teacher, items), [item.owner for item in items])}


def score_teacher(teacher: ClassModel, pictures: Sequence[Item]) -> tuple[Numbers, dict[str, Numbers]]:
    """The accuracy, and what a guess and the best one class for all would score."""
    items = list(pictures)
    controls = {
        "chance": {"accuracy": 1 / len(teacher.classes)},
        "most_frequent": {"accuracy": most_frequent([item.owner for item in items])},
    }
    return evaluate_teacher(teacher, items), controls


def evaluate(student: ClassModel, pairs: Sequence[Item], teacher: ClassModel) -> Numbers:
    """What training watches, without reading a class: how often the student says what the teacher says."""
    heard = student.read(first_sources(pairs, "audio"))
    return {"agreement": shared(student.names(heard.logits), seen(teacher, pairs))}


def score(
    student: ClassModel,
    teacher: ClassModel,
    control: ClassModel | None,
    pairs: Sequence[Item],
    train: Sequence[Item],
    cfg: Distillation,
) -> tuple[Numbers, dict[str, Numbers]]:
    """The metrics of a split, and the controls that must stand beside them.

    Args:
        student: that was taught.
        teacher: that taught it.
        control: a student of shuffled pairs, where there is one.
        pairs: of the split.
        train: of the train split, of which the probe is fitted.
        cfg: settings of the run.

    Returns:
        metrics: see `metrics_of`.
        controls: `chance`; `most_frequent`, the best that one class for all could score; `teacher`, who sees what the
            student hears; the same probe over a `spectrogram` and over a `random_encoder` of the same settings that has
            learned nothing; and `shuffled_pairs`, the control's numbers.
    """
    fitted = few(train, cfg.probe_shots, cfg.seed)
    metrics = metrics_of(student, teacher, pairs, fitted)
    classes, taught = [item.owner for item in pairs], seen(teacher, pairs)
    guess = 1 / len({*classes, *(item.owner for item in fitted)})
    controls = {
        "chance": {**dict.fromkeys(metrics, guess), "agreement": 1 / len(teacher.classes)},
        "most_frequent": {**dict.fromkeys(metrics, most_frequent(classes)), "agreement": most_frequent(taught)},
    }
    if "zero_shot_accuracy" in metrics:
        controls["teacher"] = {"zero_shot_accuracy": shared(taught, classes)}
    known, heard = (spectrogram_vectors(student.encoder, items) for items in (fitted, pairs))
    controls["spectrogram"] = {"probe_accuracy": probed(known, heard, fitted, pairs)}
    random = untrained(student, first_sources(fitted, "audio"), cfg)
    known, heard = (random.read(first_sources(items, "audio")).vectors.numpy() for items in (fitted, pairs))
    controls["random_encoder"] = {"probe_accuracy": probed(known, heard, fitted, pairs)}
    if control:
        controls["shuffled_pairs"] = metrics_of(control, teacher, pairs, fitted)
    return metrics, controls


def metrics_of(student: ClassModel, teacher: ClassModel, pairs: Sequence[Item], fitted: Sequence[Item]) -> Numbers:
    """The numbers of a student.

    Args:
        student: that was taught.
        teacher: that taught it.
        pairs: of the split.
        fitted: train sounds with their classes.

    Returns:
        `probe_accuracy` of a linear classifier over its frozen vectors, fitted on `fitted`; `zero_shot_accuracy` of its
        own classifier, which has met no class of any sound, where teacher and data have the same classes; `agreement`
        with what the teacher says of the pictures.
    """
    heard = student.read(first_sources(pairs, "audio"))
    known = student.read(first_sources(fitted, "audio"))
    said, classes = student.names(heard.logits), [item.owner for item in pairs]
    metrics = {"probe_accuracy": probed(known.vectors.numpy(), heard.vectors.numpy(), fitted, pairs)}
    if set(classes) <= set(student.classes):
        metrics["zero_shot_accuracy"] = shared(said, classes)
    return metrics | {"agreement": shared(said, seen(teacher, pairs))}


def probed(known: np.ndarray, heard: np.ndarray, fitted: Sequence[Item], pairs: Sequence[Item]) -> float:
    """The accuracy of the linear probe on (m, D) vectors of the sounds of `pairs`, by (n, D) of those of `fitted`."""
    return probe_accuracy(known, [item.owner for item in fitted], heard, [item.owner for item in pairs])


def spectrogram_vectors(encoder: encoders.Encoder, items: Sequence[Item]) -> np.ndarray:
    """What a sound is without any network, (n, 2 F): mean and maximum over time of its log-mel spectrogram."""
    stft = Stft(encoder.config["sample_rate"])
    vectors = []
    for source in first_sources(items, "audio"):
        spec = log_mel(encoder.prepare(source)[None], stft)  # (1, F, N)
        spec = (spec - clip_peak(spec)).clamp_min(-RANGE)
        vectors.append(torch.cat([spec.mean(dim=2), spec.amax(dim=2)], dim=1))  # (1, 2 F)
    return torch.cat(vectors).numpy()  # (n, 2 F)


def untrained(student: ClassModel, sounds: Sequence[Source], cfg: Distillation) -> ClassModel:
    """A student of random weights, whatever this one started from.

    Its BatchNorm statistics are those of some sounds, without which it would hear less than it can.
    """
    audio = dataclasses.replace(cfg.encoder.audio, init="", weights="", freeze=False, spec_augment=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        encoder = encoders.by_settings("audio", dataclasses.replace(cfg.encoder, audio=audio), ())
        encoder.to(student.encoder.device).train()
        waves = [encoder.prepare(source) for source in sounds]
        for _ in range(SETTLING):
            chosen = torch.randperm(len(waves))[:SETTLING_SOUNDS].tolist()
            values, lengths = pad([waves[number] for number in chosen])
            with torch.no_grad():
                encoder(values.to(encoder.device), None if lengths is None else lengths.to(encoder.device))
        return ClassModel("audio", encoder, student.classes).to(student.encoder.device).eval()


def seen(teacher: ClassModel, items: Sequence[Item]) -> list[str]:
    """What the teacher says of the first picture of each item."""
    return teacher.names(teacher.read(first_sources(items, "image")).logits)


def most_frequent(names: Sequence[str]) -> float:
    """The share of the names that are the most frequent one."""
    return max(Counter(names).values()) / len(names)


def shared(names: Sequence[str], others: Sequence[str]) -> float:
    """The share of the places at which two rows of names agree."""
    return sum(name == other for name, other in zip(names, others, strict=True)) / len(names)
