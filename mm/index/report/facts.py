"""How a report begins: which spaces it is of, and what is most to be said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mm.index.media import ITEMS
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
            told[f"hubness {pair_of(one)}: never found (by chance)"] = (
                f"{percent(one['antihubs'])} ({percent(one['antihubs_by_chance'])})"
            )
        for what, value in told.items():
            rows.setdefault(what, {})[name] = value
    lines = [(what, *(found.get(name, "-") for name in names)) for what, found in rows.items()]
    return table(("", *names), lines, set(range(1, len(names) + 1)))


def facts(report: Mapping[str, Any], name: str) -> str:
    """Sentences of the most telling numbers."""
    said = []
    for ranks in _ends(report["ranks"][name].values(), lambda one: one["R@1"]):
        closed, shares = ranks["gap_closed"], (percent(ranks["R@1"]), percent(ranks["R@10"]))
        said.append(
            f"For {shares[0]} of the {_many(ranks['from'])} the nearest of {ranks['answers']:,} {_many(ranks['to'])} "
            f"is a partner, for {shares[1]} one of the ten nearest; with the gap closed, for "
            f"{percent(closed['R@1'])} and {percent(closed['R@10'])}."
        )
    gaps = [gap for gap in report["modality_gap"][name].values() if gap["relative"] is not None]
    if gaps:
        gap = max(gaps, key=lambda one: one["relative"])
        (one, two), told = gap["spread"], gap["separability"]
        said.append(
            f"The means of {_many(one)} and {_many(two)} are {gap['distance']:.2f} apart, {gap['relative']:.2f} times "
            f"the spread within{'' if told is None else f'; a plane tells {percent(told)} of them apart'}."
        )
    pures = [one for one in report["purity"][name].values() if one["purity"] is not None]
    for across in (False, True):
        some = [one for one in pures if (one["from"] != one["to"]) == across]
        for pure in _ends(some, lambda one: one["purity"]):
            said.append(
                f"Of the {_many(pure['to'])} nearest to {_one(pure['from'])}, {percent(pure['purity'])} have its "
                f"{pure['label']}; by chance {percent(pure['chance'])}."
            )
    alone = len(report["spaces"][name]["counts"]) == 1
    found = [one for one in report["hubness"][name].values() if one["hubs"] is not None]
    found = [one for one in found if alone or one["from"] != one["to"]]
    if found:
        hubs = max(found, key=lambda one: one["antihubs"] - one["antihubs_by_chance"])
        own = hubs["by_partners"]
        said.append(
            f"{percent(hubs['antihubs'])} of the {_many(hubs['to'])} are never among the {hubs['k']} nearest to "
            f"{_one(hubs['from'])}; by chance {percent(hubs['antihubs_by_chance'])}."
            + ("" if own is None else f" Their own partner finds {percent(own)}.")
        )
    for part, groups in report["duplicates"][name].items():
        if groups["near"]["clouds"]:
            said.append(f"Near duplicates of {_many(part)} are clouds, not copies: they hold whole groups.")
        elif count := groups["near"]["of_several_items"]:
            several = "group" if count == 1 else "groups"
            said.append(f"{count:,} {several} of near duplicates of {_many(part)} belong to different items.")
    return f'<ul class="facts">{"".join(f"<li>{text(one)}</li>" for one in said)}</ul>\n' if said else ""


def k_of(report: Mapping[str, Any], name: str) -> str:
    """The k that was used: one number, or that of each modality whose items are the neighbours."""
    used = report["spaces"][name]["k"]
    if len({*used.values()}) == 1:
        return str(next(iter(used.values())))
    return ", ".join(f"{k} of {part}" for part, k in used.items())


def pair_of(one: Mapping[str, Any]) -> str:
    """Which modality is asked for which, in words."""
    return name_of(one["from"], one["to"], " → ")


def _ends(ones: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], float]) -> list[Mapping[str, Any]]:
    """All of one or two; of more the lowest and the highest."""
    ordered = sorted(ones, key=key)
    return ordered if len(ordered) <= 2 else [ordered[0], ordered[-1]]


def _many(part: str) -> str:
    """Items of a modality, in words."""
    return {"audio": "sounds", ITEMS: ITEMS}.get(part, f"{part}s")


def _one(part: str) -> str:
    one = _many(part).removesuffix("s")
    return f"{'an' if one[:1] in 'aeiou' else 'a'} {one}"
