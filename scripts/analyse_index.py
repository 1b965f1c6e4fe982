"""Look into one index or several: a page with neighbours, measures and maps of what was embedded.

    python scripts/analyse_index.py INDEX --out REPORT [--label class] [-k 10] [--modality image text]
    python scripts/analyse_index.py runs/a/index runs/b/index --out REPORT

Writes REPORT/report.html, which needs nothing but itself, REPORT/figures/*.png and REPORT/report.json, and prints the
numbers; docs/analysis.md says what each of them means. Indexes of one encoder that share no id (its modalities) are one
space, all others are compared by the ids of their items. Items that no file or sentence is known of are shown from the
data set of the run.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from mm.config import ConfigError, clean_exit
from mm.data.tars import member
from mm.engine import start_logging
from mm.index import Index, IndexDamagedError, Searcher
from mm.index.grid import Shown
from mm.index.media import FILES, OF_RUNS, Item, shown
from mm.index.report import SAMPLE, table, write_report
from mm.index.report.spaces import Space, label_key, spaces_of
from mm.tasks import retrieval, retrieval_data


@clean_exit(OSError, ValueError, IndexDamagedError)
def main() -> None:
    """Load, measure, draw, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("indexes", nargs="+", metavar="INDEX", help="folder of an index")
    parser.add_argument("--out", required=True, metavar="REPORT", help="folder of the report")
    parser.add_argument("-k", "--k", type=int, default=10, help="neighbours of each item")
    parser.add_argument(
        "--label", metavar="KEY", help="of the metadata; label, class, category, digit, ... if there is one"
    )
    parser.add_argument("--modality", nargs="+", default=[], metavar="M", help="look into these only")
    parser.add_argument("--run", help="another copy of the run that the index was made with, to show its items")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help="items of a map; 0 = no maps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    if arguments.k < 1 or arguments.sample < 0:
        raise ConfigError(f"--k must be at least 1, --sample at least 0: got {arguments.k} and {arguments.sample}.")
    start_logging(stream=sys.stderr)
    spaces = spaces_of(arguments.indexes, arguments.k, arguments.modality)
    label = label_key(spaces, arguments.label)
    notes: list[str] = []
    shows = {space.name: show_of(space, arguments.run, notes) for space in spaces}
    report = write_report(
        spaces,
        arguments.out,
        lambda space, item: shows[space.name](item),
        label,
        arguments.seed,
        arguments.sample,
        notes,
    )
    print(json.dumps(report, indent=1, ensure_ascii=False) if arguments.json else table(report))
    print(f"Report: {Path(arguments.out) / 'report.html'}", file=sys.stderr if arguments.json else sys.stdout)


def show_of(space: Space, run: str | None, notes: list[str]) -> Callable[[Item], Shown]:
    """What shows the items of a space; the run is loaded where it is named or items are known by it only.

    Raises:
        ValueError: the encoders of the run did not make the index.
    """
    unknown = [item for item in space.items if item.modality in OF_RUNS and not item.metadata.keys() & set(FILES)]
    if not run and unknown and space.run and not Path(space.run).is_dir():
        notes.append(
            f"{space.name}: items are shown by their ids: the run {space.run} is not there. --run names a copy."
        )
    elif run or (unknown and space.run):
        model, cfg = retrieval.load(run or space.run)
        for path in space.paths:
            Searcher(Index.load(path, mmap=True), model)  # refuses encoders that are not those of the index
        return functools.partial(shown, sources=retrieval_data.sources(cfg), member=member)
    return functools.partial(shown, member=member)


if __name__ == "__main__":
    main()
