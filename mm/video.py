"""Videos as grey or RGB frames with their times, the faces in them, and what is cut out of a face.

Second 0 is where the file's sound begins, so that sample t of `mm.media.read_audio` is heard at t / rate; of a file
without sound it is where its first track begins. What is shown before the sound begins has negative times.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mm.detection import Sightings, face_finder, link
from mm.files import read_json, write_text
from mm.media import MediaError, opened_video, packets
from mm.naming import known

TOLERANCE_S = 6e-4  # by which a frame may be late and is still on show: .mkv and .webm round to whole milliseconds
EARLIER_S = 1.0  # a key frame may be filed under an earlier time than it is shown at
LANDMARK_SCALE = 1.5  # a face's box is a square this much larger than its landmarks' extent
MIN_SEEN = 0.25  # share of the looks in which a face must be found: what is found less often is none
FORMS = ("boxes", "landmarks", "box")  # in which a file may give a face
SMOOTH = 2  # looks before and after one whose median its box is
log = logging.getLogger(__name__)


class Frames(NamedTuple):
    """A video, or a part of one.

    Attributes:
        pictures: (N, H, W) grey or (N, H, W, 3) RGB, uint8.
        times: (N,) float64 seconds, ascending: frame k is on show from times[k] until the next.
        end_s: seconds at which the last frame ends.
    """

    pictures: np.ndarray
    times: np.ndarray
    end_s: float


def read_video(path: str | Path, grey: bool = False) -> Frames:
    """Every frame of a video.

    Args:
        path: of a video file.
        grey: the brightness alone, see `stream`: three times less memory.

    Raises:
        MediaError, FileNotFoundError: as of `stream`.
    """
    pictures, times, ends = zip(*_decoded(path, -math.inf, grey), strict=True)
    return Frames(np.stack(pictures), np.array(times), ends[-1])


def stream(path: str | Path, start_s: float = 0.0, grey: bool = False) -> Iterator[tuple[np.ndarray, float]]:
    """The frames of a video one after another with the seconds from which they are shown, in the memory of a few.

    Where the last one ends, `end_of` tells beforehand. Times are those of the file, whatever its rate. The decoder has
    one thread. A rotation that a phone noted in the file is applied.

    Args:
        path: of a video file (PyAV, `pip install mm[video]`).
        start_s: the first frame given is the one on show then; the first of all when none is yet.
        grey: the video's own brightness, at full range; within a few levels of the grey of its RGB, and faster.

    Yields:
        (H, W) or (H, W, 3) uint8, and its time.

    Raises:
        MediaError: it is damaged, has no picture track, no frame, or frames without times, or PyAV is not installed. A
            file that is cut off is told by the packet that is, or when it ends sooner than its head states. Not found
            out is the loss of the last 0.1 s and one frame between two packets, of whole fragments of an .mp4, of any
            part of a file whose head states no length (recordings in .webm, .ts), and damage that a decoder conceals.
        FileNotFoundError: there is no such file.
    """
    for picture, time_s, _ in _decoded(path, start_s, grey):
        yield picture, time_s


def end_of(path: str | Path) -> float:
    """Seconds at which the last frame of a video ends, as in `Frames`: its packets are read to the end, not decoded.

    Raises:
        MediaError, FileNotFoundError: as of `stream`.
    """
    with opened_video(path) as container:
        track, last, length = container.streams.video[0], -math.inf, 0
        for packet in packets(container, track):
            if packet.pts is not None and packet.pts >= last and not packet.is_discard:  # cut away by the file's head
                last, length = packet.pts, packet.duration
        if last == -math.inf:
            raise ValueError("it has no frames, or frames without times")
        return float(last * track.time_base - _zero(path, container)) + _shown_s(length, track)


def _decoded(path: str | Path, start_s: float, grey: bool) -> Iterator[tuple[np.ndarray, float, float]]:
    """Picture, time and end of each frame from the one on show at `start_s`."""
    with opened_video(path) as container:
        from av.video.reformatter import VideoReformatter

        track, pixels = container.streams.video[0], VideoReformatter()  # one for all frames: three times faster
        track.codec_context.thread_count = 1  # processes that load clips side by side would fight
        zero = _zero(path, container)
        if start_s > EARLIER_S:
            container.seek(int((Fraction(start_s - EARLIER_S) + zero) / track.time_base), stream=track)

        def picture_of(frame: Any) -> np.ndarray:
            picture = pixels.reformat(frame, format="gray" if grey else "rgb24").to_ndarray()
            return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))  # (H, W) or (H, W, 3)

        shown, time_s, end_s = None, -math.inf, 0.0
        for frame in (frame for packet in packets(container, track) for frame in packet.decode()):
            if frame.pts is None:
                raise ValueError("it has frames without times")
            next_s = float(frame.pts * track.time_base - zero)
            if next_s < time_s:
                raise ValueError(f"its frames must follow one another: {next_s:.3f} s comes after {time_s:.3f} s")
            if shown is not None and next_s > start_s + TOLERANCE_S:
                yield picture_of(shown), time_s, end_s
            shown, time_s, end_s = frame, next_s, next_s + _shown_s(frame.duration, track)
        if shown is None:
            raise ValueError("it has no frames")
        yield picture_of(shown), time_s, end_s


def _zero(path: str | Path, container: Any) -> Fraction:
    """Second 0 of a file on its own clock. The head of a .webm puts the sound a little late, so a frame is decoded."""
    if container.streams.audio:
        with opened_video(path) as other:
            first = next(other.decode(audio=0), None)
        if first is not None and first.pts is not None:
            return first.pts * first.time_base
    starts = [track.start_time * track.time_base for track in container.streams if track.start_time is not None]
    return min(starts, default=Fraction(0))


def _shown_s(length: int | None, track: Any) -> float:
    """Seconds that a frame is shown, where the file does not say it one over its mean rate."""
    return float(length * track.time_base) if length else float(1 / track.average_rate) if track.average_rate else 0.0


def at_rate(pictures: Iterable[tuple[np.ndarray, float]], end_s: float, fps: float) -> Iterator[np.ndarray]:
    """What is on show at k / fps for k = 0, 1, ... while k / fps < end_s, so that any video has the rate of a model.

    That is the latest frame whose time has come, by `TOLERANCE_S` at most early; before the first one has, the first.

    Args:
        pictures: with their times in seconds, ascending, as `stream` gives them; read one ahead.
        end_s: seconds; behind the last frame, that one stays on show.
        fps: frames per second.

    Raises:
        ValueError: no picture, or numbers that are not finite or not positive.
    """
    count, rest = frames_until(end_s, fps), iter(pictures)
    shown, following = next(rest, None), next(rest, None)
    if shown is None:
        raise ValueError("a video must have a frame at least: got none.")
    for k in range(count):
        while following is not None and following[1] <= k / fps + TOLERANCE_S:
            shown, following = following, next(rest, None)
        yield shown[0]


def resampled(frames: Frames, fps: float) -> np.ndarray:
    """(N', H, W) or (N', H, W, 3): what is on show at k / fps, see `at_rate`; N' = frames_until(frames.end_s, fps)."""
    moments = np.arange(frames_until(frames.end_s, fps)) / fps  # (N',)
    if not len(frames.times):
        raise ValueError("a video must have a frame at least: got none.")
    shown = np.searchsorted(frames.times, moments + TOLERANCE_S, side="right") - 1  # (N',)
    return frames.pictures[np.maximum(shown, 0)]


