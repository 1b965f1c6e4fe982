"""Rendered talking faces: small grey pictures whose lips open with the loudness of a voice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mm.video import Frames

SIDE = 32  # px, of the square pictures
FPS = 25  # pictures a second
WINDOW_S = 1 / FPS  # of the voice that a picture's opening is measured on
LOUD = 95  # percentile of a talk's windows whose level opens the mouth wholly
_BLINK_S = 1 / 6
_EXTREME = 0.1  # share by which head and mouth are larger or smaller than the mean at `variety` 1


@dataclass(frozen=True)
class Look:
    """How hard it is to read lips.

    Raises:
        ValueError: a negative strength, or more variety than there is.
    """

    pixel_noise: float = 6.0  # standard deviation in grey levels of 255, anew in every picture
    drift_px: float = 1.0  # the head sways slowly by up to this much either way
    variety: float = 1.0  # how much faces differ in greys, size and place, at most 1; 0 = all talks show one face
    blinks_per_s: float = 0.3  # each lasts a sixth of a second
    jitter: float = 0.5  # the lips of a talk are early or late by up to so many pictures

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of a look must be at least 0: got {getattr(self, name)}.")
        if self.variety > 1:
            raise ValueError(f"variety of a look is a share from 0 to 1: got {self.variety}.")


def pictures_of(seconds: float) -> int:
    """How many pictures show a talk of this length; the last may end behind it."""
    return math.ceil(round(seconds * FPS, 6))


def opening_of(wave: np.ndarray, sample_rate: int, shift_s: float = 0.0) -> np.ndarray:
    """How wide a voice opens the mouth in each picture: the square root of its level, as a share of its loud level.

    Args:
        wave: (T,) one voice alone.
        sample_rate: Hz.
        shift_s: what is heard so much later is seen already; negative = the lips are late.

    Returns:
        (N,) float32, 0 where the voice is silent, 1 where it is as loud as its `LOUD` percentile or louder.
    """
    count = pictures_of(len(wave) / sample_rate)
    edges = np.rint((np.arange(count + 1) * WINDOW_S + shift_s) * sample_rate).astype(int)  # (N + 1,)
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])  # (T + 1,)
    level = np.sqrt(np.maximum(np.diff(energy[np.clip(edges, 0, len(wave))]), 0.0))  # (N,)
    loud = np.percentile(level, LOUD)
    return np.sqrt(np.minimum(level / max(loud, 1e-12), 1.0)).astype(np.float32)  # (N,)


def jitter_s(rng: np.random.Generator, look: Look) -> float:
    """By how much a talk's lips are early (or, negative, late), in seconds."""
    return (2 * rng.random() - 1) * look.jitter / FPS


