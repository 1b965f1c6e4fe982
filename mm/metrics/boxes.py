"""Boxes that people drew around what sounds, and the consensus map they add up to: the truth of localisation.

The boxes of one image are one list per annotator, each a list of [left, top, right, bottom], as shares of the
picture's width and height. VGG-SS has one annotator and often several boxes, Flickr-SoundNet three annotators.

Pixels are taken as the evaluation code of LVS does (Chen et al. 2021; hche11/Localizing-Visual-Sounds-the-Hard-Way,
8fe8cbb), and EZ-VSL and SLAVC agree with it: an edge is cut off to the whole pixel below, the left and upper ones
belong to the box and the right and lower ones do not, what leaves the picture is cut away, and a box that is inverted
or has no width covers nothing. So 18 of VGG-SS's 5,941 boxes cover nothing, and two of its images have no true pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDE = 224  # px of the square map that all protocols compare at
AGREED = 2  # annotators who make a pixel fully true, where more than one looked (Senocak et al. 2018)
SIZES = {"small": 32**2, "medium": 96**2, "large": 144**2, "huge": SIDE**2 + 1}  # px, below which (Mo & Morgado 2022)

Boxes = Sequence[Sequence[Sequence[float]]]  # of one image: [annotator][box] is left, top, right, bottom


class Drawn(NamedTuple):
    """The boxes of n images in one table, in the order of the images.

    Attributes:
        corners: (m, 4) float64 left, top, right, bottom, cut to the picture.
        image: (m,) the image of each box.
        annotator: (m,) who of that image's annotators drew it.
        annotators: (n,) how many looked at the image.
    """

    corners: np.ndarray
    image: np.ndarray
    annotator: np.ndarray
    annotators: np.ndarray

    def part(self, first: int, last: int) -> Drawn:
        """The images from `first` to before `last`, numbered from 0."""
        rows = slice(*np.searchsorted(self.image, (first, last)))
        image, annotator = self.image[rows] - first, self.annotator[rows]
        return Drawn(self.corners[rows], image, annotator, self.annotators[first:last])

    def pixels(self, side: int) -> np.ndarray:
        """(m, 4) int64 edges on a map of `side` x `side` pixels."""
        return (self.corners * side).astype(np.int64)

    def consensus(self, side: int = SIDE) -> np.ndarray:
        """(n, side, side) float32, as `consensus_map` of each image."""
        votes = np.zeros((len(self.annotators), side, side), np.float32)
        table = zip(self.image.tolist(), self.annotator.tolist(), self.pixels(side).tolist(), strict=True)
        for (image, _), boxes in itertools.groupby(table, key=lambda row: row[:2]):
            union = np.zeros((side, side), bool)
            for _, _, (left, top, right, bottom) in boxes:
                union[top:bottom, left:right] = True
            votes[image] += union
        needed = np.minimum(self.annotators, AGREED)[:, None, None]  # (n, 1, 1)
        return np.minimum(votes / needed.astype(np.float32), 1)

    def contain_centres(self, height: int, width: int) -> np.ndarray:
        """(n, H, W) bool: whether a cell's centre lies in a box of any annotator."""
        left, top, right, bottom = self.corners.T[:, :, None]  # (m, 1) each
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        across, down = (left <= x) & (x < right), (top <= y) & (y < bottom)  # (m, W), (m, H)
        inside = np.zeros((len(self.annotators), height, width), bool)
        for image, columns, rows in zip(self.image, across, down, strict=True):
            inside[image] |= rows[:, None] & columns
        return inside

    def near(self, reach: float, side: int = SIDE) -> np.ndarray:
        """(n, side, side) bool: whether a true pixel lies less than `reach` pixels from a pixel."""
        at = np.arange(side)
        found = np.zeros((len(self.annotators), side, side), bool)
        for image, (left, top, right, bottom) in zip(self.image, self.pixels(side), strict=True):
            if left < right and top < bottom:
                across = np.maximum(np.maximum(left - at, at - right + 1), 0)  # (side,)
                down = np.maximum(np.maximum(top - at, at - bottom + 1), 0)  # (side,)
                rows, columns = np.flatnonzero(down < reach), np.flatnonzero(across < reach)
                area = (image, slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
                found[area] |= down[rows, None] ** 2 + across[columns] ** 2 < reach**2
        return found


def consensus_map(boxes: Boxes, side: int = SIDE) -> np.ndarray:
    """How far people agree that a pixel sounds: min(annotators in whose boxes it lies / C, 1).

    C is 1 with one annotator and 2 with more: two of the three of Flickr-SoundNet make a pixel fully true, one makes
    it half true (Senocak et al. 2018). Boxes of one annotator that overlap count once; published code adds them up,
    which is the same where they do not overlap. An annotator who drew no box counts as one.

    Args:
        boxes: of one image, a list per annotator.
        side: pixels of the square map.

    Returns:
        (side, side) float32: 0 and 1 with one annotator; 0, 1/2 and 1 with several.

    Raises:
        ValueError: no annotator, or a box that is not four finite numbers.
    """
    return pack([boxes]).consensus(side)[0]


def empty_truths(boxes: Sequence[Boxes], side: int = SIDE) -> np.ndarray:
    """The images of which no pixel is true, as positions: no map can find anything there, so their cIoU is 0.

    Args:
        boxes: of each image.
        side: pixels of the square map.

    Raises:
        ValueError: as for `consensus_map`.
    """
    drawn = pack(boxes)
    left, top, right, bottom = drawn.pixels(side).T  # (m,) each
    true = drawn.image[(left < right) & (top < bottom)]
    return np.flatnonzero(np.bincount(true, minlength=len(boxes)) == 0)


def size_names(areas: np.ndarray) -> np.ndarray:
    """ "small", "medium", "large" or "huge" for areas in pixels of the 224 x 224 map, as SLAVC has them.

    Args:
        areas: (n,) sums of consensus maps.
    """
    return np.array(list(SIZES))[np.searchsorted(list(SIZES.values()), areas, side="right")]  # (n,)


def pack(boxes: Sequence[Boxes], names: Sequence[str] | None = None) -> Drawn:
    """Boxes of many images as one table.

    Args:
        boxes: of each image.
        names: of the images, for messages.

    Raises:
        ValueError: an image without annotators, or a box that is not four finite numbers.
    """
    rows, annotators = [], []
    for image, people in enumerate(boxes):
        name = names[image] if names else f"image {image}"
        if not len(people):
            raise ValueError(
                f"{name} must have the boxes of at least one annotator: got none. "
                "[[]] says that one looked and drew nothing; silent pictures belong to `mm.metrics.sources.detection`."
            )
        annotators.append(len(people))
        for person, own in enumerate(people):
            if not isinstance(own, Sequence | np.ndarray):
                raise ValueError(f"{name} must have a list of boxes per annotator: got {people!r}.")
            rows += [(image, person, *_corners(box, name)) for box in own]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)  # (m, 6)
    image, person = table[:, :2].astype(np.int64).T  # (m,) each
    return Drawn(np.clip(table[:, 2:], 0, 1), image, person, np.array(annotators, dtype=np.int64))


def _corners(box: Sequence[float], name: str) -> np.ndarray:
    try:
        corners = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise ValueError(
            f"each box of {name} must be [left, top, right, bottom], four finite shares of the picture: got {box!r}. "
            "The boxes of an image are one list per annotator."
        )
    return corners
