"""How a report begins: which spaces it is of, and what is most to be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mm.index.report.measured import name_of
from mm.index.report.page import percent, table, text, value_of


def about(report: Mapping[str, Any]) -> str:
    """The spaces, and where their labels are from."""
    rows = [
        (
            name,
            ", ".join(f"{count:,} {part}" for part, count in space["counts"].items()),
            space["dim"],
            space["fingerprint"] or "not known",
            space["run"] or "none",
        )
        for name, space in report["spaces"].items()
    ]
    label = report["label"]
    said = (
        f"Labels are the values of {label!r}." if label else "There are no labels: --label names a key of the metadata."
    )
    return table(("space", "items", "numbers each", "fingerprint", "run"), rows, {2}) + f"<p>{text(said)}</p>\n"


def side_by_side(report: Mapping[str, Any]) -> str:
    """The same numbers of all spaces in one table."""
    names = list(report["spaces"])
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        told = {f"R@1 {pair_of(one)}": percent(one["R@1"]) for one in report["ranks"][name].values()}
        for one in report["purity"][name].values():
            told[f"purity {pair_of(one)}"] = percent(one["purity"])
        for gap in report["modality_gap"][name].values():
            told[f"gap {', '.join(gap['spread'])}"] = value_of(gap["distance"])
        for one in report["alignment"][name].values():
            told[f"alignment {', '.join(one['parts'])}"] = value_of(one["alignment"])
        for key in ("uniformity", "intrinsic_dimension"):
            told |= {f"{key.replace('_', ' ')} {part}": value_of(one) for part, one in report[key][name].items()}
        for one in report["hubness"][name].values():
            told[f"hubness {pair_of(one)}: skewness"] = value_of(one["skewness"])
            told[f"hubness {pair_of(one)}: never found"] = percent(one["antihubs"])
        for what, value in told.items():
            rows.setdefault(what, {})[name] = value
    lines = [(what, *(found.get(name, "-") for name in names)) for what, found in rows.items()]
    return table(("", *names), lines, set(range(1, len(names) + 1)))


def facts(report: Mapping[str, Any], name: str) -> str:
    """Sentences of the numbers."""
    said = []
    for ranks in report["ranks"][name].values():
        closed, shares = ranks["gap_closed"], (percent(ranks["R@1"]), percent(ranks["R@10"]))
        said.append(
            f"For {shares[0]} of {ranks['from']} queries the nearest of {ranks['answers']:,} {ranks['to']} is a "
            f"partner, for {shares[1]} one of the ten nearest; with the gap between the modalities closed, for "
            f"{percent(closed['R@1'])} and {percent(closed['R@10'])}."
        )
    for gap in report["modality_gap"][name].values():
        if gap["relative"] is not None:
            one, two = gap["spread"]
            told = gap["separability"]
            said.append(
                f"The means of {one} and {two} are {gap['distance']:.2f} apart, {gap['relative']:.2f} times the spread "
                f"within{'' if told is None else f'; a plane tells {percent(told)} of them apart'}."
            )
    for pure in report["purity"][name].values():
        said.append(
            f"Of the {pure['to']} nearest to {_one(pure['from'])}, {percent(pure['purity'])} have its {pure['label']}; "
            f"by chance {percent(pure['chance'])}."
        )
    for hubs in report["hubness"][name].values():
        if hubs["from"] != hubs["to"] or len(report["spaces"][name]["counts"]) == 1:
            own = hubs["by_partners"]
            said.append(
                f"Of the places among the {hubs['to']} nearest to {_one(hubs['from'])}, the most frequent hundredth "
                f"takes {percent(hubs['top_percent'])}; {percent(hubs['antihubs'])} are never among them."
                + ("" if own is None else f" Their own partner finds {percent(own)} of all, and of that hundredth ")
                + ("" if own is None else f"{percent(hubs['by_partners_top_percent'])}.")
            )
    for part, groups in report["duplicates"][name].items():
        if count := groups["near"]["of_several_items"]:
            said.append(f"{part}: {count:,} groups of near duplicates belong to different items of the data set.")
    return f'<ul class="facts">{"".join(f"<li>{text(one)}</li>" for one in said)}</ul>\n' if said else ""


def pair_of(one: Mapping[str, Any]) -> str:
    """Which modality is asked for which, in words."""
    return name_of(one["from"], one["to"], " → ")


def _one(part: str) -> str:
    return f"{'an' if part[:1] in 'aeiou' else 'a'} {part}"
