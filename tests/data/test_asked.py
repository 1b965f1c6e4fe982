"""Scenes with questions: the same from the same numbers, seen and heard as far as is said, and read unseen."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from mm.data import AskedScenes, Item, Items, Question, kept, questions_of, unseen
from mm.data.asked import answer_type
from mm.data.scenes import SIZES
from mm.data.synthetic import Scenes, World
from mm.data.voices import SAMPLE_RATE, pitch_of
from tests.shared import in_a_spawned_process


def test_everything_follows_from_seed_split_and_index() -> None:
    one, again, longer = AskedScenes("train", 40, 3), AskedScenes("train", 40, 3), AskedScenes("train", 5000, 3)
    for i in (0, 7, 39):
        a = one[i]
        for b in (again[i], longer[i], one[i - 40]):
            assert (a.id, a.owner, a.questions, a.meta) == (b.id, b.owner, b.questions, b.meta)
            assert len(a.audio) == len(b.audio)
            for mine, theirs in zip(a.image + a.audio, b.image + b.audio, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    splits = [AskedScenes(split, 200, 3) for split in ("train", "val", "test")]
    drawn = [{split.drawn(i)[0] for i in range(200)} for split in (*splits, AskedScenes("train", 200, 4))]
    assert all(len(scenes) == 200 for scenes in drawn)
    assert len(set.union(*drawn)) == 800  # no scene of one is in another
    assert not drawn[0] & {Scenes("train", 200, 3).scene(i) for i in range(200)}


def test_an_item() -> None:
    split = AskedScenes("test", 60)
    ids = [question.id for question in questions_of(split)]
    assert len(set(ids)) == len(ids) and [q for item in split for q in item.questions] == list(questions_of(split))
    for i in range(60):
        item, (scene, sounding, asked) = split[i], split.drawn(i)
        assert item.id == item.owner == split.name(i) == f"test-{i:05d}" and item.text == ()
        assert item.questions == split.questions(i)
        assert [(q.text, q.answers, q.type) for q in item.questions] == [(a.text, (a.answer,), a.type) for a in asked]
        assert [q.answer_type for q in item.questions] == [answer_type(a.answer) for a in asked]
        assert all(question.id.startswith(f"{item.id}#") for question in item.questions)
        assert json.loads(json.dumps(item.meta)) == item.meta and item.meta["sounding"] == sounding
        assert len(item.image) == 1 and item.image[0].shape == (64, 64, 3) and item.image[0].dtype == np.uint8
        assert len(item.audio) == len(sounding) <= 1
        for thing, truth in zip(scene, item.meta["objects"], strict=True):
            assert [truth["shape"], truth["colour"], truth["size"]] == list(thing[:3])
            left, top, right, bottom = truth["box_xyxy_px"]
            assert left < truth["centre_px"][0] < right and top < truth["centre_px"][1] < bottom
            assert abs((right - left) - SIZES[thing.size]) <= 6


def test_kinds_of_answers() -> None:
    said = {
        "yes": "yes/no",
        "no": "yes/no",
        "0": "number",
        "12": "number",
        "two": "other",
        "red": "other",
        "1.5": "other",
    }
    assert {answer: answer_type(answer) for answer in said} == said
    assert [answer_type(answer) for answer in ("Yes", " NO ", "Yes!")] == ["yes/no", "yes/no", "other"]


def test_half_the_scenes_sound_and_are_asked_about_what_is_heard() -> None:
    split = AskedScenes("train", 1000, seed=1)
    drawn = [split.drawn(i) for i in range(1000)]
    sounding = sum(bool(heard) for _, heard, _ in drawn)
    assert abs(sounding - 500) < 4 * math.sqrt(250)
    for _, heard, asked in drawn:
        assert [one.type == "sound" for one in asked] == [False] * (len(asked) - len(heard)) + [True] * len(heard)
        assert 1 <= len(asked) - len(heard) <= 5
    which = [heard[0] / (len(scene) - 1) for scene, heard, _ in drawn if heard and len(scene) > 1]
    assert abs(np.mean(which) - 0.5) < 0.05  # any thing of a scene, wherever it lies


def test_scenes_that_are_seen_alone_are_silent() -> None:
    split, both = AskedScenes("train", 200, heard=False), AskedScenes("train", 200)
    assert all(question.type != "sound" for question in questions_of(split)) and split[3].audio == ()
    for i in range(200):  # what is seen does not change with what is heard
        assert [q for q in both.questions(i) if q.type != "sound"] == list(split.questions(i))


def test_scenes_that_are_heard_alone_ask_nothing_that_takes_eyes() -> None:
    split = AskedScenes("val", 300, seen=False)
    asked = [split.questions(i) for i in range(300)]
    assert {question.text for questions in asked for question in questions} == {
        "which object do you hear?",
        "what colour is the object that you hear?",
        "what size is the object that you hear?",
    }
    assert all(len(questions) == 1 and questions[0].type == "sound" for questions in asked)
    item = split[0]
    assert item.image == () and len(item.audio) == 1 and len(item.meta["sounding"]) == 1


def test_the_thing_that_is_asked_about_is_the_one_that_sounds() -> None:
    """A circle's voice is next to a pure tone: its loudest frequency is the pitch of its colour and size."""
    split, circles = AskedScenes("test", 150, world=World(snr_db=30), seen=False), 0
    for i in range(150):
        scene, (number,), _ = split.drawn(i)
        if scene[number].shape == "circle":
            spectrum = np.abs(np.fft.rfft(split[i].audio[0]))
            peak_hz = np.argmax(spectrum) * SAMPLE_RATE / len(split[i].audio[0])
            assert peak_hz == pytest.approx(pitch_of(scene[number].colour, scene[number].size), rel=0.03)
            circles += 1
    assert circles >= 10


