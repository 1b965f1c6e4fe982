"""Teach an audio encoder what a frozen image classifier sees, without a label of any sound; probe what it has learned.

    python scripts/train_distillation.py                                                    the embedded world, on a CPU
    python scripts/train_distillation.py --config configs/distillation/spoken_digits.yaml   FSDD and handwritten digits

OUT (out=runs/distillation) then holds the checkpoints and metrics.json; OUT/teacher the image classifier, which is
trained first on labelled pictures unless teacher=RUN names a finished one; and OUT/shuffled_pairs the control: a
student that was trained for as many steps on the same sounds with the wrong pictures. The same command goes on with a
run that was interrupted. With encoder.audio.init=OUT any other task starts from the audio encoder.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mm import distributed, encoders
from mm.config import clean_exit, load
from mm.data import Item
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.engine.run import Progress
from mm.tasks import distillation, distillation_data, distillation_scores
from mm.tasks.distillation import Distillation
from mm.tasks.distillation_model import ClassModel

log = logging.getLogger("mm.scripts")
DEFAULT = Path(__file__).parents[1] / "configs/distillation/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss)
def main() -> None:
    """Train the teacher, the student and the control; evaluate."""
    cfg = load(Distillation, sys.argv[1:], default=DEFAULT)
    distillation.check(cfg)
    distributed.init(cfg.loop.device)
    start_logging()
    if cfg.learner == "teacher":
        taught_teacher(cfg)
        distributed.finish()
        return
    train, val, test = (distillation_data.load_pairs(cfg, split) for split in ("train", "val", "test"))
    encoders.by_settings("audio", cfg.encoder, ())  # if it cannot be built, that is said before the teacher trains
    if cfg.teacher:
        teacher = distillation.load_teacher(cfg.teacher)
    else:
        log.info("The teacher: an image classifier, from labelled pictures.")
        teacher = taught_teacher(distillation.teacher_settings(cfg))
    log.info("\nThe student: by ear, from pairs without a label.")
    student, progress = taught_student(cfg, train, val, teacher)
    control, control_cfg, control_progress = None, distillation.control_settings(cfg), progress
    if not cfg.shuffle_pairs:
        log.info("\nThe control: as many steps on the same sounds with the wrong pictures.")
        control, control_progress = taught_student(control_cfg, train, val, teacher)
    if not distributed.finish():
        return

    start_logging(out=cfg.out)
    metrics, controls = distillation_scores.score(student, teacher, control, test, train, cfg)
    if control:
        numbers = controls[distillation.SHUFFLED_PAIRS]
        write_metrics(control_cfg.out, "distillation", control_cfg, numbers, {}, control_progress.seconds)
    write_metrics(cfg.out, "distillation", cfg, metrics, controls, progress.seconds)
    log.info("%s", table(metrics, controls))
    log.info("\n%.0f s of training. Start another task from it: encoder.audio.init=%s", progress.seconds, cfg.out)


def taught_teacher(cfg: Distillation) -> ClassModel:
    """A teacher of these settings, trained and evaluated."""
    train, val, test = (distillation_data.load_pictures(cfg, split) for split in ("train", "val", "test"))
    seed_everything(cfg.seed)
    teacher = distillation.build_model(cfg, distillation_data.classes_of(train))
    batches = distillation_data.picture_batches(teacher, train, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    progress = fit(
        teacher,
        [Stream("teacher", batches, distillation.Teaching(teacher.classes))],
        cfg,
        evaluate=lambda model: distillation_scores.evaluate_teacher(model, val),
        best="accuracy",
        rates=encoders.rates(cfg.encoder, teacher.encoders),
        files=distillation.description(teacher),
    )
    if distributed.is_main():
        metrics, controls = distillation_scores.score_teacher(teacher, test)
        write_metrics(cfg.out, "distillation", cfg, metrics, controls, progress.seconds)
        log.info("%s", table(metrics, controls))
    return teacher


def taught_student(
    cfg: Distillation, train: Sequence[Item], val: Sequence[Item], teacher: ClassModel
) -> tuple[ClassModel, Progress]:
    """A student of these settings, trained."""
    seed_everything(cfg.seed)
    student = distillation.build_model(cfg, teacher.classes)
    batches = distillation_data.training_batches(student, train, cfg, teacher)
    if cfg.shuffle_pairs:  # the control is not chosen by pairs that belong together either
        val = distillation_data.ShuffledPairs(val, cfg.seed)
    start_logging(out=cfg.out)  # once there is something to train
    progress = fit(
        student,
        [Stream("distillation", batches, distillation.Objective(teacher, cfg.temperature))],
        cfg,
        evaluate=lambda model: distillation_scores.evaluate(model, val, teacher),
        best="agreement",
        rates=encoders.rates(cfg.encoder, student.encoders),
        files=distillation.description(student),
    )
    return student, progress


if __name__ == "__main__":
    main()
