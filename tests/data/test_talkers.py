"""Talkers of the embedded world: the same from the same numbers, voices with pitch and formants, lips that follow."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from mm.data.faces import FPS, SIDE, Look, opening_of
from mm.data.talkers import (
    CONSONANTS,
    LEVEL_DB,
    SAMPLE_RATE,
    VOICES,
    VOWELS,
    Score,
    Talkers,
    Voice,
    compose,
    levelled,
    mouth,
    sing,
    voice_of,
)
from mm.data.talks import Talk
from mm.signal import Stft, si_sdr
from tests.shared import in_a_spawned_process

MIDDLE = Voice(pitch_hz=100, tract=1.0, tilt=6.0, breath=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(a: Talk, b: Talk) -> bool:
    assert isinstance(a.voice, np.ndarray)
    faces = zip(a.face, b.face, strict=True)
    return (a.id, a.speaker, a.meta) == (b.id, b.speaker, b.meta) and all(
        np.array_equal(x, y) for x, y in ((a.voice, b.voice), *faces)
    )


def talk_of(split: Talkers, index: int) -> Talk:
    return split[index]


def vowel(name: str, steps: int = 201) -> Score:
    """A second of one vowel on an even pitch."""
    formants = np.tile(np.array(VOWELS[name], float)[:, None], steps)
    ones, zeros = np.ones(steps), np.zeros(steps)
    return Score(name, ones, zeros, 700 * ones, formants, ones, zeros)


def dark(pictures: np.ndarray) -> np.ndarray:
    """How much black the lower half of each picture has, which is the inside of the mouth."""
    return np.clip(60 - pictures[:, SIDE // 2 :].astype(float), 0, None).sum((1, 2))  # (N,)


def colour(wave: np.ndarray) -> np.ndarray:
    """(32,) long-term spectrum in dB, in bands of 125 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::128] * np.hanning(512)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(0)[1:].reshape(32, 8).mean(1)
    return 10 * np.log10(power / power.sum() + 1e-9)


def test_everything_follows_from_seed_split_and_index() -> None:
    one, again, longer = (Talkers("train", n, 3) for n in (10, 10, 5000))
    for i in (0, 3, 9):
        assert same(one[i], again[i]) and same(one[i], longer[i]) and same(one[i], one[i - 10])
    assert longer.speakers[:10] == one.speakers
    others = [Talkers(split, 10, 3) for split in ("train", "val", "test")] + [Talkers("train", 10, 4)]
    talks = [split[i] for split in others for i in range(10)]
    assert len({talk.voice.tobytes() for talk in talks}) == 40
    assert len({talk.face.pictures.tobytes() for talk in talks}) == 40
    assert len({talk.meta["said"] for talk in talks}) == 40
    assert len({talk.id for talk in talks}) == 30


def test_a_loading_process_gets_the_same() -> None:
    split = Talkers("val", 20000, 5)
    assert len(pickle.dumps(split)) < 1000
    assert same(in_a_spawned_process(talk_of, split, 123), split[123])


def test_talks_are_of_two_and_every_speaker_has_turns() -> None:
    split = Talkers("test", 250, voices=12)
    speakers = split.speakers
    assert all(split[i].speaker == speakers[i] for i in (0, 1, 2, 23, 24, 25, 249))
    assert speakers[0::2] == speakers[1::2]
    assert all(len(set(speakers[first : first + 24])) == 12 for first in range(0, 240, 24))
    assert speakers[:24] != speakers[24:48]
    assert max(Counter(speakers).values()) - min(Counter(speakers).values()) <= 2


def test_unseen_speakers_are_nobody_of_the_others() -> None:
    usual = [set(Talkers(split, 200).speakers) for split in ("train", "val", "test")]
    assert len(usual[0]) == VOICES and usual[0] == usual[1] == usual[2]
    unseen = [set(Talkers(split, 200, unseen=True).speakers) for split in ("train", "val", "test")]
    assert unseen[0] == usual[0] and len(set.union(*unseen)) == 3 * VOICES
    assert len({voice_of(0, number) for number in range(3 * VOICES)}) == 3 * VOICES
    assert voice_of(0, 1) != voice_of(1, 1)
    seen, strange = Talkers("val", 4), Talkers("val", 4, unseen=True)
    assert seen[0].meta == strange[0].meta and not np.array_equal(seen[0].voice, strange[0].voice)