def frames_until(end_s: float, fps: float) -> int:
    """How many frames at a rate begin before `end_s`, but for rounding."""
    if not (math.isfinite(end_s) and math.isfinite(fps) and fps > 0):
        raise ValueError(f"a video must end at a number of seconds and fps be positive: got {end_s} s and {fps} fps.")
    return max(math.ceil(round(end_s * fps, 6)), 0)


# Faces --------------------------------------------------------------------------------------------------------------


class FaceTrack(NamedTuple):
    """Where one face is in a video.

    Attributes:
        name: of the face.
        times: (N,) float64 seconds, ascending.
        boxes: (N, 4) float64 left, top, right, bottom in pixels.
    """

    name: str
    times: np.ndarray
    boxes: np.ndarray


def box_at(track: FaceTrack, time_s: float) -> np.ndarray:
    """(4,) the box of a face at a moment: on a straight line between its neighbours, held before and behind them."""
    return boxes_at(track, np.array([time_s]))[0]


def boxes_at(track: FaceTrack, times: np.ndarray) -> np.ndarray:
    """(N, 4) boxes of a face at these moments, (N,) in seconds; see `box_at`."""
    return np.stack([np.interp(times, track.times, side) for side in track.boxes.T], axis=1)  # (N, 4)


def read_tracks(path: str | Path) -> dict[str, FaceTrack]:
    """Where the faces of a video are, by their names and in the order of the file, which is JSON of this form:

        {"faces": [{"name": "left", "boxes": [[t, x0, y0, x1, y1], ...]},
                   {"name": "right", "landmarks": [[t, [[x, y], ...]], ...]},
                   {"name": "still", "box": [x0, y0, x1, y1]}]}

    t is in seconds, ascending; x and y are in pixels from the top left. A face has one of the three: boxes over time,
    points in it over time (its box is then a square about the middle of their extent, 1.5 times as large as its longer
    side), or one box for all times. Boxes may reach over the edge of the picture.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of this form; the message says where.
    """
    return _tracks(read_json(path, unique=True), path)


