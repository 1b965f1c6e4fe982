"""Mixtures of people who talk, made when they are asked for: two sentences and two faces, and who said what."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm.data.item import UnreadableError
from mm.data.talks import Talk
from mm.signal import mix_at_snr

SILENT = 1e-4  # root mean square below which a voice is silent
TRIES = 100  # cuts of a talk until one speaks
KEPT = 256  # whole mixtures that are kept: an evaluation reads each of them once for every control
LEVEL = 0.1  # root mean square of the first voice, before the mixture is kept within [-1, 1]

Hear = Callable[[Talk], Tensor]
See = Callable[[Talk], Tensor]


@dataclass
class MixConfig:
    """How voices are mixed."""

    seconds: float = 2.0  # of a training mixture, cut from each talk anew; a split that is evaluated has whole talks
    voices: list[int] = field(default_factory=lambda: [2])  # each a stream of batches of so many: [2, 3] trains on both
    same_speaker: float = 0.5  # share of the mixtures of talks of one and the same speaker, as far as there are such
    same_start: float = 0.0  # share of the training mixtures whose talks are cut from the same moment of each on
    snr_db: list[float] = field(default_factory=lambda: [-3.0, 3.0])  # of the first voice over each other, drawn evenly
    hidden: float = 0.0  # share of the mixtures in which one more voice sounds whose face is not shown
    noise: float = 0.0  # share of the mixtures with white to brown noise under the voices
    noise_db: list[float] = field(default_factory=lambda: [5.0, 20.0])  # of the first voice over the noise
    evaluated: int = 100  # mixtures of a split that is evaluated


class Mixture(NamedTuple):
    """One mixture.

    Attributes:
        mixture: (T,) the sum of the targets, of a hidden voice and of noise, if there are such, within [-1, 1].
        targets: (S, T) each voice as it is in the mixture.
        faces: (S, N, ...) what is seen of each, frame by frame; (S, 0) of a model without faces.
        same_speaker: whether all are of one speaker.
        names: the talks.
    """

    mixture: Tensor
    targets: Tensor
    faces: Tensor
    same_speaker: bool
    names: tuple[str, ...]


class Mixtures:
    """Talks, mixed; `mixtures[(epoch, index)]` is a pure function of the seed, the epoch and the index.

    Mixture `index` begins with talk `index` modulo their number; which others, from where on, how loud and with what
    noise is drawn. A talk shorter than a cut ends in silence, and its last frame stays.

    Args:
        talks: of one split, with their `speakers`.
        hear: a talk -> (T,) its voice.
        see: a talk -> (N, ...) its frames at `fps`; None = nothing is seen.
        cfg: how to mix.
        sample_rate: Hz.
        fps: frames per second.
        voices: S.
        seed: of all draws.
        whole: take whole talks, cut to the shortest of a mixture, instead of `cfg.seconds`.

    Raises:
        ValueError: fewer talks than voices, or a number out of its range.
        UnreadableError: (at look-up) a voice or face that cannot be read, or is silent.
    """

    def __init__(
        self,
        talks: Sequence[Talk],
        hear: Hear,
        see: See | None,
        cfg: MixConfig,
        sample_rate: int,
        fps: float,
        voices: int = 2,
        seed: int = 0,
        whole: bool = False,
    ):
        check(cfg)
        if len(talks) < voices + (cfg.hidden > 0):
            hidden = " and one that is hidden" if cfg.hidden else ""
            raise ValueError(f"a mixture of {voices} voices{hidden} needs as many talks: got {len(talks)}.")
        self.talks, self.hear, self.see, self.cfg = talks, hear, see, cfg
        self.sample_rate, self.fps, self.voices, self.seed, self.whole = sample_rate, fps, voices, seed, whole
        self.speakers: tuple[str, ...] = tuple(talks.speakers)  # type: ignore[attr-defined]
        self._kept: dict[tuple[int, int], Mixture] = {}
        self._of: dict[str, list[int]] = defaultdict(list)
        for place, speaker in enumerate(self.speakers):
            self._of[speaker].append(place)

    def __len__(self) -> int:
        return self.cfg.evaluated if self.whole else len(self.talks)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """A mixture as a batch holds it: {"mixture", "targets", "faces", "same_speaker"}, tensors."""
        drawn = self.mixture(*key)
        return {
            "mixture": drawn.mixture,
            "targets": drawn.targets,
            "faces": drawn.faces,
            "same_speaker": torch.tensor(drawn.same_speaker),
        }

    def mixture(self, epoch: int, index: int) -> Mixture:
        """Mixture `index` of an epoch."""
        found = self._kept.get((epoch, index)) or self._drawn(epoch, index)
        if self.whole and len(self._kept) < KEPT:
            self._kept[epoch, index] = found
        return found

    def _drawn(self, epoch: int, index: int) -> Mixture:
        rng = np.random.default_rng((self.seed, epoch, index, self.voices))
        heard_voices = self.voices + int(self.cfg.hidden > 0 and rng.random() < self.cfg.hidden)
        for _ in range(TRIES):
            places = self.partners(index % len(self.talks), rng, heard_voices)
            talks = [self.talks[place] for place in places]  # once: to draw one takes longer than to mix it
            if not share_a_recording(talks):
                break
        moment = rng.random() if not self.whole and rng.random() < self.cfg.same_start else None
        heard, seen = zip(*(self.cut(talk, rng, moment) for talk in talks), strict=True)
        samples, frames = min(map(len, heard)), min(map(len, seen))
        voices = torch.stack([wave[:samples] for wave in heard])  # (S, T)
        for talk, voice in zip(talks, voices, strict=True):
            if self.whole and not speaks(voice):
                raise UnreadableError(
                    f"{talk.id} is silent in its first {samples / self.sample_rate:.2f} s, which are all that a "
                    "mixture has of it: there is nothing to separate. Leave it out."
                )
        mixture, targets = self.mixed(voices, rng)
        return Mixture(
            mixture,
            targets[: self.voices],
            torch.stack([face[:frames] for face in seen[: self.voices]]),
            len({self.speakers[place] for place in places}) == 1,
            tuple(talk.id for talk in talks[: self.voices]),
        )

    def partners(self, first: int, rng: np.random.Generator, voices: int) -> list[int]:
        """The talks of a mixture: all of one speaker, or each of another, as drawn and as far as there are such."""
        speaker, chosen = self.speakers[first], [first]
        same = len(self._of[speaker]) >= voices and rng.random() < self.cfg.same_speaker
        if same or len(self._of) == 1:
            more = [place for place in self._of[speaker] if place != first]
            return chosen + [more[k] for k in rng.permutation(len(more))[: voices - 1]]
        names = [name for name in sorted(self._of) if name != speaker]
        for name in (names[k] for k in rng.permutation(len(names))[: voices - 1]):
            chosen.append(int(rng.choice(self._of[name])))
        left = [place for place in range(len(self.talks)) if place not in chosen]
        missing = voices - len(chosen)  # fewer speakers than voices
        return chosen + [left[k] for k in rng.permutation(len(left))[:missing]]

    def cut(self, talk: Talk, rng: np.random.Generator, moment: float | None = None) -> tuple[Tensor, Tensor]:
        """Voice and face of a talk, from the same moment on.

        Args:
            talk: whose.
            rng: draws the moment.
            moment: of the talk, as a share 0..1 of those from which a cut can be made; None = any in which it speaks.
        """
        wave, face = read(self.hear, talk), read(self.see, talk) if self.see else torch.zeros(0)
        if self.whole:
            return wave, face
        frames = max(round(self.cfg.seconds * self.fps), 1)
        samples = round(frames * self.sample_rate / self.fps)
        there = int(len(wave) * self.fps / self.sample_rate)  # frames that the voice lasts
        spare = max(there - frames, 0) + 1
        for number in range(TRIES):
            start = int(rng.integers(spare)) if moment is None or number else int(moment * spare)
            begin = round(start * self.sample_rate / self.fps)
            part = wave[begin : begin + samples]
            if speaks(part):
                break
        else:
            raise UnreadableError(f"{talk.id} is silent in {TRIES} cuts of {self.cfg.seconds} s. Leave it out.")
        part = torch.nn.functional.pad(part, (0, samples - len(part)))  # (T,)
        if not self.see:
            return part, face
        shown = torch.arange(start, start + frames).clamp_max(len(face) - 1)  # (N,)
        return part, face[shown]

    def mixed(self, voices: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Voices (S, T) -> the mixture (T,) at drawn levels, and the voices in it (S, T)."""
        first = voices[0] * (LEVEL / voices[0].square().mean().sqrt())  # (T,)
        parts = [first]
        for voice in voices[1:]:
            parts.append(mix_at_snr(first, voice, between(self.cfg.snr_db, rng), within=False)[2])
        if len(voices) == 1 or rng.random() < self.cfg.noise:  # one voice alone is always in noise
            parts.append(mix_at_snr(first, noise(len(first), rng), between(self.cfg.noise_db, rng), within=False)[2])
        every = torch.stack(parts)  # (S or S + 1, T)
        every = every / every.sum(0).abs().max().clamp_min(1)
        return every.sum(0), every[: len(voices)]


