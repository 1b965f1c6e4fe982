"""The embedded world: the same from the same numbers, true captions, scenes told apart, voices that can be heard."""

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
    COLOURS,
    GAP_PX,
    KINDS,
    SHAPES,
    SIDE_PX,
    SIZES,
    Thing,
    draw_scene,
    kind,
    mirrored,
    picture,
    recoloured,
)
from mm.data.sentences import (
    CLEAR_PX,
    FORMS,
    Fact,
    Meaning,
    Phrase,
    Register,
    captions,
    describes,
    say,
    sentence,
    turned_round,
)
from mm.data.synthetic import Scenes, World, analogies, bag_of_words_scores, perfect_decoder_scores
from mm.data.voices import NOTE_S, SAMPLE_RATE, pitch_of, sound, voice

PLAIN = {"texture": 0.0, "pixel_noise": 0.0, "light": 0.0, "tilt_deg": 0.0}
RED = Thing("circle", "red", "large", 15.0, 20.0)
BLUE = Thing("star", "blue", "small", 40.0, 50.0)
GREEN = Thing("ring", "green", "small", 55.0, 12.0)


@pytest.fixture(scope="module")
def test_split() -> Scenes:
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


# Pictures ------------------------------------------------------------------------------------------------------------


def test_things_keep_apart_and_inside() -> None:
    seen: set[int] = set()
    for seed in range(300):
        scene = draw_scene(np.random.default_rng(seed), (0, 0, 0, 1))
        assert len(scene) == 4 and list(scene) == sorted(scene, key=lambda thing: thing.x)
        assert len({kind(thing) for thing in scene}) == 4
        seen |= {kind(thing) for thing in scene}
        for a, b in itertools.combinations(scene, 2):
            assert abs(a.x - b.x) > CLEAR_PX  # "left of" is never in doubt
            assert np.hypot(a.x - b.x, a.y - b.y) >= (SIZES[a.size] + SIZES[b.size]) / 2 + GAP_PX - 0.02
        for thing in scene:
            assert SIZES[thing.size] / 2 < min(thing.x, thing.y)
            assert max(thing.x, thing.y) < SIDE_PX - SIZES[thing.size] / 2
    assert seen == set(range(KINDS))


def test_shares_of_counts() -> None:
    counts = [len(draw_scene(np.random.default_rng(i), (0.1, 0.4, 0.0, 0.5))) for i in range(2000)]
    assert [round(counts.count(k) / 2000, 1) for k in (1, 2, 3, 4)] == [0.1, 0.4, 0.0, 0.5]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_boxes_hold_the_paint_and_shapes_differ(shape: str, size: str) -> None:
    thing = Thing(shape, "white", size, 30.25, 33.5)
    images = []
    for scene in ((), (thing,)):
        image, boxes = picture(scene, np.random.default_rng(5), **PLAIN)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        images.append(image.astype(int))
    painted = np.abs(images[1] - images[0]).sum(-1) > 0.5 * np.abs(images[1] - images[0]).sum(-1).max()
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.array(found) - boxes[0]).max() <= 1
    width, height = boxes[0][2] - boxes[0][0], boxes[0][3] - boxes[0][1]
    assert 10 <= min(width, height) <= max(width, height) <= SIZES[size] + 3
    assert abs((boxes[0][0] + boxes[0][2]) / 2 - 30.25) <= 1 and abs((boxes[0][1] + boxes[0][3]) / 2 - 33.5) <= 2
    hollow = not painted[33, 30]
    assert hollow == (shape == "ring")
    share = painted.sum() / ((found[2] - found[0]) * (found[3] - found[1]))  # of its box that a shape fills
    low, high = {
        "square": (0.9, 1.0),
        "circle": (0.75, 0.85),
        "ring": (0.45, 0.65),
        "cross": (0.5, 0.7),
        "triangle": (0.45, 0.62),
        "star": (0.35, 0.55),
    }[shape]
    assert low <= share <= high


@pytest.mark.parametrize("colour", COLOURS)
def test_a_things_middle_has_its_colour_in_any_light(colour: str) -> None:
    names = list(COLOURS)
    table = np.array([COLOURS[name] for name in names], float)  # (8, 3)
    directions = table / np.linalg.norm(table, axis=1, keepdims=True)
    world = World()
    for seed in range(40):
        image, _ = picture(
            (Thing("circle", colour, "large", 32.0, 32.0),),
            np.random.default_rng(seed),
            texture=world.texture,
            pixel_noise=world.pixel_noise,
            light=world.light,
            tilt_deg=world.tilt_deg,
        )
        mean = image[28:36, 28:36].reshape(-1, 3).mean(0)
        assert names[int(np.argmax(directions @ mean))] == colour