def draw(opening: np.ndarray, width: np.ndarray, rng: np.random.Generator, look: Look = Look()) -> np.ndarray:
    """Pictures of one face that talks.

    Args:
        opening: (N,) of the mouth, 0 closed to 1 wide open.
        width: (N,) of the mouth, 0 rounded to 1 spread.
        rng: whose face it is, how it moves and blinks, and noise.
        look: how hard it is to read.

    Returns:
        (N, 32, 32) uint8, grey.

    Raises:
        ValueError: two tracks of different lengths, none at all, or values outside 0..1.
    """
    if opening.ndim != 1 or opening.shape != width.shape or not len(opening):
        raise ValueError(f"a face needs an opening and a width for each picture: got {opening.shape}, {width.shape}.")
    for name, track in (("opening", opening), ("width", width)):
        if not (track.min() >= 0 and track.max() <= 1):  # also catches NaN
            raise ValueError(f"the {name} of a mouth lies in 0..1: got {track.min()} to {track.max()}.")
    chance = (0.5 + look.variety * (rng.random(12) - 0.5)).tolist()  # around the middle
    centre_x, centre_y = SIDE / 2 + _sway(len(opening), rng, look)  # (N,) each
    centre_x, centre_y = centre_x + 2 * (chance[0] - 0.5), centre_y + 2 * (chance[1] - 0.5)
    size = 1 + 2 * _EXTREME * (chance[2] - 0.5)
    pixel = np.arange(SIDE) + 0.5  # (32,) centres
    x = (pixel - centre_x[:, None]).astype(np.float32)[:, None, :]  # (N, 1, 32)
    y = (pixel - centre_y[:, None]).astype(np.float32)[:, :, None]  # (N, 32, 1)

    skin = 110 + 100 * chance[3]  # grey levels
    lips, eyes = skin * (0.5 + 0.3 * chance[4]), skin * (0.15 + 0.2 * chance[5])
    behind = (20 + 200 * chance[6]) + 30 * ((chance[7] - 0.5) * x + (chance[8] - 0.5) * y) / SIDE  # (N, 32, 32)
    shade = 1 + 0.012 * (chance[9] - 0.5) * x  # (N, 1, 32) light from one side
    image = behind + _ellipse(x, y, 12.0 * size, 14.5 * size) * (skin * shade - behind)  # (N, 32, 32)

    reach = 1 + math.ceil(look.drift_px)  # rows by which the head may be higher or lower
    top, bottom = max(SIDE // 2 - 7 - reach, 0), SIDE // 2 - 2 + reach  # rows where eyes may be
    lids = 1 - _blinks(len(opening), rng, look)[:, None, None]  # (N, 1, 1)
    across, up = np.abs(x) - 4.6 * size, y[:, top:bottom] + 4.5 * size  # (N, 1, 32), (N, R, 1)
    part = image[:, top:bottom]
    part += _ellipse(across, up, 2.0 * size, size * (1.4 * lids + 0.15)) * (eyes - part)  # (N, R, 32)

    top, bottom = max(SIDE // 2 - reach, 0), SIDE  # rows where the mouth may be
    wide = size * (3.4 + 2.4 * width.astype(np.float32))[:, None, None]  # (N, 1, 1) half the mouth's width
    high = size * (3.6 * opening.astype(np.float32))[:, None, None]  # (N, 1, 1) half the height between the lips
    thick = 0.9 + 0.5 * chance[10]
    down, part = y[:, top:bottom] - 6.5 * size, image[:, top:bottom]  # (N, R, 1), (N, R, 32)
    part += _ellipse(x, down, wide + thick, high + thick) * (lips - part)
    part += _ellipse(x, down, wide, high) * (10 + 20 * chance[11] - part)

    image += np.float32(look.pixel_noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def shown(pictures: np.ndarray) -> Frames:
    """Pictures (N, ...) as a video that begins with the voice."""
    return Frames(pictures, np.arange(len(pictures)) / FPS, len(pictures) / FPS)


def _ellipse(x: np.ndarray, y: np.ndarray, wide: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """How much of each pixel's column lies within an ellipse of these half axes: exact however flat it is."""
    half = high * np.sqrt(np.maximum(1 - np.square(x / wide), 0))  # (N, 1, W)
    return np.clip(np.minimum(y + 0.5, half) - np.maximum(y - 0.5, -half), 0, 1)  # (N, H, W)


def _sway(count: int, rng: np.random.Generator, look: Look) -> np.ndarray:
    """(2, N) px by which the head is off its place to the right and down."""
    hertz, phase, amount = rng.random((3, 2, 1))  # (2, 1) each
    turns = (0.1 + 0.3 * hertz) * np.arange(count) / FPS + phase  # (2, N)
    return look.drift_px * (0.4 + 0.6 * amount) * np.sin(2 * math.pi * turns)


def _blinks(count: int, rng: np.random.Generator, look: Look) -> np.ndarray:
    """(N,) how far the eyes are shut, 0 to 1."""
    seconds = count / FPS
    middles = rng.random(rng.poisson(look.blinks_per_s * seconds)) * seconds  # (K,)
    away = np.abs(np.arange(count)[:, None] / FPS - middles)  # (N, K)
    return np.clip(1.5 - 3 * away / _BLINK_S, 0, 1).max(axis=1, initial=0.0).astype(np.float32)  # (N,)
