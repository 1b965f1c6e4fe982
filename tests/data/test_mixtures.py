"""Mixtures: the sum of what is asked for, at the levels drawn; who talks, when and how loud follows from a seed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mm.data import Batches, Talk, Talkers, Talks, UnreadableError
from mm.data.mixtures import MixConfig, Mixture, Mixtures, check, mixed_batch, noise
from mm.encoders.video import VideoEncoder
from mm.media import read_audio
from mm.video import Frames
from tests.shared import in_a_spawned_process

RATE, FPS = 8000, 25.0


def hear(talk: Talk) -> Tensor:
    """The samples that a talk holds, or those of its file at 8 kHz."""
    return torch.from_numpy(talk.voice) if isinstance(talk.voice, np.ndarray) else read_audio(talk.voice, RATE)


def see(talk: Talk) -> Tensor:
    """The pictures that a talk holds, as they are."""
    assert isinstance(talk.face, Frames)
    return torch.from_numpy(talk.face.pictures)


def talk(name: str, speaker: str, voice: np.ndarray | Path, frames: int = 50) -> Talk:
    """A talk whose pictures are of one pixel: frame k is k."""
    pictures = np.arange(frames, dtype=np.int32).reshape(-1, 1, 1)
    return Talk(name, speaker, voice, Frames(pictures, np.arange(frames) / FPS, frames / FPS))


def said(speakers: str, seconds: float = 2.0) -> Talks:
    """A talk of noise for each letter, which says who talks."""
    waves = np.random.default_rng(0).normal(size=(len(speakers), round(seconds * RATE))).astype(np.float32)
    return Talks(talk(f"{k}{who}", who, wave) for k, (who, wave) in enumerate(zip(speakers, 0.1 * waves, strict=True)))


def mixtures(talks: Talks | Talkers | None = None, whole: bool = False, seed: int = 0, **settings: object) -> Mixtures:
    """Mixtures of half a second, of two voices unless `voices` says otherwise."""
    cfg = dataclasses.replace(MixConfig(seconds=0.5), **settings)
    return Mixtures(talks or said("aabbcc"), hear, see, cfg, RATE, FPS, max(cfg.voices), seed, whole)


def drawn(made: Mixtures, count: int) -> list[Mixture]:
    """The first mixtures of as many epochs as it takes."""
    return [made.mixture(*divmod(number, len(made.talks))) for number in range(count)]


def same(one: Mixture, other: Mixture) -> bool:
    return one[3:] == other[3:] and all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def decibel(one: Tensor, other: Tensor) -> float:
    energies = (wave.double().square().sum() for wave in (one, other))
    return 10 * math.log10(next(energies) / next(energies))


# What is heard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voices", [1, 2, 3, 4])
@pytest.mark.parametrize("whole", [False, True])
def test_a_mixture_is_the_sum_of_its_targets_and_of_its_noise(voices: int, whole: bool) -> None:
    loud = mixtures(whole=whole, voices=[voices], noise=1.0)
    assert all(one.targets.shape == (voices, len(one.mixture)) for one in drawn(loud, 12))
    for one in drawn(loud, 12):
        rest = one.mixture - one.targets.sum(0)
        assert 5 - 0.01 <= decibel(one.targets[0], rest) <= 20 + 0.01
    if voices > 1:
        for one in drawn(mixtures(whole=whole, voices=[voices]), 12):
            torch.testing.assert_close(one.targets.sum(0), one.mixture, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [-7.5, 0.0, 4.25])
def test_every_voice_and_the_noise_have_the_levels_that_were_drawn(level: float) -> None:
    exact = {"snr_db": [level, level], "noise_db": [level + 3, level + 3], "noise": 1.0, "voices": [3]}
    for one in drawn(mixtures(**exact), 12):
        for other in one.targets[1:]:
            assert decibel(one.targets[0], other) == pytest.approx(level, abs=0.01)
        assert decibel(one.targets[0], one.mixture - one.targets.sum(0)) == pytest.approx(level + 3, abs=0.01)


def test_levels_are_drawn_evenly_and_each_by_itself() -> None:
    pairs = np.array(
        [
            [decibel(one.targets[0], other) for other in one.targets[1:]]
            for one in drawn(brief("aabbcc", voices=[3], snr_db=[-4, 8]), 300)
        ]
    )  # (300, 2)
    assert pairs.min() > -4.01 and pairs.max() < 8.01
    assert np.quantile(pairs, [0.25, 0.5, 0.75]) == pytest.approx([-1, 2, 5], abs=0.7)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.15


def test_no_mixture_is_louder_than_full_scale_and_first_voices_are_as_loud_as_each_other() -> None:
    clicks = said("aabb")
    for one in clicks:
        one.voice[::500] += 30.0  # peaks far above the level
    for one in drawn(mixtures(clicks, voices=[4], noise=1.0), 12):
        assert float(one.mixture.abs().max()) == pytest.approx(1, abs=1e-6)
    for one in drawn(mixtures(), 12):
        assert float(one.targets[0].square().mean().sqrt()) == pytest.approx(0.1, abs=1e-6)


def test_as_many_mixtures_have_noise_as_is_asked_for() -> None:
    every = drawn(brief("aabbcc", noise=0.3), 400)
    noisy = [not torch.allclose(one.mixture, one.targets.sum(0), atol=1e-5) for one in every]
    assert np.mean(noisy) == pytest.approx(0.3, abs=0.06)


def test_noise_is_white_to_brown() -> None:
    rng, slopes = np.random.default_rng(0), []
    for _ in range(60):
        wave = noise(16000, rng)
        assert float(wave.std()) == pytest.approx(1, abs=1e-3)
        power = np.abs(np.fft.rfft(wave.numpy())) ** 2
        steps = np.geomspace(100, 8000, 12).astype(int)  # above where the power is held
        bands = [power[low:high].mean() for low, high in itertools.pairwise(steps)]
        slopes.append(np.polyfit(np.log(np.sqrt(steps[1:] * steps[:-1])), np.log(bands), 1)[0])
    assert -2.2 < min(slopes) < -1.7
    assert -0.3 < max(slopes) < 0.2
    assert np.mean(slopes) == pytest.approx(-1, abs=0.25)


# Who is heard ------------------------------------------------------------------------------------------------------


def brief(speakers: str, **settings: object) -> Mixtures:
    """Many of these are drawn fast."""
    return mixtures(said(speakers, 0.1), seconds=0.08, **settings)


def share(made: Mixtures, count: int = 600) -> float:
    """How many mixtures are of one speaker; that they say so is checked on the way."""
    every = drawn(made, count)
    for one in every:
        assert one.same_speaker == (len({name[-1] for name in one.names}) == 1)
    return float(np.mean([one.same_speaker for one in every]))


@pytest.mark.parametrize("asked", [0.0, 0.25, 0.5, 1.0])
def test_as_many_mixtures_are_of_one_speaker_as_is_asked_for(asked: float) -> None:
    assert share(brief("aabbcc", same_speaker=asked)) == pytest.approx(asked, abs=0.06 * (0 < asked < 1))


def test_speakers_with_too_few_talks_are_mixed_with_others() -> None:
    assert share(brief("aabbcc", same_speaker=1.0, voices=[3]), 60) == 0
    made = brief("aaabc", same_speaker=1.0, voices=[3])
    assert [made.mixture(0, index).same_speaker for index in range(5)] == [True] * 3 + [False] * 2
    for one in drawn(made, 30):
        assert len({name[-1] for name in one.names}) == (1 if one.same_speaker else 3)


def test_one_speaker_alone_and_fewer_speakers_than_voices() -> None:
    assert share(brief("aaaa", same_speaker=0.0), 30) == 1
    two = brief("aaabbb", same_speaker=0.0, voices=[4])
    for one in drawn(two, 30):
        assert {name[-1] for name in one.names} == {"a", "b"}
    assert share(brief("aaabbb", same_speaker=0.0, voices=[3]), 30) == 0


@pytest.mark.parametrize("voices", [1, 2, 3, 4])
@pytest.mark.parametrize("speakers", ["aaaa", "abcd", "aabbccdd", "aaaab"])
def test_a_mixture_begins_with_its_own_talk_and_none_is_mixed_with_itself(voices: int, speakers: str) -> None:
    made = brief(speakers, voices=[voices], noise=1.0)
    talks = made.talks
    partners = {one.id: set[str]() for one in talks}
    for number, one in enumerate(drawn(made, 80 * len(talks))):
        first = talks[number % len(talks)].id
        assert one.names[0] == first
        assert len(set(one.names)) == voices
        partners[first].update(one.names[1:])
    for name, met in partners.items() if voices > 1 else ():  # in time everyone who may be met is
        alone = 1 < speakers.count(name[-1]) < voices  # too few talks of this speaker, who then meets others alone
        assert met == {one.id for one in talks if one.id != name and not (alone and one.speaker == name[-1])}


# A pure function of seed, epoch and index --------------------------------------------------------------------------


def talker_mixtures(whole: bool = False) -> Mixtures:
    return mixtures(Talkers("train", 6), whole=whole, seed=4, noise=0.5)


def drawn_elsewhere(keys: Iterable[tuple[int, int]], whole: bool) -> list[tuple]:
    made = talker_mixtures(whole)
    return [(*(values.numpy() for values in one[:3]), *one[3:]) for one in itertools.starmap(made.mixture, keys)]


def test_another_process_draws_the_same() -> None:
    keys = [(0, 0), (0, 3), (2, 5), (1, 0)]
    found = in_a_spawned_process(drawn_elsewhere, keys, False)
    for key, (mixture, targets, faces, same_speaker, names) in zip(keys, found, strict=True):
        there = Mixture(*map(torch.from_numpy, (mixture, targets, faces)), same_speaker, names)
        assert same(there, talker_mixtures().mixture(*key))


def test_a_mixture_depends_on_seed_epoch_and_index_and_on_nothing_before() -> None:
    keys = [(epoch, index) for epoch in range(3) for index in range(8)]
    made = mixtures(noise=0.5)
    first = {key: made.mixture(*key) for key in keys}
    again = mixtures(noise=0.5)
    assert all(same(again.mixture(*key), first[key]) for key in reversed(keys))
    assert not any(same(one, other) for one, other in itertools.combinations(first.values(), 2))
    other = mixtures(noise=0.5, seed=1)
    assert not any(same(other.mixture(*key), first[key]) for key in keys)


def test_an_index_beyond_the_talks_begins_with_one_of_them_again_and_draws_anew() -> None:
    made = mixtures(whole=True, evaluated=20)
    assert len(made) == 20
    assert len(mixtures(evaluated=20)) == 6  # of the talks: an epoch
    early, late = made.mixture(0, 3), made.mixture(0, 15)
    assert early.names[0] == late.names[0] == "3b"
    assert not same(early, late)


# Where it is cut ---------------------------------------------------------------------------------------------------


def counting(rate: float, fps: float, seconds: float = 4.0) -> Talks:
    """Talks whose samples and frames are their own numbers, samples from 1."""
    talks = Talks()
    for name in "abc":
        wave = np.arange(1, round(seconds * rate) + 1, dtype=np.float32)
        talks.append(talk(name, name, wave, math.ceil(seconds * fps)))
    return talks


@pytest.mark.parametrize(("rate", "fps"), [(8000, 25.0), (44100, 30.0), (22050, 29.97), (11025, 25.0)])
def test_voice_and_face_are_cut_from_the_same_moment(rate: int, fps: float) -> None:
    made = Mixtures(counting(rate, fps), hear, see, MixConfig(seconds=1.0), rate, fps, seed=0)
    frames = round(fps)
    starts = []
    for one in drawn(made, 200):
        assert len(one.mixture) == round(frames * rate / fps)
        for voice, face in zip(one.targets.double(), one.faces[..., 0, 0], strict=True):
            assert face.tolist() == list(range(int(face[0]), int(face[0]) + frames))
            step = float(voice[-1] - voice[0]) / (len(voice) - 1)  # of the voice's level, by sample
            sample = float(voice[0]) / step - 1
            assert sample == pytest.approx(int(face[0]) * rate / fps, abs=1)
            starts.append(int(face[0]))
    assert min(starts) == 0
    assert max(starts) == int(4.0 * fps) - frames  # up to the end of the talk
    assert len(set(starts)) > 0.8 * (max(starts) + 1)


@pytest.mark.parametrize("asked", [0.0, 0.5, 1.0])
def test_as_many_mixtures_are_cut_from_one_moment_of_all_talks_as_is_asked_for(asked: float) -> None:
    made = Mixtures(counting(8000, 25), hear, see, MixConfig(seconds=1.0, same_start=asked), 8000, 25, seed=0)
    first = [one.faces.flatten(2)[:, 0, 0] for one in drawn(made, 200)]  # the number of the first frame of each
    together = float(np.mean([bool((numbers == numbers[0]).all()) for numbers in first]))
    assert together == pytest.approx(asked, abs=0.1)  # by chance one in 76
    assert len({int(numbers[0]) for numbers in first}) > 40  # and anywhere in a talk


def test_a_hidden_voice_is_heard_and_nothing_else_is_known_of_it() -> None:
    made = mixtures(said("abcdef"), hidden=1.0, snr_db=[0.0, 0.0])
    for one in drawn(made, 30):
        assert len(one.targets) == len(one.faces) == len(one.names) == 2
        hidden = one.mixture - one.targets.sum(0)
        assert decibel(one.targets[0], hidden) == pytest.approx(0, abs=0.01)
    some = [float((one.mixture - one.targets.sum(0)).abs().max()) > 1e-3 for one in drawn(mixtures(hidden=0.3), 200)]
    assert np.mean(some) == pytest.approx(0.3, abs=0.1)
    with pytest.raises(ValueError, match="2 voices and one that is hidden needs as many talks: got 2"):
        mixtures(said("ab"), hidden=0.5)


def test_no_recording_is_heard_in_two_talks_of_a_mixture() -> None:
    talks = Talks(talk._replace(meta={"clips": [f"take-{k % 4}"]}) for k, talk in enumerate(said("aaaaaaaa")))
    for one in drawn(mixtures(talks, same_speaker=1.0), 60):
        clips = [next(talk.meta["clips"] for talk in talks if talk.id == name) for name in one.names]
        assert clips[0] != clips[1]


def test_one_voice_alone_is_always_in_noise() -> None:
    for one in drawn(mixtures(voices=[1], noise=0.5), 20):
        assert float((one.mixture - one.targets[0]).square().mean()) > 1e-6


def test_a_short_talk_ends_in_silence_and_its_last_frame_stays() -> None:
    wave = np.random.default_rng(0).normal(size=2400).astype(np.float32)  # 0.3 s
    short = Talks([talk("short", "a", wave, frames=7), *said("bc")])
    for one in drawn(mixtures(short, seconds=1.0, snr_db=[0.0, 0.0]), 3)[:1]:
        place = one.names.index("short")
        assert one.targets.shape == (2, 8000)
        assert not one.targets[place, 2400:].any()
        ratio = one.targets[place, :2400] / torch.from_numpy(wave)
        assert float(ratio.std() / ratio.mean()) < 1e-4
        assert one.faces[place, :, 0, 0].tolist() == [*range(7), *[6] * 18]
    shown = Talks([talk("seen briefly", "a", said("a")[0].voice, frames=3), *said("bc")])
    starts = [one.faces[0, :, 0, 0].tolist() for one in drawn(mixtures(shown, seconds=1.0), 9)[::3]]
    assert all(frames == [min(frames[0] + k, 2) for k in range(25)] for frames in starts)


def test_whole_talks_are_cut_to_the_shortest() -> None:
    lengths = {"0a": 16000, "1a": 9000, "2b": 12000, "3b": 16001}
    waves = {name: one.voice for name, one in zip(lengths, said("aabb", 3.0), strict=True)}
    talks = Talks(talk(name, name[-1], waves[name][:count], math.ceil(count / 320)) for name, count in lengths.items())
    for one in drawn(mixtures(talks, whole=True, same_speaker=0.3), 40):
        shortest = min(lengths[name] for name in one.names)
        assert one.targets.shape == (2, shortest)
        assert one.faces[..., 0, 0].tolist() == [list(range(math.ceil(shortest / 320)))] * 2
        for name, target in zip(one.names, one.targets, strict=True):
            ratio = target / torch.from_numpy(waves[name][:shortest])
            assert float(ratio.std() / ratio.mean()) < 1e-3


def test_without_faces_the_same_is_heard() -> None:
    talks, cfg = said("aabb"), MixConfig(seconds=0.5)
    seen, blind = (Mixtures(talks, hear, eyes, cfg, RATE, FPS) for eyes in (see, None))
    for number in range(4):
        one, other = seen.mixture(0, number), blind.mixture(0, number)
        assert torch.equal(one.mixture, other.mixture) and torch.equal(one.targets, other.targets)
        assert other.faces.shape == (2, 0)


# What is at fault --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_a_silent_talk_is_named(whole: bool) -> None:
    talks = said("abc")
    talks[1] = talk("nothing", "b", np.full(16000, 1e-6, np.float32))
    made = mixtures(talks, whole=whole)
    with pytest.raises(UnreadableError, match=r"^nothing is silent in .* s.*\. Leave it out\.$"):
        made.mixture(0, 1)


@pytest.mark.parametrize("place", [0, 1])
def test_a_whole_talk_that_is_silent_for_as_long_as_the_other_lasts_is_named(place: int) -> None:
    talks = said("ab")
    late = talks[place].voice.copy()
    late[:8000] = 0
    talks[place] = talk("late", "l", late)
    talks[1 - place] = talk("short", "s", talks[1 - place].voice[:8000])
    for index in range(2):
        with pytest.raises(UnreadableError, match=r"^late is silent in its first 1\.00 s"):
            mixtures(talks, whole=True).mixture(0, index)


def test_a_talk_that_is_silent_in_part_is_cut_where_it_speaks() -> None:
    talks = said("ab")
    talks[0].voice[:12000] = 0
    made = mixtures(talks, seconds=0.2)
    found = [made.mixture(epoch, 0) for epoch in range(20)]
    assert all(float(one.targets[0].abs().max()) > 0.01 for one in found)
    assert {int(one.faces[0, 0, 0, 0]) for one in found} <= set(range(33, 46))


def test_voices_and_faces_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", said("a")[0].voice, RATE)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    np.save(tmp_path / "face.npy", np.zeros((50, 3), np.float32))
    np.save(tmp_path / "wrong.npy", np.zeros((50, 4), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "face.npy").read_bytes()[:40])
    encoder = VideoEncoder("embeddings", size=3, width=4)

    def error(voice: str, face: str, index: int = 0) -> str:
        talks = Talks(
            [
                Talk("one", "a", tmp_path / voice, tmp_path / face),
                Talk("two", "b", tmp_path / "good.wav", tmp_path / "face.npy"),
            ]
        )
        made = Mixtures(talks, hear, lambda talk: encoder.prepare(talk.face), MixConfig(), RATE, FPS)
        with pytest.raises(UnreadableError) as raised:
            made.mixture(0, index)
        return str(raised.value)

    for index in range(2):
        assert error("bad.wav", "face.npy", index).startswith("one: ")
    assert "bad.wav" in error("bad.wav", "face.npy")
    assert "none.wav" in error("none.wav", "face.npy")
    assert error("good.wav", "wrong.npy").startswith("one: face embeddings must be (N, 3)")
    assert error("good.wav", "none.npy").startswith("one: ")
    assert error("good.wav", "cut.npy").startswith("one: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"snr_db": [3.0]}, r"mix\.snr_db must be the lowest and the highest, in dB: got \[3\.0\]"),
        ({"snr_db": [3.0, -3.0]}, r"mix\.snr_db must be the lowest"),
        ({"snr_db": [-3.0, math.nan]}, r"mix\.snr_db must be the lowest"),
        ({"noise_db": [1.0, 2.0, 3.0]}, r"mix\.noise_db must be the lowest"),
        ({"noise_db": [5.0, 4.9]}, r"mix\.noise_db must be the lowest"),
        ({"voices": []}, r"mix\.voices must be different numbers from 1 to 4: got \[\]"),
        ({"voices": [0]}, r"numbers from 1 to 4: got \[0\]"),
        ({"voices": [2, 5]}, r"numbers from 1 to 4: got \[2, 5\]"),
        ({"voices": [2, 2]}, r"must be different numbers"),
        ({"voices": [1, 2]}, r"one voice needs noise to be told from: got mix\.voices with 1 and mix\.noise=0"),
        ({"same_speaker": -0.1}, r"must lie in 0\.\.1: got -0\.1"),
        ({"same_speaker": 1.1}, r"must lie in 0\.\.1: got 1\.1"),
        ({"noise": 1.5}, r"must lie in 0\.\.1: got 1\.5"),
        ({"noise": -1.0}, r"must lie in 0\.\.1"),
        ({"seconds": 0.0}, r"mix\.seconds must be positive and mix\.evaluated at least 1: got 0\.0 and \d+"),
        ({"seconds": math.nan}, r"mix\.seconds must be positive"),
        ({"seconds": math.inf}, r"mix\.seconds must be positive"),
        ({"evaluated": 0}, r"mix\.evaluated at least 1: got 2\.0 and 0"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(MixConfig(), **settings))
    with pytest.raises(ValueError, match=message):
        Mixtures(said("aabbcc"), hear, see, dataclasses.replace(MixConfig(), **settings), RATE, FPS)


def test_more_voices_than_talks() -> None:
    with pytest.raises(ValueError, match="a mixture of 3 voices needs as many talks: got 2"):
        mixtures(said("ab"), voices=[3])


# Batches -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_examples_one_on_another() -> None:
    made = mixtures()
    batch = mixed_batch([made[0, index] for index in (4, 0, 3)])
    assert set(batch) == {"mixture", "targets", "faces", "same_speaker"}
    for row, index in enumerate((4, 0, 3)):
        one = made.mixture(0, index)
        for name in ("mixture", "targets", "faces"):
            assert torch.equal(batch[name][row], getattr(one, name))
        assert bool(batch["same_speaker"][row]) == one.same_speaker


def test_batches_are_the_same_for_any_number_of_processes_and_go_on_at_any_step() -> None:
    load = partial(Batches, talker_mixtures(), batch_size=2, seed=3, collate=mixed_batch)
    whole = list(itertools.islice(load()(), 8))  # more than two epochs
    for workers, start in ((2, 0), (0, 5), (2, 4)):
        found = list(itertools.islice(load(workers=workers)(start), 8 - start))
        for one, other in zip(found, whole[start:], strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)
    parts = [next(load(rank=rank, world=2)(1)) for rank in range(2)]
    assert torch.equal(torch.cat([part["mixture"] for part in parts]), whole[1]["mixture"])
