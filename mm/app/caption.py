"""The tab that describes: a picture or a sound -> a sentence whose words show where the captioner looked."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path

from mm.app import examples
from mm.app.events import on
from mm.app.inputs import KINDS, needed, slider, sources
from mm.app.runs import Run
from mm.explain.attention import Entry, looked, write_page
from mm.tasks.captioning import DecodingConfig

MOST_BEAM = 10
HELP = (
    "Give {what}; the captioner writes a sentence. Point at one of its words to see where the captioner looked for it."
)
FRAME = '<iframe class="said" sandbox="allow-scripts" title="where each word looked" srcdoc="{}"></iframe>'


def tab(run: Run) -> None:
    """Lay out the tab, within a tab of Gradio."""
    import gradio

    modality = run.model.modality
    gradio.Markdown(HELP.format(what=KINDS[modality]))
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            given = sources([modality])
            beam = slider(1, max(MOST_BEAM, run.cfg.decoding.beam), run.cfg.decoding.beam, "Sentences under way (beam)")
            button = gradio.Button("Describe", variant="primary")
            examples.button(run, given)
        with gradio.Column(scale=2):
            sentence = gradio.Textbox(label="Sentence", interactive=False, elem_classes="sentence")
            page = gradio.HTML()

    def say(file: str | None, width: int) -> tuple[str, str]:
        return describe(run, file, width)

    on(button.click, say, [given[modality], beam], [sentence, page], run.path)


def describe(run: Run, file: str | None, beam: int) -> tuple[str, str]:
    """A sentence with its mean log-probability a word, and a page of its words in a frame.

    Raises:
        OSError, ValueError: there is no file, or it cannot be read.
    """
    modality = run.model.modality
    source = Path(needed(file, KINDS[modality]))
    decoding = DecodingConfig(**(vars(run.cfg.decoding) | {"beam": int(beam)}))
    (caption,) = run.model.describe([source], decoding)
    score = float(caption.log_probs.mean())
    said = f"{caption.text}   ({score:.2f} a word)"
    if caption.attention is None:
        return said, "<p>This captioner looks at nothing in particular: it has no attention.</p>"
    with tempfile.TemporaryDirectory() as folder:
        entry = Entry(looked(source, modality, caption), score, [], source.name)
        page = write_page(Path(folder) / "page.html", [entry]).read_text(encoding="utf-8")
    return said, FRAME.format(html.escape(page))
