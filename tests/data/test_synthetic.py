"""The splits of the embedded world: the same from the same numbers, told apart, with their ceilings."""

import dataclasses
import itertools
import json
import pickle
import time

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mm.data.distinct import draw_pair
from mm.data.scenes import (
    kind,
    mirrored,
    recoloured,
)
from mm.data.sentences import (
    describes,
)
from mm.data.synthetic import Scenes, World, analogies, bag_of_words_scores, perfect_decoder_scores


@pytest.fixture(scope="module")
def told_apart() -> Scenes:
    return Scenes("test", 300)


def bag(text: str) -> list[str]:
    return sorted(text.replace(",", "").split())


def recall_at_1(scores: np.ndarray) -> tuple[float, float]:
    """Text to image and image to text, equals in random order; the captions of scene i are rows 5 i to 5 i + 4."""
    n = scores.shape[1]
    right = np.repeat(np.eye(n, dtype=bool), 5, axis=0)  # (5 n, n)
    both = []
    for one, true in ((scores, right), (scores.T, right.T)):
        best = one == one.max(axis=1, keepdims=True)
        both.append(float(((best & true).sum(1) / best.sum(1)).mean()))
    return both[0], both[1]


# The split -----------------------------------------------------------------------------------------------------------


def test_everything_follows_from_seed_split_and_index() -> None:
    one, again, longer = Scenes("train", 50, seed=3), Scenes("train", 50, seed=3), Scenes("train", 5000, seed=3)
    for i in (0, 7, 49):
        a = one[i]
        for b in (again[i], longer[i], one[i - 50]):
            assert (a.id, a.text, a.meta) == (b.id, b.text, b.meta)
            np.testing.assert_array_equal(a.image[0], b.image[0])
            np.testing.assert_array_equal(a.audio[0], b.audio[0])
    others = Scenes("train", 50, seed=4)[7], Scenes("test", 50, seed=3)[7], Scenes("val", 50, seed=3)[7], one[8]
    assert all(other.meta != one[7].meta and other.text != one[7].text for other in others)
    assert len({longer.scene(i) for i in range(5000)}) == 5000


def test_an_item() -> None:
    split = Scenes("train", 30)
    for i in range(30):
        item = split[i]
        assert item.id == item.owner == f"train-{i:05d}"
        assert item.image[0].shape == (64, 64, 3) and item.image[0].dtype == np.uint8
        assert item.audio[0].shape == (16000,) and item.audio[0].dtype == np.float32
        assert len(item.image) == len(item.audio) == 1 and len(set(item.text)) == 5
        assert json.loads(json.dumps(item.meta)) == item.meta
        assert item.meta["sounding"] == list(range(len(split.scene(i))))
        for thing, truth in zip(split.scene(i), item.meta["objects"], strict=True):
            assert [truth["shape"], truth["colour"], truth["size"]] == list(thing[:3])
            left, top, right, bottom = truth["box_xyxy_px"]
            assert left < truth["centre_px"][0] < right and top < truth["centre_px"][1] < bottom


def test_workers_load_the_same(told_apart: Scenes) -> None:
    assert len(pickle.dumps(Scenes("train", 20000))) < 1000
    assert len(pickle.dumps(told_apart)) < 1_000_000
    loader = DataLoader(told_apart, batch_size=None, num_workers=2)  # type: ignore[arg-type]
    for i, item in zip(range(10), loader, strict=False):
        np.testing.assert_array_equal(item.image[0], told_apart[i].image[0])
        np.testing.assert_array_equal(item.audio[0], told_apart[i].audio[0])
        assert tuple(item.text) == told_apart[i].text


@pytest.mark.parametrize("split", ["val", "test"])
def test_each_caption_and_sound_is_of_one_scene_alone(split: str) -> None:
    scenes = Scenes(split, 120, seed=1)
    for i, j in itertools.product(range(120), range(120)):
        for caption in scenes.captions(i):
            assert describes(caption.meaning, scenes.scene(j)) == (i == j)
    assert len({tuple(kind(thing) for thing in scenes.scene(i)) for i in range(120)}) == 120


def test_ceiling_and_bag_of_words(told_apart: Scenes) -> None:
    perfect = perfect_decoder_scores(told_apart)
    assert perfect.shape == (1500, 300)
    assert recall_at_1(perfect) == (1.0, 1.0)
    bags = bag_of_words_scores(told_apart)
    np.testing.assert_allclose(recall_at_1(bags), 0.75, atol=0.01)  # the half that are twins are guessed
    heard = perfect_decoder_scores(told_apart, heard_only=True)
    assert (heard >= perfect).all() and 0.9 < recall_at_1(heard)[0] < 1


def test_twins_and_variants_come_in_their_shares(told_apart: Scenes) -> None:
    scenes = [told_apart.scene(i) for i in range(300)]
    where = {scene: i for i, scene in enumerate(scenes)}
    twins = [i for i, scene in enumerate(scenes) if mirrored(scene) in where]
    assert len(twins) == 150
    for i in twins:
        j = where[mirrored(scenes[i])]
        pairs = zip(told_apart.captions(i), told_apart.captions(j), strict=True)
        assert all(bag(a.text) == bag(b.text) and a.text != b.text for a, b in pairs)
        assert np.abs(told_apart[i].image[0].astype(int) - told_apart[j].image[0][:, ::-1]).mean() > 5  # not a copy
    found = analogies(told_apart)
    assert len(found) == 2 * 60  # both ways
    for query, old, new, targets in found:
        numbers = [k for k, thing in enumerate(scenes[query]) if thing.colour == old]
        changed = {recoloured(scenes[query], k, new) for k in numbers}
        assert targets and {scenes[target] for target in targets} <= changed
    without = Scenes("test", 60, world=World(twins=0, variants=0))
    assert not analogies(without)
    assert recall_at_1(bag_of_words_scores(without))[0] > 0.99


