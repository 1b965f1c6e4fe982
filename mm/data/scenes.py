"""Scenes of the embedded world: which things lie where, and the picture of them.

A `Scene` is the ground truth that everything else (picture, sentences, sound, later tasks) is made from.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDE_PX = 64  # pictures are square
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {  # RGB in full light
    "red": (222, 38, 38),
    "orange": (246, 138, 16),
    "yellow": (240, 226, 44),
    "green": (34, 168, 58),
    "cyan": (52, 208, 222),
    "blue": (48, 78, 234),
    "pink": (242, 104, 192),
    "white": (244, 244, 244),
}
SIZES = {"small": 13.0, "large": 21.0}  # px from side to side
KINDS = len(SHAPES) * len(COLOURS) * len(SIZES)
MOST_THINGS = 4  # in a scene
GAP_PX = 2.0  # free space between things at least
COLUMN_GAP_PX = 6.0  # between the centres' columns at least, so that "from left to right" is never in doubt

_COLOUR_NUMBER = {colour: number for number, colour in enumerate(COLOURS)}
_COLOUR_NAMES = tuple(COLOURS)
_SIZE_NAMES = tuple(SIZES)

# The outlines below live in a frame whose y points down and whose unit is half the thing's size.
_STAR_INNER = 0.46  # radius of a star's inner corners
_CROSS_ARM = 0.34  # half the width of a cross's arms
_RING_HOLE = 0.56  # radius of a ring's hole
_SQUARE_HALF = 0.84  # half a square's side: its corners reach a little beyond the circle of its size


class Thing(NamedTuple):
    """One object: three words, and its centre in pixels from the left and the top edge."""

    shape: str
    colour: str
    size: str
    x: float
    y: float


Scene = tuple[Thing, ...]  # from left to right


def kind(thing: Thing) -> int:
    """The thing's shape, colour and size as one number below KINDS."""
    return (SHAPES.index(thing.shape) * len(COLOURS) + _COLOUR_NUMBER[thing.colour]) * len(SIZES) + (
        thing.size == "large"
    )


def draw_scene(rng: np.random.Generator, shares: Sequence[float]) -> Scene:
    """A random scene of things that do not touch, no two of them alike in shape, colour and size.

    Args:
        rng: where the chance comes from.
        shares: share of the scenes with 1, 2, ... things.

    Returns:
        The things from left to right.
    """
    edges = np.cumsum(shares)
    count = 1 + int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
    while True:
        numbers = rng.integers(0, KINDS, count).tolist()  # (count,)
        if len(set(numbers)) == count and (scene := place(numbers, rng)):
            return scene


def place(numbers: Sequence[int], rng: np.random.Generator) -> Scene | None:
    """Things of given kinds, as `kind` numbers them, at random places; None where they did not fit."""
    spots = rng.random((12 * len(numbers), 2)).tolist()  # (tries, 2) of the free area
    things: list[Thing] = []
    for u, v in spots:
        shape, colour, size = words_of(numbers[len(things)])
        edge = SIZES[size] / 2 + 1.5
        x, y = edge + u * (SIDE_PX - 2 * edge), edge + v * (SIDE_PX - 2 * edge)
        if all(_apart(x, y, SIZES[size], other) for other in things):
            things.append(Thing(shape, colour, size, round(x, 2), round(y, 2)))
            if len(things) == len(numbers):
                return tuple(sorted(things, key=lambda thing: thing.x))
    return None


def words_of(number: int) -> tuple[str, str, str]:
    """Shape, colour and size of a kind: the inverse of `kind`."""
    rest, size = divmod(number, len(SIZES))
    shape, colour = divmod(rest, len(COLOURS))
    return SHAPES[shape], _COLOUR_NAMES[colour], _SIZE_NAMES[size]


def _apart(x: float, y: float, size_px: float, other: Thing) -> bool:
    reach = (size_px + SIZES[other.size]) / 2 + GAP_PX
    return abs(x - other.x) >= COLUMN_GAP_PX and math.hypot(x - other.x, y - other.y) >= reach


def mirrored(scene: Scene) -> Scene:
    """The same things with left and right exchanged."""
    return tuple(thing._replace(x=round(SIDE_PX - thing.x, 2)) for thing in reversed(scene))


def recoloured(scene: Scene, number: int, colour: str) -> Scene:
    """The same scene with thing `number` (from the left, 0 first) in another colour."""
    return (*scene[:number], scene[number]._replace(colour=colour), *scene[number + 1 :])


def picture(
    scene: Scene, rng: np.random.Generator, *, texture: float, pixel_noise: float, light: float, tilt_deg: float
) -> tuple[np.ndarray, list[list[int]]]:
    """Render a scene.

    Args:
        scene: what to show.
        rng: background, light, tilt and noise.
        texture: strength of the background's pattern, 0 = plain, 1 = as strong as the things themselves.
        pixel_noise: standard deviation in grey levels.
        light: the exposure is drawn from 1 - light to 1 + light.
        tilt_deg: things are turned by up to this angle either way.

    Returns:
        (64, 64, 3) uint8 RGB, and per thing its box [left, top, right, bottom] in px, right and bottom exclusive.
    """
    chance = rng.random(12 + 4 * len(scene)).tolist()
    image = _background(chance, texture)  # (64, 64, 3)
    boxes = []
    for number, thing in enumerate(scene):
        tilt, grade, angle, shade = chance[12 + 4 * number : 16 + 4 * number]
        cover, u, v, box = _cover(thing, math.radians(tilt_deg) * (2 * tilt - 1))  # (h, w) each
        slope = 0.3 * grade
        shading = (0.9 + 0.2 * shade) + slope * (math.cos(6.28 * angle) * u + math.sin(6.28 * angle) * v)  # (h, w)
        paint = shading[..., None] * np.asarray(COLOURS[thing.colour], np.float32)  # (h, w, 3)
        left, top, right, bottom = box
        patch = image[top:bottom, left:right]  # (h, w, 3)
        patch += cover[..., None] * (paint - patch)  # (h, w, 3)
        boxes.append(_tight(cover, left, top))
    image *= 1 + light * (2 * chance[0] - 1)
    speckle = _speckle()
    row, column = int(chance[1] * (len(speckle) - SIDE_PX)), int(chance[2] * (len(speckle) - SIDE_PX))
    image += pixel_noise * speckle[row : row + SIDE_PX, column : column + SIDE_PX]
    return np.clip(image, 0, 255).astype(np.uint8), boxes


