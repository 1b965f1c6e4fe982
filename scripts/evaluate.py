"""Evaluate a run beside its controls.

    python scripts/evaluate.py RUN [--split test] [--json] [--ensemble RUN...] [key=value]...

Settings such as data.root=FOLDER or data.eval_views=2 change how the run is evaluated; RUN/metrics.json is written anew
when they are the run's own and the split is "test". With --ensemble the cosines of all runs named are averaged.
"""

import argparse
import json
import sys

from mm import data
from mm.config import clean_exit
from mm.engine import keep_freed_memory, start_logging, table, training_seconds, write_metrics
from mm.tasks import retrieval, retrieval_scores


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, embed, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="RUN", help="runs whose cosines are averaged in")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    arguments = parser.parse_intermixed_args()
    start_logging(stream=sys.stderr if arguments.json else sys.stdout)
    keep_freed_memory()  # a third less CPU for a network over many pictures
    model, cfg = retrieval.load(arguments.run, arguments.settings)
    items = retrieval_scores.evaluated(data.load(cfg.data, arguments.split, cfg.seed), cfg)
    vectors, entries = retrieval_scores.embed_items(model, items, cfg)
    if arguments.ensemble:
        others = [retrieval.load(run, arguments.settings) for run in arguments.ensemble]
        members = [vectors, *(retrieval_scores.embed_items(other, items, theirs)[0] for other, theirs in others)]
        vectors = retrieval_scores.averaged(members)
    metrics, controls = retrieval_scores.score(model, vectors, entries, items, cfg)
    if arguments.json:
        print(json.dumps({"split": arguments.split, "metrics": metrics, "controls": controls}, indent=1))
    else:
        print(table(metrics, controls))
    if arguments.split == "test" and not arguments.settings and not arguments.ensemble:
        write_metrics(
            arguments.run,
            task="retrieval",
            split="test",
            metrics=metrics,
            controls=controls,
            seed=cfg.seed,
            data=cfg.data.name,
            seconds=training_seconds(arguments.run),
        )


if __name__ == "__main__":
    main()
