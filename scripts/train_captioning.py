"""Train a captioner; evaluate it beside its controls; show what it wrote and where it looked.

    python scripts/train_captioning.py                                               the embedded world, on a CPU
    python scripts/train_captioning.py --config configs/captioning/flickr8k.yaml     real photographs
    python scripts/train_captioning.py --config configs/captioning/flickr8k_self_critical.yaml init=RUN    second stage

OUT (out=runs/captioning) then holds the checkpoints, metrics.json, the sentences in COCO's format (captions.json), a
picture of some of them with where the model looked, and a page of all of them, worst first. The same command goes on
with a run that was interrupted.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mm import data, distributed, encoders
from mm.config import clean_exit, load
from mm.data import Item
from mm.data.caption_files import write_results
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.explain.attention import Entry, draw_attention, looked, write_page
from mm.metrics import captions
from mm.tasks import captioning, captioning_data, captioning_scores

log = logging.getLogger("mm.scripts")
SHOWN = 8  # items of the picture
DEFAULT = Path(__file__).parents[1] / "configs/captioning/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss)
def main() -> None:
    """Build, train, evaluate, draw."""
    cfg = load(captioning.Captioning, sys.argv[1:], default=DEFAULT)
    device = distributed.init(cfg.loop.device)
    start_logging()
    seed_everything(cfg.seed)
    train, val, test = (
        captioning_data.described(data.load(cfg.data, split, cfg.seed), cfg.modality, training=split == "train")
        for split in ("train", "val", "test")
    )
    model = captioning.build_model(cfg, data.sentences(train)).to(device)
    batches = captioning_data.training_batches(model, train, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    progress = fit(
        model,
        [Stream("captioning", batches, captioning_data.objective(model, train, cfg))],
        cfg,
        evaluate=lambda model: captioning_scores.evaluate(model, val, cfg),
        best="CIDEr",
        rates=encoders.rates(cfg.encoder, model.encoders),
        files=captioning.description(model),
    )
    if not distributed.finish():
        return

    told = captioning_scores.describe_items(model, test, cfg)
    metrics, controls, missing = captioning_scores.score(model, told, test, train, cfg)
    log.info("%s", table(metrics, controls, missing))
    write_metrics(cfg.out, "captioning", cfg, metrics, controls, progress.seconds, missing)
    out = Path(cfg.out)
    write_results(out / "captions.json", captioning_scores.by_number(told, test))
    entries = entries_of(told, test, cfg.modality)
    page = write_page(out / "captions.html", entries)
    picture = draw_attention([entry.looked for entry in spread(entries)], out / "figures" / "attention.png")
    log.info("\n%.0f s of training. Picture: %s. All captions, worst first: %s", progress.seconds, picture, page)


def entries_of(described: captioning_scores.Described, items: Sequence[Item], modality: str) -> list[Entry]:
    """The items of a page, the lowest CIDEr first."""
    scores = captions.evaluate(described.texts, described.references).each["CIDEr"].tolist()
    rows = zip(items, described.captions, scores, strict=True)
    entries = [
        Entry(
            looked(getattr(item, modality)[0], modality, caption, f"CIDEr {100 * value:.0f}"), value, item.text, item.id
        )
        for item, caption, value in rows
    ]
    return sorted(entries, key=lambda entry: entry.score)


def spread(entries: Sequence[Entry]) -> list[Entry]:
    """Some of them, from the best to the worst."""
    count = min(SHOWN, len(entries))
    return [entries[len(entries) - 1 - (2 * k + 1) * len(entries) // (2 * count)] for k in range(count)]


if __name__ == "__main__":
    main()
