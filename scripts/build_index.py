"""Embed a data set or a corpus with a run's encoders into an index.

    python scripts/build_index.py RUN --out INDEX [--split test] [--modality image text audio] [--vocabulary]
    python scripts/build_index.py RUN --out INDEX --folder DIR                     any folder of pictures or sounds
    python scripts/build_index.py RUN --out INDEX --csv FILE                       every row of a table
    python scripts/build_index.py RUN --out INDEX --shards 'DIR/{000..127}.tar'    tar shards, see docs/data.md
    python scripts/build_index.py RUN --out INDEX --embeddings FOLDER              what embed.py wrote

A folder, a table and shards are embedded part by part into INDEX/.parts, by as many processes as torchrun starts; the
same command goes on behind what a killed one left. The parts are removed once the index is saved.

With --vocabulary the words of the training sentences are indexed too, as modality "word": a picture or a sound is then
answered with its tags by `query_index.py INDEX --image F --modality word`.
"""

import argparse
import shutil
from pathlib import Path

from mm import data
from mm.config import ConfigError, clean_exit
from mm.data import Entry, corpora
from mm.distributed import finish
from mm.engine import keep_freed_memory, start_logging
from mm.index import Index, IndexConflictError, IndexDamagedError, corpus, index_of
from mm.tasks import retrieval, retrieval_data, retrieval_scores

WORD_COUNT = 5  # how often a word must have been trained to be indexed, unless --min-count says otherwise


@clean_exit(OSError, ValueError, IndexConflictError, IndexDamagedError)
def main() -> None:
    """Load, embed, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--out", required=True, help="folder of the index")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--split", choices=("train", "val", "test"), help="of the run's data set; test")
    source.add_argument("--folder", help="index the files of this folder instead of a split")
    source.add_argument("--csv", metavar="FILE", help="index every row of this CSV or JSONL")
    source.add_argument("--shards", metavar="PATTERN", help="index the samples of these tars")
    source.add_argument("--embeddings", metavar="FOLDER", help="index what embed.py wrote there")
    parser.add_argument(
        "--modality", nargs="+", choices=data.MODALITIES, help="after settings: what to index; all that the run has"
    )
    parser.add_argument("--factory", default="auto", help="exact, a FAISS factory string, or auto: chosen by the size")
    parser.add_argument("--vocabulary", action="store_true", help="index the training words as well")
    parser.add_argument(
        "--min-count", type=int, help=f"{WORD_COUNT}; of the words, how often they must have been trained"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable files and say how many")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    arguments = parser.parse_intermixed_args()
    if arguments.embeddings and (arguments.modality or arguments.skip_bad):
        parser.error("--modality and --skip-bad were for embed.py: leave them out with --embeddings.")
    if arguments.min_count is not None and not arguments.vocabulary:
        parser.error("--min-count is of the words: give --vocabulary too, or leave it out.")
    kind = next((name for name in corpora.OF_FILES if getattr(arguments, name)), None)
    given = kind or ("embeddings" if arguments.embeddings else None)
    if given and not arguments.vocabulary and (idle := retrieval.idle_for_files(arguments.settings)):
        parser.error(f"{', '.join(idle)} would have no effect with --{given}: leave it out.")
    keep_freed_memory()  # a third less CPU for a network over many pictures
    model, cfg = retrieval.load(arguments.run, arguments.settings)
    retrieval.check_indexable(cfg)
    start_logging()
    Index(model.head.embed_dim, factory=arguments.factory)  # that there is such a factory, before hours of work
    run, parts = str(Path(arguments.run).absolute()), Path(arguments.out) / ".parts"
    modalities = arguments.modality or cfg.modalities
    if kind:
        things = corpora.OF_FILES[kind](str(Path(getattr(arguments, kind)).absolute()))  # wherever it is asked from
        modalities = arguments.modality or [modality for modality in cfg.modalities if modality in things.modalities]
        corpus.write(
            parts,
            things,
            model.embed,
            modalities,
            dim=model.head.embed_dim,
            fingerprint=model.fingerprint(),
            run=run,
            settings={"eval_views": model.eval_views},
            skip_bad=arguments.skip_bad,
            anew=True,
        )
    if not finish():
        return
    if kind or arguments.embeddings:
        folder = arguments.embeddings or parts
        described = corpus.describe(folder)
        if described["fingerprint"] != model.fingerprint():
            raise ConfigError(
                f"{folder} must be embedded by the encoders of {arguments.run}, whose fingerprint is "
                f"{model.fingerprint()}: it has {described['fingerprint']}, of {described['run']}. Name that run."
            )
        modalities = described["modalities"]
        index = corpus.index_of_corpus(folder, run, arguments.factory)
    else:
        split = arguments.split or "test"
        items = data.load(cfg.data, split, cfg.seed)
        if arguments.skip_bad:
            items = data.readable(items, {m: model.encoder(m).prepare for m in modalities})
        vectors, entries = retrieval_scores.embed_items(model, items, cfg, modalities)
        entries = {m: [e._replace(meta=e.meta | {"split": split}) for e in some] for m, some in entries.items()}
        index = index_of(vectors, entries, model.fingerprint(), run, arguments.factory)
    if arguments.vocabulary:
        least = WORD_COUNT if arguments.min_count is None else arguments.min_count
        counts = retrieval_data.word_counts(data.load(cfg.data, "train", cfg.seed), least)
        words = [Entry(f"word:{word}", word, word, {"text": word, "count": n}) for word, n in counts.items()]
        index.add(model.embed("text", list(counts)), [w.id for w in words], [w.meta for w in words], modality="word")
    index.save(arguments.out)
    if kind:
        shutil.rmtree(parts)
    held = ", ".join(f"{count:,} {modality}" for modality, count in index.modalities.items())
    print(f"{arguments.out}: {len(index):,} items ({held}), {index.dim} numbers each, searched by {index.built}")
    print(f'Ask it: python scripts/query_index.py {Path(arguments.out)} --text "..." --modality {modalities[0]}')


if __name__ == "__main__":
    main()
