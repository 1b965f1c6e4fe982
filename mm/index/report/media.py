"""What an item of an index looks like: its file, its sentence, or what the data set of the run holds under its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mm.files import Member
from mm.index.grid import SAMPLE_RATE, Shown
from mm.index.report.spaces import Item
from mm.media import read_audio, read_image

SIDE_PX = 192  # of a picture as it is drawn, at most
SECONDS = 10  # of a sound that are drawn, from its beginning on
LETTERS = 140  # of a sentence that have room in a cell
FILES = ("text", "path", "shard")  # keys of the metadata that say where an item is
OF_RUNS = ("image", "text", "audio")  # modalities that the data set of a run may hold


def shown(
    item: Item,
    sources: Callable[[str, str], Mapping[str, Any]] | None = None,
    member: Callable[[Path, str], Member] | None = None,
) -> Shown:
    """An item as a cell, not yet read.

    Args:
        item: of the index.
        sources: sources(split, modality) -> {id of an entry: its picture, sentence or sound} of the run's data set.
        member: member(path of a tar, name in it) -> the file.

    Raises:
        LookupError: the data set of the run has no such item.
        ValueError: the metadata name a file by something else than text.
        OSError, ValueError: as of `sources` and `member`.
    """
    metadata, modality = item.metadata, item.modality
    if "text" in metadata:
        return Shown("text", metadata["text"])
    if "path" in metadata:
        return Shown(modality, Path(_word(item, "path")))
    if "shard" in metadata and member is not None:
        return Shown(modality, member(Path(_word(item, "shard")), _word(item, "member")))
    if sources is not None and modality in OF_RUNS:
        entry = str(item.id).removeprefix(f"{modality}:")
        found = sources(_word(item, "split", "test"), modality)
        if entry not in found:
            raise LookupError(f"the data set of the run has no {modality} {entry!r}.")
        return Shown(modality, found[entry])
    return Shown("text", str(item.id))


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


def _word(item: Item, key: str, default: str = "") -> str:
    """The text that the metadata have under a key.

    Raises:
        ValueError: it is none.
    """
    found = item.metadata.get(key, default)
    if not isinstance(found, str):
        raise ValueError(f"{key!r} of {item.id!r} must be text: got {found!r:.60}.")
    return found


def _read(cell: Shown) -> Shown:
    """The same as a small array, or a sentence short enough."""
    if cell.modality == "image":
        picture = Image.fromarray(read_image(cell.source, SIDE_PX))
        picture.thumbnail((SIDE_PX, SIDE_PX))
        return cell._replace(source=np.asarray(picture))  # (h, w, 3)
    if cell.modality == "audio":
        rate = SAMPLE_RATE if hasattr(cell.source, "shape") else None  # a file knows its own
        return cell._replace(source=read_audio(cell.source, SAMPLE_RATE, rate)[: SECONDS * SAMPLE_RATE].numpy())  # (T,)
    text = " ".join(str(cell.source).split())
    return Shown("text", text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…")