def test_knobs_of_the_picture_have_an_effect() -> None:
    plain, _ = picture((), np.random.default_rng(3), **PLAIN)
    assert plain.std(axis=(0, 1)).max() == 0
    spread = []
    for knob, value in (("texture", 0.5), ("texture", 1.0), ("pixel_noise", 4.0), ("pixel_noise", 12.0)):
        image, _ = picture((), np.random.default_rng(3), **{**PLAIN, knob: value})
        spread.append(image.std(axis=(0, 1)).mean())
    assert 2 < spread[0] < 0.7 * spread[1] and 3.5 < spread[2] < 4.5 and 11 < spread[3] < 13
    lit, _ = picture((), np.random.default_rng(3), **{**PLAIN, "light": 0.2})
    assert lit.mean() != plain.mean()
    turned, _ = picture((RED._replace(shape="cross"),), np.random.default_rng(3), **{**PLAIN, "tilt_deg": 12.0})
    upright, _ = picture((RED._replace(shape="cross"),), np.random.default_rng(3), **PLAIN)
    assert np.abs(turned.astype(int) - upright).max() > 30


# Sentences -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meaning", "true"),
    [
        (Meaning((Phrase("circle"), Phrase(colour="blue")), (Fact("left of", 0, 1),), False), True),
        (Meaning((Phrase("circle"), Phrase(colour="blue")), (Fact("right of", 0, 1),), False), False),
        (Meaning((Phrase("circle"), Phrase(colour="blue")), (Fact("above", 0, 1),), False), True),
        (Meaning((Phrase("star"), Phrase("ring")), (Fact("below", 0, 1),), False), True),
        (Meaning((Phrase(size="small"), Phrase(size="small")), (), False), True),
        (Meaning((Phrase(size="large"), Phrase(size="large")), (), False), False),  # one thing is not two
        (Meaning((Phrase(size="small"), Phrase("star")), (Fact("right of", 0, 1),), False), True),  # the ring
        (Meaning((Phrase("circle"),), (Fact("on the left", 0), Fact("at the top", 0)), False), True),
        (Meaning((Phrase("star"),), (Fact("at the top", 0),), False), False),
        (Meaning((Phrase("ring"),), (Fact("on the right", 0),), False), True),
        (Meaning((Phrase("star"),), (Fact("at the bottom", 0),), False), True),
        (Meaning((Phrase("star"),), (Fact("in the middle", 0),), False), False),
        (Meaning((Phrase("circle"), Phrase("star")), (), True), False),  # there is a ring too
        (Meaning((Phrase("ring"), Phrase("circle"), Phrase("star")), (), True), True),
        (Meaning((Phrase("circle", "blue"),), (), False), False),
    ],
)
def test_meanings_by_hand(meaning: Meaning, true: bool) -> None:
    assert describes(meaning, (RED, BLUE, GREEN)) is true


def test_wording() -> None:
    forms = {form.wording: form for form in FORMS}
    assert len(forms) == len(FORMS)
    phrases = (Phrase("circle", "orange"), Phrase("star", "blue", "small"), Phrase("", "red"), Phrase("ring"))
    assert sentence(forms["{0} left of {1}"], phrases) == "an orange circle left of a small blue star"
    assert sentence(forms["{0} with {1} below it"], phrases[1:]) == "a small blue star with a red object below it"
    listing = forms["left to right {0}, {1}, {2} and {3}"]
    assert sentence(listing, phrases) == "left to right orange circle, small blue star, red object and ring"


def test_captions_are_true_different_and_short() -> None:
    words: set[str] = set()
    used = set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, (1, 1, 1, 1))
        five = captions(scene, rng, 0.3)
        assert len({caption.text for caption in five}) == 5
        for text, meaning in five:
            assert describes(meaning, scene)
            assert len(text.split()) <= 17
            words |= set(bag(text))
        used |= {say(scene, rng, 0.0)[0] for _ in range(20)}
    assert used == set(FORMS)  # every wording is in use
    assert len(words) <= 60


def test_a_speaker_says_only_what_is_clear() -> None:
    near = (RED, RED._replace(colour="blue", x=RED.x + 25, y=RED.y + CLEAR_PX - 1))
    for seed in range(300):
        form, _ = say(near, np.random.default_rng(seed), 0.0)
        assert not {"above", "below"} & {fact.what for fact in form.facts}


