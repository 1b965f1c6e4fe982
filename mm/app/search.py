"""The tab that searches: a sentence, pictures and sounds in one box, terms more and terms less, answers as cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm.app.cards import Sources, cards_of, not_known
from mm.app.events import on
from mm.app.inputs import box, slider
from mm.app.media import kind_of
from mm.index import Searcher

ANSWERS, MOST_ANSWERS = 12, 60
ANY = "any"
HELP = (
    "Type a sentence, attach pictures or sounds, or record one; all that stands in a box adds up. "
    "The second box adds further terms (each line is one), the third takes terms away."
)

Term = tuple[str, Any]  # modality and source


def tab(searcher: Searcher, sources: Sources, run: str) -> None:
    """Lay out the tab, within a tab of Gradio.

    Args:
        searcher: with encoders.
        sources: of its items.
        run: path of the run that embeds queries.
    """
    import gradio

    known = list(searcher.index.modalities)
    takes = list(getattr(searcher.embedder, "encoders", known))
    records = "audio" in takes
    gradio.Markdown(HELP)
    with gradio.Row():
        with gradio.Column(scale=3):
            what = f"{', '.join(takes)}: a sentence here, files by the clip"
            query = box("Search for", what, "query", records)
            with gradio.Row():
                plus = box("plus", "night", "plus", records)
                minus = box("minus", "day", "minus", records)
        with gradio.Column(scale=1, min_width=220):
            modality = gradio.Dropdown([ANY, *known], value=ANY, label="Answers of", elem_id="modality")
            count = slider(1, MOST_ANSWERS, ANSWERS, "How many", name="count")
            button = gradio.Button("Search", variant="primary", elem_id="search")
    found = gradio.HTML(elem_id="answers")

    def ask(*given: Any) -> str:
        return search(searcher, sources, *given)

    inputs = [query, plus, minus, modality, count]
    for trigger in (button.click, query.submit, plus.submit, minus.submit):
        on(trigger, ask, inputs, [found], run, show_progress="minimal")


def search(
    searcher: Searcher,
    sources: Sources,
    asked: Mapping[str, Any] | None,
    plus: Mapping[str, Any] | None,
    minus: Mapping[str, Any] | None,
    modality: str = ANY,
    k: int = ANSWERS,
) -> str:
    """Answers as HTML.

    Args:
        searcher: with encoders.
        sources: of its items.
        asked: {"text", "files"}: what is searched for.
        plus: the same, of further terms.
        minus: the same, of terms that are taken away.
        modality: of the answers, or `ANY`.
        k: answers wanted.

    Raises:
        OSError, ValueError: nothing is asked, or something that cannot be embedded.
    """
    added, less = [*terms(asked), *terms(plus)], terms(minus)
    if not added:
        raise ValueError("a search needs a sentence, a picture or a sound: the box is empty. Write or attach one.")
    (kind, source), *rest = added
    wanted = None if modality == ANY else modality
    query: dict[str, Any] = {kind: source}
    hits = searcher.query(**query, plus=rest, minus=less, k=int(k), modality=wanted)
    return unknown(searcher, [*added, *less]) + cards_of(hits, sources)


def terms(value: Mapping[str, Any] | None) -> list[Term]:
    """What stands in a box: each line of its text, and each file.

    Raises:
        ValueError: a file that is neither a picture nor a sound.
    """
    given = value or {}
    lines = [line.strip() for line in str(given.get("text") or "").splitlines() if line.strip()]
    files = [Path(file) for file in given.get("files") or []]
    return [*(("text", line) for line in lines), *((kind_of(file), file) for file in files)]


def unknown(searcher: Searcher, asked: list[Term]) -> str:
    """A line that names the words that have no part in a query, or nothing."""
    embedder: Any = searcher.embedder
    if not hasattr(embedder, "unknown_words"):
        return ""
    sentences = [str(source) for kind, source in asked if kind == "text"]
    return not_known([word for sentence in sentences for word in embedder.unknown_words(sentence)], "the query")
