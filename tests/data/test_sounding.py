"""Scenes to be localised in: the same from the same numbers, boxes around what sounds, sounds of what is in them."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest

from mm.data import Item, SoundingScenes
from mm.data.scenes import SIDE_PX, Thing, kind
from mm.data.synthetic import Scenes, World
from mm.data.voices import CHORD_S, _voices
from tests.shared import in_a_spawned_process


def same(a: Item, b: Item) -> bool:
    arrays = zip(a.image + a.audio, b.image + b.audio, strict=True)
    return (a.id, a.owner, a.meta) == (b.id, b.owner, b.meta) and all(np.array_equal(x, y) for x, y in arrays)


def item_of(split: SoundingScenes, index: int) -> Item:
    return split[index]


def loudness(thing: Thing, wave: np.ndarray) -> float:
    """How much of a sound a thing's voice explains, 0 to 1, wherever in it and however well in tune it is sung."""
    power = float(np.sum(wave**2))
    spectrum = np.fft.rfft(wave, 2 * len(wave))
    best = 0.0
    for note in _voices(CHORD_S)[kind(thing)]:
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(note, 2 * len(wave))))  # (2 T,) one for each onset
        best = max(best, float(np.abs(products).max()) / math.sqrt(power * float(np.sum(note**2))))
    return best


def test_everything_follows_from_seed_split_and_index() -> None:
    one, again, longer = (SoundingScenes("train", n, 3) for n in (40, 40, 5000))
    for i in (0, 7, 39):
        assert same(one[i], again[i]) and same(one[i], longer[i]) and same(one[i], one[i - 40])
    others = [SoundingScenes(split, 200, 3) for split in ("train", "val", "test")] + [SoundingScenes("train", 200, 4)]
    drawn = [{split.drawn(i)[0] for i in range(200)} for split in others]
    assert len(set.union(*drawn)) == 800  # no scene of one is in another
    assert not drawn[0] & {Scenes("train", 200, 3).scene(i) for i in range(200)}
    assert len({split[0].image[0].tobytes() for split in others}) == 4
    assert len({split[0].audio[0].tobytes() for split in others}) == 4


def test_a_loading_process_gets_the_same() -> None:
    split = SoundingScenes("val", 20000, 5)
    assert len(pickle.dumps(split)) < 1000
    assert same(in_a_spawned_process(item_of, split, 123), split[123])


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_boxes_lie_around_what_sounds_and_within_the_picture(sources: int) -> None:
    split = SoundingScenes("test", 100, sources=sources)
    for i in range(100):
        item, (scene, sounding) = split[i], split.drawn(i)
        assert item.id == item.owner == split.name(i) == f"test-{i:05d}" and item.text == () and not item.questions
        assert json.loads(json.dumps(item.meta)) == item.meta
        assert item.meta["sounding"] == sounding and len(set(sounding)) == sources
        (boxes,) = item.meta["boxes"]  # of one annotator
        for number, (left, top, right, bottom) in zip(sounding, boxes, strict=True):
            x, y = scene[number].x / SIDE_PX, scene[number].y / SIDE_PX
            assert 0 <= left < x < right <= 1 and 0 <= top < y < bottom <= 1
            others = [thing for k, thing in enumerate(scene) if k != number]
            assert not any(left < o.x / SIDE_PX < right and top < o.y / SIDE_PX < bottom for o in others)
            assert [edge * SIDE_PX for edge in (left, top, right, bottom)] == item.meta["objects"][number][
                "box_xyxy_px"
            ]


def test_the_picture_does_not_tell_what_sounds() -> None:
    """The same scene, however many of its things are heard, and none of them is heard more often than another."""
    splits = [SoundingScenes("train", 2000, sources=sources) for sources in (0, 1, 2, 3)]
    for i in range(20):
        scenes, images = {split.drawn(i)[0] for split in splits}, {split[i].image[0].tobytes() for split in splits}
        assert len(scenes) == len(images) == 1
    drawn = [splits[1].drawn(i) for i in range(2000)]
    assert {len(scene) for scene, _ in drawn} == {3, 4}
    blind = sum(1 / len(scene) for scene, _ in drawn) / 2000
    assert blind == pytest.approx((1 / 3 + 1 / 4) / 2, abs=0.005)  # 29.2 %
    picks = {
        "leftmost": lambda scene: 0,
        "rightmost": lambda scene: len(scene) - 1,
        "highest": lambda scene: min(range(len(scene)), key=lambda k: scene[k].y),
        "nearest the centre": lambda scene: min(range(len(scene)), key=lambda k: math.dist(scene[k][3:], (32, 32))),
        "a large one": lambda scene: min(range(len(scene)), key=lambda k: scene[k].size),
    }
    for name, pick in picks.items():
        right = sum(sounding == [pick(scene)] for scene, sounding in drawn) / 2000
        assert right == pytest.approx(blind, abs=4 * math.sqrt(blind * (1 - blind) / 2000)), name


@pytest.mark.parametrize(("sources", "least"), [(1, 0.98), (2, 0.9), (3, 0.8)])
def test_what_sounds_is_heard_better_than_what_is_silent(sources: int, least: float) -> None:
    split = SoundingScenes("val", 80, sources=sources)
    right, of = 0, 0
    for i in range(80):
        (scene, sounding), (wave,) = split.drawn(i), split[i].audio
        assert wave.dtype == np.float32 and wave.shape == (16000,) and np.abs(wave).max() <= 1
        levels = [loudness(thing, wave) for thing in scene]
        for heard in sounding:
            for silent in set(range(len(scene))) - set(sounding):
                right, of = right + (levels[heard] > levels[silent]), of + 1
    assert right >= least * of > 0


def test_without_a_source_there_is_noise_and_no_box() -> None:
    split, one = SoundingScenes("test", 40, sources=0), SoundingScenes("test", 40)
    for i in range(40):
        item, (scene, sounding) = split[i], split.drawn(i)
        assert sounding == item.meta["sounding"] == [] and "boxes" not in item.meta
        (wave,) = item.audio
        assert np.std(wave) > 0.01
        (heard,) = one.drawn(i)[1]
        assert max(loudness(thing, wave) for thing in scene) < 0.3 < loudness(scene[heard], one[i].audio[0])


def test_the_world_may_be_easier() -> None:
    plain = SoundingScenes("train", 4, world=World(objects=(0, 0, 0, 1), texture=0, pixel_noise=0, light=0, snr_db=60))
    for i in range(4):
        (scene, (heard,)), item = plain.drawn(i), plain[i]
        assert len(scene) == 4
        assert loudness(scene[heard], item.audio[0]) > 0.99
        corner = item.image[0][:1, :1]
        assert (item.image[0] == corner).all(axis=-1).mean() > 0.3  # one colour behind the things


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tests", 3), r"unknown split 'tests'\. Choose from: train, val, test\. Did you mean 'test'\?"),
        (("train", 0), "at least one scene, and a seed of at least 0: got n=0, seed=0"),
        (("train", 3, -1), "got n=3, seed=-1"),
        (("train", 3, 0, 4), "0 to 3 things of a scene can sound: got sources=4"),
        (("train", 3, 0, -1), "got sources=-1"),
        (("train", 3, 0, 2, World(objects=(0.5, 0.5))), "0 to 1 things of a scene can sound: got sources=2"),
    ],
)
def test_rejected(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoundingScenes(*arguments)


@pytest.mark.parametrize("index", [3, -4])
def test_no_such_scene(index: int) -> None:
    with pytest.raises(IndexError, match=rf"the train split has scenes 0 to 2: got {index}"):
        SoundingScenes("train", 3)[index]