def test_omission_leaves_words_out() -> None:
    scene = (RED, BLUE, GREEN)
    phrases = {share: [] for share in (0.0, 0.4)}
    for share, found in phrases.items():
        for seed in range(500):
            found += say(scene, np.random.default_rng(seed), share)[1].phrases
    assert all(all(phrase) for phrase in phrases[0.0])
    of = phrases[0.4]
    missing = [sum(not word for word in column) / len(of) for column in zip(*of, strict=True)]
    np.testing.assert_allclose(missing, (0.2, 0.2, 0.4), atol=0.05)  # shape, colour, size
    assert all(phrase.shape or phrase.colour for phrase in of)


def test_turned_round_is_true_of_the_mirror_image_in_the_same_words() -> None:
    found = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng, (0, 1, 1, 1))
        form, meaning = say(scene, rng, 0.0, mirrorable=True)
        other = turned_round(form, meaning)
        assert describes(other, mirrored(scene)) and not describes(other, scene)
        assert describes(meaning, scene) and not describes(meaning, mirrored(scene))
        texts = sentence(form, meaning.phrases), sentence(form, other.phrases)
        assert bag(texts[0]) == bag(texts[1]) and texts[0] != texts[1]
        found += 1
    assert found == 300


def test_register_finds_what_a_loop_finds() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), (1, 1, 1, 1)) for seed in range(200)]
    register = Register(scenes)
    for seed in range(200):
        _, meaning = say(scenes[seed], np.random.default_rng(seed), 0.6)
        expected = [i for i, scene in enumerate(scenes) if describes(meaning, scene)]
        assert register.described(meaning) == expected and seed in expected


# Sounds --------------------------------------------------------------------------------------------------------------


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


def test_sounds_in_turn_and_together() -> None:
    # All voices in a row: the order of the pitches follows the order given.
    for things in ((RED, GREEN), (GREEN, RED)):
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
    for things, together, share in (((RED,), False, 0.22), ((RED, BLUE), False, 0.44), ((RED, BLUE), True, 0.85)):
        flat = [thing._replace(shape="square") for thing in things]
        loud = loudness(sound(flat, np.random.default_rng(1), together=together, snr_db=40.0))
        heard = (loud > 0.3 * loud.max()).mean()
        assert share - 0.02 <= heard <= (1.0 if together else share + 0.04)


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_level(snr_db: float) -> None:
    ratios = []
    for seed in range(40):
        wave = sound([RED._replace(shape="square")], np.random.default_rng(seed), together=False, snr_db=snr_db)
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


def test_workers_load_the_same(test_split: Scenes) -> None:
    assert len(pickle.dumps(Scenes("train", 20000))) < 1000
    assert len(pickle.dumps(test_split)) < 1_000_000
    loader = DataLoader(test_split, batch_size=None, num_workers=2)  # type: ignore[arg-type]
    for i, item in zip(range(10), loader, strict=False):
        np.testing.assert_array_equal(item.image[0], test_split[i].image[0])
        np.testing.assert_array_equal(item.audio[0], test_split[i].audio[0])
        assert tuple(item.text) == test_split[i].text


@pytest.mark.parametrize("split", ["val", "test"])
def test_each_caption_and_sound_is_of_one_scene_alone(split: str) -> None:
    scenes = Scenes(split, 120, seed=1)
    for i, j in itertools.product(range(120), range(120)):
        for caption in scenes.captions(i):
            assert describes(caption.meaning, scenes.scene(j)) == (i == j)
    assert len({tuple(kind(thing) for thing in scenes.scene(i)) for i in range(120)}) == 120


def test_ceiling_and_bag_of_words(test_split: Scenes) -> None:
    perfect = perfect_decoder_scores(test_split)
    assert perfect.shape == (1500, 300)
    assert recall_at_1(perfect) == (1.0, 1.0)
    bags = bag_of_words_scores(test_split)
    np.testing.assert_allclose(recall_at_1(bags), 0.75, atol=0.01)  # the half that are twins are guessed
    heard = perfect_decoder_scores(test_split, heard_only=True)
    assert (heard >= perfect).all() and 0.9 < recall_at_1(heard)[0] < 1


def test_twins_and_variants_come_in_their_shares(test_split: Scenes) -> None:
    scenes = [test_split.scene(i) for i in range(300)]
    where = {scene: i for i, scene in enumerate(scenes)}
    twins = [i for i, scene in enumerate(scenes) if mirrored(scene) in where]
    assert len(twins) == 150
    for i in twins:
        j = where[mirrored(scenes[i])]
        pairs = zip(test_split.captions(i), test_split.captions(j), strict=True)
        assert all(bag(a.text) == bag(b.text) and a.text != b.text for a, b in pairs)
        assert np.abs(test_split[i].image[0].astype(int) - test_split[j].image[0][:, ::-1]).mean() > 5  # not a copy
    found = analogies(test_split)
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
