"""Pictures of the embedded world: things apart and inside, shares of counts, boxes, colours, knobs."""

import itertools

import numpy as np
import pytest

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
    picture,
)
from mm.data.sentences import (
    CLEAR_PX,
)
from mm.data.synthetic import World

PLAIN = {"texture": 0.0, "pixel_noise": 0.0, "light": 0.0, "tilt_deg": 0.0}


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


def test_knobs_of_the_picture_have_an_effect(three: tuple[Thing, ...]) -> None:
    red = three[0]
    plain, _ = picture((), np.random.default_rng(3), **PLAIN)
    assert plain.std(axis=(0, 1)).max() == 0
    spread = []
    for knob, value in (("texture", 0.5), ("texture", 1.0), ("pixel_noise", 4.0), ("pixel_noise", 12.0)):
        image, _ = picture((), np.random.default_rng(3), **{**PLAIN, knob: value})
        spread.append(image.std(axis=(0, 1)).mean())
    assert 2 < spread[0] < 0.7 * spread[1] and 3.5 < spread[2] < 4.5 and 11 < spread[3] < 13
    lit, _ = picture((), np.random.default_rng(3), **{**PLAIN, "light": 0.2})
    assert lit.mean() != plain.mean()
    turned, _ = picture((red._replace(shape="cross"),), np.random.default_rng(3), **{**PLAIN, "tilt_deg": 12.0})
    upright, _ = picture((red._replace(shape="cross"),), np.random.default_rng(3), **PLAIN)
    assert np.abs(turned.astype(int) - upright).max() > 30
