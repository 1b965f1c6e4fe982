"""Spoken digits: the clips of FSDD, the digit words, and the handwritten digits that scikit-learn brings along."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mm.data.item import Item, Items, parts, require
from mm.naming import known

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_TAKES = range(0, 5)  # the official test set, of every speaker and digit
VAL_TAKES = range(45, 50)  # ours: the last five of the 45 training takes, a ninth of them
PICTURE_PX = 64


def spoken_digits(root: Path, split: str, speaker: str = "") -> Items:
    """FSDD recordings, digit words and handwritten digits; the owner of each is its digit.

    Training: one item per recording, with the word and all training pictures of its digit (each use draws one). Val and
    test: every clip, word and picture is an item of its own, so that none is paired with another beyond being the
    same digit.

    Clips: takes 0-4 are the test set (official), 45-49 val, 5-44 train. With a `speaker`, all takes of this
    speaker are the test set and takes 0-44 / 45-49 of the others train / val. Pictures: of each digit's, in the order
    of the data set (which keeps a writer's together), the first half trains, the next quarter is val, the rest test.

    Args:
        root: holds `fsdd/recordings/{digit}_{speaker}_{take}.wav`.
        split: "train", "val", "test" or "trainval" (its clips all as training items, the pictures of train).
        speaker: whose voice is held out; "" = the official split.

    Raises:
        FileNotFoundError: the set is not there.
        ValueError: a file name of another form, or an unknown speaker.
    """
    training = "train" in parts(split)
    items = []
    for digit, who, take, file in recordings(root, split, speaker):
        images, words = (digit_pictures("train")[digit], (WORDS[digit],)) if training else ((), ())
        meta = {"digit": digit, "speaker": who, "take": take}
        items.append(Item(file.stem, str(digit), images, words, (file,), meta))
    if not training:
        items.extend(_words_and_pictures(split))
    return Items(items)


def recordings(root: Path, split: str, speaker: str = "") -> list[tuple[int, str, int, Path]]:
    """(digit, speaker, take, file) of every recording of a split, sorted by digit, speaker and take.

    Args, splits and errors are those of `spoken_digits`.
    """
    wanted = parts(split)
    folder = require(root / "fsdd", "recordings") / "recordings"
    clips = []
    for file in folder.glob("*.wav"):
        name = re.fullmatch(r"([0-9])_([^_]+)_([0-9]+)", file.stem)
        if name is None:
            raise ValueError(f"{file} must be named {{digit}}_{{speaker}}_{{take}}.wav, as FSDD names its recordings.")
        clips.append((int(name[1]), name[2], int(name[3]), file))
    if not clips:
        raise FileNotFoundError(
            f"{folder} must hold FSDD's wav files: got none. docs/data.md says where they are published."
        )
    held_out = {known(who.strip(), sorted({w for _, w, _, _ in clips}), "speaker") for who in speaker.split(",") if who}

    def part(who: str, take: int) -> str:
        if who in held_out or (not held_out and take in TEST_TAKES):
            return "test"
        return "val" if take in VAL_TAKES else "train"

    return sorted(clip for clip in clips if part(clip[1], clip[2]) in wanted)


def _words_and_pictures(split: str) -> Iterator[Item]:
    for digit, word in enumerate(WORDS):
        yield Item(f"word-{word}", str(digit), text=(word,), meta={"digit": digit})
        for k, picture in enumerate(digit_pictures(split)[digit]):
            yield Item(f"{split}-picture-{digit}-{k}", str(digit), image=(picture,), meta={"digit": digit})


@functools.cache
def digit_pictures(split: str) -> tuple[tuple[np.ndarray, ...], ...]:
    """Per digit, the handwritten pictures of one split: uint8 (64, 64, 3), white on black."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    chosen = []
    for digit in range(10):
        small = bunch.images[bunch.target == digit]  # (n, 8, 8) in 0..16
        half, rest = len(small) // 2, len(small) * 3 // 4
        part = {"train": small[:half], "val": small[half:rest], "test": small[rest:]}[split]
        grey = [Image.fromarray(np.rint(picture * (255 / 16)).astype(np.uint8)) for picture in part]
        large = [picture.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC).convert("RGB") for picture in grey]
        chosen.append(tuple(np.asarray(picture) for picture in large))  # n x (64, 64, 3)
    return tuple(chosen)
