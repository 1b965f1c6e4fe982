"""Talkers of the embedded world: a voice by a source-filter model says syllables, and a drawn face says them with it.

A voice is a row of harmonics (the source) weighted by the resonances of a vocal tract (the filter), and noise for
consonants. Who talks decides pitch and tract, what is said decides when there is sound, and the lips follow that: two
talks of one voice are told apart by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mm.data.faces import FPS, Look, draw, jitter_s, opening_of, pictures_of, shown
from mm.data.synthetic import SPLITS
from mm.data.talks import Talk
from mm.naming import known

SAMPLE_RATE = 8000  # Hz
LEVEL_DB = -26.0  # root mean square of a talk with its pauses, against a full scale of 1
SECONDS = 2.0
VOICES = 40  # who talk in a world
SYLLABLE_S, PAUSE_S = (0.08, 0.25), (0.06, 0.4)
WORD = 4  # syllables between two pauses, at most

VOWELS = {  # first three formants in Hz, of men on average (Peterson and Barney 1952)
    "ee": (270, 2290, 3010),
    "i": (390, 1990, 2550),
    "e": (530, 1840, 2480),
    "a": (660, 1720, 2410),
    "ah": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "oo": (300, 870, 2240),
}


class Consonant(NamedTuple):
    """What comes before a vowel: what sounds meanwhile, where the formants come from, and whether the lips close."""

    voiced: float  # level of the harmonics against a vowel's
    noise: float  # level of the noise that lasts
    burst: float  # level of the noise when a stop ends
    noise_hz: float  # middle of the noise's band
    formants: tuple[int, int, int]  # Hz
    lips: float  # share of the opening that is left
    seconds: float


CONSONANTS = {
    "b": Consonant(0.12, 0.0, 0.25, 700, (250, 800, 2200), 0.0, 0.06),
    "p": Consonant(0.0, 0.0, 0.5, 900, (250, 800, 2200), 0.0, 0.08),
    "d": Consonant(0.12, 0.0, 0.3, 2900, (250, 1800, 2700), 0.5, 0.05),
    "t": Consonant(0.0, 0.0, 0.6, 3200, (250, 1800, 2700), 0.5, 0.07),
    "k": Consonant(0.0, 0.0, 0.6, 1900, (250, 2100, 2400), 0.6, 0.08),
    "m": Consonant(0.35, 0.0, 0.0, 700, (250, 1000, 2200), 0.0, 0.07),
    "n": Consonant(0.35, 0.0, 0.0, 700, (250, 1700, 2600), 0.5, 0.06),
    "l": Consonant(0.5, 0.0, 0.0, 700, (350, 1100, 2700), 0.7, 0.06),
    "w": Consonant(0.5, 0.0, 0.0, 700, (300, 700, 2200), 0.3, 0.07),
    "f": Consonant(0.0, 0.2, 0.0, 2600, (300, 1000, 2300), 0.2, 0.09),
    "s": Consonant(0.0, 0.45, 0.0, 3600, (300, 1700, 2600), 0.5, 0.1),
    "sh": Consonant(0.0, 0.5, 0.0, 2600, (300, 1900, 2500), 0.6, 0.1),
}

_LOOK = Look()
_STREAM = 40  # talks draw from chance of their own: (seed, split, index, 40 or more)
_CONTROL = 40  # samples of 5 ms: the voice's settings change from one such step to the next
_REST_HZ = (500, 1500, 2500)  # formants of a tract at rest
_BANDS_HZ = (70.0, 90.0, 130.0, 220.0)  # widths of the resonances
_FOURTH_HZ = 3600.0  # a resonance that no vowel moves
_NOISE_WIDTH_HZ = 550.0
_LOW_HZ, _HIGH_HZ = 3500.0, 3900.0  # harmonics fade out between these
_LOWEST_HZ = 60.0  # of the voice, whatever its melody


class Voice(NamedTuple):
    """A speaker."""

    pitch_hz: float  # 80 to 260
    tract: float  # formants times this
    tilt: float  # dB per octave by which harmonics fall
    breath: float  # level of the noise in vowels


def voice_of(seed: int, number: int) -> Voice:
    """Voice `number` of a world; small vocal tracts come with high pitches more often than not."""
    pitch, tract, tilt, breath = np.random.default_rng((seed, 0, number, _STREAM + 3)).random(4).tolist()
    return Voice(
        pitch_hz=80 * (260 / 80) ** pitch,
        tract=0.88 + 0.15 * pitch + 0.17 * tract,
        tilt=2 + 9 * tilt,
        breath=0.01 + 0.07 * breath**2,
    )


class Score(NamedTuple):
    """What a voice does over time, in M steps of 5 ms."""

    said: str  # syllables; a space is a pause
    voiced: np.ndarray  # (M,) level of the harmonics
    noise: np.ndarray  # (M,) level of the noise
    noise_hz: np.ndarray  # (M,)
    formants: np.ndarray  # (3, M) Hz, of a tract of length 1
    lips: np.ndarray  # (M,) share of the opening that consonants leave
    melody: np.ndarray  # (M,) octaves above the voice's pitch


def compose(rng: np.random.Generator, seconds: float) -> Score:
    """Random words of syllables with pauses between them; what does not fit into the time is left unsaid."""
    steps = math.ceil(round(seconds * SAMPLE_RATE / _CONTROL, 6)) + 1
    step_s = _CONTROL / SAMPLE_RATE
    voiced, noise = np.zeros((2, steps))  # (M,) each
    noise_hz, left = np.full(steps, 700.0), np.ones(steps)  # (M,) each
    formants = np.tile(np.array(_REST_HZ, float)[:, None], steps)  # (3, M)
    time = np.arange(steps) * step_s  # (M,)
    cycles = rng.uniform([0.4, 1.5], [1.2, 3.0])[:, None] * time + rng.random((2, 1))  # (2, M)
    melody = 0.4 * (0.5 - time / seconds) + 0.05 * np.sin(2 * math.pi * cycles).sum(0)  # (M,) falls, and wavers
    consonants, vowels = list(CONSONANTS), list(VOWELS)
    said, at = "", rng.uniform(0, PAUSE_S[1])
    while True:
        loudness = rng.uniform(0.6, 1.2)
        for _ in range(rng.integers(1, WORD + 1)):
            length, accent = rng.uniform(*SYLLABLE_S), rng.random()
            if at + length + 2 * step_s > seconds:
                return Score(
                    said.strip(),
                    _smooth(voiced, 5),
                    _smooth(noise, 3),
                    noise_hz,
                    np.stack([_smooth(track, 13) for track in formants]),
                    _smooth(left, 7),
                    melody,
                )
            name, vowel = consonants[rng.integers(len(consonants))], vowels[rng.integers(len(vowels))]
            consonant = CONSONANTS[name]
            begin, end = round(at / step_s), round((at + length) / step_s)
            middle = begin + round(min(consonant.seconds, 0.45 * length) / step_s)
            voiced[begin:middle] = consonant.voiced * loudness
            voiced[middle:end] = (0.7 + 0.5 * accent) * loudness
            noise[begin:middle] = consonant.noise * loudness
            noise[max(middle - 2, begin) : middle + 1] += consonant.burst * loudness
            noise_hz[begin : middle + 2] = consonant.noise_hz
            formants[:, begin:middle] = np.array(consonant.formants)[:, None]
            formants[:, middle:end] = np.array(VOWELS[vowel])[:, None]
            left[begin:middle] = consonant.lips
            if accent > 0.4:
                melody += 0.5 * (accent - 0.4) * np.exp(-0.5 * ((time - at - length / 2) / 0.07) ** 2)  # (M,)
            said += name + vowel
            at += length
        said += " "
        at += rng.uniform(*PAUSE_S)


def sing(score: Score, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Let a voice say what was composed.

    Returns:
        (T,) float32 at 8 kHz, of any level; exactly 0 where the score has neither voice nor noise.
    """
    heard = (score.voiced[:-1] > 0) | (score.voiced[1:] > 0)  # (M - 1,) no harmonics in between
    wave = np.zeros((len(heard), _CONTROL), np.float32)  # (M - 1, 40)
    wave[heard] = _sung(score, voice, heard, rng)
    return (wave + _hissed(score, voice, rng)).ravel()  # (T,)


