"""Strings of spoken digits with rendered lips: the recordings of FSDD, each speaker's own, as talks of one person."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mm.data.faces import FPS, Look, draw, jitter_s, opening_of, shown
from mm.data.spoken import recordings
from mm.data.synthetic import SPLITS
from mm.data.talkers import PAUSE_S, SAMPLE_RATE, SECONDS, levelled, turns
from mm.data.talks import Talk
from mm.media import read_audio
from mm.naming import known

FEWEST, MOST = 3, 5  # digits of a talk; those that begin behind its end are not heard
_LOOK = Look()
_STREAM = 50  # talks draw from chance of their own: (seed, split, index, 50 or more)


class DigitTalks(Sequence[Talk]):
    """Talks of one split; each is made when it is asked for, the same on every call.

    One speaker says a few random digits with random pauses between them, and the lips open with the level of the
    recordings. Talks 2 k and 2 k + 1 are of one speaker. A face is of its talk and does not tell who talks.

    Takes fall into splits as in `mm.data.spoken.spoken_digits`, so no recording is heard in two splits.

    Args:
        root: holds `fsdd/recordings/{digit}_{speaker}_{take}.wav`.
        split: "train", "val" or "test".
        n: how many talks. Talk i is the same for every n.
        seed: of what is said and of the faces, at least 0.
        speaker: whose voice is held out: heard in test alone, and nobody else there; "" = the official split.
        seconds: of a talk: longer ones are cut, shorter ones end in silence.
        look: of the faces.

    Raises:
        FileNotFoundError: the set is not there.
        ValueError: an unknown split or speaker, a negative number, too short a talk, or no recording in the split.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        n: int,
        seed: int = 0,
        speaker: str = "",
        seconds: float = SECONDS,
        look: Look = _LOOK,
    ):
        known(split, SPLITS, "split")
        if n < 1 or seed < 0:
            raise ValueError(f"a split needs at least one talk, and a seed of at least 0: got n={n}, seed={seed}.")
        if not seconds >= 1:
            raise ValueError(f"a talk must last at least 1 second: got seconds={seconds}.")
        self.split, self.n, self.seed, self.seconds, self.look = split, n, seed, seconds, look
        self.clips: dict[str, list[tuple[int, Path]]] = {}  # (digit, file) of each recording, by speaker
        for digit, who, _, file in recordings(root, split, speaker):
            self.clips.setdefault(who, []).append((digit, file))
        if not self.clips:
            raise ValueError(f"a talk needs recordings: {root / 'fsdd'} has none for {split}. See docs/data.md.")
        self._names = sorted(self.clips)

    def __len__(self) -> int:
        return self.n

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who says each talk."""
        who = turns(self.seed, self.split, 0, self.n, len(self._names))
        return tuple(self._names[number] for number in who)

    def __getitem__(self, index: int) -> Talk:  # type: ignore[override]
        """Talk `index`: its voice, its face, and as `meta` the digits and recordings of which something is heard."""
        index = self._checked(index)
        rng, chance = (np.random.default_rng((self.seed, SPLITS[self.split], index, _STREAM + part)) for part in (0, 1))
        (who,) = turns(self.seed, self.split, index, index + 1, len(self._names))
        speaker = self._names[who]
        sound, meta = self._said(self.clips[speaker], rng)  # (T,)
        opening = opening_of(sound, SAMPLE_RATE, jitter_s(chance, self.look))  # (N,)
        face = shown(draw(opening, _idle(len(opening), chance), chance, self.look))
        return Talk(f"{self.split}-{index:05d}", speaker, levelled(sound), face, meta=meta)

    def _said(self, clips: Sequence[tuple[int, Path]], rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        """(T,) float32 of random digits with pauses before them, and which they are."""
        sound = np.zeros(round(self.seconds * SAMPLE_RATE), np.float32)  # (T,)
        digits, files, at = [], [], 0
        for number in rng.permutation(len(clips))[: rng.integers(FEWEST, MOST + 1)]:
            digit, file = clips[number]
            at += round(rng.uniform(*PAUSE_S) * SAMPLE_RATE)
            heard = _recording(file)[: max(len(sound) - at, 0)]
            if len(heard):
                sound[at : at + len(heard)] = heard
                digits.append(digit)
                files.append(file.stem)
            at += len(heard)
        return sound, {"digits": digits, "clips": files}

    def _checked(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise IndexError(f"the {self.split} split has talks 0 to {self.n - 1}: got {index}.")
        return index % self.n


@functools.cache
def _recording(file: Path) -> np.ndarray:
    """(T,) float32 at 8 kHz; all of FSDD takes 40 MB."""
    return read_audio(file, SAMPLE_RATE).numpy()


def _idle(count: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) width of a mouth that changes slowly and says nothing."""
    start, hertz, phase = rng.random(3)
    cycles = (0.2 + 0.5 * hertz) * np.arange(count) / FPS + phase  # (N,)
    return 0.3 + 0.4 * start + 0.2 * np.sin(2 * np.pi * cycles)  # (N,)
