"""Evaluate a run beside its controls, or anyone's captions or answers against what people said.

    python scripts/evaluate.py RUN [--split test] [--json] [--ensemble RUN...] [key=value]...
    python scripts/evaluate.py --captions results.json --references captions_val.json [--json]
    python scripts/evaluate.py --answers results.json --annotations annotations.json [--questions F.json] [--json]

Settings such as data.root=FOLDER, data.eval_views=2 or protocol=ez_vsl change how the run is evaluated;
RUN/metrics.json is written anew when they are the run's own and the split is "test". With --ensemble the cosines of all
retrieval runs named are averaged. Captions and references are in COCO's formats; references may be a data set's
Karpathy JSON too, of which --split names the part. Answers and annotations are in VQA's; with --questions it is checked
that the annotations are theirs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mm import data
from mm.app.runs import task_of
from mm.config import clean_exit
from mm.data import caption_files, vqa_files
from mm.engine import keep_freed_memory, start_logging, table, training_seconds, write_metrics
from mm.tasks import (
    captioning,
    captioning_data,
    captioning_scores,
    distillation,
    distillation_data,
    distillation_scores,
    localisation,
    localisation_data,
    localisation_scores,
    retrieval,
    retrieval_scores,
    separation,
    separation_data,
    separation_scores,
    vqa,
    vqa_data,
    vqa_scores,
    words,
    words_scores,
)

Scored = tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]  # metrics, controls, what is missing


@clean_exit(OSError, ValueError)
def main() -> None:
    """Load, describe or embed, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="run folder")
    parser.add_argument("--split", choices=("val", "test"), help="of a run or of references; test")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="RUN", help="runs whose cosines are averaged in")
    parser.add_argument("--captions", metavar="F.json", help="captions in COCO's results format, instead of a run")
    parser.add_argument("--references", metavar="F.json", help="what they are compared with")
    parser.add_argument("--partial", action="store_true", help="score only the images that have a caption")
    parser.add_argument("--answers", metavar="F.json", help="answers in VQA's results format, instead of a run")
    parser.add_argument("--annotations", metavar="F.json", help="what people answered")
    parser.add_argument("--questions", metavar="F.json", help="what was asked")
    parser.add_argument("--write", metavar="F.json", help="keep what a run says, in the official results format")
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    arguments = parser.parse_intermixed_args()
    given = {name for name, value in vars(arguments).items() if value}
    said = given & {"run", "captions", "references", "answers", "annotations"}
    if said not in ({"run"}, {"captions", "references"}, {"answers", "annotations"}):
        parser.error(
            "a run folder is required, or --captions and --references, or --answers and --annotations, which take no "
            "settings"
        )
    if arguments.questions and not arguments.answers:
        parser.error("--questions is for --answers")
    if arguments.split and arguments.answers:
        parser.error("--split is for a run or for references: annotations are of one split")
    arguments.split = arguments.split or "test"
    if not arguments.run and arguments.ensemble:
        parser.error("--ensemble averages the cosines of runs: it does not go with files")
    if arguments.write and not arguments.run:
        parser.error("--write keeps what a run says")
    if arguments.partial and not arguments.captions:
        parser.error("--partial is for --captions: a run describes every image, and every question needs an answer")
    start_logging(stream=sys.stderr if arguments.json else sys.stdout)
    keep_freed_memory()  # a third less CPU for a network over many pictures
    if arguments.captions:
        metrics, controls, missing = score_files(arguments)
    elif arguments.answers:
        metrics, controls, missing = score_answers(arguments)
    else:
        metrics, controls, missing = SCORES[task_of(arguments.run)](arguments)
    if arguments.json:
        shown = {"split": arguments.split} if arguments.run else {}
        shown |= {"metrics": metrics, "controls": controls} | ({"not_computed": missing} if missing else {})
        print(json.dumps(shown, indent=1))
    else:
        print(table(metrics, controls, missing))


