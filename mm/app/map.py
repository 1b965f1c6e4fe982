"""The tab that maps the embedding space: points of the index, what is under the pointer, and what is within a box."""

from __future__ import annotations

import base64
import functools
import html
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mm.app.cards import Sources, card, cards_of, inside_of
from mm.app.events import message, on
from mm.app.map_script import SCRIPT, STYLE, TEMPLATE
from mm.index import Hit, Index
from mm.index.analysis import neighbours
from mm.index.items import Id, Metadata
from mm.index.media import ITEMS
from mm.index.projection import pca, tsne, umap, variance_share, widest_perplexity
from mm.index.report.maps import COLOURS, REST
from mm.naming import known

MOST = {"PCA": 20_000, "UMAP": 5_000, "t-SNE": 2_000}  # points, so that a map is there within seconds
NEIGHBOURS = 15  # of a point, by which UMAP goes
MOST_COLOURS = len(COLOURS)  # values of a key that are told apart
LISTED = 24  # items of a box that are shown
MODALITY = "modality"
HELP = (
    "Each point is an item. Point at one to see it; turn the wheel to zoom, drag to move, and double-click to see all "
    "again. Drag with Shift held, or with *select* chosen, to list what is within a box."
)


class Drawn(NamedTuple):
    """A map.

    Attributes:
        ids: n of them.
        metadata: of each.
        points: (n, 2) float32 in 0..1; both axes have one scale.
        note: which items they are.
    """

    ids: list[Id]
    metadata: list[Metadata]
    points: np.ndarray
    note: str


def tab(index: Index, sources: Sources, shown: Any) -> None:
    """Lay out the tab, within a tab of Gradio.

    Args:
        index: what is mapped.
        sources: of its items.
        shown: the tab itself, which is drawn when it is first opened.
    """
    import gradio

    drawn = functools.cache(functools.partial(project, index))

    def preview(asked: Any) -> str:
        return answer(lambda method, number: preview_of(drawn(method), number, sources), asked)

    def inside(asked: Any) -> str:
        return answer(lambda method, *box: listed(drawn(method), box, sources), asked)

    def draw(method: str, colour: str) -> str:
        return as_json(drawn(method), method, colour)

    gradio.Markdown(HELP)
    with gradio.Row():
        method = gradio.Dropdown(list(MOST), value="PCA", label="Map by", elem_id="method")
        keys = colour_keys(index.metadata(some_of(index, MOST["PCA"])))
        colour = gradio.Dropdown(keys, value=keys[0], label="Colours by", elem_id="colour")
    cloud = gradio.HTML(
        html_template=TEMPLATE,
        css_template=STYLE,
        js_on_load=SCRIPT,
        server_functions=[preview, inside],
        elem_id="map",
    )
    for trigger in (shown.select, method.change, colour.change):
        on(trigger, draw, [method, colour], [cloud], "map", show_progress="minimal")


def project(index: Index, method: str, seed: int = 0) -> Drawn:
    """The items of an index as points.

    Args:
        index: of which at most `MOST[method]` items are drawn at random.
        method: a key of `MOST`.
        seed: of that draw and of the map.

    Raises:
        ValueError: an unknown method, or vectors that have no map, see `mm.index.projection`.
    """
    most = MOST[known(method, MOST, "map")]
    ids = some_of(index, most, seed)
    vectors = index.vectors(ids)  # (n, D)
    if method == "PCA":
        points = pca(vectors, seed)
        note = f"; the two axes hold {100 * variance_share(vectors, points):.0f} % of the variance"
    elif method == "t-SNE":
        points, note = tsne(vectors, seed, widest_perplexity(len(vectors))), ""
    else:
        points, note = umap(vectors, neighbours(vectors, min(NEIGHBOURS, len(vectors) - 1)), seed), ""
    points = points - points.min(axis=0)  # (n, 2)
    points = points / max(float(points.max()), 1e-12)  # (n, 2)
    points = points + (1 - points.max(axis=0)) / 2  # (n, 2) in the middle
    drawn = f"{len(ids):,} of {len(index):,} items, drawn at random" if len(ids) < len(index) else f"{len(ids):,} items"
    return Drawn(ids, index.metadata(ids), points.astype(np.float32), drawn + note)


