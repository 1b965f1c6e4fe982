"""Build several types of index over the items of one, and print what each finds, takes and costs.

python scripts/compare_indexes.py INDEX --modality text --queries image
python scripts/compare_indexes.py INDEX --factory auto HNSW32 "IVF1024,PQ64x4fs" --recall 0.99 -k 100 --queries F.npy

Queries are vectors that no index holds: items of another modality, the rows of a .npy file, or, without `--queries`,
1,000 items that are left out. Each type is asked in the quickest way that finds `--recall` of the k best among one half
of the queries, or where none does in the one that finds most; what is printed is measured on the other half, against
exact search. Nothing is saved: `build_index.py --factory` builds the one that is chosen.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from mm.config import ConfigError, clean_exit
from mm.engine import start_logging
from mm.index import Index, IndexDamagedError, read_vectors
from mm.index.setting import quickest
from mm.index.tuning import HELD_OUT, lists_for
from mm.naming import hint

ASKED = 2000  # queries of those that are given
ALONE = 50  # asked one by one
REPEATS = 3  # the quickest counts, for other jobs slow down the others
MEGABYTE = 1e6


@clean_exit(OSError, ValueError, IndexDamagedError)
def main() -> None:
    """Load, build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", help="folder of the index")
    parser.add_argument("--factory", nargs="+", help="exact, auto or FAISS's strings; ten that suit the size")
    parser.add_argument("--modality", help="compare over the items of this one only")
    parser.add_argument("--queries", metavar="NAME|F.npy", help="another modality of the index, or unit vectors")
    parser.add_argument("--recall", type=float, default=0.95, help="share of the k best that are to be found")
    parser.add_argument("-k", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.k < 1 or not 0 <= arguments.recall <= 1:
        raise ConfigError(f"-k must be at least 1 and --recall lie in 0..1: got {arguments.k} and {arguments.recall}.")
    start_logging(stream=sys.stderr)  # so that the table is whole
    vectors, queries = divided(Index.load(arguments.index, mmap=True), arguments.modality, arguments.queries)
    n, dim = vectors.shape
    for factory in arguments.factory or ():
        Index(dim, factory=factory)  # that there is such a type, before the others are built
    print(
        f"{n:,} items of {dim} numbers, {n * dim * 4 / MEGABYTE:,.0f} MB; {len(queries):,} queries, k = {arguments.k}"
    )
    print("factory                 recall  ms a query  asked alone  MB beside  CPU s to build  asked with")
    for factory in arguments.factory or suitable(n, dim):
        print(compared(factory, vectors, queries, arguments.k, arguments.recall), flush=True)


def divided(index: Index, modality: str | None, asked: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (n, D) that are compared over, and shuffled queries (Q, D) none of which is one of them."""
    names = [modality, *([] if asked and asked.endswith(".npy") else [asked])]
    for name in [name for name in names if name is not None and name not in index.modalities]:
        near = hint(name, index.modalities)
        raise ConfigError(f"the modalities of this index are {', '.join(index.modalities)}: got {name!r}.{near}")
    if len(index) < 2:
        raise ConfigError(f"there must be items to compare over: the index has {len(index)}.")
    chance = np.random.default_rng(0)
    vectors = of_modality(index, modality)  # (n, D)
    if asked is None:
        held = chance.permutation(len(vectors))[: min(HELD_OUT, len(vectors) // 10)]
        vectors, queries = np.delete(vectors, held, axis=0), vectors[held]
    else:
        if asked == modality or (modality is None and asked in index.modalities):
            raise ConfigError(f"--queries {asked} are items themselves: name another modality with --modality.")
        given = read_vectors(asked) if asked.endswith(".npy") else of_modality(index, asked)  # (m, D)
        queries = given[chance.permutation(len(given))[:ASKED]]
    found = Index.build(vectors, range(len(vectors)), factory="exact").search(queries, 1)
    new = (vectors[[row[0] for row in found.ids]] != queries).any(axis=1)  # (Q,)
    if new.sum() < 2:
        raise ConfigError(f"at least 2 queries must be no items: of {len(queries)} there are {new.sum()}.")
    return vectors, queries[new]


def of_modality(index: Index, modality: str | None) -> np.ndarray:
    """(n, D) the vectors of one modality, or of all."""
    kept = [
        one
        for one, values in zip(index.ids, index.metadata(index.ids), strict=True)
        if modality in (None, values.get("modality"))
    ]
    return index.vectors(kept)  # (n, D)


def suitable(n: int, dim: int) -> tuple[str, ...]:
    """The types that are compared unless others are named: those of docs/index.md."""
    lists, codes = lists_for(n), dim // 4 if dim % 4 == 0 else dim
    short = f"PQ{codes}x4fs"  # a bit for each number
    inverted = [f"IVF{lists},{kept}" for kept in ("Flat", "SQ8", short, "RaBitQ")]
    return ("exact", "auto", "SQ8", short, "HNSW32", "HNSW32,SQ8", *inverted)


def compared(factory: str, vectors: np.ndarray, queries: np.ndarray, k: int, recall: float) -> str:
    """A line of the table."""
    begun = time.process_time()
    index = Index.build(vectors, range(len(vectors)), factory=factory)
    seconds = time.process_time() - begun
    half = len(queries) // 2
    trials = index.tune(recall, k, queries[:half])
    parameters = quickest(trials, recall).parameters
    asked, alone = queries[half:], queries[half : half + ALONE]
    found = index.recall(k, asked)
    together_ms = quickest_ms(lambda: index.search(asked, k)) / len(asked)
    alone_ms = quickest_ms(lambda: [index.search(query, k) for query in alone]) / len(alone)
    name = factory if factory in (index.built, "exact") else f"{factory}: {index.built}"
    told = ", ".join(f"{key} {value}" for key, value in parameters.items())
    megabytes = index.sizes["approximate"] / MEGABYTE
    return f"{name:23s} {found:.4f}  {together_ms:10.4f}  {alone_ms:11.3f}  {megabytes:9.2f}  {seconds:14.1f}  {told}"


def quickest_ms(job: Callable[[], object]) -> float:
    """CPU milliseconds of the quickest of several runs."""
    taken = []
    for _ in range(REPEATS):
        begun = time.process_time()
        job()
        taken.append(time.process_time() - begun)
    return 1000 * min(taken)


if __name__ == "__main__":
    main()
