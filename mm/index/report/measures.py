"""What the measures of `mm.index.analysis` say of a space: numbers for a report, and the items behind them.

A measure that is not defined for a space (all vectors are equal, there is one item) is None, and a note says why.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from mm.index import analysis
from mm.index.analysis import Graph
from mm.index.ranks import Ranks, ranks
from mm.index.report.measured import LEAST, Measured, Numbers, defined, name_of
from mm.index.report.spaces import Space, cut
from mm.index.report.words import typical, words_of

DUPLICATE, NEAR_DUPLICATE = 0.999, 0.95  # cosines: equal but for rounding and compression; hardly to be told apart
RANKED = 5000  # queries whose partner's place is counted; of more, so many are drawn
CLUSTERS = 12  # as many as the map has colours
CLOUD, CLOUDED = 10, 0.1  # where groups of so many near duplicates hold more than that share, they are no copies
LISTED = 10  # hubs, labels, groups in the numbers
MEMBERS = 12  # ids of a group in the numbers


def look(space: Space, label: str | None, seed: int) -> Measured:
    """Every measure of one space.

    Args:
        space: of the items.
        label: key of the metadata; None = there are no labels.
        seed: of what is drawn.
    """
    found = Measured(space)
    flat = {part for part in space.parts if space.is_constant(part)}
    for part, count in space.counts.items():
        if count == 1:
            found.notes.append(f"{part}: there is one item, of whose neighbours nothing can be said.")
        elif part in flat:
            found.notes.append(
                f"{part}: all {count:,} vectors are equal. No item is nearer than another, so what is measured over "
                "neighbours is not defined."
            )
        if (k := space.neighbours_of(part)) < space.k and (count > 1 or len(space.parts) > 1):
            found.notes.append(
                f"{part}: k is lowered from {space.k} to {k}, a tenth of the {count:,} items, at least 1."
            )
        if 1 < count < LEAST:
            found.notes.append(
                f"{part}: {count} items are fewer than {LEAST}: skewness, intrinsic dimension and whether a "
                "plane tells them apart are not measured."
            )
    with_neighbours = [part for part, count in space.counts.items() if count > 1 and part not in flat]
    ordered = list(itertools.permutations(space.parts, 2))
    across = [pair for pair in ordered if not flat & {*pair}]
    every = [*((part, part) for part in with_neighbours), *across]
    numbers = found.numbers
    numbers["hubness"] = {name_of(*pair): _hubness(found, *pair) for pair in every}
    numbers["purity"] = {} if label is None else _kept({name_of(*pair): _purity(found, label, *pair) for pair in every})
    numbers["own_modality"] = _own_modality(space) if len(space.parts) > 1 and not flat else {}
    numbers["uniformity"] = {
        part: defined(found, f"uniformity of {part}", partial(analysis.uniformity, space.of(part), seed))
        for part in space.parts
    }
    numbers["intrinsic_dimension"] = {
        part: None
        if space.counts[part] < LEAST
        else defined(
            found,
            f"intrinsic dimension of {part}",
            partial(analysis.intrinsic_dimension, space.of(part), space.graph(part)),
        )
        for part in with_neighbours
    }
    numbers["modality_gap"] = {"_".join(pair): _gap(found, *pair, seed) for pair in space.pairs}
    numbers["alignment"] = _kept({"_".join(pair): _alignment(space, *pair) for pair in space.pairs})
    numbers["ranks"] = _kept(
        {name_of(*pair): _ranks(found, *pair, seed) for pair in itertools.permutations(space.parts, 2)}
    )
    alone = [pair for pair in space.pairs if "_".join(pair) not in numbers["alignment"]]
    if alone:
        found.notes.append(
            f"ranks and alignment: not measured of {', '.join(' and '.join(pair) for pair in alone)}, where no two "
            "items are partners: their metadata name no common `item`, and their ids differ in more than modality and "
            "#number."
        )
    numbers["duplicates"] = {part: _duplicates(found, part) for part, count in space.counts.items() if count > 1}
    numbers["clusters"] = {part: _clusters(found, part, label, seed) for part in with_neighbours}
    return found


def _kept(values: dict[str, Numbers | None]) -> Numbers:
    """Without those of which there is nothing to measure."""
    return {name: value for name, value in values.items() if value is not None}


def _hubness(found: Measured, part: str, answers: str) -> Numbers:
    graph, space = found.space.nearest(part, answers), found.space
    count = space.counts[answers]
    mean = graph.rows.size / count
    hubness = analysis.hubness(graph, count)
    found.hubs[part, answers] = hubness
    items = space.items[space.parts[answers]]
    falling = np.argsort(-hubness.occurrences, kind="stable")  # (m,)
    top = falling[:LISTED].tolist()
    right = _found_by_partners(space, graph, part, answers) if part != answers else None  # (m,)
    if mean < 1:
        found.notes.append(
            f"hubness of {name_of(part, answers)}: an item is found {mean:.1f} times on average; below once there are "
            "neither hubs nor a skewness to speak of."
        )
    hundredth = falling[: -(-len(falling) // 100)]
    return {
        "from": part,
        "to": answers,
        "skewness": None if mean < 1 or count < LEAST else hubness.skewness,
        "antihubs": hubness.antihubs,
        "antihubs_by_chance": (1 - graph.rows.shape[1] / count) ** len(graph.rows),
        "hubs": None if mean < 1 else len(hubness.hubs),
        "most": int(hubness.occurrences.max()),
        "mean": mean,
        "top_percent": hubness.top_percent,
        "by_partners": None if right is None else float(right.mean()),
        "by_partners_top_percent": None if right is None else float(right[hundredth].mean()),
        "k": graph.rows.shape[1],
        "largest": [{"id": items[row].id, "occurrences": int(hubness.occurrences[row])} for row in top],
    }


def _found_by_partners(space: Space, graph: Graph, part: str, answers: str) -> np.ndarray | None:
    """(m,) whether an answer is among the neighbours of a partner of its own; None where nothing has a partner."""
    own, its = space.partners[space.parts[part]], space.partners[space.parts[answers]]  # (n,), (m,)
    if not np.isin(own, its).any():
        return None
    right = graph.rows[its[graph.rows] == own[:, None]]  # (r,)
    found = np.zeros(len(its), bool)
    found[right] = True
    return found


def _purity(found: Measured, label: str, part: str, answers: str) -> Numbers | None:
    """Of one modality, or of its neighbours in another."""
    space, across = found.space, part != answers
    labels = space.labels(label, part)
    others = space.labels(label, answers) if across else None
    if not any(one is not None for one in labels) or (others and not any(one is not None for one in others)):
        return None
    try:
        shares, chance = analysis.purity(space.nearest(part, answers), labels, others)
    except ValueError as error:
        found.notes.append(f"purity of {name_of(part, answers)}: not defined, for {error}")
        return None
    known = ~np.isnan(shares)  # (n,)
    if not known.any():
        found.notes.append(f"purity of {name_of(part, answers)}: no item has a neighbour whose {label} is known.")
        return None
    sizes = Counter(one for one in (others or labels) if one is not None)
    mine: dict[Any, list[float]] = {}
    for one, share in zip(labels, shares.tolist(), strict=True):
        if not math.isnan(share):
            mine.setdefault(one, []).append(share)
    if len(sizes) == 1 and not across:
        found.notes.append(
            f"purity of {part}: there is one {label} only, {next(iter(sizes))!r}: 100 % by chance too, which says "
            "nothing."
        )
    itself = 0 if across else 1
    alone = [one for one in mine if sizes[one] <= itself]
    undefined = len(alone) == len(mine)
    if undefined:
        found.notes.append(
            f"purity of {name_of(part, answers)}: not defined, for no {label} is that of "
            + ("two items." if not across else "an item of each.")
        )
    elif alone:
        found.notes.append(
            f"purity of {name_of(part, answers)}: of {len(mine)} values of {label}, {len(alone)} have no {answers} "
            "that could be a neighbour of the same; their items count as 0 and are not listed."
        )
    if not across and not undefined:
        found.purity[part] = shares
    total = sum(sizes.values()) - itself
    rows = [
        {
            "label": one,
            "items": len(some),
            "purity": sum(some) / len(some),
            "chance": (sizes[one] - (not across)) / total,
        }
        for one, some in mine.items()
        if one not in alone
    ]
    rows.sort(key=lambda row: (row["purity"], str(row["label"])))
    return {
        "from": part,
        "to": answers,
        "purity": None if undefined else float(shares[known].mean()),
        "chance": None if undefined else chance,
        "label": label,
        "labels": len(mine),
        "items": int(known.sum()),
        "unlabelled": sum(one is None for one in labels),
        "worst": rows[:LISTED],
        "best": rows[::-1][: min(LISTED, max(len(rows) - LISTED, 0))],
    }


def _own_modality(space: Space) -> Numbers:
    """How many of the nearest of all items are of an item's own modality."""
    names = [item.modality for item in space.items]
    k = max(space.neighbours_of(part) for part in space.parts)
    shares, _ = analysis.purity(cut(space.whole_graph(), k), names)
    others = len(names) - 1
    return {
        part: {"share": float(shares[where].mean()), "chance": (space.counts[part] - 1) / others}
        for part, where in space.parts.items()
    }


