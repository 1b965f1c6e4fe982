"""Train a model that gives each face its voice; evaluate it beside its controls; write what it separated.

    python scripts/train_separation.py                                          talkers of the embedded world, on a CPU
    python scripts/train_separation.py --config configs/separation/grid.yaml    real lips, two sentences of one voice
    python scripts/train_separation.py faces=false                              what can be told without seeing

OUT (out=runs/separation) then holds the checkpoints, metrics.json, voices/ with some test mixtures and what was made of
them, a picture of their spectrograms, and in OUT/audio_only_pit the control: a model of the same size that was trained
for as many steps without faces. The same command goes on with a run that was interrupted.
"""

import dataclasses
import itertools
import logging
import sys
from pathlib import Path

import torch

from mm import distributed, encoders
from mm.config import clean_exit, load
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.engine.run import Progress
from mm.explain.spectrograms import Mixed, draw_spectrograms
from mm.sound_files import write_audio
from mm.tasks import separation, separation_data, separation_scores
from mm.tasks.separation_model import SpeechSeparator

log = logging.getLogger("mm.scripts")
SHOWN, WRITTEN = 3, 8  # mixtures of the picture, and of voices/
DEFAULT = Path(__file__).parents[1] / "configs/separation/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss)
def main() -> None:
    """Build, train, evaluate, write, draw."""
    cfg = load(separation.Separation, sys.argv[1:], default=DEFAULT)
    distributed.init(cfg.loop.device)
    start_logging()
    train, val, test = separation_data.load(cfg)
    model, progress = trained(cfg, train, val)
    blind, blind_progress = None, progress
    control = dataclasses.replace(cfg, faces=False, out=str(Path(cfg.out, separation.AUDIO_ONLY)))
    if cfg.faces:
        log.info("\nThe control: as many steps without faces.")
        blind, blind_progress = trained(control, train, val)
    if not distributed.finish():
        return

    start_logging(out=cfg.out)
    heard_only = (blind, control) if blind else None
    metrics, controls, missing = separation_scores.score(model, test, cfg, heard_only)
    if blind:
        write_metrics(control.out, "separation", control, controls[separation.AUDIO_ONLY], {}, blind_progress.seconds)
    write_metrics(cfg.out, "separation", cfg, metrics, controls, progress.seconds, missing)
    log.info("%s", table(metrics, controls, missing))
    log.info("\n%.0f s of training, %d weights.", progress.seconds, weights_of(model))
    if blind:
        log.info("Of the control %.0f s, %d weights: it has no video.", blind_progress.seconds, weights_of(blind))
    show(model, test, cfg)


def weights_of(model: SpeechSeparator) -> int:
    """How many numbers a model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def trained(
    cfg: separation.Separation, train: separation_data.Talks, val: separation_data.Talks
) -> tuple[SpeechSeparator, Progress]:
    """A model of these settings, trained."""
    seed_everything(cfg.seed)
    model = separation.build_model(cfg).to(distributed.init(cfg.loop.device))
    batches = separation_data.training_batches(model, train, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    objective = separation.Objective(cfg)
    progress = fit(
        model,
        [Stream(f"{voices}_voices", of_voices, objective) for voices, of_voices in batches.items()],
        cfg,
        evaluate=lambda model: separation_scores.evaluate(model, val, cfg),
        best="SI-SDRi",
        rates=encoders.rates(cfg.encoder, model.encoders),
        files=separation.description(model),
    )
    return model, progress


def show(model: SpeechSeparator, test: separation_data.Talks, cfg: separation.Separation) -> None:
    """Write some test mixtures with their targets and outputs as sounds, and draw the first of them."""
    out = Path(cfg.out)
    drawn = separation_scores.evaluated(model, test, cfg)
    every = list(itertools.islice(separation_scores.separate_all(model, drawn, cfg), WRITTEN))
    (out / "voices").mkdir(exist_ok=True)
    for number, (mixed, outputs) in enumerate(every):
        waves = {"mixture": mixed.mixture}
        for k, (target, output) in enumerate(zip(mixed.targets, outputs, strict=True)):
            waves |= {f"target_{k}": target, f"output_{k}": output}
        peak = max(1.0, *(float(wave.abs().max()) for wave in waves.values()))  # all alike, so that none is clipped
        for name, wave in waves.items():
            write_audio(out / "voices" / f"{number}_{name}.wav", wave / peak, cfg.encoder.audio.sample_rate)
    rows = []
    for mixed, outputs in every[:SHOWN]:
        masks = separation_scores.masks_of(model, mixed, cfg)
        pictures = mixed.faces if mixed.faces.dtype == torch.uint8 else None  # of embeddings there is nothing to show
        rows.append(Mixed(mixed.names, mixed.mixture, mixed.targets, outputs, masks, pictures))
    picture = draw_spectrograms(rows, model.audio.stft, out / "figures" / "spectrograms.png", cfg.encoder.video.fps)
    log.info("Voices: %s. Picture: %s", out / "voices", picture)


if __name__ == "__main__":
    main()
