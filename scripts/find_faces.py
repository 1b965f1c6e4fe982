"""Where the faces are, in a file beside each video.

    python scripts/find_faces.py talk.mp4
    python scripts/find_faces.py data/grid --only-one

Writes CLIP.json beside each video, in the form of mm.video.read_tracks (pip install 'mm[faces]'). Training on grid,
avspeech or talks wants one face in it: --only-one; scripts/separate.py --boxes takes all. Videos in which no face is
found, or which cannot be read, are named at the end.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from mm.config import clean_exit
from mm.data.talking_faces import VIDEOS
from mm.detection import face_finder
from mm.engine import start_logging
from mm.media import MediaError
from mm.video import FaceTrack, detect_tracks, write_tracks


@clean_exit(OSError, ValueError)
def main() -> None:
    """Look for the videos, find the faces in each, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO_OR_FOLDER", help="video, or folder of videos")
    parser.add_argument("--only-one", action="store_true", help="keep the face that is the largest on average")
    parser.add_argument("--replace", action="store_true", help="write files anew that are there; else these stay")
    arguments = parser.parse_args()
    start_logging(stream=sys.stderr)
    files = videos_in(arguments.videos)
    face_finder(files[0])  # without OpenCV nothing is begun
    wanted = [video for video in files if arguments.replace or not video.with_suffix(".json").exists()]
    without = []
    for video in wanted:
        try:
            tracks = detect_tracks(video)
        except MediaError as error:  # it names the video
            without.append(video)
            print(error)
        else:
            write_tracks(largest(tracks) if arguments.only_one else tracks, video.with_suffix(".json"))
            print(f"{video}: faces found: {len(tracks)}")
    written, there = len(wanted) - len(without), len(files) - len(wanted)
    print(f"written: {written}, there before: {there}, no face found: {len(without)}", *without, sep="\n  ")


def videos_in(places: Iterable[Path]) -> list[Path]:
    """The files that are given and the videos in the folders that are given, each once."""
    files: dict[Path, Path] = {}  # {what is written: video}
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place} must be a video or a folder of videos: there is none of this name.")
        below = (file for file in place.rglob("*") if file.suffix.lower() in VIDEOS and file.is_file())
        found = sorted(below) if place.is_dir() else [place]
        if not found:
            raise FileNotFoundError(f"{place} holds no video: looked for {', '.join(sorted(VIDEOS))}.")
        for file in found:
            other = files.setdefault(file.with_suffix(".json"), file)
            if other != file:
                raise ValueError(f"{other} and {file} would share one .json of their name. Rename one.")
    return list(files.values())


def largest(tracks: dict[str, FaceTrack]) -> dict[str, FaceTrack]:
    """The face whose boxes have the largest area on average, alone."""
    sides = {name: face.boxes[:, 2:] - face.boxes[:, :2] for name, face in tracks.items()}  # (N, 2)
    name = max(sides, key=lambda name: sides[name].prod(axis=1).mean())
    return {name: tracks[name]}


if __name__ == "__main__":
    main()
