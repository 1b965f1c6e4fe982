"""Drawn faces: lips can be read, the rest says nothing, and every strength does what it says."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from mm.data.faces import FPS, LOUD, SIDE, Look, _ellipse, _sway, draw, jitter_s, opening_of, pictures_of, shown

STILL = Look(pixel_noise=0, drift_px=0, variety=0, blinks_per_s=0, jitter=0)
HALF = np.full(25, 0.5)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def dark(pictures: np.ndarray) -> np.ndarray:
    """How much black the lower half of each picture has, which is the inside of the mouth."""
    return np.clip(60 - pictures[:, SIDE // 2 :].astype(float), 0, None).sum((1, 2))  # (N,)


@pytest.mark.parametrize("shift_s", [0.0, 0.013, -0.02])
def test_opening_is_the_root_of_the_level_of_each_picture(shift_s: float) -> None:
    wave = rng().standard_normal(8100) * np.repeat(rng(1).random(81), 100)  # 1.0125 s at 8 kHz
    levels = []
    for k in range(26):
        begin, end = (round((edge / FPS + shift_s) * 8000) for edge in (k, k + 1))
        levels.append(math.sqrt(sum(wave[t] ** 2 for t in range(begin, end) if 0 <= t < len(wave))))
    expected = [math.sqrt(min(level / np.percentile(levels, LOUD), 1)) for level in levels]
    np.testing.assert_allclose(opening_of(wave, 8000, shift_s), expected, atol=1e-5)


def test_opening_does_not_depend_on_the_level_and_is_closed_in_silence() -> None:
    wave = rng().standard_normal(16000)
    wave[4000:8000] = 0
    np.testing.assert_allclose(opening_of(wave, 8000), opening_of(1e-3 * wave, 8000), atol=1e-6)
    assert (opening_of(wave, 8000)[13:25] == 0).all() and (opening_of(wave, 8000)[25:] > 0.5).all()
    assert (opening_of(np.zeros(800), 8000) == 0).all()


@pytest.mark.parametrize(("seconds", "count"), [(2.0, 50), (2.01, 51), (0.04, 1), (0.12, 3), (2.999999999, 75)])
def test_pictures_cover_a_talk(seconds: float, count: int) -> None:
    assert pictures_of(seconds) == count


@pytest.mark.parametrize("seed", range(6))
def test_lips_can_be_read_off_any_face(seed: int) -> None:
    chance = rng(seed)
    opening, width = chance.random((2, 200))
    pictures = draw(opening, width, chance)
    assert pictures.shape == (200, SIDE, SIDE) and pictures.dtype == np.uint8
    assert np.corrcoef(dark(pictures), opening * (3.4 + 2.4 * width))[0, 1] > 0.95  # the area of an ellipse


def test_a_mouth_grows_with_its_opening_and_its_width() -> None:
    steps = np.linspace(0, 1, 12)
    taller, wider = draw(steps, 0.5 + 0 * steps, rng(), STILL), draw(0.6 + 0 * steps, steps, rng(), STILL)
    assert (np.diff(dark(taller)) > 0).all() and dark(wider)[-1] > 1.5 * dark(wider)[0]
    for pictures, axis in ((taller, 2), (wider, 1)):
        extents = (pictures[:, SIDE // 2 :] < 60).any(axis).sum(1)  # (N,) rows, or columns
        assert extents[-1] >= extents[0] + 3 and (np.diff(extents) >= 0).all()
    assert dark(taller)[0] == 0  # closed


def test_only_the_mouth_moves_in_a_still_face() -> None:
    pictures = draw(np.array([0.0, 0.5, 1.0, 0.0]), np.array([0.2, 0.9, 0.1, 0.2]), rng(), STILL)
    assert np.array_equal(pictures[0], pictures[3]) and not np.array_equal(pictures[0], pictures[1])
    assert (pictures[:, : SIDE // 2] == pictures[0, : SIDE // 2]).all()


def test_a_face_is_of_its_chance() -> None:
    assert np.array_equal(draw(HALF, HALF, rng(3)), draw(HALF, HALF, rng(3)))
    assert not np.array_equal(draw(HALF, HALF, rng(3)), draw(HALF, HALF, rng(4)))
    assert np.array_equal(draw(HALF, HALF, rng(3), STILL), draw(HALF, HALF, rng(4), STILL))
    faces = [draw(HALF, HALF, rng(seed), Look(pixel_noise=0, drift_px=0)) for seed in range(30)]
    skins = [float(face[0, 20, 16 - 7]) for face in faces]  # beside the mouth
    assert len(set(skins)) > 20 and np.std(skins) > 15


def test_noise_has_the_stated_strength() -> None:
    clean, noisy = (draw(HALF, HALF, rng(), Look(pixel_noise=noise, drift_px=0)).astype(float) for noise in (0, 8))
    differences = (noisy - clean)[(clean > 40) & (clean < 215)]
    assert np.std(differences) == pytest.approx(8, rel=0.03)
    assert abs(np.corrcoef((noisy - clean)[0].ravel(), (noisy - clean)[1].ravel())[0, 1]) < 0.15


def test_the_head_sways_slowly_and_within_its_bounds() -> None:
    paths = np.stack([_sway(200, rng(seed), Look(drift_px=2)) for seed in range(50)])  # (50, 2, N)
    assert 1.8 < np.abs(paths).max() <= 2 and np.abs(np.diff(paths)).max() < 0.25
    swaying = draw(np.full(100, 0.5), np.full(100, 0.5), rng(5), Look(pixel_noise=0, blinks_per_s=0))
    assert (swaying[0] != swaying[-1]).any() and not np.array_equal(swaying[0, : SIDE // 2], swaying[50, : SIDE // 2])


def test_a_head_that_sways_far_keeps_its_eyes_and_its_mouth() -> None:
    far = Look(pixel_noise=0, drift_px=4, variety=0, blinks_per_s=0)
    for seed in range(5):
        pictures = draw(np.ones(200), np.full(200, 0.5), rng(seed), far)
        black = np.clip(80 - pictures.astype(float), 0, None).sum((1, 2))  # (N,) of eyes and mouth
        assert black.min() > 0.9 * black.max() > 0


def test_eyes_blink_as_often_as_they_should() -> None:
    count = 25 * 200
    look = Look(pixel_noise=0, drift_px=0, variety=0, blinks_per_s=0.5, jitter=0)
    pictures = draw(np.zeros(count), np.full(count, 0.5), rng(), look)
    still = draw(np.zeros(1), np.full(1, 0.5), rng(), STILL)[0]
    changed = (pictures != still).any(axis=(1, 2))  # (N,)
    begins = int((np.diff(changed.astype(int)) == 1).sum())
    assert 60 < begins < 120  # of 100, some of which fall together
    assert 3 <= changed.sum() / begins <= 6  # pictures
    rows, columns = np.nonzero((pictures != still).any(axis=0))
    assert rows.max() < SIDE // 2 and (np.abs(columns - 15.5) > 1).all()  # nothing but the eyes


def test_lips_are_early_or_late_by_the_jitter_at_most() -> None:
    shifts = [jitter_s(rng(seed), Look(jitter=1)) * FPS for seed in range(200)]
    assert -1 <= min(shifts) < -0.9 and 0.9 < max(shifts) <= 1
    assert jitter_s(rng(), STILL) == 0


@pytest.mark.parametrize("high", [0.02, 0.3, 2.0, 6.0])
@pytest.mark.parametrize("centre", [(10.0, 10.0), (10.37, 9.81)])
def test_an_ellipse_covers_its_area_however_flat(high: float, centre: tuple[float, float]) -> None:
    pixel = np.arange(20) + 0.5
    cover = _ellipse(pixel[None, None] - centre[0], pixel[None, :, None] - centre[1], 6.0, high)  # (1, 20, 20)
    assert cover.min() >= 0 and cover.max() <= 1
    assert cover.sum() == pytest.approx(math.pi * 6 * high, rel=0.02)


def test_a_video_begins_with_the_voice() -> None:
    frames = shown(draw(HALF, HALF, rng()))
    np.testing.assert_allclose(frames.times, [k / 25 for k in range(25)])
    assert frames.end_s == 1.0 and len(frames.pictures) == 25


@pytest.mark.parametrize(
    ("opening", "width", "message"),
    [
        (HALF, HALF[:-1], r"an opening and a width for each picture: got \(25,\), \(24,\)"),
        (HALF[:0], HALF[:0], r"for each picture: got \(0,\), \(0,\)"),
        (HALF[None], HALF[None], r"for each picture: got \(1, 25\)"),
        (HALF * 3, HALF, r"the opening of a mouth lies in 0\.\.1: got 1\.5 to 1\.5"),
        (HALF, HALF - 1, r"the width of a mouth lies in 0\.\.1: got -0\.5 to -0\.5"),
        (HALF * np.nan, HALF, r"the opening of a mouth lies in 0\.\.1: got nan"),
    ],
)
def test_tracks_that_are_none(opening: np.ndarray, width: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(opening, width, rng())


@pytest.mark.parametrize("name", [field.name for field in fields(Look)])
def test_no_strength_is_negative(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} of a look must be at least 0: got -0\.1"):
        Look(**{name: -0.1})


def test_there_is_no_more_than_all_variety() -> None:
    with pytest.raises(ValueError, match=r"variety of a look is a share from 0 to 1: got 1\.5"):
        Look(variety=1.5)
