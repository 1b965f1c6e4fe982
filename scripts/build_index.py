"""Embed a data set with a run's encoders into an index.

    python scripts/build_index.py RUN --out INDEX [--split test] [--modality image text audio] [--vocabulary]
    python scripts/build_index.py RUN --out INDEX --folder DIR          any folder of pictures or sounds

With --vocabulary the words of the training sentences are indexed too, as modality "word": a picture or a sound is then
answered with its tags by `query_index.py INDEX --image F --modality word`.
"""

import argparse
from pathlib import Path

from mm import data
from mm.config import clean_exit
from mm.data import Entry
from mm.engine import keep_freed_memory, start_logging
from mm.index import IndexConflictError, IndexDamagedError, build, index_of
from mm.tasks import retrieval, retrieval_data, retrieval_scores


@clean_exit(OSError, ValueError, IndexConflictError, IndexDamagedError)
def main() -> None:
    """Load, embed, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--out", required=True, help="folder of the index")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--modality", nargs="+", choices=data.MODALITIES, help="what to index; all that the run has")
    parser.add_argument("--folder", help="index the files of this folder instead of a split")
    parser.add_argument("--vocabulary", action="store_true", help="index the training words as well")
    parser.add_argument("--min-count", type=int, default=5, help="of the words, how often they must have been trained")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable files and say how many")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    arguments = parser.parse_intermixed_args()
    start_logging()
    keep_freed_memory()  # a third less CPU for a network over many pictures
    model, cfg = retrieval.load(arguments.run, arguments.settings)
    modalities = arguments.modality or (["image"] if arguments.folder else cfg.modalities)
    run = str(Path(arguments.run).absolute())
    if arguments.folder:
        entries = {modality: data.folder(arguments.folder, modality) for modality in modalities}
        index, _ = build(model, entries, skip_bad=arguments.skip_bad, run=run)
    else:
        items = data.load(cfg.data, arguments.split, cfg.seed)
        if arguments.skip_bad:
            items = data.readable(items, {m: model.encoder(m).prepare for m in modalities})
        vectors, entries = retrieval_scores.embed_items(model, items, cfg, modalities)
        split = {"split": arguments.split}
        entries = {m: [e._replace(meta=e.meta | split) for e in some] for m, some in entries.items()}
        index = index_of(vectors, entries, model.fingerprint(), run)
    if arguments.vocabulary:
        counts = retrieval_data.word_counts(data.load(cfg.data, "train", cfg.seed), arguments.min_count)
        words = [Entry(f"word:{word}", word, word, {"text": word, "count": n}) for word, n in counts.items()]
        index.add(model.embed("text", list(counts)), [w.id for w in words], [w.meta for w in words], modality="word")
    index.save(arguments.out)
    held = ", ".join(f"{count:,} {modality}" for modality, count in index.modalities.items())
    print(f"{arguments.out}: {len(index):,} items ({held}), {index.dim} numbers each")
    print(f'Ask it: python scripts/query_index.py {Path(arguments.out)} --text "..." --modality {modalities[0]}')


if __name__ == "__main__":
    main()
