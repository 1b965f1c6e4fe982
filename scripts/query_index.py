"""Ask an index with a picture, a sentence, a sound or a vector.

python scripts/query_index.py INDEX --text "a dog in the snow" --modality image --grid out.png
python scripts/query_index.py INDEX --image F --minus-text day --plus-text night --modality image
python scripts/query_index.py INDEX --audio F --where split=test --where category=dog,rooster -k 5 --json
python scripts/query_index.py INDEX --interactive
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from mm.config import ConfigError, clean_exit
from mm.data.item import Source
from mm.data.tars import member
from mm.engine import start_logging
from mm.index import Hit, Index, IndexDamagedError, Searcher, parse_where, read_vectors
from mm.index.grid import Shown, draw_neighbours
from mm.index.media import item_of, shown
from mm.index.prompt import HELP, Prompt
from mm.naming import hint
from mm.tasks import retrieval, retrieval_data

WITH_A_QUERY = ("plus_text", "plus_image", "minus_text", "minus_image", "grid")


@clean_exit(OSError, ValueError, IndexDamagedError)
def main() -> None:
    """Load, ask, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", help="folder of the index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--image", help="picture file")
    query.add_argument("--text", help="sentence")
    query.add_argument("--audio", help="sound file")
    query.add_argument("--vector", help=".npy file of one unit vector")
    query.add_argument("--interactive", action="store_true", help="ask line by line; an empty line ends")
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
    start_logging(stream=sys.stderr if arguments.json else sys.stdout)

    if arguments.interactive and any(vars(arguments)[name] for name in WITH_A_QUERY):
        parser.error(f"--{', --'.join(WITH_A_QUERY).replace('_', '-')} are for one question: leave them out.")
    index, modality = Index.load(arguments.index), arguments.modality
    if modality is not None and modality not in index.modalities:
        near = hint(modality, index.modalities)
        choices = ", ".join(index.modalities) or "those of the items: none has one"
        raise ConfigError(f"--modality must be one of {choices}: got {modality!r}.{near}")
    if arguments.interactive:
        model, _ = retrieval.load(run_of(index, arguments.run))
        conditions = [*arguments.where, *([f"modality={modality}"] if modality else [])]
        return converse(Prompt(Searcher(index, model), arguments.k, tuple(conditions)), arguments.json)
    kind = next(name for name in ("image", "text", "audio", "vector") if getattr(arguments, name) is not None)
    given = getattr(arguments, kind)
    terms = {
        sign: [("text", sentence) for sentence in getattr(arguments, f"{sign}_text")]
        + [("image", Path(file)) for file in getattr(arguments, f"{sign}_image")]
        for sign in ("plus", "minus")
    }
    model, cfg = None, None
    if kind != "vector" or any(terms.values()) or arguments.run:
        model, cfg = retrieval.load(run_of(index, arguments.run))
    source = given if kind == "text" else read_vectors(given) if kind == "vector" else Path(given)
    hits = Searcher(index, model).query(
        **{kind: source}, **terms, k=arguments.k, where=parse_where(arguments.where), modality=modality
    )
    show(hits, arguments.json)
    if arguments.grid:
        words = "".join(f" {sign} {term}" for sign in terms for _, term in terms[sign])
        sources = retrieval_data.sources(cfg) if cfg else None
        row = [shown_hit(hit, sources) for hit in hits]
        query_cell = Shown("text" if kind == "vector" else kind, given, f"query{words}")
        picture = draw_neighbours([(query_cell, row)], arguments.grid)
        print(f"Picture: {picture}", file=sys.stderr if arguments.json else sys.stdout)


def run_of(index: Index, given: str | None) -> str:
    """The run whose encoders embed queries."""
    if not (run := given or index.run):
        raise ConfigError("the index does not say which run embeds queries: name it with --run, or ask with --vector.")
    return run


def show(hits: list[Hit], as_json: bool) -> None:
    """Print answers, the best first."""
    if as_json:
        print(json.dumps([hit._asdict() for hit in hits], indent=1))
        return
    if not hits:
        print("no item meets the conditions")
    for place, hit in enumerate(hits, start=1):
        shown = hit.metadata.get("text") or hit.metadata.get("path") or hit.metadata.get("shard") or ""
        print(f"{place:>3}  {hit.score:6.3f}  {hit.metadata.get('modality', ''):<6} {hit.id}  {shown}")


def converse(prompt: Prompt, as_json: bool) -> None:
    """Answer line by line, until one is empty or there are no more; what is wrong with a line is said."""
    print(HELP, end="", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            if (hits := prompt.ask(line)) is not None:
                show(hits, as_json)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)


def shown_hit(hit: Hit, sources: Callable[[str, str], Mapping[str, Source]] | None) -> Shown:
    """An answer as a cell; one that the data set no longer holds by its id."""
    try:
        cell = shown(item_of(hit.id, hit.metadata), sources, member)
    except LookupError:
        cell = Shown("text", str(hit.id))
    return cell._replace(title=f"{hit.score:.2f}")


if __name__ == "__main__":
    main()
