"""Items of an index as cells of figures: read once, made small, and a placeholder for what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from mm.index.grid import SAMPLE_RATE, Shown, heard
from mm.index.media import Item
from mm.media import read_image

SIDE_PX = 192  # of a picture as it is drawn, at most
SECONDS = 10  # of a sound that are drawn, from its beginning on
LETTERS = 140  # of a sentence that have room in a cell


class Cells:
    """Cells of figures: items read once and made small; one that cannot be read is a placeholder.

    Args:
        show: show(item) -> its cell, with a file that need not be there.

    Attributes:
        read: ids of the items that were asked for.
        missing: {id: why it cannot be shown}.
    """

    def __init__(self, show: Callable[[Item], Shown]):
        self._show = show
        self._known: dict[Any, Shown] = {}
        self.missing: dict[Any, str] = {}

    @property
    def read(self) -> int:
        """How many items were asked for."""
        return len(self._known)

    def cell(self, item: Item, title: str = "", right: bool | None = None) -> Shown:
        """One item with a title, framed as `Shown.right` says."""
        if item.id not in self._known:
            try:
                self._known[item.id] = _read(self._show(item))
            except (OSError, ValueError, LookupError) as error:
                self.missing[item.id] = str(error)
                self._known[item.id] = Shown("text", f"(cannot be read) {item.id}")
        return self._known[item.id]._replace(title=title, right=right)


def _read(cell: Shown) -> Shown:
    """The same as a small array, or a sentence short enough."""
    if cell.modality == "image":
        picture = Image.fromarray(read_image(cell.source, SIDE_PX))
        picture.thumbnail((SIDE_PX, SIDE_PX))
        return cell._replace(source=np.asarray(picture))  # (h, w, 3)
    if cell.modality == "audio":
        return cell._replace(source=heard(cell.source)[: SECONDS * SAMPLE_RATE].numpy())  # (T,)
    text = " ".join(str(cell.source).split())
    return Shown("text", text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…")
