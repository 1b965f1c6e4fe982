from mm.metrics.analogy import analogy_recall
from mm.metrics.retrieval import Ranks, chance, evaluate, ranks

__all__ = ["Ranks", "analogy_recall", "chance", "evaluate", "ranks"]
