"""Strings of spoken digits: recordings of one speaker in a row, in their own split, with lips that follow them."""

from __future__ import annotations

import json
import math
import operator
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mm.data.digit_talks import FEWEST, MOST, DigitTalks, _idle
from mm.data.faces import FPS, SIDE, Look, opening_of
from mm.data.talkers import LEVEL_DB, PAUSE_S, SAMPLE_RATE
from tests.shared import in_a_spawned_process

SPEAKERS = ("anna", "bo", "cy")
TAKES = (0, 4, 5, 20, 44, 45, 49)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers, digits 1, 3, 7 and 9, seven takes each: noise of 0.2 to 0.5 s that swells and fades."""
    root = tmp_path_factory.mktemp("digits")
    folder, chance = root / "fsdd" / "recordings", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for who in SPEAKERS:
        for digit in (1, 3, 7, 9):
            for take in TAKES:
                samples = int(chance.integers(1600, 4000))
                wave = 0.1 * chance.standard_normal(samples) * (0.1 + np.sin(np.linspace(0, math.pi, samples)))
                soundfile.write(folder / f"{digit}_{who}_{take}.wav", wave, SAMPLE_RATE)
    return root


def dark(pictures: np.ndarray) -> np.ndarray:
    """How much black the lower half of each picture has, which is the inside of the mouth."""
    return np.clip(60 - pictures[:, SIDE // 2 :].astype(float), 0, None).sum((1, 2))  # (N,)


def takes(talks: DigitTalks) -> set[int]:
    return {int(clip.split("_")[2]) for i in range(len(talks)) for clip in talks[i].meta["clips"]}


def test_everything_follows_from_seed_split_and_index(root: Path) -> None:
    one, longer, other = (
        DigitTalks(root, "train", 10, 3),
        DigitTalks(root, "train", 500, 3),
        DigitTalks(root, "val", 10),
    )
    elsewhere = in_a_spawned_process(operator.getitem, one, 9)
    for i in (0, 3, 9):
        for again in (one[i], longer[i], one[i - 10], *([elsewhere] if i == 9 else [])):
            assert (again.id, again.speaker, again.meta) == (one[i].id, one[i].speaker, one[i].meta)
            assert np.array_equal(again.voice, one[i].voice)
            assert np.array_equal(again.face.pictures, one[i].face.pictures)
    seeds = [DigitTalks(root, "train", 10, seed) for seed in range(4)]
    assert len({split[i].voice.tobytes() for split in (*seeds, other) for i in range(10)}) == 50
    assert len({split[i].face.pictures.tobytes() for split in (*seeds, other) for i in range(10)}) == 50


def test_a_talk_is_recordings_of_its_speaker_with_pauses(root: Path) -> None:
    """Every stretch of sound is the recording that `meta` names, all at one gain, the last one perhaps cut."""
    split = DigitTalks(root, "train", 40, seconds=1.5)
    pauses, counts = [], set()
    for i in range(40):
        talk, at = split[i], 0
        counts.add(len(talk.meta["digits"]))
        gains = []
        for digit, clip in zip(talk.meta["digits"], talk.meta["clips"], strict=True):
            assert clip.startswith(f"{digit}_{talk.speaker}_")
            recording, _ = soundfile.read(root / "fsdd" / "recordings" / f"{clip}.wav", dtype="float32")
            begin = at + int(np.flatnonzero(talk.voice[at:])[0]) - int(np.flatnonzero(recording)[0])
            heard = talk.voice[begin : begin + len(recording)]
            gain = float(heard @ recording[: len(heard)] / (recording[: len(heard)] @ recording[: len(heard)]))
            np.testing.assert_allclose(heard, gain * recording[: len(heard)], atol=1e-5)
            gains.append(gain)
            pauses.append((begin - at) / SAMPLE_RATE)
            at = begin + len(heard)
        assert (talk.voice[at:] == 0).all() and max(gains) == pytest.approx(min(gains), rel=1e-3)
        assert len(set(talk.meta["clips"])) == len(talk.meta["clips"])
        assert json.loads(json.dumps(talk.meta)) == talk.meta
    assert counts <= set(range(1, MOST + 1)) and max(counts) >= FEWEST
    assert PAUSE_S[0] - 0.01 <= min(pauses) < 0.12 and 0.33 < max(pauses) <= PAUSE_S[1] + 0.01


def test_as_many_digits_as_there_is_time_for(root: Path) -> None:
    talks = DigitTalks(root, "train", 40, seconds=6.0)
    assert {len(talks[i].meta["digits"]) for i in range(40)} == set(range(FEWEST, MOST + 1))


def test_level_length_and_faces(root: Path) -> None:
    for seconds, samples, pictures in ((2.0, 16000, 50), (1.03, 8240, 26)):
        talk = DigitTalks(root, "test", 3, seconds=seconds)[1]
        assert talk.voice.shape == (samples,) and talk.voice.dtype == np.float32 and np.abs(talk.voice).max() <= 1
        assert 10 * np.log10(np.mean(talk.voice.astype(float) ** 2)) == pytest.approx(LEVEL_DB, abs=0.01)
        assert talk.face.pictures.shape == (pictures, SIDE, SIDE) and talk.track is None
        np.testing.assert_allclose(talk.face.times, np.arange(pictures) / FPS)


def test_no_recording_is_in_two_splits(root: Path) -> None:
    heard = {split: takes(DigitTalks(root, split, 60)) for split in ("train", "val", "test")}
    assert heard == {"train": {5, 20, 44}, "val": {45, 49}, "test": {0, 4}}


def test_a_held_out_speaker_is_heard_in_the_test_only(root: Path) -> None:
    parts = {split: DigitTalks(root, split, 60, speaker="bo") for split in ("train", "val", "test")}
    assert {split: set(talks.speakers) for split, talks in parts.items()} == {
        "train": {"anna", "cy"},
        "val": {"anna", "cy"},
        "test": {"bo"},
    }
    assert takes(parts["test"]) == set(TAKES) and takes(parts["train"]) == {0, 4, 5, 20, 44}


def test_speakers_take_turns_two_talks_at_a_time(root: Path) -> None:
    talks = DigitTalks(root, "train", 31)
    assert talks.speakers == tuple(talks[i].speaker for i in range(31))
    assert talks.speakers[0:30:2] == talks.speakers[1:30:2]
    assert all(set(talks.speakers[first : first + 6]) == set(SPEAKERS) for first in range(0, 30, 6))


def test_lips_follow_their_own_voice_and_no_other(root: Path) -> None:
    split = DigitTalks(root, "train", 60)
    talks = [split[i] for i in range(60)]
    tracks = [(opening_of(talk.voice, SAMPLE_RATE), dark(talk.face.pictures)) for talk in talks]
    own = [np.corrcoef(heard, seen)[0, 1] for heard, seen in tracks]
    other = [np.corrcoef(tracks[i][0], tracks[i ^ 1][1])[0, 1] for i in range(60)]  # of the same speaker
    assert np.mean(own) > 0.9 and min(own) > 0.6 and abs(np.mean(other)) < 0.3
    quiet = Look(pixel_noise=0, drift_px=0, variety=0, blinks_per_s=0, jitter=0)
    talk = DigitTalks(root, "train", 1, look=quiet)[0]
    silent = np.abs(talk.voice).reshape(50, 320).max(1) == 0  # (N,)
    assert silent.any() and (dark(talk.face.pictures)[silent] == 0).all()


def test_the_width_of_the_mouth_is_chance() -> None:
    tracks = np.stack([_idle(200, np.random.default_rng(seed)) for seed in range(50)])  # (50, N)
    assert tracks.min() >= 0 and tracks.max() <= 1 and np.abs(np.diff(tracks)).max() < 0.05
    assert tracks.std(axis=0).min() > 0.1


def test_recordings_are_read_once(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    talks = DigitTalks(copy, "val", 20)
    first = [talks[i].voice for i in range(20)]
    shutil.rmtree(copy)
    assert all(np.array_equal(talks[i].voice, first[i]) for i in range(20))


def test_rejected(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown split 'tests'\. Choose from: train, val, test\. Did you mean 'test'"
    ):
        DigitTalks(root, "tests", 3)
    with pytest.raises(ValueError, match=r"unknown speaker 'ana'. Choose from: anna, bo, cy. Did you mean 'anna'\?"):
        DigitTalks(root, "test", 3, speaker="ana")
    for n, seed in ((0, 0), (3, -1)):
        with pytest.raises(ValueError, match=f"at least one talk, and a seed of at least 0: got n={n}, seed={seed}"):
            DigitTalks(root, "train", n, seed)
    with pytest.raises(ValueError, match=r"a talk must last at least 1 second: got seconds=0\.9"):
        DigitTalks(root, "train", 3, seconds=0.9)
    with pytest.raises(FileNotFoundError, match=r"fsdd must hold recordings"):
        DigitTalks(tmp_path, "train", 3)
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    shutil.copy(root / "fsdd" / "recordings" / "1_bo_0.wav", folder)
    with pytest.raises(ValueError, match=r"a talk needs recordings: .*fsdd has none for train\. See docs/data\.md"):
        DigitTalks(tmp_path, "train", 3)
    for index in (3, -4):
        with pytest.raises(IndexError, match=rf"the train split has talks 0 to 2: got {index}"):
            DigitTalks(root, "train", 3)[index]


def test_fsdd_itself(real_data) -> None:
    talks = DigitTalks(real_data("fsdd").parent, "test", 24)
    assert len(set(talks.speakers)) == 6 and takes(talks) == set(range(5))
    own = [
        np.corrcoef(opening_of(t.voice, SAMPLE_RATE), dark(t.face.pictures))[0, 1]
        for t in map(talks.__getitem__, range(24))
    ]
    assert np.mean(own) > 0.9
