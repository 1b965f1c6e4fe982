"""Mosaics of real pictures with a real sound of what one of their tiles shows: the truth is known to the tile.

Spoken digits among handwritten ones, and environmental sounds among photographs. No second tile shows what sounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mm.data.gallery import stable_id
from mm.data.item import Item, Source
from mm.data.karpathy import flickr8k
from mm.data.sounds import esc10
from mm.data.spoken import digit_pictures, spoken_digits
from mm.data.synthetic import SPLITS
from mm.media import read_image, view_of
from mm.naming import known

DIGIT_TILE_PX, PHOTO_TILE_PX = 32, 160  # of the digits 8 px are known, of the photographs 160
FEW_DIGITS = 2  # around the spoken one while training; the other tiles are empty
DIGIT_MOSAICS, ESC10_MOSAICS = 1000, 300  # in val and in test; for the second there are few clips and photographs
AGREE = 3  # captions of five that must name a class
EVERY_WORD = {  # of a class of ESC-10: words that name it, and words that a neutral photograph must not have
    "dog_bark": (
        r"dogs?|pupp(y|ies)|poodles?|greyhounds?|collies?|terriers?|hounds?|labradors?|retrievers?|dalmatians?|"
        r"dachshunds?|rottweilers?|husk(y|ies)|bulldogs?|spaniels?|pugs?|beagles?|chihuahuas?|corgis?|dobermans?",
        r"animals?|pets?|wol(f|ves)|fox(es)?|shepherds?|canines?",
    ),
    "sea_waves": (
        r"oceans?|seas?|seaside|seashore|beach(es)?|surf|surf(er|ing|board)s?|shores?|shoreline|coast(al|line|s)?",
        r"waters?|lakes?|rivers?|pools?|swim\w*|boats?|kayak\w*|canoe\w*|wet|splash\w*|bay|pier|dock|sand\w*|waves?",
    ),
    "baby_cry": (r"baby|babies|infants?|toddlers?|newborns?", r"cribs?|strollers?|child|children|kids?|dolls?|toys?"),
}
_STREAM = 30  # mosaics draw from chance of their own: (seed, split, index, 30)


class Mosaics(Sequence[Item]):
    """Square mosaics of one split, each with a clip of what one tile shows; drawn when asked for, alike on every call.

    Clips take turns, class by class, so that classes are balanced. The owner is the recording: two mosaics with one
    sound are never each other's negatives.

    Args:
        split: "train", "val" or "test".
        n: how many.
        seed: at least 0.
        side: tiles in a row.
        tile_px: pixels a side of a tile.
        clips: {class: (name of the recording, file) of each}.
        pictures: {class: pictures}; every class of `clips` is there.
        around: classes of the other tiles; that of the clip is left out, the others are different as far as there are.
        crowd: how many of the other tiles show something; the rest are black. None = all.

    Raises:
        ValueError: an unknown split, no clip or no picture of a class.
    """

    def __init__(
        self,
        split: str,
        n: int,
        seed: int,
        *,
        side: int,
        tile_px: int,
        clips: Mapping[str, Sequence[tuple[str, Path]]],
        pictures: Mapping[str, Sequence[Source]],
        around: Sequence[str],
        crowd: int | None = None,
    ):
        self.split = known(split, SPLITS, "split")
        self.n, self.seed, self.side, self.tile_px = n, seed, side, tile_px
        self.clips, self.pictures, self.around = clips, pictures, tuple(around)
        self.crowd = side**2 - 1 if crowd is None else crowd
        if n < 1 or seed < 0:
            raise ValueError(f"a split needs at least one mosaic, and a seed of at least 0: got n={n}, seed={seed}.")
        if not 0 <= self.crowd < side**2 or (self.crowd and not set(around) - {*clips} and len(set(around)) < 2):
            raise ValueError(f"0 to {side**2 - 1} tiles around can show another class: got {crowd} of {around}.")
        empty = [name for name in clips if not clips[name]]
        empty += [name for name in dict.fromkeys((*clips, *around)) if not pictures.get(name)]
        if not clips or empty:
            raise ValueError(f"every class of a mosaic needs clips and pictures: {split} has none of {empty}.")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        """Item `index`: the mosaic, the clip, and as `meta` the class, the tile and its box."""
        rng = np.random.default_rng((self.seed, SPLITS[self.split], self._checked(index), _STREAM))
        turn, which = divmod(self._checked(index), len(self.clips))
        sounding = list(self.clips)[which]
        recording, clip = self.clips[sounding][turn % len(self.clips[sounding])]
        place = int(rng.integers(self.side**2))
        classes = self._others(sounding, rng)
        classes.insert(place, sounding)
        tiles = [self._tile(name, rng) for name in classes]
        rows = [np.concatenate(tiles[first : first + self.side], axis=1) for first in range(0, len(tiles), self.side)]
        image = np.concatenate(rows)  # (side * tile_px, side * tile_px, 3)
        row, column = divmod(place, self.side)
        box = [column / self.side, row / self.side, (column + 1) / self.side, (row + 1) / self.side]
        meta = {"category": sounding, "tile": place, "tiles": classes, "boxes": [[box]], "clip": clip.name}
        name = f"{self.split}-{self._checked(index):05d}"
        return Item(name, recording, image=(image,), audio=(clip,), meta=meta)

    def _others(self, sounding: str, rng: np.random.Generator) -> list[str]:
        """The classes of the tiles around, "" = black."""
        count = self.side**2 - 1
        names = [name for name in self.around if name != sounding]
        drawn = rng.permutation(names * -(-self.crowd // len(names)))[: self.crowd].tolist()
        return rng.permutation(drawn + [""] * (count - self.crowd)).tolist()

    def _tile(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """One of the pictures of a class, (tile_px, tile_px, 3) uint8."""
        if not name:
            return np.zeros((self.tile_px, self.tile_px, 3), np.uint8)
        source = self.pictures[name][int(rng.integers(len(self.pictures[name])))]
        pixels = view_of(read_image(source, at_least=self.tile_px), self.tile_px)  # (3, tile_px, tile_px)
        return pixels.permute(1, 2, 0).numpy()

    def _checked(self, index: int) -> int:
        if not -self.n <= index < self.n:
            raise IndexError(f"the {self.split} split has mosaics 0 to {self.n - 1}: got {index}.")
        return index % self.n


def digit_mosaics(root: Path, split: str, n: int, seed: int = 0, speaker: str = "") -> Mosaics:
    """3x3 handwritten digits, and somebody says one of them: FSDD's recordings with scikit-learn's pictures.

    In val and test the nine tiles are nine different digits, so that nothing but the sound tells them apart. If
    training mosaics were such, nine sounds of ten would fit every mosaic and there would be next to nothing to learn
    from: there `FEW_DIGITS` other digits are seen, and six tiles are black.

    Args:
        root: see `spoken_digits`.
        split: "train", "val" or "test".
        n: how many.
        seed: of the mosaics.
        speaker: see `spoken_digits`.
    """
    known(split, SPLITS, "split")
    clips: dict[str, list[tuple[str, Path]]] = {str(digit): [] for digit in range(10)}
    for item in spoken_digits(root, split, speaker):
        for file in item.audio:
            assert isinstance(file, Path)  # as the reader gives them
            clips[str(item.meta["digit"])].append((item.id, file))
    return Mosaics(
        split,
        n,
        seed,
        side=3,
        tile_px=DIGIT_TILE_PX,
        clips={name: shuffled(files) for name, files in clips.items()},
        pictures={str(digit): pictures for digit, pictures in enumerate(digit_pictures(split))},
        around=list(clips),
        crowd=FEW_DIGITS if split == "train" else None,
    )


def esc10_mosaics(root: Path, split: str, n: int, seed: int = 0, fold: int = 1) -> Mosaics:
    """2x2 photographs of Flickr8k, and one is heard: a dog's bark, the sea or a baby's cry of ESC-10.

    A photograph shows a class when `AGREE` of its captions name it and none names another; the other three tiles are
    photographs whose captions name nothing of the kind. Photographs are of the official split, clips of the folds.

    Args:
        root: holds both sets, see `flickr8k` and `esc10`.
        split: "train", "val" or "test".
        n: how many.
        seed: of the mosaics.
        fold: of ESC-10's test clips.
    """
    clips: dict[str, list[tuple[str, Path]]] = {name: [] for name in EVERY_WORD}
    for item in esc10(root, split, fold):
        for file in item.audio if item.owner in clips else ():
            assert isinstance(file, Path)  # as the reader gives them
            clips[item.owner].append((str(item.meta["recording"]), file))
    shown: dict[str, list[Source]] = {name: [] for name in (*EVERY_WORD, "neutral")}
    for item in flickr8k(root, split):
        if name := shows([str(text) for text in item.text]):
            shown[name] += item.image
    return Mosaics(
        split,
        n,
        seed,
        side=2,
        tile_px=PHOTO_TILE_PX,
        clips={name: shuffled(files) for name, files in clips.items()},
        pictures=shown,
        around=["neutral"],
    )


def shows(captions: Sequence[str]) -> str:
    """Which class of `EVERY_WORD` captions agree on, "neutral" where they name nothing of the kind, "" in between."""
    agree = {}
    named = set()
    for name, (words, near) in EVERY_WORD.items():
        hits = [re.search(rf"\b({words})\b", caption.lower()) is not None for caption in captions]
        agree[name] = sum(hits)
        if any(hits) or any(re.search(rf"\b({near})\b", caption.lower()) for caption in captions):
            named.add(name)
    if not named:
        return "neutral"
    (name, count) = max(agree.items(), key=lambda pair: pair[1])
    return name if count >= AGREE and named == {name} else ""


def shuffled(files: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Clips in an order that their names decide, so that a speaker's or a fold's do not stand together."""
    return sorted(files, key=lambda pair: stable_id(pair[1].name))
