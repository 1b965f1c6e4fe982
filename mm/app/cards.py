"""Items of an index as cards: its picture, its sentence or a player, its score and its id; a placeholder for none."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm.app.media import picture_uri, sound_uris
from mm.data.tars import member
from mm.index import Hit
from mm.index.grid import Shown
from mm.index.media import item_of, shown
from mm.tasks import retrieval_data

LONGEST_ID = 60  # letters


class Sources:
    """Where the picture, sentence or sound of an item is.

    Args:
        cfg: settings of the retrieval run whose data set was indexed, for items that are no files; None = not known.
    """

    def __init__(self, cfg: Any = None):
        self._sources = None if cfg is None else retrieval_data.sources(cfg)

    def of(self, hit: Hit) -> Shown:
        """A sentence, a file, a file in a tar, or the array of an item that was drawn; of one nobody knows its id.

        Raises:
            LookupError: the data set has no such item.
            OSError, ValueError: the tar or the data set cannot be read.
        """
        return shown(item_of(hit.id, hit.metadata), self._sources, member)


def cards_of(hits: Sequence[Hit], sources: Sources, scored: bool = True) -> str:
    """HTML of some items; of those that cannot be shown a placeholder stands there, and below all how many they are."""
    cards, missing = [], 0
    for place, hit in enumerate(hits, start=1):
        score = f"<b>{place}</b> &middot; {hit.score:.3f}" if scored else ""
        inside, shown = inside_of(hit, sources)
        missing += not shown
        cards.append(card(inside, str(hit.id), score))
    said = f'<p class="missing">{missing} of {len(hits)} could not be shown.</p>' if missing else ""
    return f'<div class="cards">{"".join(cards)}</div>{said}' if hits else '<p class="none">No item meets this.</p>'


def inside_of(hit: Hit, sources: Sources) -> tuple[str, bool]:
    """What a card shows of an item, and whether that is the item itself rather than the reason why it is not."""
    try:
        cell = sources.of(hit)
        if cell.modality == "image":
            return f'<img src="{picture_uri(cell.source)}" alt="{html.escape(str(hit.id))}">', True
        if cell.modality == "audio":
            wave, drawn = sound_uris(cell.source)
            return f'<img src="{drawn}" alt="spectrogram"><audio controls preload="none" src="{wave}"></audio>', True
        return f"<blockquote>{html.escape(str(cell.source))}</blockquote>", True
    except (OSError, ValueError, LookupError) as error:
        said = f"no {hit.metadata.get('modality') or 'item'}: {reason(error, hit.metadata)}"
        return f'<div class="placeholder">{html.escape(said)}</div>', False


def reason(error: Exception, known: Mapping[str, Any]) -> str:
    """Why an item is not shown, in a few words: of a file its name alone."""
    name = Path(str(known.get("path") or known.get("shard") or "")).name
    if isinstance(error, FileNotFoundError):
        return f"{name or 'a file'} is not there"
    return f"{name} cannot be read" if name else str(error.args[0] if error.args else error)


def card(inside: str, name: str, above: str = "") -> str:
    """HTML of one card; `inside` and `above` are HTML, the name is not."""
    shown = name if len(name) <= LONGEST_ID else f"{name[: LONGEST_ID - 1]}…"
    return (
        f'<figure class="card"><div class="above">{above}</div>{inside}'
        f'<figcaption title="{html.escape(name)}">{html.escape(shown)}</figcaption></figure>'
    )


def not_known(words: Sequence[str], where: str) -> str:
    """HTML of a line that names what the encoder does not know and has no part in something; nothing of no words."""
    said = f"Not known, so without a part in {where}: {', '.join(dict.fromkeys(words))}"
    return f'<p class="unknown">{html.escape(said)}</p>' if words else ""
