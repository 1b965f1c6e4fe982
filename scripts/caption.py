"""Describe pictures or sounds with a captioning run.

    python scripts/caption.py RUN photo.jpg other.png --beam 5 --grid out.png
    python scripts/caption.py RUN --audio clip.wav

Prints a sentence a file and its mean log-probability a word. --grid draws where the model looked for every word.
"""

import argparse
import json
import sys
from pathlib import Path

from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.explain.attention import MODES, draw_attention, looked
from mm.heads import Caption
from mm.tasks import captioning


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, describe, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="picture files")
    parser.add_argument("--audio", nargs="+", default=[], metavar="F", help="sound files")
    parser.add_argument("--beam", type=int, help="sentences under way; 1 = greedy")
    parser.add_argument("--length", help="length rule: none, avg or wu:<a>")
    parser.add_argument("--no-repeat", type=int, metavar="N", help="no run of N words twice")
    parser.add_argument("--grid", metavar="OUT.png", help="draw where the model looked")
    parser.add_argument("--mode", choices=MODES, help="how its cells become areas; bilinear")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()
    if bool(arguments.images) == bool(arguments.audio):
        parser.error("picture files are required, or --audio and sound files")
    if arguments.mode and not arguments.grid:
        parser.error("--mode is for --grid")
    start_logging(stream=sys.stderr)
    keep_freed_memory()
    model, cfg = captioning.load(arguments.run, ["loop.device="])
    modality = "audio" if arguments.audio else "image"
    if modality != model.modality:
        raise ValueError(f"{arguments.run} describes {model.modality}: got {modality} files. Use a run that does.")
    chosen = {name: getattr(arguments, name) for name in ("beam", "length", "no_repeat")}
    decoding = vars(cfg.decoding) | {name: value for name, value in chosen.items() if value is not None}
    files = [Path(file) for file in arguments.audio or arguments.images]
    captions = model.describe(files, captioning.DecodingConfig(**decoding))
    if arguments.json:
        print(json.dumps([as_json(file, caption) for file, caption in zip(files, captions, strict=True)], indent=1))
    else:
        for file, caption in zip(files, captions, strict=True):
            print(f"{file}: {caption.text}  ({float(caption.log_probs.mean()):.2f})")
    if arguments.grid:
        rows = [looked(file, modality, caption) for file, caption in zip(files, captions, strict=True)]
        print(f"picture: {draw_attention(rows, arguments.grid, arguments.mode or 'bilinear')}", file=sys.stderr)


def as_json(file: Path, caption: Caption) -> dict:
    """Everything about one caption but where it looked."""
    log_probs = [round(value, 4) for value in caption.log_probs.tolist()]
    return {"file": str(file), "caption": caption.text, "words": caption.words, "log_probs": log_probs}


if __name__ == "__main__":
    main()