def speaks(voice: Tensor) -> bool:
    """Whether a voice (T,) is loud enough to be one."""
    return float(voice.square().mean().sqrt()) >= SILENT


def share_a_recording(talks: Sequence[Talk]) -> bool:
    """Whether one recording is heard in two of the talks, which are strings of some (`meta["clips"]`)."""
    clips = [set(talk.meta.get("clips", ())) for talk in talks]
    return sum(map(len, clips)) > len(set().union(*clips))


def between(bounds: Sequence[float], rng: np.random.Generator) -> float:
    """A number drawn evenly from the lowest to the highest."""
    return float(rng.uniform(bounds[0], bounds[1]))


def noise(samples: int, rng: np.random.Generator) -> Tensor:
    """(T,) noise whose power falls with the frequency by an exponent drawn from 0 (white) to 2 (brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    steps = np.arange(len(spectrum)).clip(min=1 + samples // 256)
    wave = np.fft.irfft(spectrum * steps ** -rng.uniform(0, 1), samples)
    return torch.from_numpy((wave / wave.std()).astype(np.float32))


def read(function: Callable[[Talk], Tensor], talk: Talk) -> Tensor:
    """What is heard or seen of a talk; what cannot be read, or is of another shape, is told by its id.

    Raises:
        UnreadableError: it cannot be read.
    """
    try:
        return function(talk)
    except (ValueError, FileNotFoundError) as error:
        raise UnreadableError(f"{talk.id}: {error}") from error


def mixed_batch(examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Mixtures of one length as a batch: {"mixture": (B, T), "targets": (B, S, T), "faces": (B, S, N, ...), ...}."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def check(cfg: MixConfig) -> None:
    """Reject settings out of their range.

    Raises:
        ValueError: there is one.
    """
    for name in ("snr_db", "noise_db"):
        levels = getattr(cfg, name)
        if len(levels) != 2 or not levels[0] <= levels[1]:
            raise ValueError(f"mix.{name} must be the lowest and the highest, in dB: got {levels}.")
    if not cfg.voices or not all(1 <= number <= 4 for number in cfg.voices) or len(set(cfg.voices)) < len(cfg.voices):
        raise ValueError(f"mix.voices must be different numbers from 1 to 4: got {cfg.voices}.")
    if 1 in cfg.voices and not cfg.noise:
        raise ValueError("one voice needs noise to be told from: got mix.voices with 1 and mix.noise=0.")
    for name in ("same_speaker", "same_start", "hidden", "noise"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise ValueError(f"mix.{name} must lie in 0..1: got {getattr(cfg, name)}.")
    if not 0 < cfg.seconds < math.inf or cfg.evaluated < 1:
        raise ValueError(
            f"mix.seconds must be positive and mix.evaluated at least 1: got {cfg.seconds} and {cfg.evaluated}."
        )
