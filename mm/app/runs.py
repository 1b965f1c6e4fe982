"""Runs of any task by their folder, and an index with what embeds its queries: what the page is opened with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mm import encoders
from mm.index import Index, Searcher
from mm.tasks import captioning, distillation, localisation, retrieval, separation, vqa, words

TASK_BY_FILE = {  # in a checkpoint of one task alone -> the task
    captioning.CAPTIONER_FILE: "captioning",
    vqa.ANSWERER_FILE: "vqa",
    localisation.LOCALISER_FILE: "localisation",
    distillation.CLASSIFIER_FILE: "distillation",
    separation.SEPARATOR_FILE: "separation",
    words.WORDS_FILE: "words",
}
LOAD = {
    "retrieval": retrieval.load,
    "captioning": captioning.load,
    "vqa": vqa.load,
    "localisation": localisation.load,
    "distillation": distillation.load,
    "separation": separation.load,
}


class Run(NamedTuple):
    """A run that is open.

    Attributes:
        path: as it was given.
        task: one of `LOAD`.
        model: the task's, in eval mode.
        cfg: its settings.
    """

    path: str
    task: str
    model: Any
    cfg: Any


def task_of(run: str | Path) -> str:
    """The name of the task of a run: "retrieval" of what has no file of another; its `load` refuses what is none.

    Raises:
        FileNotFoundError: there is no such run.
    """
    folder = encoders.find(Path(run))
    return next((task for name, task in TASK_BY_FILE.items() if (folder / name).is_file()), "retrieval")


def open_run(path: str) -> Run:
    """Load a run of any task that the page can show.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: a damaged file, or a run of word vectors.
    """
    task = task_of(path)
    if task == "words":
        raise ValueError(f"{path} is a run of word vectors, which look at no picture and hear no sound. Leave it out.")
    return Run(path, task, *LOAD[task](path, ["loop.device="]))


def open_index(path: str, runs: Sequence[Run]) -> tuple[Searcher, Run | None]:
    """An index, and the run whose encoders embed its queries: one of those given, or else the one that it names.

    Returns:
        The searcher, which takes vectors only where there is no such run; and the run.

    Raises:
        FileNotFoundError: there is no such index, or no such run as it names.
        IndexDamagedError: a file of it is missing or changed.
        ValueError: it is empty, or was made by other encoders than those of the retrieval runs given.
    """
    index = Index.load(path)
    if not len(index):
        raise ValueError(f"an index must have items to be explored: {path} has none.")
    embedding = [run for run in runs if run.task == "retrieval"]
    if not embedding and index.run:
        embedding = [open_run(index.run)]
    own = next((run for run in embedding if run.model.fingerprint() == index.fingerprint), None)
    if own is None and embedding:
        own = embedding[0]  # which the searcher refuses, and says why
    return Searcher(index, own.model if own else None), own
