"""Time what must be fast, each beside a plain reference in the same run, and check that both give the same result.

    python scripts/benchmark.py [NAME...] [--folder DIR] [--json FILE]

NAMEs are the keys of BENCHMARKS in this file; none = all. What they do is in scripts/benchmarks. Ours and the reference
take turns, and the medians of their times are compared. One thread is timed in CPU seconds, which other jobs on the
machine hardly touch; embedding works on two cores and is timed by the wall clock. A goal that is missed is said and is
no error, for the machine may be busy; results that disagree are one: exit code 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's; both are read when the libraries are loaded
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait by spinning take four times as long beside other jobs
if str(Path(__file__).parent) not in sys.path:
    sys.path.append(str(Path(__file__).parent))  # where this file is loaded by another one, as tests do

import torch
from benchmarks.captioning import bench_beam, bench_scores, bench_training_step
from benchmarks.corpus import bench_corpus
from benchmarks.explain import bench_grad_cam
from benchmarks.index import bench_auto, bench_filter, bench_flat
from benchmarks.localisation import bench_pairs, bench_vggss
from benchmarks.losses import bench_chunks, bench_losses
from benchmarks.report import bench_report
from benchmarks.result import Result
from benchmarks.retrieval import (
    CORES,
    bench_embed,
    bench_log_mel,
    bench_loop,
    bench_ranks,
)
from benchmarks.separation import bench_pit, bench_realtime, bench_sdr
from benchmarks.vqa import bench_epoch, bench_official

from mm.config import clean_exit
from mm.data import folder as files_in
from mm.engine import keep_freed_memory
from mm.naming import hint

BENCHMARKS: dict[str, Callable[..., Iterator[Result]]] = {
    "log_mel": bench_log_mel,
    "ranks": bench_ranks,
    "loop": bench_loop,
    "losses": bench_losses,
    "chunks": bench_chunks,
    "index_flat": bench_flat,
    "index_auto": bench_auto,
    "index_filter": bench_filter,
    "report": bench_report,
    "corpus": bench_corpus,
    "embed_mobilenet_v2": partial(bench_embed, "mobilenet_v2", 0.8, 96),
    "embed_resnet50": partial(bench_embed, "resnet50", 0.9, 48),
    "caption_step": bench_training_step,
    "caption_beam": bench_beam,
    "caption_scores": bench_scores,
    "vqa_accuracy": bench_official,
    "vqa_epoch": bench_epoch,
    "localisation_pairs": bench_pairs,
    "localisation_vggss": bench_vggss,
    "separation_pit": bench_pit,
    "separation_sdr": bench_sdr,
    "separation_realtime": bench_realtime,
    "grad_cam": bench_grad_cam,
}


@clean_exit(FileNotFoundError)
def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--folder", type=Path, help="pictures to embed instead of those made for the purpose")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}. Choose from: {', '.join(BENCHMARKS)}.{hint(name, BENCHMARKS)}")
    if arguments.folder:
        files_in(arguments.folder, "image")  # an error now, not after minutes
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"the folder of {arguments.json} must exist: there is none. Make it first.")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(1)
    keep_freed_memory()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"load average {load}\n{'name':<24}{'ours':>10}{'plain':>11}  unit     ratio    goal           agreement")
    results = []
    for name in arguments.names or BENCHMARKS:
        options = {"folder": arguments.folder} if arguments.folder and name.startswith("embed_") else {}
        for result in BENCHMARKS[name](**options):
            print(result, flush=True)
            results.append(result)
    if arguments.json:
        rows = [{**result._asdict(), "ratio": result.ratio, "agrees": result.agrees} for result in results]
        rows = [
            {key: None if value != value else value for key, value in row.items()} for row in rows
        ]  # JSON has no NaN
        arguments.json.write_text(json.dumps({"load": os.getloadavg(), "results": rows}, indent=1) + "\n")
    sys.exit(not all(result.agrees for result in results))


if __name__ == "__main__":
    main()