def _sung(score: Score, voice: Voice, heard: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(heard, 40) float32, the harmonics in the steps where there are any, as loud as the score says on the whole."""
    pitch = np.maximum(voice.pitch_hz * 2**score.melody, _LOWEST_HZ)  # (M,)
    ramp = np.arange(_CONTROL) / _CONTROL  # (40,) from one step to the next
    cycles = np.cumsum(pitch[:-1, None] + np.diff(pitch)[:, None] * ramp) / SAMPLE_RATE + rng.random()  # (T,)
    turn = np.exp(2j * math.pi * cycles.reshape(-1, _CONTROL)[heard]).astype(np.complex64)  # (heard, 40)
    harmonics = np.arange(1, int(_HIGH_HZ / pitch.min()) + 1)  # (H,)
    hertz = pitch[:, None] * harmonics  # (M, H)
    source = harmonics ** (-voice.tilt / 6.02) * np.clip((_HIGH_HZ - hertz) / (_HIGH_HZ - _LOW_HZ), 0, 1)  # (M, H)
    gains = (score.voiced[:, None] * source * _tract(hertz, score.formants, voice)).astype(np.complex64)  # (M, H)
    wave = _harmonics(turn, gains[:-1][heard], gains[1:][heard])  # (heard, 40)
    stated, power = _CONTROL * float(np.square(score.voiced).sum()), float(np.square(wave).sum())
    return wave * np.float32(math.sqrt(stated / max(power, 1e-9)))


def _hissed(score: Score, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """(M - 1, 40) float32, the noise of consonants and of breath: white noise, shaped anew around each step."""
    bands = np.fft.rfftfreq(2 * _CONTROL, 1 / SAMPLE_RATE)  # (41,) Hz
    breath = np.abs(_tract(bands, score.formants, voice))  # (M, 41)
    hiss = np.exp(-0.5 * ((bands - score.noise_hz[:, None]) / _NOISE_WIDTH_HZ) ** 2)  # (M, 41)
    levels = voice.breath * score.voiced[:, None] * _even(breath) + score.noise[:, None] * _even(hiss)  # (M, 41)
    window = np.sin(math.pi * (np.arange(2 * _CONTROL) + 0.5) / (2 * _CONTROL))  # (80,) squares of neighbours add to 1
    white = rng.standard_normal((len(levels) + 1, _CONTROL))  # (M + 1, 40)
    frames = np.concatenate([white[:-1], white[1:]], axis=1) * window  # (M, 80)
    frames = np.fft.irfft(np.fft.rfft(frames) * levels, 2 * _CONTROL) * window  # (M, 80)
    return (frames[:-1, _CONTROL:] + frames[1:, :_CONTROL]).astype(np.float32)


def _harmonics(turn: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Harmonics whose strengths move in straight lines.

    Args:
        turn: (K, 40) complex, where in its cycle the fundamental is at each sample of each step, on the unit circle.
        first: (K, H) complex strengths where a step begins.
        last: (K, H) complex strengths where it ends.

    Returns:
        (K, 40) float32, the sum of all.
    """
    ramp = np.arange(_CONTROL, dtype=np.float32) / np.float32(_CONTROL)  # (40,)
    partial, wave = np.ones_like(turn), np.zeros(turn.shape, np.float32)  # (K, 40) each
    for begin, change in zip(first.T[..., None], (last - first).T[..., None], strict=True):  # (K, 1) each
        partial *= turn
        wave += (begin.real + change.real * ramp) * partial.real
        wave -= (begin.imag + change.imag * ramp) * partial.imag
    return wave


def _tract(hertz: np.ndarray, formants: np.ndarray, voice: Voice) -> np.ndarray:
    """(M, H) complex: what the vocal tract makes of each frequency, a product of resonances that leave 0 Hz alone."""
    hertz = np.broadcast_to(hertz, (formants.shape[1], hertz.shape[-1])).astype(np.float32)  # (M, H)
    response = np.ones(hertz.shape, np.complex64)  # (M, H)
    for middle, width in zip((*formants[..., None], np.full((1, 1), _FOURTH_HZ)), _BANDS_HZ, strict=True):
        ratio = hertz / (middle * voice.tract).astype(np.float32)  # (M, H)
        response *= 1 - ratio**2 + 1j * ratio * (width / (middle * voice.tract)).astype(np.float32)  # (M, H)
    return 1 / response


def _even(levels: np.ndarray) -> np.ndarray:
    """(M, K) with a root mean square of 1 in each row."""
    return levels / np.sqrt(np.mean(levels**2, axis=1, keepdims=True))


def _smooth(track: np.ndarray, steps: int) -> np.ndarray:
    """(M,) as a mean over a Hann window of so many steps, an odd number."""
    window = np.hanning(steps + 2)[1:-1]
    return np.convolve(np.pad(track, steps // 2, mode="edge"), window / window.sum(), mode="valid")  # (M,)


def levelled(wave: np.ndarray) -> np.ndarray:
    """(T,) float32 at `LEVEL_DB`, or below it where the peak would exceed 1; silence stays silence."""
    level, peak = math.sqrt(float(np.mean(np.square(wave, dtype=np.float64)))), float(np.abs(wave).max())
    return wave / np.float32(max(level / 10 ** (LEVEL_DB / 20), peak, 1e-9))


def mouth(score: Score, wave: np.ndarray, shift_s: float) -> tuple[np.ndarray, np.ndarray]:
    """How a mouth moves that says this: wider open where it is louder and for open vowels, spread for bright ones.

    Args:
        score: what is said.
        wave: (T,) its sound.
        shift_s: what is heard so much later is seen already.

    Returns:
        opening: (N,) and width: (N,) float32 in 0..1, one for each picture.
    """
    count = pictures_of(len(wave) / SAMPLE_RATE)
    times = (np.arange(8 * count).reshape(count, 8) + 0.5) / (8 * FPS) + shift_s  # (N, 8) in each picture
    steps = np.arange(len(score.lips)) * _CONTROL / SAMPLE_RATE  # (M,)
    height = np.clip((score.formants[0] - 270) / (730 - 270), 0, 1)  # (M,) 0 "ee", 1 "ah"
    bright = np.clip(np.log2(score.formants[1] / 700) / math.log2(2400 / 700), 0, 1)  # (M,)
    share, width = (
        np.interp(times, steps, track).mean(axis=1) for track in (score.lips * (0.5 + 0.5 * height), bright)
    )  # (N,) each
    return (opening_of(wave, SAMPLE_RATE, shift_s) * share).astype(np.float32), width.astype(np.float32)


def turns(seed: int, split: str, first: int, last: int, among: int) -> list[int]:
    """Who of so many speakers says talks `first` to `last` - 1: two in a row each, and all before one comes again."""
    who: list[int] = []
    for number in range(first // (2 * among), -(-last // (2 * among))):
        order = np.random.default_rng((seed, SPLITS[split], number, _STREAM + 2)).permutation(among)  # (among,)
        who += np.repeat(order, 2).tolist()
    skipped = first - first % (2 * among)
    return who[first - skipped : last - skipped]


class Talkers(Sequence[Talk]):
    """Talks of one split; each is made when it is asked for, the same on every call.

    Talks 2 k and 2 k + 1 are of one speaker. A face is of its talk, not of its speaker: it does not tell who talks.

    Args:
        split: "train", "val" or "test".
        n: how many talks. Talk i is the same for every n.
        seed: of the world, at least 0.
        seconds: of a talk, at least 1.
        voices: how many speakers talk in a split.
        unseen: in val and test others talk than in train (and in val others than in test); the train split is the same.
        look: of the faces.

    Raises:
        ValueError: an unknown split, a negative number, or too short a talk.
    """

    def __init__(
        self,
        split: str,
        n: int,
        seed: int = 0,
        seconds: float = SECONDS,
        voices: int = VOICES,
        unseen: bool = False,
        look: Look = _LOOK,
    ):
        known(split, SPLITS, "split")
        if n < 1 or seed < 0 or voices < 1:
            raise ValueError(
                f"a split needs at least one talk and one voice, and a seed of at least 0: got n={n}, voices={voices}, "
                f"seed={seed}."
            )
        if not seconds >= 1:
            raise ValueError(f"a talk must last at least 1 second: got seconds={seconds}.")
        self.split, self.n, self.seed, self.seconds = split, n, seed, seconds
        self.voices, self.unseen, self.look = voices, unseen, look

    def __len__(self) -> int:
        return self.n

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who says each talk."""
        return tuple(map(self._speaker, turns(self.seed, self.split, 0, self.n, self.voices)))

    def __getitem__(self, index: int) -> Talk:  # type: ignore[override]
        """Talk `index`: its voice, its face, and as `meta` the syllables that are said."""
        index = self._checked(index)
        rng, chance = (np.random.default_rng((self.seed, SPLITS[self.split], index, _STREAM + part)) for part in (0, 1))
        (who,) = turns(self.seed, self.split, index, index + 1, self.voices)
        score = compose(rng, self.seconds)
        sound = sing(score, voice_of(self.seed, self._number(who)), rng)[: round(self.seconds * SAMPLE_RATE)]  # (T,)
        opening, width = mouth(score, sound, jitter_s(chance, self.look))  # (N,) each
        face = shown(draw(opening, width, chance, self.look))
        name = f"{self.split}-{index:05d}"
        return Talk(name, self._speaker(who), levelled(sound), face, meta={"said": score.said})

    def _number(self, who: int) -> int:
        """A speaker's place among all voices of the world."""
        return who + (self.voices * SPLITS[self.split] if self.unseen else 0)

    def _speaker(self, who: int) -> str:
        return f"voice-{self._number(who):03d}"

    def _checked(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise IndexError(f"the {self.split} split has talks 0 to {self.n - 1}: got {index}.")
        return index % self.n