def _gap(found: Measured, first: str, second: str, seed: int) -> Numbers:
    space = found.space
    clouds = space.of(first), space.of(second)
    gap, spreads = analysis.modality_gap(*clouds), [analysis.spread(cloud) for cloud in clouds]
    mean = sum(spreads) / 2
    what = f"whether a plane tells {first} and {second} apart"
    return {
        "distance": gap,
        "spread": dict(zip((first, second), spreads, strict=True)),
        "relative": gap / mean if mean**2 > analysis.EQUAL else None,
        "separability": None
        if min(map(len, clouds)) < LEAST
        else defined(found, what, partial(analysis.separability, *clouds, seed)),
    }


def _alignment(space: Space, first: str, second: str) -> Numbers | None:
    """Of all partners; how much of it is the shift between the modalities, the same for all."""
    rows, its = space.partner_pairs(first, second)  # (p,), (p,)
    if not len(rows):
        return None
    a, b = space.of(first), space.of(second)
    total = 0.0
    for start in range(0, len(rows), analysis.BLOCK):
        some = slice(start, start + analysis.BLOCK)
        total += analysis.alignment(a[rows[some]], b[its[some]]) * len(rows[some])
    weights = [np.bincount(one, minlength=len(cloud)) / len(rows) for one, cloud in ((rows, a), (its, b))]
    shift = weights[0].astype(np.float32) @ a - weights[1].astype(np.float32) @ b  # (D,)
    mean = total / len(rows)
    share = float(np.square(shift).sum()) / mean if mean > analysis.EQUAL else None
    return {"parts": [first, second], "alignment": mean, "pairs": len(rows), "shift": share}


