"""Sounds of the embedded world: every thing has a voice. Shape gives the timbre, colour the pitch, size the octave."""

import copy
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from mm.data.scenes import COLOURS, KINDS, SHAPES, SIZES, Thing, kind

SAMPLE_RATE = 16000  # Hz
SAMPLES = 16000  # a second of sound
NOTE_S = 0.22  # a voice that sounds in turn
CHORD_S = 0.85  # voices that sound together
LOWEST_HZ = 440.0  # the first colour's pitch, large; eight colours make an octave, small things sound an octave higher
_TAKES = 3  # a voice is sung once in tune, once a little flat and once a little sharp
_DETUNE = 0.01  # share of the frequency; the next colour is 9 % away

# Partials as (multiple of the pitch, amplitude).
_PARTIALS = {
    "circle": ((1, 1.0), (2, 0.08)),
    "square": ((1, 1.0), (3, 0.6), (5, 0.45), (7, 0.3)),
    "triangle": ((1, 1.0), (2, 0.7), (3, 0.5), (4, 0.35), (5, 0.25)),
    "star": ((1, 1.0), (2.76, 0.7), (5.4, 0.5)),
    "cross": ((1, 1.0), (2, 0.7), (3, 0.5), (4, 0.4)),
    "ring": ((1, 1.0), (2, 0.4), (4, 0.25)),
}


def _envelope(shape: str, t: np.ndarray, length_s: float) -> np.ndarray:
    """(T,) loudness over time: the shape's way of sounding."""
    edge = np.clip(np.minimum(t, length_s - t) / 0.008, 0, 1)  # no clicks
    if shape == "circle":  # swells
        return np.sin(math.pi * t / length_s) ** 2
    if shape == "triangle":  # plucked
        return edge * np.exp(-t / (0.22 * length_s))
    if shape == "star":  # a bell
        return edge * np.exp(-t / (0.45 * length_s))
    if shape == "cross":  # trembles, four to five times a note
        return edge * (0.12 + 0.88 * (0.5 - 0.5 * np.cos(2 * math.pi * 20 * t)))
    return edge


def voice(shape: str, pitch_hz: float, length_s: float, phases: Sequence[float]) -> np.ndarray:
    """One voice.

    Args:
        shape: whose timbre.
        pitch_hz: frequency of the first partial.
        length_s: seconds.
        phases: where in its cycle each partial begins, 0 to 1; at least as many as the shape has partials.

    Returns:
        (T,) float32 at 16 kHz with a root mean square of 1.
    """
    t = np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE  # (T,)
    cycles = pitch_hz * t  # (T,)
    if shape == "ring":  # glides up to its pitch
        rise = 0.4 * length_s
        cycles = pitch_hz * (t - 0.35 * np.minimum(t, rise) * (1 - np.minimum(t, rise) / (2 * rise)))
    wave = np.zeros_like(t)
    for (multiple, amplitude), phase in zip(_PARTIALS[shape], phases, strict=False):
        if multiple * pitch_hz < 0.95 * SAMPLE_RATE / 2:
            wave += amplitude * np.sin(2 * math.pi * (multiple * cycles + phase))
    wave *= _envelope(shape, t, length_s)
    return (wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


def pitch_of(colour: str, size: str) -> float:
    """Pitch in Hz: the colour's step of eight within the size's octave."""
    step = list(COLOURS).index(colour) / len(COLOURS)
    return LOWEST_HZ * 2 ** (step + (size == "small"))


@functools.cache
def _voices(length_s: float) -> np.ndarray:
    """(KINDS, _TAKES, T) float32: every voice there is, sung several times."""
    rng = np.random.default_rng(66)
    table = np.empty((KINDS, _TAKES, round(length_s * SAMPLE_RATE)), np.float32)
    for shape, colour, size in itertools.product(SHAPES, COLOURS, SIZES):
        row = kind(Thing(shape, colour, size, 0.0, 0.0))
        for take in range(_TAKES):
            detune = 1 + _DETUNE * (take - 1)
            table[row, take] = voice(shape, detune * pitch_of(colour, size), length_s, rng.random(8).tolist())
    return table


@functools.cache
def _hiss() -> np.ndarray:
    """(64 s,) float32 noise of deviation 1 between white and brown: a stretch of it lies under every sound."""
    rng = np.random.default_rng(67)
    spectrum = np.fft.rfft(rng.standard_normal(64 * SAMPLE_RATE))
    hertz = np.fft.rfftfreq(64 * SAMPLE_RATE, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, 100.0)))
    return (noise / noise.std()).astype(np.float32)


def moments(count: int, rng: np.random.Generator, *, together: bool) -> list[list[float]]:
    """When each voice begins and ends in what `sound` makes of so many things with random numbers in the same state.

    Args:
        count: of the things.
        rng: left as it is.
        together: see `sound`.

    Returns:
        [start, end] of each, in seconds.
    """
    chance = copy.deepcopy(rng).random(4 + 3 * count).tolist()
    length = _voices(CHORD_S if together else NOTE_S).shape[-1]
    return [[onset / SAMPLE_RATE, (onset + length) / SAMPLE_RATE] for onset in _onsets(chance, count, length, together)]


def _onsets(chance: Sequence[float], count: int, length: int, together: bool) -> list[int]:
    """First samples of so many voices of one length, by the random numbers of a sound."""
    spare = SAMPLES - length * (1 if together else count)
    rests = sorted(chance[4 + 2 * count :])  # the spare time before each voice, increasing
    return [int(spare * rests[number]) + (0 if together else number * length) for number in range(count)]


def sound(things: Sequence[Thing], rng: np.random.Generator, *, together: bool, snr_db: float) -> np.ndarray:
    """Let things sound, one after another in the order given or all at once.

    Args:
        things: whose voices are heard; none gives noise alone.
        rng: when, how loud and how well in tune.
        together: at once instead of in turn; each voice then lasts most of the second.
        snr_db: level of one voice over the noise while it sounds, 3 dB more or less by chance.

    Returns:
        (16000,) float32 in [-1, 1].
    """
    chance = rng.random(4 + 3 * len(things)).tolist()
    hiss = _hiss()
    start = int(chance[0] * (len(hiss) - SAMPLES))
    wave = hiss[start : start + SAMPLES] * 10 ** (-(snr_db + 6 * chance[1] - 3) / 20)  # (T,)
    table = _voices(CHORD_S if together else NOTE_S)
    length = table.shape[-1]
    onsets = _onsets(chance, len(things), length, together)
    for number, (thing, onset) in enumerate(zip(things, onsets, strict=True)):
        take, loudness = chance[4 + 2 * number : 6 + 2 * number]
        note = table[kind(thing), int(take * _TAKES)]
        wave[onset : onset + length] += (0.7 + 0.6 * loudness) * note
    gain = (0.3 + 0.5 * chance[2]) / max(float(np.abs(wave).max()), 1e-9)
    return wave * np.float32(gain)
