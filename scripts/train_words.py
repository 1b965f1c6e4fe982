"""Learn word vectors from sentences by skip-gram with negative sampling; check them by neighbours and analogies.

    python scripts/train_words.py                                                 captions of the embedded world
    python scripts/train_words.py --config configs/words/flickr8k.yaml            30,000 human captions
    python scripts/train_words.py --config configs/words/flickr8k.yaml data.name=text data.file=FILE.txt out=FOLDER
                                                                                  any text in UTF-8, a sentence a line

OUT (out=runs/words) then holds vectors.txt in word2vec's text format, the checkpoints and metrics.json. The same
command goes on with a run that was interrupted. Any text encoder starts from the vectors with
encoder.text.word_vectors=OUT/vectors.txt encoder.text.word_dim=DIM; analogies=FILE asks questions in Google's format.
"""

import logging
import sys
from pathlib import Path

from mm import distributed
from mm.config import clean_exit, load
from mm.engine import CheckpointError, NonFiniteLoss, Stream, fit, seed_everything, start_logging, table, write_metrics
from mm.tasks import words, words_data, words_pairs, words_scores

log = logging.getLogger("mm.scripts")
DEFAULT = Path(__file__).parents[1] / "configs/words/default.yaml"


@clean_exit(OSError, ValueError, CheckpointError, NonFiniteLoss)
def main() -> None:
    """Count, train, write, evaluate."""
    cfg = load(words.Words, sys.argv[1:], default=DEFAULT)
    words.check(cfg)
    distributed.init(cfg.loop.device)
    start_logging()
    words_scores.questions(cfg)  # what is wrong with them is said before the training
    read, corpus = words_data.training_corpus(cfg)
    seed_everything(cfg.seed)
    model = words.SkipGram(read, corpus.counts.tolist(), cfg.dim)
    val, test = (words_scores.held_out(cfg, model, split) for split in ("val", "test"))
    batches = words_pairs.training_batches(corpus, cfg)
    start_logging(out=cfg.out)  # once there is something to train
    log.info("%d words, read %d times, %.3g batches an epoch", len(read), corpus.counts.sum(), batches.per_epoch)
    progress = fit(
        model,
        [Stream("words", batches, words.Objective(cfg.negatives))],
        cfg,
        evaluate=lambda model: words_scores.evaluate(model, val, cfg.negatives),
        best=words.LOSS,
        files=words.description(model),
    )
    if not distributed.finish():
        return

    vectors = words.vectors_of(model)
    path = Path(cfg.out, words.VECTORS_FILE)
    vectors.save(path)
    metrics, controls, missing = words_scores.score(model, test, cfg)
    write_metrics(cfg.out, "words", cfg, metrics, controls, progress.seconds, missing)
    log.info("%s\n\n%s", words_scores.neighbours(vectors), table(metrics, controls, missing))
    log.info(
        "\n%.0f s of training. Start a text encoder from it: encoder.text.word_vectors=%s encoder.text.word_dim=%d",
        progress.seconds,
        path,
        cfg.dim,
    )


if __name__ == "__main__":
    main()
