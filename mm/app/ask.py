"""The tab that answers: a question about a picture, a sound or both -> answers, and the places that were looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mm.app import examples
from mm.app.cards import not_known
from mm.app.events import on
from mm.app.inputs import KINDS, figure, slider, sources
from mm.app.media import drawn
from mm.app.runs import Run
from mm.explain.attention import draw_attention, glimpsed
from mm.tasks.vqa_model import TOP

MOST_TOP = 20
HELP = "Ask a question about {what}. To choose from answers of your own, name them, separated by commas."


def tab(run: Run) -> None:
    """Lay out the tab, within a tab of Gradio."""
    import gradio

    about = " and ".join(KINDS[modality] for modality in run.model.contents) or "nothing else"
    gradio.Markdown(HELP.format(what=about))
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            given = sources(run.model.contents)
            question = gradio.Textbox(
                label="Question", placeholder="what colour is the square?", elem_classes="question"
            )
            choices = gradio.Textbox(label="Answers to choose from", placeholder="any")
            top = slider(1, MOST_TOP, TOP, "Answers told")
            button = gradio.Button("Ask", variant="primary")
            examples.button(run, {**given, "question": question})
        with gradio.Column(scale=2):
            unknown = gradio.HTML()
            answers = gradio.Label(label="Answers", show_heading=False, elem_classes="answers")
            places = figure("Where the question looked")

    def reply(asked: str, chosen: str, most: int, *files: str | None) -> tuple[str, dict[str, float], Any]:
        return ask(run, asked, chosen, most, dict(zip(given, files, strict=True)))

    inputs = [question, choices, top, *given.values()]
    for trigger in (button.click, question.submit):
        on(trigger, reply, inputs, [unknown, answers, places], run.path)


def ask(
    run: Run, question: str, choices: str, top: int, files: Mapping[str, Any]
) -> tuple[str, dict[str, float], np.ndarray | None]:
    """What is not known of it as HTML, answers with their probabilities, and the picture of where it looked, if at all.

    Args:
        run: of question answering.
        question: a sentence.
        choices: answers to choose from, separated by commas; "" = any.
        top: answers told.
        files: {modality: file or None}.

    Raises:
        OSError, ValueError: a question or a file that cannot be used.
    """
    own = [choice.strip() for choice in (choices or "").split(",") if choice.strip()]
    model, asked = run.model, question or ""
    named = {modality: Path(file) for modality, file in files.items() if file}
    (answer,) = model.answer([named.get("image")], [asked], sounds=[named.get("audio")], choices=[own], top=int(top))
    unknown = not_known(model.encoder("text").unknown_words(asked), "the question")
    unknown += not_known([choice for choice in own if model.number(choice) is None], "the choice")
    kinds: tuple[Literal["image", "audio"], ...] = ("image", "audio")
    rows = [glimpsed(named[kind], kind, asked, answer) for kind in kinds if kind in named]
    looked = drawn(lambda path: draw_attention(rows, path)) if answer.attention else None
    return unknown, dict(answer.top), looked
