"""The tab that names the class of a picture or a sound, with a teacher or its student."""

from __future__ import annotations

from pathlib import Path

from mm.app import examples
from mm.app.events import on
from mm.app.inputs import KINDS, needed, sources
from mm.app.runs import Run
from mm.tasks.distillation_model import TOP

HELP = "Give {what}; the {who} names its most probable classes."


def tab(run: Run) -> None:
    """Lay out the tab, within a tab of Gradio."""
    import gradio

    modality = run.model.modality
    gradio.Markdown(HELP.format(what=KINDS[modality], who=run.cfg.learner))
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            given = sources([modality])
            button = gradio.Button("Classify", variant="primary")
            examples.button(run, given)
        with gradio.Column(scale=2):
            classes = gradio.Label(label="Classes", show_heading=False, elem_classes="classes")

    def name(file: str | None) -> dict[str, float]:
        return classify(run, file)

    on(button.click, name, [given[modality]], [classes], run.path)


def classify(run: Run, file: str | None) -> dict[str, float]:
    """The most probable classes of a file with their probabilities.

    Raises:
        OSError, ValueError: there is no file, or it cannot be read.
    """
    source = Path(needed(file, KINDS[run.model.modality]))
    (told,) = run.model.classify([source], TOP)
    return dict(told)