def test_voices_are_of_all_pitches() -> None:
    voices = [voice_of(0, number) for number in range(200)]
    pitches, tracts = [voice.pitch_hz for voice in voices], [voice.tract for voice in voices]
    assert 80 <= min(pitches) < 85 and 250 < max(pitches) <= 260
    assert 0.88 <= min(tracts) < 0.92 and 1.15 < max(tracts) <= 1.2
    assert 0.3 < np.corrcoef(pitches, tracts)[0, 1] < 0.9


def test_a_talk_is_level_finite_and_as_long_as_asked() -> None:
    split = Talkers("train", 20, seconds=1.5)
    for i in range(20):
        talk = split[i]
        assert talk.voice.shape == (12000,) and talk.voice.dtype == np.float32 and np.abs(talk.voice).max() <= 1
        assert 10 * np.log10(np.mean(talk.voice.astype(float) ** 2)) == pytest.approx(LEVEL_DB, abs=0.01)
        assert talk.face.pictures.shape == (38, SIDE, SIDE) and talk.face.pictures.dtype == np.uint8
        np.testing.assert_allclose(talk.face.times, np.arange(38) / FPS)
        assert talk.face.end_s >= 1.5 and talk.track is None
        assert json.loads(json.dumps(talk.meta)) == talk.meta and talk.meta["said"]
    assert len(Talkers("train", 1, seconds=1.2345)[0].voice) == round(1.2345 * SAMPLE_RATE)


def test_levels() -> None:
    spike = np.zeros(16000, np.float32)
    spike[5] = -0.01
    assert levelled(spike)[5] == pytest.approx(-1)  # not beyond, though its level is below the stated one
    assert (levelled(np.zeros(100, np.float32)) == 0).all()
    noise = rng().standard_normal(16000).astype(np.float32)
    np.testing.assert_allclose(levelled(noise), levelled(7 * noise), atol=1e-6)


def test_what_is_said_has_words_and_real_pauses() -> None:
    pauses = []
    for seed in range(40):
        score = compose(rng(seed), 2.0)
        for word in score.said.split():
            while word:
                consonant = max((c for c in CONSONANTS if word.startswith(c)), key=len)
                word = word.removeprefix(consonant)
                spoken = max((v for v in VOWELS if word.startswith(v)), key=len)
                word = word.removeprefix(spoken)
        silent = (score.voiced == 0) & (score.noise == 0)  # (M,)
        wave = sing(score, voice_of(0, seed), rng(seed))
        level = np.abs(wave).reshape(-1, 40).max(1)  # (M - 1,)
        assert (level[silent[:-1] & silent[1:]] == 0).all()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]]).astype(int)))
        inner = [(end - begin) * 0.005 for begin, end in edges.reshape(-1, 2) if begin and end < len(silent)]
        pauses += [pause for pause in inner if pause > 0.03]
        assert 0.3 < 1 - silent.mean() < 0.95
    assert min(pauses) < 0.08 and 0.3 < max(pauses) < 0.5 and np.std(pauses) > 0.07


@pytest.mark.parametrize("pitch_hz", [90.0, 140.0, 250.0])
def test_a_voice_is_a_row_of_harmonics_of_its_pitch(pitch_hz: float) -> None:
    wave = sing(vowel("a"), MIDDLE._replace(pitch_hz=pitch_hz), rng())
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2  # (4001,) of 1 Hz
    near = np.abs(np.arange(4001) / pitch_hz - np.rint(np.arange(4001) / pitch_hz)) * pitch_hz <= 3  # (4001,)
    assert power[near].sum() > 0.9999 * power.sum()
    strengths = [power[round(k * pitch_hz) - 2 : round(k * pitch_hz) + 3].sum() for k in range(1, int(3500 / pitch_hz))]
    assert min(strengths) > 1e-7 * max(strengths)  # all of them are there
    assert power[3950:].sum() < 1e-6 * power.sum()  # nothing near the end of the band