def test_train_scenes_need_not_be_told_apart() -> None:
    for scenes in (Scenes("train", 300), Scenes("test", 300, world=World(identified=False))):
        assert 0.3 < recall_at_1(perfect_decoder_scores(scenes))[0] < 1


def test_neighbours_of_the_train_split() -> None:
    scenes = Scenes("train", 2000)
    pairs = [(scenes.scene(i), scenes.scene(i + 1)) for i in range(0, 2000, 2)]
    twins = sum(b == mirrored(a) for a, b in pairs)
    variants = sum(
        [thing[:1] + thing[2:] for thing in a] == [thing[:1] + thing[2:] for thing in b]
        and sum(one != other for one, other in zip(a, b, strict=True)) == 1
        for a, b in pairs
    )
    assert twins / 1000 == pytest.approx(0.5, abs=0.05)
    assert 2 * variants / 2000 == pytest.approx(2 * 0.2, abs=0.05)
    assert not any(b == mirrored(a) for a, b in (draw_pair(np.random.default_rng(i), "single", (1,)) for i in range(9)))


@pytest.mark.parametrize(
    ("sounding", "allowed"), [("all", {3}), ("one", {1}), ("several", {2}), ("none", {0}), ("several", {2, 3})]
)
def test_which_things_sound(sounding: str, allowed: set[int]) -> None:
    count = 4 if 3 in allowed and sounding == "several" else 3
    objects = tuple(float(k == count) for k in range(1, 5))
    world = World(objects=objects, sounding=sounding, order="together")  # type: ignore[arg-type]
    items = [Scenes("train", 60, world=world)[i] for i in range(60)]
    assert {len(item.meta["sounding"]) for item in items} == allowed
    assert all(item.meta["sounding"] == sorted(set(item.meta["sounding"])) for item in items)
    if sounding == "one":
        assert {item.meta["sounding"][0] for item in items} == {0, 1, 2}


def test_a_thousand_scenes_in_seconds() -> None:
    start = time.process_time()
    scenes = Scenes("test", 1000)
    assert time.process_time() - start < 10
    scenes[0]  # tables of patterns and voices
    start = time.process_time()
    for i in range(200):
        scenes[i]
    assert 200 / (time.process_time() - start) > 300  # scenes a second; 1,500 on a machine of 2025


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": ()}, "objects must be 1 to 4 shares, not all of them 0: got \\(\\)"),
        ({"objects": (0.2,) * 5}, "objects must be 1 to 4 shares"),
        ({"objects": (-0.1, 1.0)}, "objects must be 1 to 4 shares"),
        ({"objects": (0.0, 0.0)}, "not all of them 0"),
        ({"texture": -1.0}, "texture must be at least 0: got -1.0"),
        ({"pixel_noise": -1.0}, "pixel_noise must be at least 0"),
        ({"tilt_deg": -1.0}, "tilt_deg must be at least 0"),
        ({"light": 1.5}, "light must be a share from 0 to 1: got 1.5"),
        ({"omission": -0.5}, "omission must be a share from 0 to 1"),
        ({"twins": 2.0}, "twins must be a share from 0 to 1"),
        ({"twins": 0.8}, "a variant needs a scene to be a variant of: got 0.8 and 0.2"),
        ({"objects": (1.0,)}, "twins need scenes of two or more things"),
        ({"sounding": "some"}, "unknown sounding 'some'. Choose from: all, one, several, none."),
        ({"order": "sequential"}, "unknown order 'sequential'.* Did you mean 'sequence'"),
    ],
)
def test_bad_worlds(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(World(), **change)


def test_bad_splits() -> None:
    with pytest.raises(ValueError, match=r"unknown split 'tests'. Choose from: train, val, test. Did you mean 'test'"):
        Scenes("tests", 10)
    with pytest.raises(ValueError, match="at least one scene, and a seed of at least 0: got n=0, seed=0"):
        Scenes("train", 0)
    with pytest.raises(ValueError, match="got n=5, seed=-1"):
        Scenes("train", 5, seed=-1)
    with pytest.raises(IndexError, match="the train split has scenes 0 to 4: got 5"):
        Scenes("train", 5)[5]
    with pytest.raises(ValueError, match="told apart by their captions and sounds"):
        Scenes("test", 120, world=World(objects=(1.0,), twins=0, variants=0))  # there are 96 voices


@pytest.mark.parametrize("order", ["sequence", "together"])
def test_it_is_known_when_each_voice_sounds(order: str) -> None:
    """What stays of a sound outside of the moments is the noise alone; within them it is louder by far."""
    scenes = Scenes("test", 30, world=World(order=order, snr_db=30.0))
    for item in scenes:
        wave, moments = item.audio[0], item.meta["moments_s"]
        assert len(moments) == len(item.meta["sounding"])
        loud = np.zeros(len(wave), bool)
        for start, end in moments:
            loud[round(start * 16_000) : round(end * 16_000)] = True
        assert np.square(wave[loud]).mean() > 100 * np.square(wave[~loud]).mean()
        assert order == "together" or all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(moments))
