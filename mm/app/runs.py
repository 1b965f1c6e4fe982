"""What the page is opened with: the runs, by task, and the index with what embeds its queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mm import encoders
from mm.index import Index, Searcher
from mm.tasks import captioning, distillation, localisation, retrieval, separation, vqa, words

TASKS = {  # the file in a checkpoint by which its task is known -> the task and what loads it; retrieval has none
    captioning.CAPTIONER_FILE: ("captioning", captioning.load),
    vqa.ANSWERER_FILE: ("vqa", vqa.load),
    localisation.LOCALISER_FILE: ("localisation", localisation.load),
    distillation.CLASSIFIER_FILE: ("distillation", distillation.load),
    separation.SEPARATOR_FILE: ("separation", separation.load),
}


class Run(NamedTuple):
    """A run that is open.

    Attributes:
        path: as it was given.
        task: "retrieval", or one of `TASKS`.
        model: the task's, in eval mode.
        cfg: its settings.
    """

    path: str
    task: str
    model: Any
    cfg: Any


def open_run(path: str) -> Run:
    """Load a run of any task that the page can show.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: a damaged file, or a run of word vectors.
    """
    folder = encoders.find(Path(path))
    if (folder / words.WORDS_FILE).is_file():
        raise ValueError(f"{path} is a run of word vectors, which look at no picture and hear no sound. Leave it out.")
    task, load = next((known for name, known in TASKS.items() if (folder / name).is_file()), ("retrieval", None))
    if load is None:
        return Run(path, task, *retrieval.load(path))
    return Run(path, task, *load(path, ["loop.device="]))


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