@pytest.mark.parametrize("name", VOWELS)
@pytest.mark.parametrize("tract", [0.9, 1.15])
def test_vowels_have_their_formants(name: str, tract: float) -> None:
    wave = sing(vowel(name), MIDDLE._replace(pitch_hz=61.0, tract=tract, tilt=0.0), rng())
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2  # (4001,) of 1 Hz
    heights = np.array([power[61 * k - 3 : 61 * k + 4].sum() for k in range(1, 57)])  # of each harmonic
    peaks = [61 * (k + 1) for k in range(1, 55) if heights[k] > max(heights[k - 1], heights[k + 1])]
    for formant in VOWELS[name][:2]:
        assert min(abs(peak - formant * tract) for peak in peaks) < 65, (peaks, formant * tract)


def test_harmonics_equal_a_plain_sum_of_sines() -> None:
    """The running product of the fundamental's phase against sines that are computed one by one."""
    from mm.data.talkers import _harmonics

    chance = rng()
    cycles = np.cumsum(chance.uniform(80, 250, 400)) / SAMPLE_RATE  # (T,)
    strengths = chance.standard_normal((11, 40)) + 1j * chance.standard_normal((11, 40))  # (M, H)
    expected = np.zeros(400)
    for step in range(10):
        for n in range(40):
            for h in range(40):
                strength = strengths[step, h] + (strengths[step + 1, h] - strengths[step, h]) * n / 40
                phase = 2 * math.pi * (h + 1) * cycles[40 * step + n]
                expected[40 * step + n] += strength.real * math.cos(phase) - strength.imag * math.sin(phase)
    turn = np.exp(2j * math.pi * cycles).astype(np.complex64).reshape(10, 40)
    sung = _harmonics(turn, strengths[:-1].astype(np.complex64), strengths[1:].astype(np.complex64))
    np.testing.assert_allclose(sung.ravel(), expected, atol=1e-3)


@pytest.mark.parametrize(("name", "low", "high"), [("s", 2800, 4000), ("sh", 1800, 3400)])
def test_fricatives_are_noise_of_their_band(name: str, low: int, high: int) -> None:
    score = vowel("a")
    hiss = score._replace(voiced=score.noise, noise=score.voiced, noise_hz=0 * score.voiced + CONSONANTS[name].noise_hz)
    wave = sing(hiss, MIDDLE, rng())
    power = np.abs(np.fft.rfft(wave)) ** 2  # (4001,) of 1 Hz
    assert power[low:high].sum() > 0.8 * power.sum()
    frames = power[low:high].reshape(-1, 50).mean(1)
    assert np.sort(power[low:high])[::-1][:20].sum() < 0.2 * frames.sum() * 50  # no tone stands out


def test_lips_follow_their_own_voice_and_no_other() -> None:
    split = Talkers("val", 60)
    talks = [split[i] for i in range(60)]
    tracks = [(opening_of(talk.voice, SAMPLE_RATE), dark(talk.face.pictures)) for talk in talks]
    own = [np.corrcoef(heard, seen)[0, 1] for heard, seen in tracks]
    other = [np.corrcoef(tracks[i][0], tracks[i ^ 1][1])[0, 1] for i in range(60)]  # of the same speaker
    assert np.mean(own) > 0.75 and min(own) > 0.5
    assert abs(np.mean(other)) < 0.2
    assert np.mean(np.array(own) > np.array(other)) == 1


def test_the_mouth_is_closed_in_pauses_and_where_lips_must_meet() -> None:
    quiet = Look(pixel_noise=0, drift_px=0, variety=0, blinks_per_s=0, jitter=0)
    split = Talkers("train", 20, look=quiet)
    for i in range(20):
        talk = split[i]
        silent = np.abs(talk.voice).reshape(50, 320).max(1) == 0  # (N,)
        assert silent.any() and (dark(talk.face.pictures)[silent] == 0).all()
        assert (dark(talk.face.pictures)[~silent] > 0).mean() > 0.6
    for name, most in (("m", 0.0), ("w", 0.3), ("n", 0.5)):
        score = vowel("ah")._replace(lips=np.full(201, CONSONANTS[name].lips))
        opening, _ = mouth(score, sing(score, MIDDLE, rng()), 0.0)
        assert opening.max() == pytest.approx(most, abs=0.01)