def test_unseen_items_are_their_questions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    split = AskedScenes("train", 50)
    expected = [split[i].questions for i in range(50)]
    monkeypatch.setattr("mm.data.asked.picture", None)  # neither is anything drawn
    blind = unseen(split)
    assert [item.questions for item in blind] == expected and list(questions_of(blind)) == list(questions_of(split))
    assert all(item.image == item.audio == item.text == () for item in blind)
    assert [item.id for item in blind] == [split.name(i) for i in range(50)]
    on_disk = Items([Item("a", "o", ("x.jpg",), ("t",), ("x.wav",), {"k": 1}, (Question("1", "why?"),))])  # type: ignore[arg-type]
    assert unseen(on_disk) == [Item("a", "o", meta={"k": 1}, questions=(Question("1", "why?"),))]


def short(question: Question) -> bool:
    return len(question.text) < 40


def of_two_types(question: Question) -> bool:
    return question.type in ("count", "sound")


def all_questions(items: Sequence[Item]) -> list[Question]:
    return list(questions_of(items))


def test_questions_that_are_kept() -> None:
    split = AskedScenes("train", 100, 2, World(texture=0.0), seen=True, heard=False)
    chosen = kept(kept(split, short), of_two_types)
    expected = [question for question in questions_of(split) if short(question) and of_two_types(question)]
    assert list(questions_of(chosen)) == expected and 0 < len(expected) < len(list(questions_of(split)))
    assert len(chosen) < 100 and list(questions_of(unseen(chosen))) == expected
    for item in (chosen[0], chosen[len(chosen) // 2], chosen[-1]):
        whole = split[int(item.id.removeprefix("train-"))]
        np.testing.assert_array_equal(item.image[0], whole.image[0])
        assert item.questions and set(item.questions) <= set(whole.questions) and item.audio == ()
    assert in_a_spawned_process(all_questions, chosen) == expected
    on_disk = Items(Item(name := split.name(i), name, questions=split.questions(i)) for i in range(100))
    left = kept(on_disk, of_two_types)
    assert list(questions_of(left)) == [question for question in questions_of(split) if of_two_types(question)]
    assert all(item.questions for item in left) and len(left) < 100


def test_a_split_is_small_to_send_to_workers() -> None:
    assert len(pickle.dumps(AskedScenes("train", 20000))) < 1000


def test_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"unknown split 'tests'\. Choose from: train, val, test\. Did you mean 'test'\?"
    ):
        AskedScenes("tests", 3)
    with pytest.raises(ValueError, match="at least one scene, and a seed of at least 0: got n=0, seed=0"):
        AskedScenes("train", 0)
    with pytest.raises(ValueError, match="got n=1, seed=-1"):
        AskedScenes("train", 1, -1)
    with pytest.raises(ValueError, match="must be seen or heard to be asked about: got seen=False and heard=False"):
        AskedScenes("train", 1, seen=False, heard=False)
    split = AskedScenes("val", 5)
    for index in (5, -6):
        for ask in (split.__getitem__, split.questions, split.drawn, split.name):
            with pytest.raises(IndexError, match=f"the val split has scenes 0 to 4: got {index}"):
                ask(index)
    assert split.questions(-1) == split.questions(4) and split[-5].id == "val-00000"
    assert len(list(split)) == 5
