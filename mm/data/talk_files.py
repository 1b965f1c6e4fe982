"""How the published sets of people who talk list their clips, and what their files say of a clip."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mm.data.item import Faults, UnreadableError, require
from mm.data.talks import Talk, Talks
from mm.data.videos import held_out
from mm.media import VIDEO_FILES, MediaError, opened_video
from mm.naming import hint
from mm.video import FaceTrack

logger = logging.getLogger(__name__)

UNSEEN = "unseen"  # as the speaker of grid_av: everyone but s1
GRID_AV_PARTS = {"train": "train", "val": "val", "test": "test", UNSEEN: "unseen_speaker_test"}  # as its list has them
TICKS = 25_000  # of GRID's alignments a second
SILENCES = ("sil", "sp")  # where GRID's alignments have no word
FACE_SHARE = 0.5  # of a frame's height: the side of the square that stands for a face of AVSpeech
SAME_S = 0.002  # seconds; the names of AVSpeech's clips have their start with three digits behind the point, or more
AVSPEECH = re.compile(r"(.{11})_([0-9]+(?:\.[0-9]+)?)(?:[-_][0-9]+(?:\.[0-9]+)?)?(?:_video)?")  # YouTube id, start, end


# GRID ---------------------------------------------------------------------------------------------------------------


def grid_av_rows(index: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of grid_av's list.

    Raises:
        ValueError: a line is no JSON object with id, speaker and split, or an id comes twice.
    """
    lines: dict[str, int] = {}
    for line, text in enumerate(index.read_text(encoding="utf-8-sig").splitlines(), start=1):
        where = f"{index}:{line}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where}: a line must be one JSON object: {error}. Unpack the set anew.") from error
        if not (isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("id", "speaker", "split"))):
            raise ValueError(f"{where}: a line must have id, speaker and split: got {text!r}. Unpack the set anew.")
        if row["split"] not in (names := GRID_AV_PARTS.values()):
            near = hint(row["split"], names)
            raise ValueError(f"{where}: split must be one of {', '.join(names)}: got {row['split']!r}.{near}")
        if row["id"] in lines:
            raise ValueError(f"{where}: a clip must be listed once: line {lines[row['id']]} has {row['id']} too.")
        lines[row["id"]] = line
        yield line, row


def alignment(file: Path, faults: Faults) -> dict[str, Any] | None:
    """What is said in a clip of GRID and when, as `meta`; {} without a file; None = damaged, and may be left out.

    Raises:
        UnreadableError: a line is damaged, and no clip may be left out.
    """
    if not file.is_file():
        return {}
    words: list[tuple[str, float, float]] = []
    for line, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = re.fullmatch(r"\s*([0-9]+)\s+([0-9]+)\s+(\S+)\s*", text)
        if match is None or int(match[1]) > int(match[2]):
            faults.add(f"{file}:{line}: a line must be begin, end (in 1/{TICKS} s) and word: got {text!r}.")
            return None
        words.append((match[3], int(match[1]) / TICKS, int(match[2]) / TICKS))
    said = " ".join(word for word, _, _ in words if word not in SILENCES)
    return {"sentence": said, "words": [list(word) for word in words]}


