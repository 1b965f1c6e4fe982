"""The faces in one picture, and which of them were in the pictures before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mm.media import MediaError

LONGEST_PX = 640  # side of a picture that is searched; larger ones are made smaller first
SMALLEST_FACE = 1 / 12  # of the shorter side of a picture
STEP, AGREEING = 1.1, 5  # ratio of the sizes that are tried; hits side by side that make a face
WIDER, LOWER = 1.1, 0.06  # of a square that was found, so that the chin is in it: by this factor and this share of it
SAME_FACE = 0.2  # overlap (intersection over union) from which two boxes are taken for one face

Sightings: TypeAlias = list[tuple[float, np.ndarray]]  # of one face: seconds, and its box (4,) then


def face_finder(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function (H, W) uint8 grey -> (K, 4) float64 boxes: left, top, right, bottom in pixels.

    It is the cascade of Haar features for faces from the front (Viola and Jones 2001) that comes with OpenCV.

    Args:
        path: of the video it is for, which the message names.

    Raises:
        MediaError: OpenCV is not installed.
    """
    try:
        import cv2
        import cv2.data
    except ImportError as error:
        raise MediaError(
            f"finding the faces of {path} needs OpenCV, which is not installed. Run: pip install 'mm[faces]'"
        ) from error
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def find(picture: np.ndarray) -> np.ndarray:
        """Boxes of the faces of a grey picture: (H, W) uint8 -> (K, 4) pixels."""
        scale = max(max(picture.shape) / LONGEST_PX, 1.0)
        height, width = (max(round(side / scale), 1) for side in picture.shape)
        smallest = round(min(height, width) * SMALLEST_FACE)
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        found = cascade.detectMultiScale(small, STEP, AGREEING, minSize=(smallest, smallest))
        squares = scale * np.array(sorted(map(tuple, found)), np.float64).reshape(-1, 4)  # (K, 4) x, y, side, side
        middle = squares[:, :2] + squares[:, 2:] * (0.5, 0.5 + LOWER)  # (K, 2)
        reach = squares[:, 2:] * WIDER / 2  # (K, 2)
        return np.concatenate([middle - reach, middle + reach], axis=1)  # (K, 4)

    return find


def link(faces: list[Sightings], time_s: float, boxes: np.ndarray) -> None:
    """Append each of the boxes (K, 4) to the face whose last one it overlaps most; those that overlap none are new.

    The pair that overlaps most is joined first, and a face takes one box at most.
    """
    overlaps = np.array([[overlap(face[-1][1], box) for box in boxes] for face in faces])  # (F, K)
    left = set(range(len(boxes)))
    while overlaps.size and overlaps.max() >= SAME_FACE:
        face, box = divmod(int(overlaps.argmax()), len(boxes))
        faces[face].append((time_s, boxes[box]))
        overlaps[face], overlaps[:, box] = 0, 0
        left.remove(box)
    faces += [[(time_s, boxes[box])] for box in sorted(left)]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])  # (2,)
    both = float(np.maximum(sides, 0).prod())
    return both / float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - both)