def some_of(index: Index, most: int, seed: int = 0) -> list[Id]:
    """All ids of an index, or so many of them in their order."""
    ids = index.ids
    if len(ids) <= most:
        return ids
    chosen = np.sort(np.random.default_rng(seed).choice(len(ids), most, replace=False))  # (most,)
    return [ids[place] for place in chosen.tolist()]


def colour_keys(metadata: list[Metadata]) -> list[str]:
    """The keys by which points may be coloured: the modality, and those with a few different words or numbers."""
    values: dict[str, set] = {}
    for one in metadata:
        for key, value in one.items():
            if isinstance(value, str | int) and len(values.setdefault(key, set())) <= MOST_COLOURS:
                values[key].add(value)
    few = [key for key, found in values.items() if key != MODALITY and 2 <= len(found) <= MOST_COLOURS]
    return [MODALITY, *few]


def as_json(drawn: Drawn, method: str, colour: str) -> str:
    """A map as the page's script takes it: points as 16-bit shares, a colour's number for each."""
    values = [str(one.get(colour, "none")) for one in drawn.metadata]
    names = [name for name, _ in Counter(values).most_common(MOST_COLOURS)]
    number = {name: place for place, name in enumerate(names)}
    numbers = np.array([number.get(value, len(names)) for value in values], np.uint8)  # (n,)
    rest = ["others"] if len(number) < len(set(values)) else []
    shares = (65535 * drawn.points).round().astype("<u2")  # (n, 2)
    content = {
        "method": method,
        "xy": base64.b64encode(shares.tobytes()).decode("ascii"),
        "colour": base64.b64encode(numbers.tobytes()).decode("ascii"),
        "names": [*names, *rest],
        "colours": [*COLOURS, REST],
        "note": f"{method} of {drawn.note}",
    }
    return json.dumps(content)


def answer(function: Callable[..., str], asked: Any) -> str:
    """What a function says of what the page's script asks, or why it says nothing; all of it comes from outside."""
    try:
        if not isinstance(asked, list) or not asked:
            raise ValueError(f"a map is asked with a list: got {asked!r:.60}.")
        return function(*asked)
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        return f'<p class="missing">{message(error)}</p>'


def preview_of(drawn: Drawn, number: Any, sources: Sources) -> str:
    """One item as a card.

    Raises:
        ValueError: there is no point of this number.
    """
    if not isinstance(number, int) or not 0 <= number < len(drawn.ids):
        raise ValueError(f"a point must be a number from 0 to {len(drawn.ids) - 1}: got {number!r:.60}.")
    hit = Hit(drawn.ids[number], 1.0, drawn.metadata[number])
    return card(inside_of(hit, sources)[0], str(hit.id), html.escape(str(hit.metadata.get(MODALITY, ""))))


def listed(drawn: Drawn, box: tuple[Any, ...], sources: Sources) -> str:
    """The items within a box [left, bottom, right, top] of shares: how many of each modality, and the first as cards.

    Raises:
        ValueError: it is no box.
    """
    if len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        raise ValueError(f"a box must be [left, bottom, right, top]: got {box!r:.60}.")
    low, high = np.array(box[:2], np.float32), np.array(box[2:], np.float32)  # (2,), (2,)
    rows = np.flatnonzero(((drawn.points >= low) & (drawn.points <= high)).all(axis=1)).tolist()
    hits = [Hit(drawn.ids[row], 1.0, drawn.metadata[row]) for row in rows]
    counts = Counter(str(hit.metadata.get(MODALITY, ITEMS)) for hit in hits)
    said = ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) or "nothing"
    first = f"; the first {LISTED} are shown" if len(hits) > LISTED else ""
    cards = cards_of(hits[:LISTED], sources, scored=False) if hits else ""
    return f'<p class="selected">Selected: {html.escape(said)}{first}.</p>{cards}'
