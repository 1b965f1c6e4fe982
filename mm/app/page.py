"""The page: a tab for each thing that the given runs and index can do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mm.app import ask, caption, classify, explain, localise, map, search, separate
from mm.app.cards import Sources, inside_of
from mm.app.runs import Run
from mm.index import Hit, Searcher

TABS: tuple[
    tuple[str, Callable[[Run], bool], Callable[[Run], None]], ...
] = (  # title, for which runs, what lays it out
    ("Caption", lambda run: run.task == "captioning", caption.tab),
    ("Ask", lambda run: run.task == "vqa", ask.tab),
    ("Localise", lambda run: run.task == "localisation", localise.tab),
    ("Separate", lambda run: run.task == "separation", separate.tab),
    ("Classify", lambda run: run.task == "distillation", classify.tab),
    ("Explain", explain.explains, explain.tab),
)
KEPT_S = 3600  # seconds after which an upload is removed
STYLE = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
.head p { color: var(--neutral-500); margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px; }
.card { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 8px; display: flex;
  flex-direction: column; gap: 6px; background: var(--background-fill-primary); }
.card img { width: 100%; height: 150px; object-fit: contain; background: #f4f4f5; border-radius: 4px; margin: 0; }
.card audio { width: 100%; height: 36px; }
.card blockquote { margin: 0; padding: 4px 2px; font-size: 1.05em; flex: 1; border: 0; overflow-wrap: anywhere; }
.card .placeholder { flex: 1; min-height: 110px; display: grid; place-content: center; text-align: center; padding: 6px;
  background: repeating-linear-gradient(45deg, #f4f4f5, #f4f4f5 8px, #e9e9ec 8px, #e9e9ec 16px); color: #555;
  border-radius: 4px; overflow-wrap: anywhere; }
.card .above, .card figcaption { font-size: .8em; color: var(--neutral-500); overflow-wrap: anywhere; }
.missing, .unknown { color: #b45309; }
iframe.said { width: 100%; height: 480px; border: 1px solid var(--border-color-primary); border-radius: 6px;
  background: #fff; }
"""

log = logging.getLogger(__name__)


def build(runs: Sequence[Run], searcher: Searcher | None = None, embedding: Run | None = None) -> Any:
    """The page as Gradio's Blocks.

    Args:
        runs: that were given.
        searcher: of the index, if there is one.
        embedding: the run that embeds its queries; None = none does.
    """
    import gradio

    tabs = {title: (lay_out, [run for run in runs if does(run)]) for title, does, lay_out in TABS}
    with gradio.Blocks(title="mm", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        opened = [*runs, embedding] if embedding and embedding not in runs else runs
        gradio.Markdown(heading(opened, searcher), elem_classes="head")
        with gradio.Tabs():
            if searcher is not None:
                sources = Sources(embedding.cfg if embedding else None)
                first = searcher.index.ids[0]
                (known,) = searcher.index.metadata([first])
                inside_of(Hit(first, 1.0, known), sources)  # reads the data set now
                file = Path(str(known.get("path") or known.get("shard") or "."))
                if not file.exists():
                    where = "" if file.is_absolute() else ": it is looked for from the folder in which this was started"
                    log.warning("the file of the index's first item, %s, is not there%s", file, where)
                if embedding:
                    with gradio.Tab("Search"):
                        search.tab(searcher, sources, embedding.path)
                with gradio.Tab("Map") as mapped:
                    map.tab(searcher.index, sources, mapped)
            for title, (lay_out, of) in tabs.items():
                if of:
                    with gradio.Tab(title):
                        each(of, lay_out)
    return page


def each(runs: Sequence[Run], lay_out: Callable[[Run], None]) -> None:
    """Lay out one run, or several as tabs of their own that have the runs' names."""
    import gradio

    if len(runs) == 1:
        return lay_out(runs[0])
    names = [Path(run.path).name for run in runs]
    with gradio.Tabs():
        for run, name in zip(runs, names, strict=True):
            with gradio.Tab(name if names.count(name) == 1 else run.path):
                lay_out(run)
    return None


def heading(runs: Sequence[Run], searcher: Searcher | None) -> str:
    """What the page was opened with, in Markdown."""
    parts = [f"{run.task} run `{run.path}`" for run in runs]
    if searcher is not None:
        counts = searcher.index.modalities or {"items": len(searcher.index)}
        parts.append(f"index of {', '.join(f'{count:,} {name}' for name, count in counts.items())}")
    return f"# mm\n{' &middot; '.join(parts)}"
