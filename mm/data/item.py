"""`Item`: one thing of a data set in every modality it is known in, and how the readers speak of what is wrong."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from mm.config import DataConfig
from mm.files import Member
from mm.naming import known

logger = logging.getLogger(__name__)

Source: TypeAlias = Path | Member | np.ndarray | Tensor | str

MODALITIES = ("image", "text", "audio")
SPLITS = {"train": ("train",), "val": ("val",), "test": ("test",), "trainval": ("train", "val")}


class Question(NamedTuple):
    """A question about an item.

    Attributes:
        id: unique within a split.
        text: the question.
        answers: what people answered, ten of them in VQA; one where the answer is a fact; none on hidden test sets.
        type: kind of question, such as "how many" or "colour"; "" = not known.
        answer_type: "yes/no", "number" or "other".
        choices: of multiple choice; empty = any answer.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    type: str = ""
    answer_type: str = "other"
    choices: tuple[str, ...] = ()


class Share(NamedTuple):
    """Of which of several mixed sets an item is, see `mm.data.mixed`.

    Attributes:
        set: its name.
        weights: {set: weight} of all of them.
    """

    set: str
    weights: dict[str, float]


class Item(NamedTuple):
    """One thing: its equivalent sources in each modality. Training draws one source of each, evaluation uses all.

    Attributes:
        id: unique within a split.
        owner: what makes two items the same thing; items of one owner are never each other's negatives.
        image: files, on their own or in a tar, or uint8 arrays (H, W, 3).
        text: sentences.
        audio: files, on their own or in a tar, or float32 arrays (T,) at the sample rate of the encoder.
        meta: plain JSON values that go with the item into an index.
        questions: about it, with their answers.
        share: of the training items of mixed sets, which set they are of.
    """

    id: str
    owner: str
    image: tuple[Source, ...] = ()
    text: tuple[str, ...] = ()
    audio: tuple[Source, ...] = ()
    meta: dict[str, Any] = {}  # noqa: RUF012 (a default that nobody writes to)
    questions: tuple[Question, ...] = ()
    share: Share | None = None


class Items(list[Item]):
    """The items of one split, with what a reader that may skip has left out."""

    def __init__(self, items: Iterable[Item] = (), skipped: Iterable[str] = ()):
        super().__init__(items)
        self.skipped = tuple(skipped)  # one line per row or file that was left out


class UnreadableError(ValueError):
    """A damaged, empty or missing image, clip or caption; the message names it."""


class Faults:
    """What is wrong with the rows of a data set: an error at once, or a list of what was left out.

    Args:
        name: data set and split, for the count at the end.
        skip: True leaves the row out; allowed on training splits only.
    """

    def __init__(self, name: str, skip: bool):
        self.name = name
        self.skip = skip
        self.lines: list[str] = []

    def add(self, message: str) -> None:
        """Note one unreadable row.

        Raises:
            UnreadableError: rows may not be skipped here.
        """
        if not self.skip:
            raise UnreadableError(f"{message} Repair it, or leave such training rows out with data.skip_bad=true.")
        self.lines.append(message)

    def items(self, items: Iterable[Item]) -> Items:
        """The items that are left, after the count of the others has been said."""
        kept = Items(items, self.lines)
        if self.lines:
            logger.warning("%s: left out %d unreadable rows, the first: %s", self.name, len(self.lines), self.lines[0])
        return kept


def may_skip(cfg_skip_bad: bool, split: str) -> bool:
    """Training splits may leave out what is damaged, val and test never."""
    return cfg_skip_bad and split in ("train", "trainval")


def parts(split: str) -> tuple[str, ...]:
    """The published parts that a split is made of: "trainval" is train and val together.

    Raises:
        ValueError: no such split.
    """
    return SPLITS[known(split, SPLITS, "split")]


def data_root(cfg: DataConfig) -> Path:
    """The folder that holds the data sets: `data.root`, else $MM_DATA, else ./data."""
    return Path(cfg.root or os.environ.get("MM_DATA", "") or "data")


def require(folder: Path, *expected: str) -> Path:
    """The folder of a data set, once it holds the files and sub-folders that its reader needs.

    Raises:
        FileNotFoundError: one of them is missing; the message names the folder and all that is expected in it.
    """
    missing = [name for name in expected if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"the data set in {folder} must hold {', '.join(expected)}: {', '.join(missing)} not found. docs/data.md "
            "says where it is published; data.root=FOLDER or MM_DATA names the folder that holds the data sets."
        )
    return folder