def score_files(arguments: argparse.Namespace) -> Scored:
    """Metrics of a results file; a control is a matter of a model, and there is none."""
    captions = caption_files.read_results(arguments.captions)
    references = caption_files.read_references(arguments.references, arguments.split)
    metrics, missing = captioning_scores.metrics_of(*caption_files.matched(captions, references, arguments.partial))
    return metrics, {}, missing


def score_answers(arguments: argparse.Namespace) -> Scored:
    """Accuracies of a results file."""
    questions = vqa_files.read_annotations(arguments.annotations)
    if arguments.questions:
        vqa_files.annotated(vqa_files.read_questions(arguments.questions), arguments.annotations)
    results = vqa_files.read_results(arguments.answers)
    texts = vqa_files.matched(results, questions, arguments.answers)
    return vqa_scores.accuracies(list(questions.values()), texts)[0], {}, {}


def score_vqa(arguments: argparse.Namespace) -> Scored:
    """Metrics of a run of question answering, which are also written into it."""
    if arguments.ensemble:
        raise ValueError("--ensemble averages the cosines of retrieval runs: this run answers questions. Leave it out.")
    model, cfg = vqa.load(arguments.run, arguments.settings)
    train, items = vqa_data.load(cfg, ("train", arguments.split))
    answered = vqa_scores.answer_items(model, items, cfg)
    if arguments.write:
        vqa_files.write_results(arguments.write, answered.texts)
    metrics, controls = vqa_scores.score(model, answered, items, train, cfg)
    missing = {}
    blind = Path(arguments.run, vqa.QUESTION_ONLY)
    if cfg.modalities and (blind / "metrics.json").is_file():
        other, its = vqa.load(blind, arguments.settings)
        controls[vqa.QUESTION_ONLY] = vqa_scores.evaluate(other, data.unseen(items), its)
    elif cfg.modalities:
        missing[vqa.QUESTION_ONLY] = f"no finished run in {blind}: run scripts/train_vqa.py to its end"
    keep(arguments, "vqa", cfg, metrics, controls, missing)
    return metrics, controls, missing


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
    if arguments.write:
        caption_files.write_results(arguments.write, captioning_scores.by_number(told, items))
    scored = captioning_scores.score(model, told, items, train, cfg)
    keep(arguments, "captioning", cfg, *scored)
    return scored


def score_localisation(arguments: argparse.Namespace) -> Scored:
    """Metrics of a localisation run, which are also written into it."""
    if arguments.ensemble or arguments.write:
        raise ValueError("--ensemble is for retrieval runs, --write for captions and answers: this run localises.")
    model, cfg = localisation.load(arguments.run, arguments.settings)
    (items,) = localisation_data.load(cfg, (arguments.split,))
    metrics, controls = localisation_scores.score(localisation_scores.map_items(model, items, cfg), items, cfg)
    keep(arguments, "localisation", cfg, metrics, controls, {})
    return metrics, controls, {}


def score_distillation(arguments: argparse.Namespace) -> Scored:
    """Metrics of a student or of its teacher, which are also written into its run."""
    if arguments.ensemble or arguments.write:
        raise ValueError("--ensemble is for retrieval runs, --write for captions and answers: this run classifies.")
    model, cfg = distillation.load(arguments.run, arguments.settings)
    missing: dict[str, str] = {}
    if cfg.learner == "teacher":
        pictures = distillation_data.load_pictures(cfg, arguments.split)
        metrics, controls = distillation_scores.score_teacher(model, pictures)
    else:
        run = Path(arguments.run)
        own = run / distillation.TEACHER
        if cfg.shuffle_pairs and not own.exists():
            own = run.parent / distillation.TEACHER  # a control within its student's run
        teacher = distillation.load_teacher(cfg.teacher or own, arguments.settings)
        train, pairs = (distillation_data.load_pairs(cfg, part) for part in ("train", arguments.split))
        other, control = run / distillation.SHUFFLED_PAIRS, None
        if (other / "metrics.json").is_file():
            control, _ = distillation.load(other, arguments.settings)
        elif not cfg.shuffle_pairs:
            missing[other.name] = f"no finished run in {other}: run scripts/train_distillation.py to its end"
        metrics, controls = distillation_scores.score(model, teacher, control, pairs, train, cfg)
    keep(arguments, "distillation", cfg, metrics, controls, missing)
    return metrics, controls, missing


