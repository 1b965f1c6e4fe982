"""Evaluate a run beside its controls.

    python scripts/evaluate.py RUN [--split test] [--json] [key=value]...

Settings such as data.root=FOLDER or data.eval_views=2 change how the run is evaluated; RUN/metrics.json is written anew
when they are the run's own and the split is "test".
"""

import argparse
import json
import time

from mm import data
from mm.config import clean_exit
from mm.engine import start_logging, table, write_metrics
from mm.tasks import retrieval, retrieval_scores


@clean_exit(FileNotFoundError, ValueError)
def main() -> None:
    """Load, embed, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    start_logging()
    started = time.perf_counter()
    model, cfg = retrieval.load(arguments.run, arguments.settings)
    items = data.load(cfg.data, arguments.split, cfg.seed)
    vectors, entries = retrieval_scores.embed_items(model, items, cfg)
    metrics, controls = retrieval_scores.score(model, vectors, entries, items, cfg)
    if arguments.json:
        print(json.dumps({"split": arguments.split, "metrics": metrics, "controls": controls}, indent=1))
    else:
        print(table(metrics, controls))
    if arguments.split == "test" and not arguments.settings:
        write_metrics(
            arguments.run,
            task="retrieval",
            split="test",
            metrics=metrics,
            controls=controls,
            seed=cfg.seed,
            data=cfg.data.name,
            seconds=time.perf_counter() - started,
        )


if __name__ == "__main__":
    main()