def _ranks(found: Measured, part: str, answers: str, seed: int) -> Numbers | None:
    """Where partners stand, as the vectors are and with the gap closed."""
    space = found.space
    codes, its = space.partners[space.parts[part]], space.partners[space.parts[answers]]  # (n,), (m,)
    able = np.flatnonzero(np.isin(codes, its))  # (q,)
    if not len(able):
        return None
    asked = np.sort(np.random.default_rng(seed).permutation(able)[:RANKED])  # (Q,)
    queries, others = space.of(part)[asked], space.of(answers)  # (Q, D), (m, D)
    stand = ranks(queries, others, codes[asked], its)
    order = np.argsort(-stand.places, kind="stable")  # (Q,)
    found.worst[part, answers] = asked[order], stand.places[order]
    items = space.items[space.parts[part]]
    closed = _unit(queries - space.of(part).mean(axis=0)), _unit(others - others.mean(axis=0))  # (Q, D), (m, D)
    return {
        "from": part,
        "to": answers,
        "queries": len(asked),
        "answers": len(others),
        **_recalls(stand),
        "gap_closed": _recalls(ranks(*closed, codes[asked], its)),
        "worst": [
            {"id": items[row].id, "place": float(place)}
            for row, place in zip(asked[order][:LISTED].tolist(), stand.places[order], strict=False)
        ],
    }


def _recalls(stand: Ranks) -> Numbers:
    return {"R@1": stand.recall(1), "R@10": stand.recall(10), "median": float(np.median(stand.places))}


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
    return vectors / np.where(lengths > 0, lengths, 1)  # (n, D)


def _duplicates(found: Measured, part: str) -> Numbers:
    space = found.space
    items, owners = space.items[space.parts[part]], space.partners[space.parts[part]]
    numbers: Numbers = {}
    for name, cosine in (("equal", DUPLICATE), ("near", NEAR_DUPLICATE)):
        groups = analysis.duplicates(space.graph(part), cosine)
        apart = [group for group in groups if len(np.unique(owners[group])) > 1]
        numbers[name] = {
            "cosine": cosine,
            "groups": len(groups),
            "items": sum(map(len, groups)),
            "of_several_items": len(apart),  # of the data set: sentences about one picture are expected to be alike
            "largest": [[items[row].id for row in group[:MEMBERS].tolist()] for group in apart[:LISTED]],
        }
    held = sum(len(group) for group in groups if len(group) >= CLOUD) / space.counts[part]
    numbers["near"]["clouds"] = clouds = held > CLOUDED and numbers["equal"]["items"] / space.counts[part] <= held / 2
    if clouds:
        found.notes.append(
            f"near duplicates of {part}: clouds, not copies: at a cosine of {NEAR_DUPLICATE} groups of {CLOUD} and "
            f"more items hold {100 * held:.0f} % of all, each item near the next. Copies are those at {DUPLICATE}."
        )
    found.groups[part] = apart  # the near ones, which came last
    return numbers


def _clusters(found: Measured, part: str, label: str | None, seed: int) -> list[Numbers]:
    space = found.space
    where, count = space.parts[part], space.counts[part]
    cluster, medoids = analysis.clusters(space.of(part), min(CLUSTERS, max(count // 2, 1)), seed)
    found.clusters[part] = cluster, medoids
    items = space.items[where]
    near = np.argsort(-np.einsum("nd,nd->n", space.of(part), space.of(part)[medoids[cluster]]), kind="stable")  # (n,)
    words = typical(words_of(space, where.start + near), cluster[near])
    labels = space.labels(label, part) if label else [None] * count
    rows = []
    for number, medoid in enumerate(medoids.tolist()):
        members = np.flatnonzero(cluster == number)
        named = Counter(labels[row] for row in members.tolist() if labels[row] is not None).most_common(3)
        rows.append(
            {
                "items": len(members),
                "medoid": items[medoid].id,
                "words": words[number],
                "labels": [{"label": one, "share": times / len(members)} for one, times in named],
            }
        )
    return rows
