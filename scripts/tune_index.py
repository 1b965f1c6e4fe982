"""Measure ways to ask an index, set the quickest that finds enough, and print what the others would give.

python scripts/tune_index.py INDEX --recall 0.95
python scripts/tune_index.py INDEX --recall 0.99 -k 100 --queries F.npy

Recall is measured against exact search, with vectors of the index itself, each without itself as an answer, or better
with the rows of F.npy: unit vectors such as are going to be asked, none of which is in the index.
"""

import argparse
from pathlib import Path

from mm.config import clean_exit
from mm.engine import start_logging
from mm.index import Index, IndexConflictError, IndexDamagedError, read_vectors
from mm.index.setting import quickest


@clean_exit(OSError, ValueError, IndexConflictError, IndexDamagedError)
def main() -> None:
    """Load, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", help="folder of the index")
    parser.add_argument("--recall", type=float, default=0.95, help="share of the k best that are to be found")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--queries", type=Path, metavar="F.npy", help="unit vectors, one in each row")
    arguments = parser.parse_args()
    start_logging()
    index = Index.load(arguments.index)
    queries = read_vectors(arguments.queries) if arguments.queries else None
    trials = index.tune(arguments.recall, arguments.k, queries)
    print(f"{arguments.index}: {index.built} over {len(index):,} items, {arguments.k} answers")
    print("   recall  CPU ms a query  asked with")
    chosen = quickest(trials, arguments.recall)
    for trial in trials:
        asked = ", ".join(f"{name} {value}" for name, value in trial.parameters.items()) or "nothing to choose"
        print(f"{'->' if trial is chosen else '  '} {trial.recall:.4f}  {trial.ms:14.4f}  {asked}")
    if index.trials:  # exact search has no settings
        index.save(arguments.index)


if __name__ == "__main__":
    main()
