"""Embed a corpus with a run's encoders: its vectors, ids and metadata, on disk.

    python scripts/embed.py RUN --out FOLDER [--data NAME] [--split test]     a data set; the run's own if none is named
    python scripts/embed.py RUN --out FOLDER --folder DIR                     any folder of pictures or sounds
    python scripts/embed.py RUN --out FOLDER --csv FILE                       every row of a table, see docs/data.md
    python scripts/embed.py RUN --out FOLDER --shards 'DIR/{000..127}.tar'    tar shards, see docs/data.md
    torchrun --nproc-per-node 2 scripts/embed.py RUN --out FOLDER ...         by several processes: the same files

It is written part by part; the same command goes on behind what a killed one left, and ends with the same files.
`mm.index.corpus.read(FOLDER)` gives the parts back, `build_index.py --embeddings FOLDER` makes an index of them.
"""

import argparse
from functools import partial
from pathlib import Path

from mm import data
from mm.config import clean_exit
from mm.data import corpora
from mm.distributed import finish
from mm.engine import keep_freed_memory, start_logging
from mm.index import IndexConflictError, IndexDamagedError, corpus
from mm.tasks import retrieval


@clean_exit(OSError, ValueError, IndexConflictError, IndexDamagedError)
def main() -> None:
    """Load, list, embed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--out", required=True, help="folder of the vectors")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", metavar="NAME", help="data set; the run's own")
    source.add_argument("--folder", help="embed the files of this folder")
    source.add_argument("--csv", metavar="FILE", help="embed every row of this CSV or JSONL")
    source.add_argument("--shards", metavar="PATTERN", help="embed the samples of these tars")
    parser.add_argument("--split", choices=("train", "val", "test"), help="of the data set; test")
    parser.add_argument(
        "--modality", nargs="+", choices=data.MODALITIES, help="after settings: what to embed; all that the run has"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="items computed at once")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read and say how much")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    arguments = parser.parse_intermixed_args()
    kind = next((name for name in corpora.OF_FILES if getattr(arguments, name)), None)
    if kind and arguments.split:
        parser.error(f"--split is of a data set: got it with --{kind}. Leave it out.")
    if kind and (idle := retrieval.idle_for_files(arguments.settings)):
        parser.error(f"{', '.join(idle)} would have no effect with --{kind}: leave it out.")
    if arguments.batch_size < 1:
        parser.error(f"--batch-size must be at least 1: got {arguments.batch_size}.")
    keep_freed_memory()  # a third less CPU for a network over many pictures
    named = [f"data.name={arguments.data}"] if arguments.data else []
    model, cfg = retrieval.load(arguments.run, [*named, *arguments.settings])
    start_logging()
    if kind:
        things = corpora.OF_FILES[kind](str(Path(getattr(arguments, kind)).absolute()))  # wherever it is asked from
    else:
        split = arguments.split or "test"
        described = {"kind": "data", "name": cfg.data.name, "file": cfg.data.file, "split": split, "seed": cfg.seed}
        things = corpora.of_items(data.load(cfg.data, split, cfg.seed), described, {"split": split})
    modalities = arguments.modality or [modality for modality in cfg.modalities if modality in things.modalities]
    for modality in modalities:
        model.encoder(modality)  # that it has one
    manifest = corpus.write(
        arguments.out,
        things,
        partial(model.embed, batch_size=arguments.batch_size),
        modalities,
        dim=model.head.embed_dim,
        fingerprint=model.fingerprint(),
        run=str(Path(arguments.run).absolute()),
        settings={"eval_views": model.eval_views},
        skip_bad=arguments.skip_bad,
    )
    if finish():
        corpus.say_left_out(manifest, arguments.out)
        held = ", ".join(f"{count:,} {modality}" for modality, count in manifest["counts"].items())
        print(f"{arguments.out}: {held}, {manifest['dim']} numbers each; parts: {len(manifest['parts']):,}")
        print(f"Index it: python scripts/build_index.py {arguments.run} --embeddings {arguments.out} --out INDEX")


if __name__ == "__main__":
    main()