def _background(chance: list[float], texture: float) -> np.ndarray:
    """(64, 64, 3) float32: a random crop of a random pattern between two dull colours."""
    patterns = _patterns()
    pattern = patterns[int(chance[3] * len(patterns))]
    row, column = int(chance[4] * (len(pattern) - SIDE_PX)), int(chance[5] * (len(pattern) - SIDE_PX))
    pattern = pattern[row : row + SIDE_PX, column : column + SIDE_PX]  # (64, 64)
    if chance[6] < 0.5:
        pattern = pattern.T
    grey = 55 + 75 * chance[7]
    tint = np.asarray(chance[8:11], np.float32) - 0.5  # (3,)
    swing = texture * (40 + 40 * chance[11]) * (1 + 0.6 * tint[::-1])  # (3,)
    return (grey + 44 * tint) + pattern[..., None] * swing.astype(np.float32)  # (64, 64, 3)


@functools.cache
def _patterns() -> np.ndarray:
    """(40, 128, 128) float32 of mean 0 and deviation 0.5: clouds from coarse to fine, and wavy stripes."""
    rng = np.random.default_rng(64)
    side = 2 * SIDE_PX
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) * side  # (128, 65) cycles a side
    patterns = []
    for number in range(40):
        spectrum = np.fft.rfft2(rng.standard_normal((side, side)))  # (128, 65)
        steepness = rng.uniform(0.9, 2.2)
        cloud = np.fft.irfft2(spectrum / np.maximum(frequency, 2.0) ** steepness, s=(side, side))  # (128, 128)
        cloud /= cloud.std()
        if number % 2:
            y, x = np.mgrid[:side, :side]
            angle, period = rng.uniform(0, math.pi), rng.uniform(5, 24)
            phase = (x * math.cos(angle) + y * math.sin(angle)) / period  # (128, 128)
            cloud = np.sin(2 * math.pi * phase + cloud) + 0.3 * cloud
        patterns.append(0.5 * (cloud - cloud.mean()) / cloud.std())
    return np.stack(patterns).astype(np.float32)


@functools.cache
def _speckle() -> np.ndarray:
    """(512, 512, 3) float32 standard normal: a crop of it is a picture's noise."""
    return np.random.default_rng(65).standard_normal((512, 512, 3), dtype=np.float32)


def _cover(thing: Thing, tilt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """How much of each pixel around a thing it covers, 0 to 1 (h, w), and the pixels' places in the thing's frame."""
    radius = SIZES[thing.size] / 2
    reach = radius * 1.2 + 1
    left, top = max(int(thing.x - reach), 0), max(int(thing.y - reach), 0)
    right, bottom = min(int(thing.x + reach) + 1, SIDE_PX), min(int(thing.y + reach) + 1, SIDE_PX)
    x = (np.arange(left, right, dtype=np.float32) + 0.5 - thing.x) / radius  # (w,)
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5 - thing.y)[:, None] / radius  # (h, 1)
    u = math.cos(tilt) * x + math.sin(tilt) * y  # (h, w)
    v = math.cos(tilt) * y - math.sin(tilt) * x  # (h, w)
    inside = _depth(thing.shape, u, v) * radius  # (h, w) px, negative outside
    return np.clip(inside + 0.5, 0, 1), u, v, (left, top, right, bottom)


def _depth(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How deep inside a shape's outline the places (u, v) lie, negative outside, in units of half its size."""
    if shape == "circle":
        return 1 - np.hypot(u, v)
    if shape == "square":
        return _SQUARE_HALF - np.maximum(np.abs(u), np.abs(v))
    if shape == "triangle":
        # Pointing up: three lines at half the distance of the corners, shifted down so that it fills its box.
        w = v - 0.2
        return np.minimum(0.58 - w, 0.58 + 0.5 * w - 0.866 * np.abs(u))
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        upright = np.minimum(_CROSS_ARM - a, 1 - b)
        return np.maximum(upright, np.minimum(1 - a, _CROSS_ARM - b))
    if shape == "ring":
        distance = np.hypot(u, v)
        return np.minimum(1 - distance, distance - _RING_HOLE)
    # star: fold the plane onto half a point, where the outline is one line from the tip to an inner corner
    fifth = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + fifth / 2, fifth) - fifth / 2)
    distance = np.hypot(u, v)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    inner_x, inner_y = _STAR_INNER * math.cos(fifth / 2), _STAR_INNER * math.sin(fifth / 2)
    tip = 1.08
    length = math.hypot(tip - inner_x, inner_y)
    return ((tip - along) * inner_y - across * (tip - inner_x)) / length


def _tight(cover: np.ndarray, left: int, top: int) -> list[int]:
    """The box of the pixels that are covered at least half."""
    rows, columns = np.flatnonzero((cover >= 0.5).any(1)), np.flatnonzero((cover >= 0.5).any(0))
    return [left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1]
