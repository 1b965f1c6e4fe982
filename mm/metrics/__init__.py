from mm.metrics.analogy import analogy_recall
from mm.metrics.cider import Cider
from mm.metrics.ptb import ptb_tokenize
from mm.metrics.retrieval import Ranks, chance, evaluate, ranks

__all__ = ["Cider", "Ranks", "analogy_recall", "chance", "evaluate", "ptb_tokenize", "ranks"]
