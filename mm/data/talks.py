"""`Talk`: one person who talks alone, seen and heard. Mixtures are made of talks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mm.data.gallery import stable_id
from mm.data.item import Faults
from mm.data.videos import EVERY
from mm.naming import known
from mm.video import FaceTrack, Frames


class Talk(NamedTuple):
    """One person who talks alone, seen and heard.

    Attributes:
        id: unique within a split.
        speaker: who talks. Two talks of one speaker have the same voice.
        voice: a file with sound, which may be the video itself, or float32 (T,) at the sample rate of the run.
        face: a video file, or a .npy with one vector per frame; or the frames.
        track: where the face is in the frames, or a file that says so (see `mm.video.read_tracks`); None = the whole
            frame is the face.
        meta: plain JSON values.
    """

    id: str
    speaker: str
    voice: Path | np.ndarray
    face: Path | Frames
    track: FaceTrack | Path | None = None
    meta: dict[str, Any] = {}  # noqa: RUF012 (a default that nobody writes to)


class Talks(list[Talk]):
    """The talks of one split, with what a reader that may skip has left out."""

    def __init__(self, talks: Iterable[Talk] = (), skipped: Iterable[str] = ()):
        super().__init__(talks)
        self.skipped = tuple(skipped)  # one line per row or file that was left out

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who talks in each, in order."""
        return tuple(talk.speaker for talk in self)


def gathered(talks: Iterable[Talk], faults: Faults, source: Path, split: str) -> Talks:
    """The talks of a split that are left, after the count of the others has been said.

    Args:
        talks: those that are read.
        faults: what was wrong with others.
        source: the folder or list that they come from, for the message.
        split: which they are.

    Raises:
        ValueError: none is left.
    """
    kept = Talks(talks, faults.items(()).skipped)
    if not kept:
        left_out = f", {len(kept.skipped)} having been left out" if kept.skipped else ""
        raise ValueError(f"{source} must hold clips of the split {split!r}: there is none{left_out}. Add clips.")
    return kept


def are_there(where: str, faults: Faults, *files: Path) -> bool:
    """Whether the files of a clip are all there; if not, and `faults` lets the clip be left out, it is noted.

    Raises:
        UnreadableError: one is missing, and no clip may be left out.
    """
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        faults.add(f"{where}: {' and '.join(missing)} {verb} not there; docs/data.md says what the set must hold.")
    return not missing


def track_beside(face: Path) -> Path | None:
    """The .json of a video's name that says where the face is in it, if it is there: see `mm.video.read_tracks`."""
    track = face.with_suffix(".json")
    return track if track.is_file() else None


def part_of(name: str, speaker: str, tested: Collection[str] = ()) -> str:
    """Where a clip of a set without published splits belongs: "train", "val" or "test".

    The SHA-256 of its name decides: one clip in twenty is val and one is test, and a further clip moves none of the
    others. With speakers who are tested on, all clips of theirs are test, and what else would be test is train.
    """
    share = stable_id(name) % EVERY
    if speaker in tested or (share == 1 and not tested):
        return "test"
    return "val" if share == 0 else "train"


def named_speakers(speaker: str, speakers: Iterable[str]) -> set[str]:
    """The speakers of a setting such as "s1" or "s1,s2,s20": none for "".

    Raises:
        ValueError: one of them does not talk here; the message names the nearest.
    """
    there = sorted(set(speakers))
    return {known(name.strip(), there, "speaker") for name in speaker.split(",") if speaker}
