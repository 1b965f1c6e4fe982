"""A report on spaces of embeddings: a page, its figures and its numbers, as scripts/analyse_index.py writes them."""

from __future__ import annotations

import itertools
import json
import logging
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import sklearn
import torch

import mm
from mm.files import write_text
from mm.index.grid import Shown
from mm.index.media import Item
from mm.index.report.cells import Cells
from mm.index.report.comparison import compared
from mm.index.report.facts import k_of
from mm.index.report.measured import Measured, Numbers
from mm.index.report.measures import look
from mm.index.report.pictures import Artist
from mm.index.report.spaces import Space
from mm.index.report.tables import contents

SAMPLE = 3000  # items of a map: half a minute of one core for t-SNE
NAMED = 10  # missing media in the numbers

log = logging.getLogger(__name__)


def write_report(
    spaces: Sequence[Space],
    out: str | Path,
    show: Callable[[Space, Item], Shown],
    label: str | None = None,
    seed: int = 0,
    sample: int = SAMPLE,
    notes: Sequence[str] = (),
) -> Numbers:
    """Look into spaces, and write report.json, report.html and figures/*.png; returns the numbers.

    Args:
        spaces: as `mm.index.report.spaces.spaces_of` gives them; several are compared too.
        out: folder, made if missing. Files of these names are replaced, the page and the numbers last.
        show: show(space, item) -> its cell. What it cannot show or nobody can read becomes a placeholder, counted.
        label: key of the metadata; None = there are no labels.
        seed: of what is drawn.
        sample: items of a map; 0 = no maps.
        notes: what the reader is told first.

    Raises:
        ValueError: the label is no word or number, or there is no space.
        OSError: the folder cannot be written.
    """
    if not spaces or sample < 0:
        raise ValueError(f"a report takes a space, and maps no negative number of items: got {len(spaces)}, {sample}.")
    begun = time.perf_counter()
    out = Path(out)
    figures = out / "figures"
    founds, drawn, cells = [], {}, []
    projections: Numbers = {}
    for number, space in enumerate(spaces, start=1):
        if label is not None:
            space.labels(label)  # refuses what is none, before the work
        found = look(space, label, seed)
        of_space = Cells(lambda item, space=space: show(space, item))  # type: ignore[misc]
        prefix = "" if len(spaces) == 1 else f"{number}_{re.sub('[^A-Za-z0-9.-]+', '-', space.name)}_"
        artist = Artist(found, of_space, figures, prefix, seed, label)
        artist.draw()
        projections[space.name] = artist.maps(sample) if sample else None
        founds.append(found)
        cells.append(of_space)
        drawn[space.name] = artist.drawn
    overlap, cka = {}, {}
    for first, second in itertools.combinations(founds, 2):
        pair = f"{first.space.name}, {second.space.name}"
        overlap[pair], cka[pair] = compared(first, second)
    report = {
        "k": spaces[0].k,
        "seed": seed,
        "label": label,
        "spaces": {found.space.name: _about(found) for found in founds},
        **{key: {found.space.name: found.numbers[key] for found in founds} for key in founds[0].numbers},
        "overlap": overlap,
        "cka": cka,
        "projection": projections,
        "missing_media": _missing(cells),
        "figures": [f"figures/{one.path.name}" for some in drawn.values() for one in some],
        "notes": [*notes, *(_of_space(found, note, len(founds) > 1) for found in founds for note in found.notes)],
        "seconds": round(time.perf_counter() - begun, 1),
        "versions": _versions(projections),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / "report.html", contents(report, drawn))
    write_text(out / "report.json", text + "\n")
    return report


def table(report: Numbers) -> str:
    """The numbers of a report as lines to print."""
    lines = []
    for name, about in report["spaces"].items():
        counts = ", ".join(f"{count:,} {part}" for part, count in about["counts"].items())
        lines.append(f"{name}: {counts}; {about['dim']} numbers each, k = {k_of(report, name)}")
        parts = list(about["counts"])
        rows: list[tuple[str, list[str]]] = []
        for key in ("uniformity", "intrinsic_dimension"):
            rows.append((key.replace("_", " "), [_number(report[key][name].get(part)) for part in parts]))
        for what, key in (
            ("hubness: skewness", "skewness"),
            ("hubness: never found", "antihubs"),
            ("    by chance", "antihubs_by_chance"),
        ):
            found = report["hubness"][name]
            rows.append((what, [_number(found[part][key]) if part in found else "-" for part in parts]))
        pure = report["purity"][name]
        if pure:
            for what, key in ((f"purity by {report['label']}", "purity"), ("    by chance", "chance")):
                rows.append((what, [_number(pure[part][key]) if pure.get(part) else "-" for part in parts]))
        for kind in ("equal", "near"):
            found = report["duplicates"][name]
            cells = [f"{found[part][kind]['items']:,}" if part in found else "-" for part in parts]
            rows.append((f"items with {kind} ones", cells))
        lines.append("".join([f"  {'':24s}", *(f"{part:>12s}" for part in parts)]))
        lines += ["".join([f"  {what:24s}", *(f"{cell:>12s}" for cell in cells)]) for what, cells in rows]
        for pair, gap in report["modality_gap"][name].items():
            alignment = report["alignment"][name].get(pair, {}).get("alignment")
            lines.append(
                f"  {pair}: gap {_number(gap['distance'])}, {_number(gap['relative'])} of the spread within; a plane "
                f"tells them apart {_number(gap['separability'])}; alignment {_number(alignment)}"
            )
        for pair, ranks in report["ranks"][name].items():
            closed, hubness = ranks["gap_closed"]["R@1"], report["hubness"][name].get(pair, {})
            lines.append(
                f"  {pair}: R@1 {_number(ranks['R@1'])}, with the gap closed {_number(closed)}; hubness: skewness "
                f"{_number(hubness.get('skewness'))}, never found {_number(hubness.get('antihubs'))}, by chance "
                f"{_number(hubness.get('antihubs_by_chance'))}"
            )
    for pair, parts in report["overlap"].items():
        for part, found in parts.items():
            lines.append(
                f"{pair}: {part}, {found['items']:,} items: overlap {_number(found['overlap'])} (chance "
                f"{_number(found['chance'])}), CKA {_number(report['cka'][pair][part])}"
            )
    if report["missing_media"]["count"]:
        lines.append(f"{report['missing_media']['count']} of {report['missing_media']['of']} items could not be shown")
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _about(found: Measured) -> Numbers:
    space = found.space
    return {
        "indexes": space.paths,
        "fingerprint": space.fingerprint,
        "run": space.run,
        "dim": space.dim,
        "counts": space.counts,
        "k": {part: space.neighbours_of(part) for part in space.parts},
    }


def _missing(cells: Sequence[Cells]) -> Numbers:
    missing = {str(id_): why for some in cells for id_, why in some.missing.items()}
    return {
        "count": sum(len(some.missing) for some in cells),
        "of": sum(some.read for some in cells),
        "first": dict(list(missing.items())[:NAMED]),
    }


def _of_space(found: Measured, note: str, several: bool) -> str:
    return f"{found.space.name}: {note}" if several else note


def _versions(projections: Numbers) -> dict[str, str]:
    libraries: dict[str, Any] = {"mm": mm, "faiss": faiss, "numpy": np, "scikit-learn": sklearn, "torch": torch}
    versions = {name: str(library.__version__) for name, library in libraries.items()}
    if any(one and one["umap"] for one in projections.values()):
        from importlib.metadata import version

        versions["umap-learn"] = version("umap-learn")
    return versions | {"python": platform.python_version()}
