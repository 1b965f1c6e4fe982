"""How well voices are separated: metrics of a split, beside the controls that prove that the faces are what tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional

from mm.data.mixtures import Mixture, Mixtures
from mm.features import pad
from mm.heads.separator import ideal_mask
from mm.metrics.separation import (
    EXTRAS,
    PESQ_MODES,
    follows_face,
    pairwise_si_sdr,
    scores,
    si_sdr_improvement,
    summarise,
)
from mm.modes import in_eval_mode
from mm.signal import Stft, pit
from mm.tasks.separation import AUDIO_ONLY, Separation
from mm.tasks.separation_data import Talks, delayed, frozen, mixtures, senses
from mm.tasks.separation_model import SpeechSeparator

BATCH = 4
DELAYS_MS = (80, 200, 480)
EQUAL = 1e-5  # of the peak: outputs that differ by no more are the same
MORE_VOICES = 3  # than the two that most models were trained on
NUMBERS = {2: "two", 3: "three", 4: "four"}
GROUPS = {True: "same_speaker", False: "other_speaker"}

Change = Callable[[Tensor], Tensor]  # faces (S, N, ...) -> other faces


class Voices(NamedTuple):
    """One mixture and what a model made of it; all (S, T) or (T,)."""

    drawn: Mixture
    estimates: Tensor


def evaluate(model: SpeechSeparator, talks: Talks, cfg: Separation) -> dict[str, float]:
    """SI-SDRi of a split, of all mixtures and by kind, without controls: what training watches."""
    return improvements(separate_all(model, evaluated(model, talks, cfg), cfg))


def evaluated(model: SpeechSeparator, talks: Talks, cfg: Separation, voices: int = 0) -> Mixtures:
    """The mixtures that a split is evaluated on, of as many voices as the fewest that were trained on."""
    hear, see = senses(model, talks, cfg)
    return mixtures(talks, hear, see, cfg, voices or min(cfg.mix.voices))


def separate_all(
    model: SpeechSeparator, drawn: Mixtures, cfg: Separation, change: Change | None = None
) -> Iterator[Voices]:
    """Every mixture with what the model makes of it; of one that only hears, in the order that fits best.

    Args:
        model: that separates.
        drawn: mixtures.
        cfg: settings of the run.
        change: of the faces, which the model then sees instead; where they are fewer, so are the voices.
    """
    for start in range(0, len(drawn), BATCH):
        batch = [drawn.mixture(0, index) for index in range(start, min(start + BATCH, len(drawn)))]
        mixture, lengths = pad([one.mixture for one in batch])  # (B, T), (B,)
        faces = face_lengths = None
        if cfg.faces:
            batch = [changed(one, change) for one in batch]
            shown = [one.faces.transpose(0, 1) for one in batch]  # (N, S, ...) each
            stacked, frames = pad([faces.flatten(1) for faces in shown])  # (B, N, S ...), (B,)
            assert frames is not None
            faces = stacked.unflatten(2, shown[0].shape[1:]).transpose(1, 2).to(model.device)  # (B, S, N, ...)
            if bool((frames != frames[0]).any()):
                face_lengths = frames[:, None].expand(-1, len(batch[0].targets)).to(model.device)  # (B, S)
        assert lengths is not None
        known = (None if bool((lengths == lengths[0]).all()) else lengths.to(model.device), face_lengths)
        with in_eval_mode(model):
            estimates = model(mixture.to(model.device), faces, len(batch[0].targets), *known).cpu()  # (B, S, T)
        for one, voices in zip(batch, estimates, strict=True):
            own = voices[:, : len(one.mixture)]  # (S, T)
            if not cfg.faces:
                _, order = pit(own[None], one.targets[None])
                own = own[order[0]]
            yield Voices(one, own)


def changed(drawn: Mixture, change: Change | None) -> Mixture:
    """A mixture with other faces, and with the voices of those that are shown."""
    faces = change(drawn.faces) if change else drawn.faces  # (S', N, ...)
    return drawn._replace(faces=faces, targets=drawn.targets[: len(faces)])


def masks_of(model: SpeechSeparator, drawn: Mixture, cfg: Separation) -> Tensor:
    """(S, F, N) the masks of one mixture, in the order of its targets."""
    faces = drawn.faces[None].to(model.device) if cfg.faces else None
    mixture = drawn.mixture[None].to(model.device)  # (1, T)
    with in_eval_mode(model):
        masks = model.masks(mixture, faces, len(drawn.targets))
        voices = model.behind(masks, mixture).cpu()  # (1, S, T)
    if cfg.faces:
        return masks[0].cpu()
    _, order = pit(voices, drawn.targets[None])  # (1, S)
    return masks[0].cpu()[order[0]]


def improvements(separated: Iterable[Voices]) -> dict[str, float]:
    """SI-SDRi on average over all targets, and over those of mixtures of one speaker and of several."""
    rows: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for drawn, estimates in separated:
        rows[drawn.same_speaker].append(si_sdr_improvement(estimates, drawn.targets, drawn.mixture))
    return grouped("SI-SDRi", rows)


def grouped(name: str, rows: Mapping[bool, Sequence[np.ndarray]]) -> dict[str, float]:
    """The mean of all numbers, and that of each kind of mixture that there is."""
    found = {name: mean([*rows[True], *rows[False]])}
    return found | {f"{name}/{GROUPS[kind]}": mean(of) for kind, of in rows.items() if of}


def mean(rows: Sequence[np.ndarray]) -> float:
    """The mean of all numbers but those of silent targets, which are NaN; NaN where there are no others."""
    numbers = np.concatenate(rows)
    kept = numbers[~np.isnan(numbers)]
    return float(kept.mean()) if len(kept) else math.nan


def score(
    model: SpeechSeparator, talks: Talks, cfg: Separation, heard_only: tuple[SpeechSeparator, Separation] | None = None
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]:
    """The metrics of a split, and the controls that must stand beside them.

    `mixture`: nothing is done. `ideal_mask`: the mask of magnitudes that knows the targets, a ceiling of what does not
    touch phases. `audio_only_pit`: a model of the same size without faces, given the best order. `swapped_faces`,
    `frozen_face` (one frame all the time), `delayed_face_*`: the same model shown other faces than those that talk;
    `follows_face` is the share of outputs that are nearest to the voice of the face that was shown for them.
    `one_face`: the first of the faces alone is shown, and the other voices have none. `three_faces`: mixtures of three,
    by the same weights; so of every other number that was trained on. Among the metrics is `identical_faces`, the share
    of the mixtures in which one face, shown twice, gets the same voice twice.

    Args:
        model: that separates.
        talks: of one split.
        cfg: settings of the run.
        heard_only: the model without faces and its settings, if there is one.

    Returns:
        Metrics, controls, and {metric: why it is not computed, or not of all}.
    """
    drawn = evaluated(model, talks, cfg)
    metrics, controls, missing = whole(separate_all(model, drawn, cfg), cfg)
    if heard_only:
        other, its = heard_only
        controls[AUDIO_ONLY] = improvements(separate_all(other, evaluated(other, talks, its), its))
    if not cfg.faces or drawn.voices == 1:
        return metrics, controls, missing
    others = {*cfg.mix.voices, MORE_VOICES} - {drawn.voices}
    for voices in sorted(number for number in others if number <= len(talks)):
        of_others = separate_all(model, evaluated(model, talks, cfg, voices), cfg)
        controls[f"{NUMBERS[voices]}_faces"] = improvements(of_others)
    controls["one_face"] = improvements(separate_all(model, drawn, cfg, lambda faces: faces[:1]))
    changes: dict[str, Change] = {"swapped_faces": lambda faces: faces.roll(1, 0), "frozen_face": frozen}
    for delay in DELAYS_MS:
        changes[f"delayed_face_{delay}ms"] = partial(delayed, seconds=delay / 1000, fps=drawn.fps)
    for name, change in changes.items():
        separated = list(separate_all(model, drawn, cfg, change))
        controls[name] = improvements(separated)
        if name == "swapped_faces":
            controls[name]["follows_face"] = followed(separated, shift=1)
    same = separate_all(model, drawn, cfg, lambda faces: faces[:1].expand_as(faces))
    equal = [bool((estimates - estimates[:1]).abs().max() <= EQUAL * estimates.abs().max()) for _, estimates in same]
    metrics["identical_faces"] = float(np.mean(equal))
    return metrics, controls, missing


def whole(
    separated: Iterable[Voices], cfg: Separation
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]:
    """Every metric of the outputs; beside them the same of the mixture itself, and of the ideal mask; what is missing.

    Metrics that are only measured of some targets, because others are silent or hold no utterance, are their means.
    """
    rate = cfg.encoder.audio.sample_rate
    ours, untouched, ideal, kinds = [], [], [], []
    outputs = []
    for drawn, estimates in separated:
        kinds.append(drawn.same_speaker)
        ours.append(scores(estimates, drawn.targets, drawn.mixture, rate))
        nothing = drawn.mixture.expand_as(drawn.targets)
        untouched.append(scores(nothing, drawn.targets, drawn.mixture, rate))
        ideal.append(si_sdr_improvement(ideally_masked(drawn, cfg), drawn.targets, drawn.mixture))
        outputs.append(Voices(drawn, estimates))
    metrics, skipped = summarise(ours)
    of_kinds = {kind: [row["SI-SDRi"] for row, of in zip(ours, kinds, strict=True) if of is kind] for kind in GROUPS}
    metrics = grouped("SI-SDRi", of_kinds) | metrics
    if cfg.faces:
        metrics["follows_face"] = followed(outputs)
    controls = {"mixture": summarise(untouched)[0], "ideal_mask": {"SI-SDRi": mean(ideal)}}
    total = sum(len(row["SI-SDRi"]) for row in ours)
    missing = {
        name: f"{count} of {total} skipped: silent, or without speech" for name, count in skipped.items() if count
    }
    lacking = [name for name in EXTRAS if name not in metrics and name not in missing]
    missing |= {name: "pip install 'mm[metrics]'" for name in lacking}
    if "PESQ" in lacking and rate not in PESQ_MODES:
        missing["PESQ"] = f"it is defined at {' and '.join(map(str, PESQ_MODES))} Hz, this is {rate}"
    return finite(metrics), {name: finite(row) for name, row in controls.items()}, missing


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Without those of which there is none."""
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


def followed(outputs: Iterable[Voices], shift: int = 0) -> float:
    """The share of the outputs that are nearest to the voice of the face that was shown for them.

    Args:
        outputs: what a model made of mixtures.
        shift: by how many places the faces were rolled before they were shown.
    """
    pairwise = [pairwise_si_sdr(estimates, drawn.targets) for drawn, estimates in outputs]
    shown = np.roll(np.arange(pairwise[0].shape[0]), shift)  # (S,)
    return follows_face(np.stack(pairwise), np.tile(shown, (len(pairwise), 1)))


def ideally_masked(drawn: Mixture, cfg: Separation) -> Tensor:
    """(S, T) the targets as well as a mask of magnitudes can give them back."""
    audio = cfg.encoder.audio
    stft = Stft(audio.sample_rate, audio.window_s, audio.hop_s)
    mixture, targets = (
        functional.pad(waves, (0, stft.window)) for waves in (drawn.mixture, drawn.targets)
    )  # see `behind`
    spec = stft(mixture)  # (F, N)
    mask = ideal_mask("magnitude", stft(targets), spec)  # (S, F, N)
    return stft.inverse(mask * spec, len(drawn.mixture))  # (S, T)
