"""One voice for each face.

    python scripts/separate.py RUN talk.mp4 --out voices/
    python scripts/separate.py RUN talk.mp4 --boxes faces.json --out voices/
    python scripts/separate.py RUN --audio mix.wav --faces a.mp4 b.mp4 --out voices/

Writes a WAV for each face: of a video for each that is found in it (pip install 'mm[faces]'), or for each whose boxes
are given; else for each file of --faces, whose whole frames are a face. --audio takes the place of a video's own sound.
Input may be of any length. For a run that only hears, --voices N says how many voices there are.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.heads.separator import MOST_FACES
from mm.tasks import separation
from mm.tasks.separation_files import Face, check_kind, check_sound, faces_alone, faces_in, remarks, separate_files
from mm.tasks.separation_windows import Windows


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, find the faces, separate, print."""
    arguments = parsed()
    overlap = arguments.window / 4 if arguments.overlap is None else arguments.overlap
    windows = Windows(arguments.window, overlap)
    start_logging(stream=sys.stderr)
    keep_freed_memory()
    model, _ = separation.load(arguments.run, ["loop.device="])
    start = time.perf_counter()
    check_kind(model, arguments.voices is not None)
    if not arguments.audio:
        check_sound(arguments.video)
    done = separate_files(model, arguments.audio or arguments.video, faces_of(arguments), arguments.out, windows)
    for path, share in zip(done.paths, done.shares, strict=True):
        print(f"{path}: {done.seconds:.2f} s, {share:.1%} of the mixture's energy")
    for line in remarks(done, model.head.fps):
        print(line)
    took = time.perf_counter() - start
    print(f"took {took:.1f} s, {took / done.seconds:.2f} of the time that the sound lasts")


def faces_of(arguments: argparse.Namespace) -> Sequence[Face] | int:
    """Whose voices are wanted; for a run that only hears, how many there are."""
    if arguments.voices is not None:
        return arguments.voices
    return faces_in(arguments.video, arguments.boxes) if arguments.video else faces_alone(arguments.faces)


def parsed() -> argparse.Namespace:
    """The arguments, of which some go only with others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("video", nargs="?", type=Path, metavar="VIDEO", help="video of those who talk")
    parser.add_argument("--boxes", type=Path, metavar="F.json", help="where the faces are, see mm.video.read_tracks")
    parser.add_argument("--audio", type=Path, metavar="F", help="sound or video file: the mixture")
    parser.add_argument("--faces", type=Path, nargs="+", metavar="F", help="a video of each who talks")
    parser.add_argument(
        "--voices", type=int, choices=range(1, MOST_FACES + 1), help="how many talk, for a run that only hears"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the WAVs are written")
    parser.add_argument("--window", type=float, default=Windows.seconds, help="seconds that are separated at once; 4")
    parser.add_argument("--overlap", type=float, help="seconds from one window into the next; a quarter of it")
    arguments = parser.parse_intermixed_args()  # VIDEO may stand behind flags
    if not arguments.video and not arguments.audio:
        parser.error("VIDEO is required, or --audio and --faces")
    if not arguments.video and not arguments.faces and arguments.voices is None:
        parser.error("--audio needs --faces, a video of each who talks; of a run that only hears, --voices")
    if arguments.faces and (arguments.video or arguments.voices):
        parser.error("--faces takes neither VIDEO nor --voices: say once who talks")
    if arguments.boxes and (not arguments.video or arguments.voices):
        parser.error("--boxes is for the faces in VIDEO")
    return arguments


if __name__ == "__main__":
    main()
