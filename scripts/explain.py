"""What in a picture or a sound a model's answer came from.

    python scripts/explain.py RUN photo.jpg --target "a dog in the snow" --grid out.png             why they are near
    python scripts/explain.py RUN photo.jpg --question "what colour is the ball?" --target red      what makes it say so
    python scripts/explain.py RUN --audio clip.wav --target rooster --method smooth_grad            what it heard
    python scripts/explain.py RUN --method patches --unit 7 --grid out.png                          what a channel likes

RUN is a run of any task but words. What --target means is the task's: a sentence (without one a picture is compared
with the sound of --audio), an answer, a word of the caption, a class, a place "x,y", or the number of a face; left
out, it is what the model itself says. Printed are the score and where the heat is
strongest; --check tells how faithful the heat is, --randomise whether it depends on the weights at all.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from mm.app.explained import (
    OF_ENCODERS,
    box_told,
    encoder_cells,
    explain_view,
    facts,
    faithfulness_of,
    patch_cells,
    unknown_words,
    view_of,
    with_random_weights,
)
from mm.app.runs import open_run
from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.explain.cam import THRESHOLD
from mm.explain.methods import HEAT, METHOD, METHODS, boxed
from mm.explain.pictures import draw_cells

PATCHES = "patches"
METHODS_HELP = f"{METHOD} unless given; or {', '.join(one for one in (*METHODS, PATCHES) if one != METHOD)}"
ASKED = ("faces", "target", "question")
IDLE = {
    PATCHES: ("file", "image", "audio", *ASKED),
    "filters": ("file", "image", "audio", *ASKED),
    "activations": ASKED,
}


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, explain, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("file", nargs="?", metavar="IMAGE", help="picture file")
    parser.add_argument("--image", metavar="F", help="the same")
    parser.add_argument("--audio", metavar="F", help="sound file")
    parser.add_argument("--faces", nargs="+", metavar="F", help="a video of each who talks, of separation")
    parser.add_argument("--of", choices=("image", "audio"), help="which is explained, where both are given; image")
    parser.add_argument("--method", choices=(*METHODS, PATCHES), default=METHOD, metavar="M", help=METHODS_HELP)
    parser.add_argument("--target", default="", metavar="T", help="what is explained: see above")
    parser.add_argument("--question", default="", metavar="Q", help="of question answering")
    parser.add_argument("--layer", default="", metavar="NAME", help="of the network; the last with a map")
    parser.add_argument("--unit", type=int, help="channel of the layer, of --method patches")
    parser.add_argument("--box", action="store_true", help="print and draw the box around the heat")
    parser.add_argument("--threshold", type=float, help=f"share of the maximum that it is around; {THRESHOLD}")
    parser.add_argument("--check", action="store_true", help="insertion, deletion and infidelity of the heat")
    parser.add_argument("--randomise", action="store_true", help="what is left of the heat with random weights")
    parser.add_argument("--grid", metavar="OUT.png", help="draw it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()
    if arguments.file and arguments.image:
        parser.error("a picture is given once, as IMAGE or with --image")
    if (arguments.unit is None) == (arguments.method == PATCHES):
        parser.error("--unit is of --method patches, which needs it")
    if (arguments.box or arguments.check or arguments.randomise) and arguments.method not in (*HEAT, "cam"):
        parser.error(f"--box, --check and --randomise are of a heat map, which {arguments.method} has none of")
    if arguments.threshold is not None and not arguments.box:
        parser.error("--threshold is of --box")
    if idle := [name for name in IDLE.get(arguments.method, ()) if getattr(arguments, name)]:
        parser.error(f"--method {arguments.method} takes no {', '.join(idle)}: leave it out")
    if arguments.grid and not arguments.grid.lower().endswith(".png"):
        parser.error(f"a figure is written as .png: got {arguments.grid!r}")
    start_logging(stream=sys.stderr)
    keep_freed_memory()
    run = open_run(arguments.run)
    sources = {"image": arguments.file or arguments.image, "audio": arguments.audio, "video": arguments.faces}
    sources = {modality: file for modality, file in sources.items() if file}
    of = arguments.of or next((m for m in [*sources, *run.model.encoders] if m in ("image", "audio")), "image")
    if arguments.method == PATCHES:
        told, cells = patch_cells(run, of, arguments.layer, arguments.unit)
    elif arguments.method in OF_ENCODERS:
        told, cells = encoder_cells(run, sources, of, arguments.method, arguments.layer)
    else:
        of, view = view_of(run, sources, arguments.of or "", arguments.target, arguments.question)
        if unknown := unknown_words(run, arguments.target, arguments.question):
            print(f"words that the encoder does not know have no part in it: {', '.join(unknown)}", file=sys.stderr)
        explained = explain_view(of, view, sources[of], arguments.method, arguments.layer)
        told = {"what": view.said, **facts(view, explained.heat, of)}
        threshold = THRESHOLD if arguments.threshold is None else arguments.threshold
        if arguments.box:
            told["box"] = box_told(view, explained.heat, of, threshold)
        if arguments.check:
            told["faithfulness"] = faithfulness_of(view, explained.heat)
        if arguments.randomise:
            left = with_random_weights(view, arguments.method, arguments.layer)
            told["correlation with random weights up to"] = dict(left)
        if arguments.box:
            explained = boxed(explained, tuple(view.seen.shape[2:]), of == "audio", threshold)
        cells = explained.cells
    if arguments.json:
        print(json.dumps(told, indent=1))
    else:
        print("\n".join(lines(told)))
    if arguments.grid:
        note = f"{arguments.method}; {told['what']}; each brightest at its maximum, cells enlarged bilinearly"
        note += "; time to the right, low bands at the bottom" if of == "audio" else ""
        print(f"picture: {draw_cells(cells, arguments.grid, note)}", file=sys.stderr)


def lines(told: dict[str, Any]) -> Iterator[str]:
    """Names and values, one a line; of a list its items."""
    for name, value in told.items():
        if isinstance(value, dict):
            yield f"{name}: " + ", ".join(f"{key} {number:.3g}" for key, number in value.items())
        else:
            yield f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"


if __name__ == "__main__":
    main()
