"""Videos, each a picture with its sound: VGGSound (Chen et al. 2020), and any folder of videos."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mm.data.gallery import SUFFIXES, stable_id
from mm.data.item import Faults, Item, Items, may_skip, parts, require
from mm.media import VIDEO_FILES
from mm.naming import hint

logger = logging.getLogger(__name__)

VAL_SHARE, VAL_MOST = 0.05, 1000  # owners that are held out of a published training split, which has no val
EVERY = 20  # of a folder's videos one in so many is val and one is test


class Row(NamedTuple):
    """A line of vggsound.csv: the clip starts at second `start_s` of the YouTube video."""

    line: int
    video: str
    start_s: int
    label: str
    split: str

    @property
    def clip(self) -> str:
        """The name of the clip's files."""
        return f"{self.video}_{self.start_s:06d}"


class Clips:
    """Where the picture and the sound of each clip of a data set are.

    Args:
        folder: of the set. A clip NAME is `frames/NAME.jpg` with `audio/NAME.wav`, or any other picture and sound
            format.
        videos: `video/NAME.mp4`, or another suffix of `mm.media.VIDEO_FILES`, stands for what is not in these.
    """

    def __init__(self, folder: Path, videos: bool = False):
        self.folder = folder
        both = _by_stem(folder / "video", VIDEO_FILES) if videos else {}
        self.image = both | _by_stem(folder / "frames", SUFFIXES["image"])
        self.audio = both | _by_stem(folder / "audio", SUFFIXES["audio"])

    def item(self, name: str, owner: str, meta: dict[str, Any], where: str, faults: Faults) -> Item | None:
        """The clip as an item, or None when a file of it is missing and `faults` lets it be left out."""
        expected = (("frames", "jpg", self.image), ("audio", "wav", self.audio))
        missing = [
            str(self.folder / kind / f"{name}.{suffix}") for kind, suffix, files in expected if name not in files
        ]
        if missing:
            there = "is not" if len(missing) == 1 else "are not"
            faults.add(f"{where}: {' and '.join(missing)} {there} there; docs/data.md says what the set must hold.")
            return None
        return Item(name, owner, image=(self.image[name],), audio=(self.audio[name],), meta=meta)


def vggsound(root: Path, split: str, skip_bad: bool = False, without: Collection[str] = ()) -> Items:
    """VGGSound: clips of 10 s from YouTube with a label each, of 309 (Chen et al. 2020).

    Test is the published one. The published train is divided: of its videos, in the order of the SHA-256 of their
    YouTube id, the first 5 %, at most 1,000, are val. The owner of a clip is its video.

    Args:
        root: holds `vggsound/vggsound.csv` as published (no header: YouTube id, start in seconds, label, "train" or
            "test") and the clips, named by the id and six digits of the start: `vggsound/video/{id}_{start}.mp4`, or
            `vggsound/frames/{id}_{start}.jpg` with `vggsound/audio/{id}_{start}.wav`.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training clips that are not there or listed twice, and count them.
        without: YouTube ids to leave out of train and val, because another set tests on them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a clip is missing (many are gone from YouTube: val and test want their rows removed, which
            belongs beside every figure) or listed twice; the message names it.
        ValueError: a row is not of this form.
    """
    wanted = parts(split)
    table = require(root / "vggsound", "vggsound.csv") / "vggsound.csv"
    published = "test" if split == "test" else "train"
    rows = [row for row in _rows(table) if row.split == published]
    if split != "test":
        kept = [row for row in rows if row.video not in without]
        if len(kept) < len(rows):
            logger.warning("%s: %d clips of videos that are tested on are left out", table, len(rows) - len(kept))
        val = held_out(row.video for row in kept)
        rows = [row for row in kept if ("val" if row.video in val else "train") in wanted]
    faults = Faults(f"vggsound {split}", may_skip(skip_bad, split))
    clips = Clips(table.parent, videos=True)
    items: dict[str, Item] = {}
    for row in rows:
        where = f"{table}:{row.line}"
        if row.clip in items:
            faults.add(f"{where}: the clip {row.clip} is listed twice.")
        elif item := clips.item(row.clip, row.video, {"category": row.label, "start_s": row.start_s}, where, faults):
            items[row.clip] = item
    return faults.items(items.values())


def video_folder(path: Path, split: str, skip_bad: bool = False) -> Items:
    """Every video of a folder and of the folders in it: its middle frame and its sound track, without boxes.

    The SHA-256 of a video's path within the folder decides where it belongs: 5 % are val, 5 % test, the others train,
    and a further video moves none of the others. Every video is its own owner.

    Args:
        path: of the folder.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out empty files of the training split, and count them.

    Raises:
        FileNotFoundError: no such folder, or no video in it.
        UnreadableError: a file is empty.
        ValueError: none of the videos falls into this split.
    """
    wanted = parts(split)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} must be a folder of videos: there is none of this name. Check the path.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_FILES and file.is_file())
    if not files:
        raise FileNotFoundError(f"{path} holds no video: looked for {', '.join(sorted(VIDEO_FILES))}.")
    named = {file.relative_to(path).as_posix(): file for file in files}
    chosen = {name: file for name, file in named.items() if _part(name) in wanted}
    if not chosen:
        raise ValueError(
            f"{path} must hold videos of the split {split!r}: none of its {len(files)} falls there, for one in {EVERY} "
            "is val and one test, by its name. Add videos."
        )
    faults = Faults(f"{path} {split}", may_skip(skip_bad, split))
    items = []
    for name, file in chosen.items():
        if file.stat().st_size == 0:
            faults.add(f"{file} is empty.")
        else:
            items.append(Item(name, name, image=(file,), audio=(file,)))
    return faults.items(items)


def held_out(owners: Iterable[str]) -> set[str]:
    """The owners that are val: the first 5 %, at most 1,000, in the order of their SHA-256."""
    ordered = sorted(set(owners), key=stable_id)
    return set(ordered[: min(VAL_MOST, math.ceil(VAL_SHARE * len(ordered)))])


def _part(name: str) -> str:
    return {0: "val", 1: "test"}.get(stable_id(name) % EVERY, "train")


def _by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files of a folder, which need not be there, by name without suffix."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.stem: file for file in files if file.suffix.lower() in suffixes}


def _rows(table: Path) -> Iterator[Row]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for cells in filter(None, reader):  # a blank line has no cells
            where = f"{table}:{reader.line_num}"
            if len(cells) != 4 or not cells[0] or not (cells[1].isascii() and cells[1].isdigit()):
                raise ValueError(
                    f"{where}: a row must be: YouTube id, start in whole seconds, label, train or test; no header. "
                    f"Got {','.join(cells)!r}."
                )
            if cells[3] not in ("train", "test"):
                near = hint(cells[3], ("train", "test"))
                raise ValueError(f"{where}: the split must be train or test: got {cells[3]!r}.{near}")
            yield Row(reader.line_num, cells[0], int(cells[1]), cells[2], cells[3])
