"""Sounds of the embedded world: pitch, loudness, turns, noise."""

import itertools

import numpy as np
import pytest

from mm.data.scenes import (
    COLOURS,
    KINDS,
    SHAPES,
    SIZES,
    Thing,
    kind,
)
from mm.data.synthetic import World
from mm.data.voices import NOTE_S, SAMPLE_RATE, pitch_of, sound, voice


def test_pitch_is_colour_and_size() -> None:
    pitches = [pitch_of(colour, size) for size in ("large", "small") for colour in COLOURS]
    np.testing.assert_allclose(np.diff(np.log2(pitches)), 1 / 8)  # sixteen equal steps over two octaves
    for colour, size in itertools.product(COLOURS, SIZES):
        wave = voice("circle", pitch_of(colour, size), 0.5, [0.0, 0.0])
        peak_hz = np.argmax(np.abs(np.fft.rfft(wave))) / 0.5
        assert abs(peak_hz / pitch_of(colour, size) - 1) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_voices_are_equally_loud_and_never_alias(shape: str) -> None:
    wave = voice(shape, pitch_of("white", "small"), NOTE_S, [0.1] * 8)
    assert wave.dtype == np.float32 and len(wave) == round(NOTE_S * SAMPLE_RATE)
    assert np.sqrt(np.mean(wave.astype(float) ** 2)) == pytest.approx(1, abs=1e-4)


def loudness(wave: np.ndarray) -> np.ndarray:
    return np.sqrt((wave[:16000].reshape(100, 160).astype(float) ** 2).mean(1))  # (100,) of 10 ms


def test_sounds_in_turn_and_together(three: tuple[Thing, ...]) -> None:
    red, blue, green = three
    # All voices in a row: the order of the pitches follows the order given.
    for things in ((red, green), (green, red)):
        wave = sound(
            [thing._replace(shape="circle") for thing in things],
            np.random.default_rng(0),
            together=False,
            snr_db=40.0,
        )
        assert wave.shape == (16000,) and wave.dtype == np.float32 and np.abs(wave).max() <= 1
        spectrum = np.abs(np.fft.rfft(wave.reshape(20, 800), axis=1))  # (20, 401) bands of 20 Hz
        tones = [
            20 * np.argmax(row)
            for row, loud in zip(spectrum, loudness(wave).reshape(20, 5).mean(1), strict=True)
            if loud > 0.1
        ]
        expected = [pitch_of(thing.colour, thing.size) for thing in things]
        assert abs(tones[0] - expected[0]) < 40 and abs(tones[-1] - expected[-1]) < 40
    for things, together, share in (((red,), False, 0.22), ((red, blue), False, 0.44), ((red, blue), True, 0.85)):
        flat = [thing._replace(shape="square") for thing in things]
        loud = loudness(sound(flat, np.random.default_rng(1), together=together, snr_db=40.0))
        heard = (loud > 0.3 * loud.max()).mean()
        assert share - 0.02 <= heard <= (1.0 if together else share + 0.04)


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_level(snr_db: float, three: tuple[Thing, ...]) -> None:
    red = three[0]
    ratios = []
    for seed in range(40):
        wave = sound([red._replace(shape="square")], np.random.default_rng(seed), together=False, snr_db=snr_db)
        power = np.sort(loudness(wave) ** 2)
        ratios.append(10 * np.log10(power[82:96].mean() / power[5:70].mean()))
    noisy = 10 * np.log10(10 ** (snr_db / 10) + 1)  # the loud part holds the noise as well
    assert np.mean(ratios) == pytest.approx(noisy, abs=1.5)


def test_voices_can_be_told_apart_among_noise() -> None:
    """Nearest mean spectrum finds most of the 96 voices (by chance one of 96) at the default noise."""
    world = World()

    def heard(number: int, seed: int) -> np.ndarray:
        rest, size = divmod(number, 2)
        shape, colour = divmod(rest, 8)
        thing = Thing(SHAPES[shape], list(COLOURS)[colour], list(SIZES)[size], 0.0, 0.0)
        assert kind(thing) == number
        wave = sound([thing], np.random.default_rng(seed), together=False, snr_db=world.snr_db)
        power = np.log(np.abs(np.fft.rfft(wave)[:8000].reshape(400, 20)).mean(1))  # (400,) bands of 20 Hz
        return power - power.mean()

    templates = np.stack([np.mean([heard(k, seed) for seed in range(12)], axis=0) for k in range(KINDS)])  # (96, 400)
    right = [np.argmin(((templates - heard(k, 100 + k)) ** 2).sum(1)) == k for k in range(KINDS)]
    assert np.mean(right) > 0.8
