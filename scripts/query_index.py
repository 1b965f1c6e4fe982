"""Ask an index with a picture, a sentence, a sound or a vector.

python scripts/query_index.py INDEX --text "a dog in the snow" --modality image --grid out.png
python scripts/query_index.py INDEX --image F --minus-text day --plus-text night --modality image
python scripts/query_index.py INDEX --audio F --where split=test --where category=dog,rooster -k 5 --json
"""

import argparse
import json
from pathlib import Path

import numpy as np

from mm.config import clean_exit
from mm.engine import start_logging
from mm.index import Hit, Index, Searcher, parse_where
from mm.index.grid import Shown, draw_neighbours
from mm.tasks import retrieval


@clean_exit(FileNotFoundError, ValueError)
def main() -> None:
    """Load, ask, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", help="folder of the index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--image", help="picture file")
    query.add_argument("--text", help="sentence")
    query.add_argument("--audio", help="sound file")
    query.add_argument("--vector", help=".npy file of one unit vector")
    for sign in ("plus", "minus"):
        parser.add_argument(f"--{sign}-text", action="append", default=[], metavar="S")
        parser.add_argument(f"--{sign}-image", action="append", default=[], metavar="F")
    parser.add_argument("--run", help="another copy of the run that the index was made with")
    parser.add_argument("--modality", help="answer with this modality only")
    parser.add_argument("--where", action="append", default=[], metavar="key=value", help="a,b for either; low..high")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--grid", help="draw the query and the answers into this PNG")
    arguments = parser.parse_args()
    start_logging()

    index = Index.load(arguments.index)
    model, cfg = retrieval.load(arguments.run or index.run) if not arguments.vector else (None, None)
    kind = next(name for name in ("image", "text", "audio", "vector") if getattr(arguments, name))
    given = getattr(arguments, kind)
    source = given if kind == "text" else np.load(given, allow_pickle=False) if kind == "vector" else Path(given)
    terms = {
        sign: [("text", t) for t in getattr(arguments, f"{sign}_text")]
        + [("image", Path(f)) for f in getattr(arguments, f"{sign}_image")]
        for sign in ("plus", "minus")
    }
    hits = Searcher(index, model).query(
        **{
            kind: np.load(source, allow_pickle=False)
            if kind == "vector"
            else Path(source)
            if kind != "text"
            else source
        },
        **terms,
        k=arguments.k,
        where=parse_where(arguments.where),
        modality=arguments.modality,
    )
    if arguments.json:
        print(json.dumps([hit._asdict() for hit in hits], indent=1))
    else:
        for place, hit in enumerate(hits, start=1):
            shown = hit.metadata.get("text") or hit.metadata.get("path") or ""
            print(f"{place:>3}  {hit.score:6.3f}  {hit.metadata.get('modality', ''):<6} {hit.id}  {shown}")
    if arguments.grid:
        words = "".join(f" {sign} {s}" for sign in terms for _, s in terms[sign])
        row = [shown_hit(hit, cfg) for hit in hits]
        query_cell = Shown("text" if kind == "vector" else kind, given, f"query{words}")
        print(f"Picture: {draw_neighbours([(query_cell, row)], arguments.grid)}")


def shown_hit(hit: Hit, cfg: retrieval.Retrieval | None) -> Shown:
    """An answer as a cell: its file, its sentence, or the item of the data set that it was made from."""
    modality, title = hit.metadata["modality"], f"{hit.score:.2f}"
    if "text" in hit.metadata:
        return Shown("text", hit.metadata["text"], title)
    if "path" in hit.metadata:
        return Shown(modality, Path(hit.metadata["path"]), title)
    if cfg is None:
        return Shown("text", str(hit.id), title)
    return Shown(modality, retrieval.source_of(hit.metadata, modality, cfg), title)


if __name__ == "__main__":
    main()