def score_separation(arguments: argparse.Namespace) -> Scored:
    """Metrics of a run that separates voices, which are also written into it."""
    if arguments.ensemble or arguments.write:
        raise ValueError("--ensemble is for retrieval runs, --write for captions and answers: this run separates.")
    model, cfg = separation.load(arguments.run, arguments.settings)
    (talks,) = separation_data.load(cfg, (arguments.split,))
    control, heard_only = Path(arguments.run, separation.AUDIO_ONLY), None
    if cfg.faces and (control / "metrics.json").is_file():
        heard_only = separation.load(control, arguments.settings)
    metrics, controls, missing = separation_scores.score(model, talks, cfg, heard_only)
    if cfg.faces and heard_only is None:
        missing[separation.AUDIO_ONLY] = f"no finished run in {control}: run scripts/train_separation.py to its end"
    keep(arguments, "separation", cfg, metrics, controls, missing)
    return metrics, controls, missing


def score_words(arguments: argparse.Namespace) -> Scored:
    """Metrics of a run of word vectors, which are also written into it."""
    if arguments.ensemble or arguments.write:
        raise ValueError("--ensemble is for retrieval runs, --write for captions and answers: this run has words.")
    model, cfg = words.restore(arguments.run, arguments.settings)
    scored = words_scores.score(model, words_scores.held_out(cfg, model, arguments.split), cfg)
    keep(arguments, "words", cfg, *scored)
    return scored


def score_retrieval(arguments: argparse.Namespace) -> Scored:
    """Metrics of a retrieval run, which are also written into it."""
    if arguments.write:
        raise ValueError("--write keeps captions or answers: this is a retrieval run. Leave it out.")
    model, cfg = retrieval.load(arguments.run, arguments.settings)
    items = retrieval_scores.evaluated(data.load(cfg.data, arguments.split, cfg.seed), cfg)
    vectors, entries = retrieval_scores.embed_items(model, items, cfg)
    if arguments.ensemble:
        others = [retrieval.load(run, arguments.settings) for run in arguments.ensemble]
        if len({their.loss.name == "order" for their in (cfg, *(theirs for _, theirs in others))}) > 1:
            raise ValueError("--ensemble averages scores of one kind: runs of loss.name=order go with their like.")
        members = [vectors, *(retrieval_scores.embed_items(other, items, theirs)[0] for other, theirs in others)]
        vectors = retrieval_scores.averaged(members)
    metrics, controls = retrieval_scores.score(model, vectors, entries, items, cfg)
    keep(arguments, "retrieval", cfg, metrics, controls, {})
    return metrics, controls, {}


def keep(
    arguments: argparse.Namespace,
    task: str,
    cfg: Any,
    metrics: dict[str, float],
    controls: dict[str, dict[str, float]],
    missing: dict[str, str],
) -> None:
    """Write RUN/metrics.json anew, where this is the evaluation that belongs there."""
    if arguments.split == "test" and not arguments.settings and not arguments.ensemble:
        seconds = training_seconds(arguments.run)
        write_metrics(arguments.run, task, cfg, metrics, controls, seconds, missing)


SCORES = {
    "retrieval": score_retrieval,
    "captioning": score_captioning,
    "vqa": score_vqa,
    "localisation": score_localisation,
    "distillation": score_distillation,
    "separation": score_separation,
    "words": score_words,
}

if __name__ == "__main__":
    main()
