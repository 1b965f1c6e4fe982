"""What an item of an index looks like: its file, its sentence, or what the data set of the run holds under its id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mm.files import Member
from mm.index.grid import Shown
from mm.index.items import Id, Metadata
from mm.media import SOUND_FILES

ITEMS = "items"  # what those are called whose modality is not known
FILES = ("text", "path", "shard")  # keys of the metadata that say where an item is
OF_RUNS = ("image", "text", "audio")  # modalities that the data set of a run may hold


class Item(NamedTuple):
    """What is known of an item, for whoever shows it."""

    id: Id
    modality: str
    metadata: Metadata


def item_of(id_: Id, metadata: Metadata) -> Item:
    """An item by its id and what is known of it."""
    return Item(id_, str(metadata.get("modality") or ITEMS), metadata)


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
        return Shown(_kind(item, "path"), Path(_text(item, "path")))
    if "shard" in metadata and member is not None:
        return Shown(_kind(item, "member"), member(Path(_text(item, "shard")), _text(item, "member")))
    if sources is not None and modality in OF_RUNS:
        entry = str(item.id).removeprefix(f"{modality}:")
        found = sources(_text(item, "split", "test"), modality)
        try:
            return Shown(modality, found[entry])
        except KeyError:
            raise LookupError(f"the data set of the run has no {modality} {entry!r}.") from None
    return Shown("text", str(item.id))


def _kind(item: Item, key: str) -> str:
    """The modality of a file; one that is not known is a sound by its name, or else a picture."""
    if item.modality in OF_RUNS:
        return item.modality
    return "audio" if Path(_text(item, key)).suffix.lower() in SOUND_FILES else "image"


def _text(item: Item, key: str, default: str = "") -> str:
    """The text that the metadata have under a key.

    Raises:
        ValueError: it is none.
    """
    found = item.metadata.get(key, default)
    if not isinstance(found, str):
        raise ValueError(f"{key!r} of {item.id!r} must be text: got {found!r:.60}.")
    return found