# LRS2 and LRS3 ------------------------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """A clip of LRS2 or LRS3.

    Attributes:
        where: it is listed, for messages.
        name: "PART/VIDEO/CLIP".
        video: the programme or talk that it was cut from.
        face: the file, which need not be there.
    """

    where: str
    name: str
    video: str
    face: Path


def lrs2_clips(folder: Path, wanted: Sequence[str], pretrain: bool) -> list[Clip]:
    """The clips of the published lists of these parts, and with `pretrain` those of pretrain.txt that no one tests on.

    Raises:
        FileNotFoundError: a list or the folder of the clips is not there.
        ValueError: a list has a line of another form.
    """
    lists = [f"{part}.txt" for part in wanted]
    more = ["val.txt", "test.txt", "pretrain.txt", "mvlrs_v1/pretrain"] if pretrain else []
    require(folder, *dict.fromkeys([*lists, "mvlrs_v1/main", *more]))
    clips = [clip for name in lists for clip in _listed(folder, name, "main")]
    if pretrain:
        tested = {clip.video for name in ("val.txt", "test.txt") for clip in _listed(folder, name, "main")}
        clips += _untested(_listed(folder, "pretrain.txt", "pretrain"), tested)
    return clips


def lrs3_clips(folder: Path, wanted: Sequence[str], pretrain: bool) -> list[Clip]:
    """The clips in the folders, those of trainval divided by `held_out`; with `pretrain` those that no one tests on.

    Raises:
        FileNotFoundError: a folder is not there.
    """
    part = "test" if "test" in wanted else "trainval"
    require(folder, part, *(["test", "pretrain"] if pretrain else []))
    clips = _found(folder, part)
    if part == "test":
        return clips
    val = held_out(clip.video for clip in clips)
    clips = [clip for clip in clips if ("val" if clip.video in val else "train") in wanted]
    if pretrain:
        clips += _untested(_found(folder, "pretrain"), val | {clip.video for clip in _found(folder, "test")})
    return clips


def transcript(file: Path, faults: Faults) -> dict[str, Any] | None:
    """What is said in a clip of LRS2 or LRS3, as `meta`; {} without a file; None = damaged, and may be left out.

    Raises:
        UnreadableError: it is damaged, and no clip may be left out.
    """
    if not file.is_file():
        return {}
    with open(file, encoding="utf-8", errors="replace") as lines:
        first = lines.readline()
    if not first.startswith("Text:"):
        faults.add(f"{file}:1: a transcript must begin with 'Text:': got {first.rstrip()!r}.")
        return None
    return {"text": first.removeprefix("Text:").strip()}


def _listed(folder: Path, name: str, part: str) -> Iterator[Clip]:
    """The clips of a list: VIDEO/CLIP in each line; what follows a space is not of the name."""
    for line, text in enumerate((folder / name).read_text(encoding="utf-8-sig").splitlines(), start=1):
        place = text.split(" ")[0]
        video, _, clip = place.partition("/")
        where = f"{folder / name}:{line}"
        if not video or not clip or "/" in clip:
            raise ValueError(f"{where}: a line must begin with VIDEO/CLIP: got {text!r}. Fetch the list anew.")
        yield Clip(where, f"{part}/{place}", video, folder / "mvlrs_v1" / part / f"{place}.mp4")


def _found(folder: Path, part: str) -> list[Clip]:
    """The clips that a folder of folders holds."""
    files = sorted((folder / part).glob("*/*.mp4"))
    return [Clip(str(file), f"{part}/{file.parent.name}/{file.stem}", file.parent.name, file) for file in files]


def _untested(clips: Iterable[Clip], tested: set[str]) -> list[Clip]:
    """Those of other videos than these, after the count of the rest has been said."""
    every = list(clips)
    kept = [clip for clip in every if clip.video not in tested]
    if len(kept) < len(every):
        logger.warning("%d pretraining clips of videos in val or test are left out", len(every) - len(kept))
    return kept


# AVSpeech -----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of AVSpeech's lists: seconds within the YouTube video, and the face's centre as shares of the frame."""

    line: int
    video: str
    start_s: float
    end_s: float
    x: float
    y: float


def avspeech_rows(table: Path) -> Iterator[Row]:
    """The rows of avspeech_train.csv or avspeech_test.csv.

    Raises:
        ValueError: a row is of another form.
    """
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for cells in filter(None, reader):  # a blank line has no cells
            numbers = [number for cell in cells[1:] if (number := _number(cell)) is not None]
            if len(cells) != 5 or len(cells[0]) != 11 or len(numbers) != 4 or not 0 <= numbers[0] < numbers[1]:
                raise ValueError(
                    f"{table}:{reader.line_num}: a row must be: YouTube id, start and end in seconds, x and y of the "
                    f"face's centre; no header. Got {','.join(cells)!r}."
                )
            yield Row(reader.line_num, cells[0], *numbers)


def avspeech_clips(folder: Path) -> dict[str, list[tuple[float, Path]]]:
    """{YouTube id: start in seconds and file of each of its clips}, of the clips anywhere below a folder."""
    found: dict[str, list[tuple[float, Path]]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in VIDEO_FILES and (named := AVSPEECH.fullmatch(file.stem)):
            found[named[1]].append((float(named[2]), file))
    return found


def _number(cell: str) -> float | None:
    """What a cell says, or None where it is no finite number."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class Centred(Sequence[Talk]):
    """Talks whose `meta` has the "centre" of the face as shares of the frame: the track is made when one is asked for.

    Only then is the head of its video read, for a track is in pixels.

    Args:
        talks: of one split; one that has a track keeps it.
    """

    def __init__(self, talks: Talks):
        self.talks, self.speakers, self.skipped = talks, talks.speakers, talks.skipped

    def __len__(self) -> int:
        return len(self.talks)

    def __getitem__(self, index: int) -> Talk:  # type: ignore[override]
        """Talk `index`, its face being a square of half the frame's height, which may reach over the frame's edge.

        Raises:
            UnreadableError: its video cannot be read.
        """
        talk = self.talks[index]
        if talk.track is not None or not isinstance(talk.face, Path):
            return talk
        try:
            with opened_video(talk.face) as container:
                width, height = container.streams.video[0].width, container.streams.video[0].height
        except (MediaError, FileNotFoundError) as error:
            raise UnreadableError(f"{talk.id}: {error}") from error
        middle = np.array(talk.meta["centre"]) * (width, height)  # (2,)
        half = FACE_SHARE * height / 2
        box = np.concatenate([middle - half, middle + half])  # (4,)
        return talk._replace(track=FaceTrack(talk.id, np.zeros(1), box[None]))  # (1,), (1, 4)
