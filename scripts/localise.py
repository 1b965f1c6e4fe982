"""Where in a picture a sound comes from.

    python scripts/localise.py RUN --image photo.jpg --audio clip.wav --grid out.png

Prints the place of the highest score, the score, and beside it what silence scores in the same picture: no more than
that says nothing. --grid draws the picture and the heat map over it. A video file gives its middle frame as a picture
and its track as a sound.
"""

import argparse
import json
import sys

from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.explain.attention import MODES
from mm.explain.heatmap import Heard, draw_heatmaps
from mm.tasks import localisation


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, localise, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--image", required=True, metavar="F", help="picture or video file")
    parser.add_argument("--audio", required=True, metavar="F", help="sound or video file")
    parser.add_argument("--grid", metavar="OUT.png", help="draw the heat map over the picture")
    parser.add_argument("--mode", choices=MODES, help="how its cells become areas; bilinear")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    arguments = parser.parse_args()
    if arguments.mode and not arguments.grid:
        parser.error("--mode is for --grid")
    start_logging(stream=sys.stderr)
    keep_freed_memory()
    model, _ = localisation.load(arguments.run, ["loop.device="])
    (located,) = model.localise([arguments.image], [arguments.audio])
    x, y = located.peak_xy
    if arguments.json:
        heat = [[round(cell, 4) for cell in row] for row in located.heat.tolist()]
        numbers = {"x": x, "y": y, "score": located.score, "silence": located.silence, "heat": heat}
        print(json.dumps(numbers, indent=1))
    else:
        where = f"{100 * x:.1f} % from the left, {100 * y:.1f} % from the top"
        print(f"{where}; score {located.score:.2f}, of silence {located.silence:.2f}")
    if arguments.grid:
        row = Heard(arguments.image, [("its sound", located.heat.numpy())])
        print(f"picture: {draw_heatmaps([row], arguments.grid, arguments.mode or 'bilinear')}", file=sys.stderr)


if __name__ == "__main__":
    main()
