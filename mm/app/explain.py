"""The tab that explains: what in a picture or a sound a model's answer came from, by one of many methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mm.app import examples
from mm.app.cards import not_known
from mm.app.events import on
from mm.app.explained import OF_ENCODERS, encoder_cells, explain_view, facts, unknown_words, view_of
from mm.app.inputs import KINDS, figure, sources
from mm.app.media import drawn
from mm.app.runs import Run
from mm.explain.methods import METHOD, METHODS
from mm.explain.pictures import draw_cells

HELP = "Give {what} and choose a method: bright is what counts for the target. {target}"
EITHER = ("retrieval", "vqa")  # tasks for which a picture or a sound will do
TARGETS = {  # what a target is, of each task
    "retrieval": "The target is a sentence that it is compared with; without one, a picture and a sound are compared "
    "with each other.",
    "captioning": "The target is a word; without one it is the whole caption.",
    "vqa": "The target is an answer; without one it is the model's own.",
    "localisation": "The target is a place such as 0.25,0.5: shares of width and height; without one, the brightest.",
    "distillation": "The target is a class; without one it is the most probable one.",
    "separation": "The target is the number of a face, from 1 on; without one it is the first.",
}


def tab(run: Run) -> None:
    """Lay out the tab, within a tab of Gradio."""
    import gradio

    takes = [modality for modality in KINDS if modality in run.model.encoders]
    what = (" or " if run.task in EITHER else " and ").join(KINDS[modality] for modality in takes)
    gradio.Markdown(HELP.format(what=what, target=TARGETS[run.task]))
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            given = sources(takes)
            both = "image" in takes and "audio" in takes
            of = gradio.Radio(takes, value=takes[0], label="Where both are given, explain the", visible=both)
            question = gradio.Textbox(label="Question", visible=run.task == "vqa", elem_classes="question")
            target = gradio.Textbox(label="Target", placeholder="the model's own", elem_classes="target")
            method = gradio.Dropdown(list(METHODS), value=METHOD, label="Method", elem_classes="method")
            layer = gradio.Textbox(label="Layer", placeholder="the last with a map", elem_classes="layer")
            button = gradio.Button("Explain", variant="primary")
            if run.task == "retrieval" and "text" in run.model.encoders:  # one source and a sentence
                examples.button(run, {takes[0]: given[takes[0]], "text": target})
            elif run.task != "separation":  # whose talks are no files
                examples.button(run, {**given, **({"question": question} if run.task == "vqa" else {})})
        with gradio.Column(scale=2):
            unknown = gradio.HTML()
            said = gradio.Textbox(label="What is explained", interactive=False, elem_classes="explained")
            shown = figure("What counts for it")

    def explain(one: str, asked: str, wanted: str, by: str, where: str, *files: Any) -> tuple[str, str, np.ndarray]:
        return explained(run, dict(zip(given, files, strict=True)), one, wanted, asked, by, where)

    on(button.click, explain, [of, question, target, method, layer, *given.values()], [unknown, said, shown], run.path)


def explained(
    run: Run, files: Mapping[str, Any], of: str, target: str, question: str, method: str, layer: str
) -> tuple[str, str, np.ndarray]:
    """What is not known of the words given as HTML, what is explained in words, and the picture of it.

    Args:
        run: of a task of `TARGETS`.
        files: {modality: file, of "video" a list of them, or None}.
        of: which of them is explained.
        target: see `mm.app.explained.view_of`.
        question: of question answering.
        method: one of `METHODS`.
        layer: its dotted name; "" = the last with a map.

    Raises:
        OSError, ValueError: a file, a target or a layer that cannot be used.
    """
    given = {modality: file for modality, file in files.items() if file}
    named = {m: [Path(one) for one in file] if m == "video" else Path(file) for m, file in given.items()}
    target, question, layer = ((text or "").strip() for text in (target, question, layer))
    if method in OF_ENCODERS:
        which = of if of in named or not named else next(iter(named))
        what, cells = encoder_cells(run, named, which, method, layer)
        return "", what["what"], drawn(lambda path: draw_cells(cells, path, method))
    which, view = view_of(run, named, of if of in named else "", target, question)
    unknown = not_known(unknown_words(run, target, question), "it")
    found = explain_view(which, view, named[which], method, layer)
    told = facts(view, found.heat, which)
    places = ", ".join(f"{100 * share:.0f} % {edge}" for edge, share in told.get("strongest", {}).items())
    said = f"{view.said}: {told['score']:.3f}" + (f"; strongest {places}" if places else "")
    return unknown, said, drawn(lambda path: draw_cells(found.cells, path, method))


def explains(run: Run) -> bool:
    """Whether there is something to explain in a run: it looks, or it hears more than voices."""
    looks = {"image", "video"} & set(run.model.encoders)
    return bool(looks) or (run.task != "separation" and "audio" in run.model.encoders)
