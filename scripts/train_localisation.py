"""Train a model that points at what sounds; evaluate it beside its controls; draw where it pointed.

    python scripts/train_localisation.py                                   the embedded world, without any box, on a CPU
    python scripts/train_localisation.py mode=supervised                   from boxes
    python scripts/train_localisation.py mode=semi labels=0.1              from pairs, and the boxes of a tenth of them
    python scripts/train_localisation.py --config configs/localisation/spoken_digits.yaml

OUT (out=runs/localisation) then holds the checkpoints, metrics.json, and a picture of heat maps beside what other
sounds and silence give. The same command goes on with a run that was interrupted.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mm import distributed, encoders
from mm.config import clean_exit, load
from mm.data import Item
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.explain.heatmap import Heard, draw_heatmaps
from mm.tasks import localisation, localisation_data, localisation_scores

log = logging.getLogger("mm.scripts")
SHOWN, COLUMNS = 12, 2  # pictures of the figure, and how they are laid out
SHOWN_CONTROLS = {"shuffled_audio": "another", "silence": "silence"}
DEFAULT = Path(__file__).parents[1] / "configs/localisation/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss)
def main() -> None:
    """Build, train, evaluate, draw."""
    cfg = load(localisation.Localisation, sys.argv[1:], default=DEFAULT)
    device = distributed.init(cfg.loop.device)
    start_logging()
    seed_everything(cfg.seed)
    model = localisation.build_model(cfg).to(device)
    train, val, test = localisation_data.load(cfg)
    batches = localisation_data.training_batches(model, train, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    progress = fit(
        model,
        [Stream("localisation", batches, localisation.Objective(cfg))],
        cfg,
        evaluate=lambda model: localisation_scores.evaluate(model, val, cfg),
        best=localisation_data.decides(val, cfg),
        rates=encoders.rates(cfg.encoder, model.encoders),
        files=localisation.description(model),
    )
    if not distributed.finish():
        return

    mapped = localisation_scores.map_items(model, test, cfg)
    metrics, controls = localisation_scores.score(mapped, test, cfg)
    write_metrics(cfg.out, "localisation", cfg, metrics, controls, progress.seconds)
    log.info("%s", table(metrics, controls))
    log.info("\n%.0f s of training.", progress.seconds)
    picture = draw_heatmaps(shown(mapped, test), Path(cfg.out, "figures", "heatmaps.png"), columns=COLUMNS)
    log.info("Picture: %s", picture)


def shown(mapped: localisation_scores.Mapped, items: Sequence[Item]) -> list[Heard]:
    """Some pictures with the heat map of their own sound, and of what is not to be seen in them."""
    rows = []
    for place in range(0, len(items), max(len(items) // SHOWN, 1))[:SHOWN]:
        item = items[place]
        maps = [("its sound", mapped.own[place])]
        maps += [(title, mapped.others[name][place]) for name, title in SHOWN_CONTROLS.items()]
        boxes = [box for boxes in item.meta.get("boxes", []) for box in boxes]
        rows.append(Heard(item.image[0], maps, boxes, item.meta.get("category", "")))
    return rows


if __name__ == "__main__":
    main()
