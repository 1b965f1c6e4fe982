"""How often explanations find the object in question, on scenes of the embedded world.

    python scripts/evaluate_explanations.py RUN [--methods grad_cam occlusion] [--cases 200] [--json]

RUN is a run on the embedded world: of retrieval (why a scene is near "a small red star"), of question answering (what
makes the model answer a question about one object), or the teacher of a distillation (why a scene is of its class).
Told is how often the highest place of a heat map lies in that object, beside how often it lies in another object of the
scene, and how often the box around the heat overlaps the object's by half, beside a box in the middle. With --of audio
the objects are heard one after another, and the highest place is one in time.
"""

import argparse
import json
import sys

import numpy as np

from mm.app.objects import Scored, cases, score
from mm.app.runs import open_run
from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.explain.cam import THRESHOLD, peaks_inside
from mm.explain.methods import HEAT

CASES = 200


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, explain, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--methods", nargs="+", choices=(*HEAT, "cam"), help="all that the run has unless given")
    parser.add_argument("--cases", type=int, default=CASES, help=f"{CASES} unless given")
    parser.add_argument("--of", choices=("image", "audio"), default="image", help="audio: of retrieval; image")
    parser.add_argument("--layer", default="", metavar="NAME", help="of methods that take one; the last with a map")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help=f"share of the maximum that a box is around; {THRESHOLD}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    if not 0 <= arguments.threshold < 1:
        parser.error(f"--threshold must be a share of the maximum, at least 0 and below 1: got {arguments.threshold}")
    start_logging(stream=sys.stderr)
    keep_freed_memory()
    run = open_run(arguments.run)
    found = cases(run, arguments.cases, arguments.of)
    methods = arguments.methods or [*HEAT, *(["cam"] if run.task == "distillation" else [])]
    scored, refused = dict[str, Scored](), dict[str, str]()
    for method in methods:
        try:
            scored[method] = score(run, method, found, arguments.layer, arguments.of, arguments.threshold)
        except ValueError as error:  # a guided method of a network that it does not suit
            refused[method] = str(error)
    if not scored:
        raise ValueError("; ".join(refused.values()))
    edges = np.array([case.box for case in found])  # (n, 4)
    controls = {
        "any place": float((edges[:, 2:] - edges[:, :2]).prod(axis=1).mean()),
        "the middle": float(peaks_inside([np.ones((1, 1))] * len(found), edges).mean()),
        "a box in the middle": next(iter(scored.values())).boxes.control,
    }
    if arguments.json:
        told = {
            "methods": {name: as_json(one) for name, one in scored.items()},
            "controls": controls,
            "refused": refused,
        }
        print(json.dumps(told, indent=1))
        return
    print(f"{len(found)} cases, per cent   in the object   in another object   box   CPU ms")
    for name, one in scored.items():
        other = "" if one.other is None else f"{100 * one.other:.1f}"
        box = "" if arguments.of == "audio" else f"{100 * one.boxes.share:.1f}"  # of a sound only the time is known
        print(f"{name:<24} {100 * one.inside:>13.1f} {other:>19} {box:>5} {1000 * one.seconds:>8.0f}")
    for name, reason in refused.items():
        print(f"{name:<24} refused: {reason}")
    if arguments.of == "audio":
        del controls["a box in the middle"]
    for name, share in controls.items():
        print(f"  {name:<22} {100 * share:>{34 + 5 if 'box' in name else 13}.1f}")


def as_json(one: Scored) -> dict[str, float | None]:
    """The numbers of one method."""
    return {"inside": one.inside, "other": one.other, "box": one.boxes.share, "seconds": one.seconds}


if __name__ == "__main__":
    main()
