"""Ask a question about a picture, a sound or both.

    python scripts/ask.py RUN "what colour is the square?" --image photo.jpg --top 5 --grid out.png
    python scripts/ask.py RUN "which object do you hear?" --image photo.jpg --audio clip.wav

Prints the most probable answers. --grid draws where the question looked.
"""

import argparse
import json
import sys

from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging
from mm.explain.attention import MODES, draw_attention, glimpsed
from mm.tasks import vqa
from mm.tasks.vqa_model import TOP


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, answer, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("question")
    parser.add_argument("--image", metavar="F", help="picture file")
    parser.add_argument("--audio", metavar="F", help="sound file")
    parser.add_argument("--choices", nargs="+", default=[], metavar="ANSWER", help="answers to choose from")
    parser.add_argument("--top", type=int, default=TOP, help=f"answers told; {TOP}")
    parser.add_argument("--grid", metavar="OUT.png", help="draw where the question looked")
    parser.add_argument("--mode", choices=MODES, help="how its cells become areas; bilinear")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()
    if arguments.mode and not arguments.grid:
        parser.error("--mode is for --grid")
    start_logging(stream=sys.stderr)
    keep_freed_memory()
    model, _ = vqa.load(arguments.run, ["loop.device="])
    sources = {"image": arguments.image, "audio": arguments.audio}
    (answer,) = model.answer(
        [arguments.image],
        [arguments.question],
        sounds=[arguments.audio],
        choices=[arguments.choices],
        top=arguments.top,
    )
    unknown = model.encoder("text").unknown_words(arguments.question)
    if unknown:
        print(f"words that the encoder does not know have no part in it: {', '.join(unknown)}", file=sys.stderr)
    if strange := [choice for choice in arguments.choices if model.number(choice) is None]:
        print(f"answers that the model does not know are not chosen from: {', '.join(strange)}", file=sys.stderr)
    if arguments.grid and not answer.attention:
        raise ValueError("--grid draws where the question looked: this model looks at nothing. Leave it out.")
    if arguments.json:
        print(json.dumps({"question": arguments.question, "answers": dict(answer.top)}, indent=1))
    else:
        for text, share in answer.top:
            print(f"{100 * share:5.1f} %  {text}")
    if arguments.grid:
        title = ", ".join(f"{text} {share:.0%}" for text, share in answer.top)
        rows = [glimpsed(file, m, arguments.question, answer, title) for m, file in sources.items() if file]
        print(f"picture: {draw_attention(rows, arguments.grid, arguments.mode or 'bilinear')}", file=sys.stderr)


if __name__ == "__main__":
    main()
