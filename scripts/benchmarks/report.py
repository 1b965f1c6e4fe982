"""The report on an index: what its measures cost over one graph of neighbours, and the whole of a large index."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.index import clustered
from benchmarks.result import Result, alternate, in_own_process, status_kb
from mm.index import Index, analysis
from mm.index.grid import Shown
from mm.index.report import SAMPLE, write_report
from mm.index.report.spaces import spaces_of

LABELS = 50  # of the metadata
MOST_S, MOST_MB = 180.0, 2000.0  # that a report on 100,000 vectors may take


def bench_measures(items: int, dim: int, k: int) -> Result:
    """Five measures over one graph, against the same from definitions with a search for each."""
    import faiss

    vectors, labels = clustered(items, dim, LABELS), np.arange(items) % LABELS

    def ours() -> list[float]:
        graph = analysis.neighbours(vectors, k)
        groups = analysis.duplicates(graph, 0.95)
        return [
            float(analysis.purity(graph, labels.tolist())[0].mean()),
            analysis.hubness(graph).skewness,
            analysis.intrinsic_dimension(vectors, graph),
            float(sum(map(len, groups))),
            analysis.overlap(graph, graph),
        ]

    def nearest() -> tuple[np.ndarray, np.ndarray]:
        flat = faiss.IndexFlatIP(dim)
        flat.add(vectors)
        cosines, rows = flat.search(vectors, k + 1)  # (n, k + 1), (n, k + 1)
        return cosines[:, 1:], rows[:, 1:]

    def plain() -> list[float]:
        pure = (labels[nearest()[1]] == labels[:, None]).mean()
        counts = np.bincount(nearest()[1].ravel(), minlength=items)
        skewness = ((counts - counts.mean()) ** 3).mean() / counts.std() ** 3
        two = nearest()[1][:, :2]
        near, next_ = (np.linalg.norm(vectors - vectors[two[:, column]], axis=1) for column in (0, 1))
        dimension = items / np.log(next_ / near).sum()
        cosines, rows = nearest()
        linked = np.unique(np.concatenate([np.flatnonzero((cosines >= 0.95).any(axis=1)), rows[cosines >= 0.95]]))
        shared = [len(set(a) & set(b)) for a, b in zip(nearest()[1].tolist(), nearest()[1].tolist(), strict=True)]
        return [float(pure), float(skewness), float(dimension), float(len(linked)), float(np.mean(shared)) / k]

    cpu, _, (found, right) = alternate(1, ours, plain)
    off = max(abs(a - b) / max(abs(b), 1) for a, b in zip(found, right, strict=True))
    setting = f"purity, hubness, dimension, duplicates, overlap of {items} items, D = {dim}, k = {k}"
    return Result("report, measures", "CPU s", *cpu, 2.0, {"relative difference": (off, 1e-3)}, setting)


def whole_report(items: int, dim: int, sample: int) -> float:
    """Peak of the memory of this process, in MB, once it has made clustered vectors and a whole report on them."""
    with tempfile.TemporaryDirectory() as folder:
        metadata = [{"label": row % LABELS} for row in range(items)]
        Index.build(clustered(items, dim, LABELS), range(items), metadata, factory="exact").save(f"{folder}/index")
        del metadata
        spaces = spaces_of([f"{folder}/index"], 10)
        write_report(spaces, f"{folder}/report", lambda _, item: Shown("text", str(item.id)), "label", sample=sample)
        if not (Path(folder) / "report" / "report.html").is_file():
            raise RuntimeError("the report is not whole")
    return status_kb("VmHWM") * 1.024e-3


def bench_report(items: int = 100_000, dim: int = 256, k: int = 10, sample: int = SAMPLE) -> Iterator[Result]:
    """The measures, then a whole report in a process of its own, beside what it may take."""
    yield bench_measures(items // 5, dim, k)
    begun = time.perf_counter()
    peak_mb = in_own_process(whole_report, items, dim, sample)
    seconds = time.perf_counter() - begun
    setting = f"{items} items, D = {dim}, {sample} of them on the maps, from the start on; against what it may take"
    yield Result("report, whole", "s", seconds, MOST_S, 1.0, {"MB at its peak": (peak_mb, MOST_MB)}, setting)