def write_tracks(tracks: Mapping[str, FaceTrack], path: str | Path) -> None:
    """Write the file that `read_tracks` reads, under the keys as names: times to 0.001 s and boxes to 0.1 pixels.

    Raises:
        ValueError: `read_tracks` would not take it, for there is no face or it is not of the form; no file is written.
    """
    tables = {name: np.c_[face.times.round(3), face.boxes.round(1)] for name, face in tracks.items()}  # (N, 5)
    content = {"faces": [{"name": name, "boxes": table.tolist()} for name, table in tables.items()]}
    _tracks(content, path)
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


def _tracks(content: Any, path: str | Path) -> dict[str, FaceTrack]:
    if not isinstance(content, dict) or not isinstance(content.get("faces"), list) or not content["faces"]:
        raise ValueError(f'{path} must be {{"faces": [...]}} with one face at least. See mm.video.read_tracks.')
    for key in content:
        known(key, ["faces"], f"key of {path}")
    tracks: dict[str, FaceTrack] = {}
    for number, face in enumerate(content["faces"]):
        track = _track(face, f"face {number} of {path}")
        if track.name in tracks:
            raise ValueError(f"{path} must name each face differently: {track.name!r} comes twice. Rename one.")
        tracks[track.name] = track
    return tracks


def _track(face: Any, where: str) -> FaceTrack:
    if not isinstance(face, dict):
        raise ValueError(f"{where} must be an object with a name and its boxes: got {json.dumps(face)[:60]}.")
    forms = [known(key, ["name", *FORMS], f"key of {where}") for key in face if key != "name"]
    name = face.get("name")
    if not isinstance(name, str) or not name.strip() or name.startswith(".") or set(name) & set("/\\\0"):
        raise ValueError(f"{where} must have a name that can name a file: got {name!r}. Write another.")
    if len(forms) != 1:
        raise ValueError(f"{where} must have one of {', '.join(FORMS)}: got {', '.join(forms) or 'none'}.")
    rows, where = face[forms[0]], f"{forms[0]} of {where}"
    if "box" in face:
        times, boxes = np.zeros(1), _table([rows], 4, where)  # (1,), (1, 4)
    elif "boxes" in face:
        times, boxes = np.split(_table(rows, 5, where), [1], axis=1)  # (N, 1), (N, 4)
    elif isinstance(rows, list) and rows and all(isinstance(row, list) and len(row) == 2 for row in rows):
        times = _table([row[:1] for row in rows], 1, where)  # (N, 1)
        boxes = np.stack([_around(_table(row[1], 2, where)) for row in rows])  # (N, 4)
    else:
        raise ValueError(f"{where} must be [[t, [[x, y], ...]], ...]: got {json.dumps(rows)[:60]}.")
    times = times.ravel()  # (N,)
    for row in np.flatnonzero((boxes[:, :2] >= boxes[:, 2:]).any(1)):
        raise ValueError(f"{where} must have x0 < x1 and y0 < y1: got {boxes[row].tolist()}. Put them in order.")
    for row in np.flatnonzero(np.diff(times) <= 0):
        raise ValueError(f"{where} must ascend in time: {times[row + 1]:g} s follows {times[row]:g} s. Sort them.")
    return FaceTrack(name, times, boxes)


def _table(rows: Any, columns: int, what: str) -> np.ndarray:
    """(N, columns) float64 of lists of numbers."""
    try:
        table = np.asarray(rows)
    except ValueError:  # rows of different lengths
        table = np.array("ragged")
    right = table.dtype.kind in "if" and table.ndim == 2 and len(table) and table.shape[1] == columns
    if not right or not np.isfinite(table).all():
        raise ValueError(f"{what} must be rows of {columns} finite numbers: got {json.dumps(rows)[:60]}. Mend them.")
    return table.astype(np.float64)


def _around(points: np.ndarray) -> np.ndarray:
    """(P, 2) -> (4,) the box of a face with these landmarks."""
    low, high = points.min(0), points.max(0)  # (2,)
    reach = LANDMARK_SCALE * (high - low).max() / 2
    return np.concatenate([(low + high) / 2 - reach, (low + high) / 2 + reach])  # (4,)


# What is cut out ----------------------------------------------------------------------------------------------------


