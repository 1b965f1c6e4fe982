"""Train a joint embedding of images, text and sounds; evaluate it beside its controls; index the test set.

    python scripts/train_retrieval.py                                              the embedded world, on a CPU
    python scripts/train_retrieval.py --config configs/retrieval/flickr8k.yaml     real photographs and captions
    torchrun --nproc-per-node 2 scripts/train_retrieval.py --config FILE           several processes

OUT (out=runs/retrieval) then holds the checkpoints, metrics.json, an index of the test set and a picture of queries
with their neighbours. The same command goes on with a run that was interrupted.
"""

import logging
import sys
from pathlib import Path

from mm import data, distributed, encoders
from mm.config import clean_exit, load
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.index import IndexConflictError, IndexDamagedError, index_of
from mm.index.grid import Shown, draw_neighbours
from mm.tasks import retrieval, retrieval_data, retrieval_scores

log = logging.getLogger("mm.scripts")
DEFAULT = Path(__file__).parents[1] / "configs/retrieval/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss, IndexConflictError, IndexDamagedError)
def main() -> None:
    """Build, train, evaluate, index, draw."""
    cfg = load(retrieval.Retrieval, sys.argv[1:], default=DEFAULT)
    device = distributed.init(cfg.loop.device)
    start_logging()
    seed_everything(cfg.seed)
    train, val, test = (data.load(cfg.data, split, cfg.seed) for split in ("train", "val", "test"))
    val, test = retrieval_scores.evaluated(val, cfg), retrieval_scores.evaluated(test, cfg)

    classes = retrieval_data.classes_of(train, cfg)
    model = retrieval.build_model(cfg, data.sentences(train), classes).to(device)
    batches = retrieval_data.training_batches(model, train, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    progress = fit(
        model,
        [Stream("retrieval", batches, retrieval.Objective(cfg.loss, model.memory))],
        cfg,
        evaluate=lambda model: retrieval_scores.evaluate(model, val, cfg),
        rates=encoders.rates(cfg.encoder, model.encoders),
        files=retrieval.description(model),
    )
    if not distributed.finish():
        return

    vectors, entries = retrieval_scores.embed_items(model, test, cfg)
    metrics, controls = retrieval_scores.score(model, vectors, entries, test, cfg)
    log.info("%s", table(metrics, controls))
    write_metrics(cfg.out, "retrieval", cfg, metrics, controls, progress.seconds)
    indexed = cfg.loss.name != "order"  # which no index can rank by
    if indexed:
        index = index_of(vectors, entries, model.fingerprint(), run=str(Path(cfg.out).absolute()))
        index.save(Path(cfg.out, "index"))
    rows = [
        (Shown(modality, query.source), [Shown(m, e.source, f"{c:.2f}", e.owner == query.owner) for e, m, c in answers])
        for query, modality, answers in retrieval_scores.examples(vectors, entries, cfg)
    ]
    picture = draw_neighbours(rows, Path(cfg.out, "figures", "neighbours.png"))
    told = f"Index: {cfg.out}/index ({len(index):,} items)" if indexed else "No index: the order score is no cosine"
    log.info("\n%.0f s of training. %s. Picture: %s", progress.seconds, told, picture)


if __name__ == "__main__":
    main()
