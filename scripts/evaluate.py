"""Evaluate a run beside its controls, or anyone's captions against references.

    python scripts/evaluate.py RUN [--split test] [--json] [--ensemble RUN...] [key=value]...
    python scripts/evaluate.py --captions results.json --references captions_val.json [--json]

Settings such as data.root=FOLDER, data.eval_views=2 or decoding.beam=1 change how the run is evaluated;
RUN/metrics.json is written anew when they are the run's own and the split is "test". With --ensemble the cosines of all
retrieval runs named are averaged. Captions and references are in COCO's formats; references may be a data set's
Karpathy JSON too, of which --split names the part.
"""

import argparse
import json
import sys
from pathlib import Path

from mm import data, encoders
from mm.config import clean_exit
from mm.data import caption_files
from mm.engine import keep_freed_memory, start_logging, table, training_seconds, write_metrics
from mm.tasks import captioning, captioning_data, captioning_scores, retrieval, retrieval_scores

Scored = tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]  # metrics, controls, what is missing


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, describe or embed, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="run folder")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="RUN", help="runs whose cosines are averaged in")
    parser.add_argument("--captions", metavar="F.json", help="captions in COCO's results format, instead of a run")
    parser.add_argument("--references", metavar="F.json", help="what they are compared with")
    parser.add_argument("--partial", action="store_true", help="score only the images that have a caption")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    arguments = parser.parse_intermixed_args()
    if bool(arguments.captions) != bool(arguments.references) or bool(arguments.captions) == bool(arguments.run):
        parser.error("a run folder is required, or --captions and --references, which take no settings")
    if arguments.captions and arguments.ensemble:
        parser.error("--ensemble averages the cosines of runs: it does not go with --captions")
    if arguments.run and arguments.partial:
        parser.error("--partial is for --captions: a run describes every image")
    start_logging(stream=sys.stderr if arguments.json else sys.stdout)
    keep_freed_memory()  # a third less CPU for a network over many pictures
    if arguments.captions:
        metrics, controls, missing = score_files(arguments)
    elif is_captioning(arguments.run):
        metrics, controls, missing = score_captioning(arguments)
    else:
        metrics, controls, missing = score_retrieval(arguments)
    if arguments.json:
        shown = {"split": arguments.split} if arguments.run else {}
        shown |= {"metrics": metrics, "controls": controls} | ({"not_computed": missing} if missing else {})
        print(json.dumps(shown, indent=1))
    else:
        print(table(metrics, controls))
        for name, why in missing.items():
            print(f"{name}: not computed: {why}")


def is_captioning(run: str) -> bool:
    """Whether a run is one of captioning."""
    return (encoders.find(Path(run)) / captioning.CAPTIONER_FILE).is_file()


def score_files(arguments: argparse.Namespace) -> Scored:
    """Metrics of a results file; a control is a matter of a model, and there is none."""
    captions = caption_files.read_results(arguments.captions)
    references = caption_files.read_references(arguments.references, arguments.split)
    metrics, missing = captioning_scores.metrics_of(*caption_files.matched(captions, references, arguments.partial))
    return metrics, {}, missing


def score_captioning(arguments: argparse.Namespace) -> Scored:
    """Metrics of a captioning run, which are also written into it."""
    if arguments.ensemble:
        raise ValueError("--ensemble averages the cosines of retrieval runs: this is a captioning run. Leave it out.")
    model, cfg = captioning.load(arguments.run, arguments.settings)
    train, items = (
        captioning_data.described(data.load(cfg.data, split, cfg.seed), cfg.modality, training=split == "train")
        for split in ("train", arguments.split)
    )
    told = captioning_scores.describe_items(model, items, cfg)
    scored = captioning_scores.score(model, told, items, train, cfg)
    keep(arguments, "captioning", cfg, *scored)
    return scored


def score_retrieval(arguments: argparse.Namespace) -> Scored:
    """Metrics of a retrieval run, which are also written into it."""
    model, cfg = retrieval.load(arguments.run, arguments.settings)
    items = retrieval_scores.evaluated(data.load(cfg.data, arguments.split, cfg.seed), cfg)
    vectors, entries = retrieval_scores.embed_items(model, items, cfg)
    if arguments.ensemble:
        others = [retrieval.load(run, arguments.settings) for run in arguments.ensemble]
        members = [vectors, *(retrieval_scores.embed_items(other, items, theirs)[0] for other, theirs in others)]
        vectors = retrieval_scores.averaged(members)
    metrics, controls = retrieval_scores.score(model, vectors, entries, items, cfg)
    keep(arguments, "retrieval", cfg, metrics, controls, {})
    return metrics, controls, {}


def keep(
    arguments: argparse.Namespace,
    task: str,
    cfg: retrieval.Retrieval | captioning.Captioning,
    metrics: dict[str, float],
    controls: dict[str, dict[str, float]],
    missing: dict[str, str],
) -> None:
    """Write RUN/metrics.json anew, where this is the evaluation that belongs there."""
    if arguments.split == "test" and not arguments.settings and not arguments.ensemble:
        write_metrics(
            arguments.run,
            task=task,
            split="test",
            metrics=metrics,
            controls=controls,
            seed=cfg.seed,
            data=cfg.data.name,
            seconds=training_seconds(arguments.run),
            missing=missing,
        )


if __name__ == "__main__":
    main()