def crop(picture: np.ndarray, box: Sequence[float] | np.ndarray | None, part: Sequence[float], size: int) -> np.ndarray:
    """A part of a face, such as the mouth: (size, size) uint8 grey.

    Resized by the antialiased triangle filter of PIL, the edges of the box falling between pixels where they do. RGB
    becomes grey as in PIL: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

    Args:
        picture: (H, W) or (H, W, 3) uint8.
        box: of the face: left, top, right, bottom in pixels; None = the whole picture is the face.
        part: (left, top, right, bottom) of the face as shares of its box. It may reach over the edge of the picture:
            the pixels at the edge repeat.
        size: pixels a side.

    Raises:
        ValueError: another shape or type, a box or a part without extent, or a size below 1.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)) or size < 1:
        raise ValueError(
            f"a frame must be (H, W) or (H, W, 3) uint8 and size at least 1: got {picture.shape} {picture.dtype} and "
            f"size {size}."
        )
    high, wide = picture.shape[:2]
    left, top, right, bottom = (0.0, 0.0, wide, high) if box is None else map(float, box)
    if not (left < right and top < bottom and part[0] < part[2] and part[1] < part[3]):  # also catches NaN
        raise ValueError(f"a box and a part must have x0 < x1 and y0 < y1: got {box} and {list(part)}.")
    x0, x1 = (left + share * (right - left) for share in (part[0], part[2]))
    y0, y1 = (top + share * (bottom - top) for share in (part[1], part[3]))
    columns, rows = (  # with the pixels around that the filter reaches
        np.arange(math.floor(low - reach), math.ceil(end + reach))
        for low, end in ((x0, x1), (y0, y1))
        for reach in [1 + max((end - low) / size, 1)]
    )
    pixels = picture.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")  # (h, w) or (h, w, 3)
    where = (x0 - columns[0], y0 - rows[0], x1 - columns[0], y1 - rows[0])
    return np.array(Image.fromarray(pixels).convert("L").resize((size, size), Image.Resampling.BILINEAR, where))


def crops(pictures: np.ndarray, boxes: np.ndarray | None, part: Sequence[float], size: int) -> np.ndarray:
    """`crop` of many frames: (N, H, W) or (N, H, W, 3) with boxes (N, 4) or None -> (N, size, size) uint8 grey."""
    if boxes is not None and boxes.shape != (len(pictures), 4):
        raise ValueError(f"there must be a box for each of {len(pictures)} frames: got the shape {boxes.shape}.")
    found = np.empty((len(pictures), size, size), np.uint8)
    for k, picture in enumerate(pictures):
        found[k] = crop(picture, None if boxes is None else boxes[k], part, size)
    return found


# Detection ----------------------------------------------------------------------------------------------------------


def detect_tracks(path: str | Path, every: float = 0.2) -> dict[str, FaceTrack]:
    """The faces of a video as OpenCV's frontal-face cascade finds them (`pip install 'mm[faces]'`; it needs no file).

    They are called "0", "1", ... from left to right. From look to look a face is the one that its box overlaps most,
    also when it was away in between. Its box is a square from the forehead to the chin, the median of five looks.
    What is found in less than a quarter of the looks is left out, and a warning says so.

    Args:
        path: of a video file.
        every: seconds from one look to the next.

    Raises:
        MediaError: there is no face, OpenCV is not installed, or see `stream`.
        FileNotFoundError: there is no such file.
        ValueError: `every` is not positive.
    """
    if not every > 0:
        raise ValueError(f"there must be some time between two looks: got {every} s.")
    find = face_finder(path)
    faces: list[Sightings] = []
    looks, due = 0, -math.inf
    for picture, time_s in stream(path, grey=True):
        if time_s + TOLERANCE_S >= due:
            looks, due = looks + 1, time_s + every
            link(faces, time_s, find(picture))
    rare = [len(face) / looks for face in faces if len(face) < MIN_SEEN * looks]
    if rare:
        said = "%s: faces left out, seen in at most %.0f %% of the looks: %d. Boxes given by hand keep them."
        log.warning(said, path, 100 * max(rare), len(rare))
    tracks = []
    for face in faces:
        if len(face) >= MIN_SEEN * looks:
            times, boxes = np.array([time_s for time_s, _ in face]), np.stack([box for _, box in face])  # (N,), (N, 4)
            near = [boxes[max(k - SMOOTH, 0) : k + SMOOTH + 1] for k in range(len(boxes))]
            tracks.append((times, np.stack([np.median(some, axis=0) for some in near])))  # (N, 4)
    if not tracks:
        raise MediaError(
            f"{path} must show a face from the front: none was found. Give its boxes in a file (mm.video.read_tracks), "
            "or videos of which the whole frame is a face."
        )
    tracks.sort(key=lambda track: track[1][:, [0, 2]].mean())
    return {str(k): FaceTrack(str(k), *track) for k, track in enumerate(tracks)}
