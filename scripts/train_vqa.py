"""Train a model that answers questions; evaluate it beside its controls; show what it answered and where it looked.

    python scripts/train_vqa.py                                       the embedded world, seen and heard, on a CPU
    python scripts/train_vqa.py --config configs/vqa/easy_vqa.yaml    drawn shapes
    python scripts/train_vqa.py --config configs/vqa/vqa_v2.yaml      photographs, ten answers to each question

OUT (out=runs/vqa) then holds the checkpoints, metrics.json, the answers in VQA's official format (answers.json), a
picture of some of them with where the model looked, and in OUT/question_only the control: a model that was trained for
as many steps on the questions alone. The same command goes on with a run that was interrupted.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mm import data, distributed, encoders
from mm.config import clean_exit, load
from mm.data import Item
from mm.data.vqa_files import write_results
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.engine.run import Progress
from mm.explain.attention import Looked, draw_attention, glimpsed
from mm.tasks import vqa, vqa_data, vqa_scores
from mm.tasks.vqa_model import AnswerModel

log = logging.getLogger("mm.scripts")
SHOWN, COLUMNS = 12, 3  # questions of the picture, and how they are laid out
DEFAULT = Path(__file__).parents[1] / "configs/vqa/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss)
def main() -> None:
    """Build, train, evaluate, draw."""
    cfg = load(vqa.VQA, sys.argv[1:], default=DEFAULT)
    distributed.init(cfg.loop.device)
    start_logging()
    train, val, test = vqa_data.load(cfg)
    model, progress = trained(cfg, train, val)
    blind, blind_progress = None, progress
    blind_cfg = dataclasses.replace(cfg, modalities=[], out=str(Path(cfg.out, vqa.QUESTION_ONLY)))
    if cfg.modalities:
        log.info("\nThe control: as many steps on the questions alone.")
        blind, blind_progress = trained(blind_cfg, data.unseen(train), data.unseen(val))
    if not distributed.finish():
        return

    start_logging(out=cfg.out)
    answered = vqa_scores.answer_items(model, test, cfg, looks=True)
    out = Path(cfg.out)
    write_results(out / "answers.json", answered.texts)
    metrics, controls = vqa_scores.score(model, answered, test, train, cfg)
    if blind:
        controls[vqa.QUESTION_ONLY] = vqa_scores.evaluate(blind, data.unseen(test), blind_cfg)
        write_metrics(blind_cfg.out, "vqa", blind_cfg, controls[vqa.QUESTION_ONLY], {}, blind_progress.seconds)
    write_metrics(cfg.out, "vqa", cfg, metrics, controls, progress.seconds)
    log.info("%s", table(metrics, controls))
    log.info("\n%.0f s of training. Answers: %s", progress.seconds, out / "answers.json")
    if rows := shown(answered, test, cfg):
        log.info("Picture: %s", draw_attention(rows, out / "figures" / "answers.png", columns=COLUMNS))


def trained(cfg: vqa.VQA, train: Sequence[Item], val: Sequence[Item]) -> tuple[AnswerModel, Progress]:
    """A model of these settings, trained."""
    seed_everything(cfg.seed)
    model = vqa.build_model(cfg, list(data.questions_of(train))).to(distributed.init(cfg.loop.device))
    batches = vqa_data.training_batches(model, train, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    progress = fit(
        model,
        [Stream("vqa", batches, vqa.Objective(cfg.loss))],
        cfg,
        evaluate=lambda model: vqa_scores.evaluate(model, val, cfg),
        best="accuracy",
        rates=encoders.rates(cfg.encoder, model.encoders),
        files=vqa.description(model),
    )
    return model, progress


def shown(answered: vqa_scores.Answered, items: Sequence[Item], cfg: vqa.VQA) -> list[Looked]:
    """Some questions with their answers, a row for each source that they are about; none of a question-only model."""
    rows = []
    step = max(len(answered.questions) // SHOWN, 1)
    for place in range(0, len(answered.questions), step)[:SHOWN]:
        question, answer = answered.questions[place], answered.answers[place]
        item = items[answered.items[place]]
        top = ", ".join(f"{text} {share:.0%}" for text, share in answer.top)
        title = f"{top}.   Right: {' / '.join(dict.fromkeys(question.answers))}"
        for modality in cfg.modalities:
            if sources := getattr(item, modality):
                rows.append(glimpsed(sources[0], modality, question.text, answer, title))
    return rows


if __name__ == "__main__":
    main()
