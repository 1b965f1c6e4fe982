"""A button that fills a tab with an item of the run's own test split, for whoever has no file at hand."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mm.app.events import on
from mm.app.explained import items_of
from mm.app.runs import Run
from mm.data import Item
from mm.index.grid import SAMPLE_RATE, heard
from mm.media import read_image

KINDS = ("image", "audio", "text", "question")


def button(run: Run, fields: Mapping[str, Any]) -> None:
    """Lay out the button, within a tab of Gradio.

    Args:
        run: whose test split it is.
        fields: {one of `KINDS`: the component that takes it}.
    """
    import gradio

    items = functools.cache(lambda: items_of(run))
    pressed = gradio.Button("Example from its test data", elem_classes="example")
    number = gradio.State(0)

    def fill(at: int) -> list[Any]:
        item = items()[at % len(items())]
        return [at + 1, *(value_of(item, kind) for kind in fields)]

    on(pressed.click, fill, [number], [number, *fields.values()], run.path)


def value_of(item: Item, kind: str) -> Any:
    """What of an item goes into a field: pixels, a rate and samples, or a sentence; None for what it lacks.

    Args:
        item: of a data set.
        kind: one of `KINDS`.

    Raises:
        OSError, ValueError: a file that cannot be read.
    """
    if kind == "question":
        return item.questions[0].text if item.questions else None
    sources = getattr(item, kind)
    if not sources:
        return None
    if kind == "image":
        return read_image(sources[0])
    if kind == "audio":
        wave = heard(sources[0]).numpy()  # (T,)
        return SAMPLE_RATE, (32767 * wave.clip(-1, 1)).round().astype(np.int16)
    return str(sources[0])
