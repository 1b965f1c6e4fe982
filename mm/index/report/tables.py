"""What a report says: its sections with their tables, and the sentences to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mm.index.report.facts import about, facts, k_of, pair_of, side_by_side
from mm.index.report.page import Section, figure, page, percent, table, text, value_of
from mm.index.report.pictures import Drawn


class Measure(NamedTuple):
    """A section of the page.

    Attributes:
        key: of its figures, and of its numbers in the report.
        title: its heading.
        how: a sentence on how to read it.
        tables: tables(report, space) -> HTML; None where there are figures only.
    """

    key: str
    title: str
    how: str
    tables: Callable[[Mapping[str, Any], str], str] | None = None


def contents(report: Mapping[str, Any], drawn: Mapping[str, Sequence[Drawn]]) -> str:
    """The page of a report.

    Args:
        report: the numbers, as `mm.index.report.write_report` makes them.
        drawn: {space: its figures}.
    """
    names = list(report["spaces"])
    several = len(names) > 1
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    notes = list(report["notes"])
    if missing := report["missing_media"]["first"]:
        count, of = report["missing_media"]["count"], report["missing_media"]["of"]
        notes.append(
            f"{count} of {of} items that are shown could not be read, the first: {next(iter(missing.values()))}"
        )
    sections = [
        Section(
            "facts",
            "At a glance",
            "" if several else GLANCE,
            [("", side_by_side(report) if several else facts(report, names[0]))],
        ),
        Section("overlap", "How alike the spaces are", LIKENESS, [("", _likeness(report))]),
        *(
            Section(measure.key, measure.title, measure.how, [(n, _body(measure, report, n, drawn[n])) for n in names])
            for measure in MEASURES
        ),
    ]
    used = "; ".join(k_of(report, name) for name in names)
    return page(
        "What is in " + " and ".join(names),
        about(report) + "".join(f'<p class="note">{text(note)}</p>\n' for note in notes),
        sections,
        f"k = {used}, seed {report['seed']}, {report['seconds']:.0f} s. {versions}.",
        several,
    )


def _body(measure: Measure, report: Mapping[str, Any], name: str, drawn: Sequence[Drawn]) -> str:
    """What a section says of one space: its tables, and its figures."""
    tables = measure.tables(report, name) if measure.tables else ""
    return tables + "".join(figure(one) for one in drawn if one.section == measure.key)


def _ranks(report: Mapping[str, Any], name: str) -> str:
    rows = [
        (
            pair_of(one),
            f"{one['queries']:,}",
            f"{one['answers']:,}",
            *(percent(some[key]) for some in (one, one["gap_closed"]) for key in ("R@1", "R@10")),
            f"{one['median']:,.0f}",
        )
        for one in report["ranks"][name].values()
    ]
    heads = ("", "queries", "answers", "R@1", "R@10", "gap closed: R@1", "R@10", "median place")
    return table(heads, rows, set(range(1, 8)))


def _purity(report: Mapping[str, Any], name: str) -> str:
    rows, lists = [], ""
    for one in report["purity"][name].values():
        shares = percent(one["purity"]), percent(one["chance"])
        rows.append((pair_of(one), f"{one['items']:,}", f"{one['labels']:,}", *shares))
        if one["from"] == one["to"] and one["labels"] > 1:
            some = [
                (row["label"], f"{row['items']:,}", percent(row["purity"]), percent(row["chance"]))
                for row in one["worst"]
            ]
            if not some:
                continue
            lists += f"<h3>{text(one['from'])}: the least pure</h3>\n"
            lists += table((one["label"], "items", "purity", "by chance"), some, {1, 2, 3})
    return table(("", "items", "labels", "purity", "by chance"), rows, {1, 2, 3, 4}) + lists


def _hubness(report: Mapping[str, Any], name: str) -> str:
    rows = [
        (
            pair_of(one),
            "not defined" if one["skewness"] is None else f"{one['skewness']:.2f}",
            f"{one['mean']:.1f}",
            f"{one['most']:,}",
            "not defined" if one["hubs"] is None else f"{one['hubs']:,}",
            percent(one["top_percent"]),
            percent(one["antihubs"]),
            percent(one["antihubs_by_chance"]),
        )
        for one in report["hubness"][name].values()
    ]
    heads = ("", "skewness", "times found: mean", "most", "hubs (> 2 means)", "places of top 1 %")
    return table((*heads, "never found", "by chance"), rows, set(range(1, 8)))


def _gap(report: Mapping[str, Any], name: str) -> str:
    rows = []
    for gap in report["modality_gap"][name].values():
        (one, first), (two, second) = gap["spread"].items()
        apart = "not defined" if gap["separability"] is None else percent(gap["separability"])
        spreads = f"{first:.3f}, {second:.3f}"
        rows.append((f"{one}, {two}", f"{gap['distance']:.3f}", spreads, value_of(gap["relative"]), apart))
    own = [(part, percent(one["share"]), percent(one["chance"])) for part, one in report["own_modality"][name].items()]
    gaps = table(("", "gap", "spread of each", "gap / spread", "told apart by a plane"), rows, {1, 2, 3, 4})
    return gaps + table(("", "nearest of all that are of its own modality", "by chance"), own, {1, 2})


def _alignment(report: Mapping[str, Any], name: str) -> str:
    rows = [
        (
            ", ".join(one["parts"]),
            f"{one['pairs']:,}",
            f"{one['alignment']:.3f}",
            "not defined" if one["shift"] is None else percent(one["shift"]),
        )
        for one in report["alignment"][name].values()
    ]
    uniform = [(part, value_of(one)) for part, one in report["uniformity"][name].items()]
    heads = ("", "pairs of partners", "alignment", "of which the gap alone")
    return table(heads, rows, {1, 2, 3}) + table(("", "uniformity"), uniform, {1})


def _dimension(report: Mapping[str, Any], name: str) -> str:
    found = report["intrinsic_dimension"][name].items()
    rows = [(part, "not defined" if one is None else f"{one:.1f}") for part, one in found]
    return table(("", f"of {report['spaces'][name]['dim']} numbers"), rows, {1})


def _duplicates(report: Mapping[str, Any], name: str) -> str:
    rows = [
        (part, one["cosine"], f"{one['groups']:,}", f"{one['items']:,}", f"{one['of_several_items']:,}")
        for part, kinds in report["duplicates"][name].items()
        for one in kinds.values()
    ]
    return table(("", "cosine at least", "groups", "items in them", "groups of several items"), rows, {1, 2, 3, 4})


def _clusters(report: Mapping[str, Any], name: str) -> str:
    made = ""
    for part, clusters in report["clusters"][name].items():
        rows = []
        for number, one in enumerate(clusters, start=1):
            labels = ", ".join(f"{row['label']} {percent(row['share'])}" for row in one["labels"])
            rows.append((number, f"{one['items']:,}", labels, ", ".join(one["words"]), one["medoid"]))
        kept = [column for column in range(5) if any(row[column] != "" for row in rows)]
        heads = ("", "items", report["label"], "typical words", "medoid")
        made += f"<h3>{text(part)}</h3>\n"
        made += table([heads[c] for c in kept], [[row[c] for c in kept] for row in rows], {0, 1})
    return made


def _likeness(report: Mapping[str, Any]) -> str:
    rows = [
        (
            pair,
            part,
            f"{one['items']:,}",
            "not defined" if one["overlap"] is None else percent(one["overlap"]),
            percent(one["chance"]),
            value_of(report["cka"][pair][part]),
        )
        for pair, parts in report["overlap"].items()
        for part, one in parts.items()
    ]
    return table(("spaces", "", "items", "overlap", "by chance", "CKA"), rows, {2, 3, 4, 5})


GLANCE = "Of several numbers of a kind the extremes only; the sections below have them all."
LIKENESS = (
    "Overlap is the share of an item's neighbours in one space that are so in the other too. CKA is the likeness of "
    "the two under any rotation, 0 to 1 (Kornblith et al. 2019). Both are over the items whose ids are equal."
)
MEASURES = (
    Measure(
        "neighbours",
        "Neighbours of random queries",
        "The query stands left in a black frame, beside it its neighbours with their cosines, the nearest first.",
    ),
    Measure(
        "worst",
        "Where it goes wrong",
        "The queries that fare worst. Look who is to blame: the query, its partner (many say something else than what "
        "is seen) or the model.",
    ),
    Measure(
        "ranks",
        "Partners",
        "Partners were made of one item of the data set. R@k is the share of queries whose nearest partner is among "
        "the k nearest. Gap closed: the same, once the mean of its modality is taken from every vector.",
        _ranks,
    ),
    Measure(
        "purity",
        "Purity by label",
        "The share of an item's neighbours that have its label, to be read beside what random neighbours would give: "
        "frequent labels are pure without merit.",
        _purity,
    ),
    Measure(
        "hubness",
        "Hubness",
        "How unevenly items are neighbours of others (Radovanovic et al. 2010). Hubs turn up for everything, and what "
        "is never found might as well not be there. Skewness 0 is even; above about 1 search suffers.",
        _hubness,
    ),
    Measure(
        "modality_gap",
        "Modality gap",
        "The distance between the means of two modalities (Liang et al. 2022), beside the root of the mean squared "
        "distance of items from the mean of their own. A plane that tells 50 % apart tells nothing.",
        _gap,
    ),
    Measure(
        "alignment",
        "Alignment and uniformity",
        "Alignment is the mean squared distance of partners: 0 is best, 2 is at right angles. Uniformity says how "
        "evenly items spread over the sphere: 0 is all in one place, about -4 is even. One is easily had without the "
        "other (Wang and Isola 2020).",
        _alignment,
    ),
    Measure(
        "intrinsic_dimension",
        "Intrinsic dimension",
        "In how many directions items really differ around any one of them (TwoNN, Facco et al. 2017).",
        _dimension,
    ),
    Measure(
        "duplicates",
        "Duplicates and near duplicates",
        "Groups of items as near as that to one another, directly or through others. Look at those of several items of "
        "the data set: copies flatter a test set, and are counted as mistakes. "
        "Groups that hold whole classes are clouds, not copies.",
        _duplicates,
    ),
    Measure(
        "clusters",
        "Clusters",
        "k-means by the cosine. Words are those that sentences of the items, or of their partners, have oftenest "
        "beyond how often all have them.",
        _clusters,
    ),
    Measure(
        "projection",
        "Maps",
        "Two dimensions of many. PCA keeps as much distance as a plane can; t-SNE and UMAP keep who is near, so that "
        "the size of a group and the room between two mean nothing there.",
    ),
)
