"""Training: the loop, checkpoints, optimiser and log. Knows no task."""

from mm.engine.checkpoint import CheckpointError
from mm.engine.log import Log, start_logging, write_metrics
from mm.engine.loop import NonFiniteLoss, fit
from mm.engine.memory import keep_freed_memory
from mm.engine.report import table
from mm.engine.rng import seed_everything
from mm.engine.run import Progress, training_seconds
from mm.engine.stop import Interrupted
from mm.engine.stream import Stream

__all__ = [
    "CheckpointError",
    "Interrupted",
    "Log",
    "NonFiniteLoss",
    "Progress",
    "Stream",
    "fit",
    "keep_freed_memory",
    "seed_everything",
    "start_logging",
    "table",
    "training_seconds",
    "write_metrics",
]