def test_lips_show_the_vowel() -> None:
    shapes = {name: mouth(vowel(name), sing(vowel(name), MIDDLE, rng()), 0.0) for name in VOWELS}
    opening, width = ({name: float(track[part].mean()) for name, track in shapes.items()} for part in (0, 1))
    assert opening["ah"] > opening["e"] > opening["ee"] and opening["a"] > 1.5 * opening["oo"]
    assert width["ee"] > width["e"] > width["ah"] > width["oo"] and width["ee"] > 0.9


def test_lips_may_be_early() -> None:
    score = compose(rng(2), 2.0)
    wave = sing(score, MIDDLE, rng())
    for track, early in zip(mouth(score, wave, 0.0), mouth(score, wave, 0.08), strict=True):
        np.testing.assert_allclose(early[:-2], track[2:], atol=1e-6)


def test_two_talks_of_a_speaker_sound_alike_and_two_speakers_do_not() -> None:
    """Means over five talks: a speaker's long-term spectra are nearer to one another than to those of others."""
    split = Talkers("train", 100, voices=10)
    speakers = np.array(split.speakers)
    colours = np.stack([colour(split[i].voice) for i in range(100)])  # (100, 32)
    names = sorted(set(speakers))
    means = np.stack([[colours[speakers == name][part::2].mean(0) for name in names] for part in (0, 1)])  # (2, 10, 32)
    distances = np.abs(means[0][:, None] - means[1][None]).mean(-1)  # (10, 10) dB
    own = np.diag(distances)
    assert own.mean() < 0.75 * distances[~np.eye(10, dtype=bool)].mean()
    assert (own < distances.mean(1)).sum() >= 9


def test_two_talks_of_one_voice_can_be_parted_and_the_lips_help() -> None:
    """An ideal ratio mask is far better than the mixture, and so is what the two openings alone allow."""
    split, stft = Talkers("test", 40), Stft(sample_rate=SAMPLE_RATE, window_s=0.032, hop_s=0.008, kind="hann")
    ideal, gated = [], []
    for i in range(0, 40, 2):
        waves = torch.from_numpy(np.stack([split[i].voice, split[i + 1].voice]))  # (2, T)
        mixture = waves.sum(0)
        spec, sizes = stft(mixture), stft(waves).abs()
        mask = sizes[0] / (sizes.sum(0) + 1e-9)
        frames = np.arange(spec.shape[-1]) * stft.hop / SAMPLE_RATE * FPS - 0.5
        power = [np.interp(frames, np.arange(50), opening_of(w.numpy(), SAMPLE_RATE)) ** 4 + 1e-3 for w in waves]
        gate = torch.from_numpy(power[0] / (power[0] + power[1]))
        for gains, scores in ((mask, ideal), (gate, gated)):
            estimate = stft.inverse((spec * gains).to(spec.dtype), len(mixture))
            scores.append(float(si_sdr(estimate, waves[0]) - si_sdr(mixture, waves[0])))
    assert np.mean(ideal) > 10 and 4 < np.mean(gated) < np.mean(ideal) - 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tests", 3), r"unknown split 'tests'\. Choose from: train, val, test\. Did you mean 'test'\?"),
        (("train", 0), "at least one talk and one voice, and a seed of at least 0: got n=0, voices=40, seed=0"),
        (("train", 3, -1), "got n=3, voices=40, seed=-1"),
        (("train", 3, 0, 2.0, 0), "got n=3, voices=0, seed=0"),
        (("train", 3, 0, 0.5), r"a talk must last at least 1 second: got seconds=0\.5"),
        (("train", 3, 0, math.nan), "a talk must last at least 1 second: got seconds=nan"),
    ],
)
def test_rejected(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Talkers(*arguments)


@pytest.mark.parametrize("index", [3, -4])
def test_no_such_talk(index: int) -> None:
    with pytest.raises(IndexError, match=rf"the train split has talks 0 to 2: got {index}"):
        Talkers("train", 3)[index]
