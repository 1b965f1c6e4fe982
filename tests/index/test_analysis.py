"""Measures of a space of embeddings against their definitions, written out slowly, and against known answers."""

import itertools

import numpy as np
import pytest
import scipy.stats

from mm.index import analysis
from mm.index.analysis import Graph, joined, nearest, neighbours
from tests.shared import unit

# Neighbours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 299])
def test_neighbours_are_the_nearest_others(k):
    vectors = unit(300)
    graph = neighbours(vectors, k)
    cosines = vectors.astype(np.float64) @ vectors.T  # (300, 300)
    np.testing.assert_allclose(graph.cosines, np.take_along_axis(cosines, graph.rows, 1), atol=1e-6)
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(graph.cosines, -np.sort(-cosines)[:, :k], atol=1e-6)
    assert all(len({*row, own}) == k + 1 for own, row in enumerate(graph.rows.tolist()))


def test_nobody_is_its_own_neighbour_among_many_equals():
    graph = neighbours(np.repeat(unit(3), 20, axis=0), 5)
    assert not (graph.rows == np.arange(60)[:, None]).any()
    assert (graph.rows // 20 == np.arange(60)[:, None] // 20).all()
    assert all(len(set(row)) == 5 for row in graph.rows.tolist())
    assert graph.rows[19].tolist() == [0, 1, 2, 3, 4] and graph.rows[2].tolist() == [0, 1, 3, 4, 5]  # the earlier ones


@pytest.mark.parametrize("k", [0, 10])
def test_more_neighbours_than_there_are_others(k):
    with pytest.raises(ValueError, match=rf"k must lie in 1\.\.9, the number of others: got {k}"):
        neighbours(unit(10), k)


def test_the_nearest_of_others_and_a_graph_that_is_joined_from_its_parts():
    vectors = unit(120)
    cosines = vectors[:50].astype(np.float64) @ vectors[50:].T  # (50, 70)
    found = nearest(vectors[:50], vectors[50:], 6)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosines, axis=1)[:, :6])
    whole, starts = neighbours(vectors, 6), (0, 50, 117)
    parts = [vectors[:50], vectors[50:117], vectors[117:]]
    graphs = [
        [neighbours(a, min(6, len(a) - 1)) if a is b else nearest(a, b, min(6, len(b))) for b in parts] for a in parts
    ]
    rows = np.concatenate([joined(some, starts, 6).rows for some in graphs])
    np.testing.assert_array_equal(rows, whole.rows)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.70, the number of answers: got 71"):
        nearest(vectors[:50], vectors[50:], 71)


# Over the graph -------------------------------------------------------------------------------------------------------


def test_purity_is_the_share_of_neighbours_with_the_same_label():
    graph, labels = neighbours(unit(200), 6), [f"class {row % 3}" for row in range(200)]
    found, chance = analysis.purity(graph, labels)
    assert found.tolist() == [np.mean([labels[o] == labels[i] for o in row]) for i, row in enumerate(graph.rows)]
    pairs = list(itertools.permutations(range(200), 2))
    assert chance == pytest.approx(np.mean([labels[a] == labels[b] for a, b in pairs]))
    assert found.mean() == pytest.approx(chance, abs=0.05)  # labels that say nothing
    apart = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    assert analysis.purity(neighbours(apart, 4), [str(row // 5) for row in range(20)])[0].mean() == 1
    assert analysis.purity(graph, [1] * 200) == (pytest.approx(np.ones(200)), 1)
    with pytest.raises(ValueError, match="every item must have a label: got 3 labels of 200 items"):
        analysis.purity(graph, [1, 2, 3])


def test_purity_leaves_out_what_is_not_known_and_looks_across():
    graph = Graph(np.array([[1, 2], [0, 2], [3, 0], [2, 1]]), np.ones((4, 2), np.float32))
    shares, chance = analysis.purity(graph, ["a", "a", None, "b"])
    np.testing.assert_array_equal(shares, [1, 1, np.nan, 0])  # of 1 known, 1 known, not known itself, 1 known
    assert chance == pytest.approx(2 / 6)  # of six ordered pairs of the three that are known, (0, 1) and (1, 0)
    across, chance = analysis.purity(graph, ["a", None, "b", "b"], ["a", "a", "b", None, "c"])
    np.testing.assert_array_equal(across, [0.5, np.nan, 0, 0.5])
    assert chance == pytest.approx((1 * 2 + 2 * 1) / (3 * 4))
    for labels in ([None] * 4, [None, None, None, "a"]):
        with pytest.raises(ValueError, match="items of known labels that could be neighbours"):
            analysis.purity(graph, labels)


def test_hubness_across_counts_the_answers():
    answers = unit(90, seed=1)
    graph = nearest(unit(30), answers, 4)
    found = analysis.hubness(graph, 90)
    counts = [sum(item in row for row in graph.rows.tolist()) for item in range(90)]
    assert found.occurrences.tolist() == counts
    assert sorted(found.hubs) == [item for item, count in enumerate(counts) if count > 2 * 4 * 30 / 90]
    assert found.top_percent == max(counts) / (4 * 30)


def test_hubness_counts_how_often_an_item_is_a_neighbour():
    graph = neighbours(unit(400, dim=64), 5)
    found = analysis.hubness(graph)
    counts = [sum(item in row for row in graph.rows.tolist()) for item in range(400)]
    assert found.occurrences.tolist() == counts and np.mean(counts) == 5
    assert found.skewness == pytest.approx(scipy.stats.skew(counts))
    assert sorted(found.hubs) == [item for item, count in enumerate(counts) if count > 10]
    assert [counts[item] for item in found.hubs] == sorted((c for c in counts if c > 10), reverse=True)
    assert found.antihubs == np.mean(np.array(counts) == 0)


def test_hubs_come_with_dimensions_and_a_circle_has_none():
    angles = 2 * np.pi * np.arange(100) / 100
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    even = analysis.hubness(neighbours(circle, 2))
    assert (even.skewness, len(even.hubs), even.antihubs) == (0, 0, 0)
    found = []
    for dim in (3, 200):  # a cone, so that there is a middle that is near to all
        cone = unit(2000, dim) + 2 * np.eye(1, dim, dtype=np.float32)
        cone /= np.linalg.norm(cone, axis=1, keepdims=True)
        found.append(analysis.hubness(neighbours(cone, 10)))
    assert found[1].skewness > found[0].skewness + 1 and found[1].antihubs > found[0].antihubs


@pytest.mark.parametrize("dim", [2, 5])
def test_the_intrinsic_dimension_is_that_of_the_surface(dim):
    chance = np.random.default_rng(dim)
    inside = np.concatenate([chance.uniform(-1, 1, (4000, dim)), np.full((4000, 1), 3.0)], axis=1)
    basis = np.linalg.qr(chance.standard_normal((30, dim + 1)))[0]  # into 30 dimensions
    vectors = (inside @ basis.T).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    twice = np.concatenate([vectors, vectors[:500]])  # equal ones say nothing
    for some in (vectors, twice):
        assert analysis.intrinsic_dimension(some, neighbours(some, 2)) == pytest.approx(dim, rel=0.12)


def test_what_has_no_intrinsic_dimension():
    with pytest.raises(ValueError, match="takes two neighbours of each item"):
        analysis.intrinsic_dimension(unit(9), neighbours(unit(9), 1))
    with pytest.raises(ValueError, match="items that differ from their neighbours"):
        analysis.intrinsic_dimension(np.ones((9, 1)), neighbours(np.ones((9, 1), np.float32), 2))


def test_every_planted_duplicate_is_found_and_nothing_else():
    vectors = unit(500, dim=64)
    near = vectors[:30] + 0.0005 * unit(30, dim=64, seed=1)
    together = np.concatenate([vectors, near / np.linalg.norm(near, axis=1, keepdims=True), vectors[:10]])
    groups = analysis.duplicates(neighbours(together, 5), 0.999)
    assert [one.tolist() for one in groups] == [
        *([row, 500 + row, 530 + row] for row in range(10)),
        *([row, 500 + row] for row in range(10, 30)),
    ]
    assert analysis.duplicates(neighbours(vectors, 5), 0.999) == []


def test_a_group_larger_than_the_graph_is_wide_holds_together():
    vectors = np.concatenate([np.repeat(unit(1), 50, axis=0), unit(40, seed=2)])
    (group,) = analysis.duplicates(neighbours(vectors, 3), 0.9999)
    assert group.tolist() == list(range(50))


def test_overlap_is_the_share_of_common_neighbours():
    first, second = neighbours(unit(300), 8), neighbours(unit(300, seed=1), 8)
    shares = [len(set(a) & set(b)) / 8 for a, b in zip(first.rows.tolist(), second.rows.tolist(), strict=True)]
    assert analysis.overlap(first, second) == pytest.approx(np.mean(shares))
    assert analysis.overlap(first, first) == 1
    assert analysis.overlap(first, second) == pytest.approx(8 / 299, abs=0.02)  # by chance
    with pytest.raises(ValueError, match=r"graphs must have one shape \(n, k\): got \(300, 8\) and \(300, 3\)"):
        analysis.overlap(first, Graph(second.rows[:, :3], second.cosines[:, :3]))


# Over vectors ---------------------------------------------------------------------------------------------------------


def test_the_gap_of_two_shifted_clouds_is_their_shift():
    chance = np.random.default_rng(0)
    shift = np.array([0.3, -0.4, 0, 0, 0, 0, 0, 0])
    first = 0.05 * chance.standard_normal((20_000, 8))
    second = 0.05 * chance.standard_normal((20_000, 8)) + shift
    assert analysis.modality_gap(first, second) == pytest.approx(0.5, rel=0.01)
    assert analysis.modality_gap(first, first) == 0


def test_the_spread_is_the_distance_from_the_mean_and_a_plane_tells_clouds_apart():
    chance = np.random.default_rng(0)
    first, second = 0.3 * chance.standard_normal((3000, 8)), 0.3 * chance.standard_normal((3000, 8))
    assert analysis.spread(first) == pytest.approx(np.sqrt(((first - first.mean(axis=0)) ** 2).sum(axis=1).mean()))
    assert analysis.separability(first, second) == pytest.approx(0.5, abs=0.03)
    shift = np.array([0.6, 0, 0, 0, 0, 0, 0, 0])  # two deviations: the best plane is right for Phi(1) of each
    assert analysis.separability(first, second + shift) == pytest.approx(scipy.stats.norm.cdf(1), abs=0.02)
    stretched = np.array([1, 100, 1, 1, 1, 1, 1, 1])  # where the line between the means would tell nothing
    assert analysis.separability(first * stretched, (second + shift) * stretched) > 0.8
    assert analysis.separability(np.zeros((4, 2)), np.ones((6, 2))) == 1
    with pytest.raises(ValueError, match="all are equal"):
        analysis.separability(np.ones((4, 2)), np.ones((6, 2)))
    with pytest.raises(ValueError, match="two vectors of each: got 1 and 6"):
        analysis.separability(np.ones((1, 2)), np.ones((6, 2)))


def test_measures_do_not_depend_on_their_blocks(monkeypatch):
    first, second = unit(100), unit(100, seed=1)
    graph = neighbours(first, 3)
    measures = (
        lambda: analysis.alignment(first, second),
        lambda: analysis.cka(first, second),
        lambda: analysis.intrinsic_dimension(first, graph),
        lambda: analysis.spread(first),
    )
    at_once = [measure() for measure in measures]
    monkeypatch.setattr(analysis, "BLOCK", 7)
    assert [measure() for measure in measures] == pytest.approx(at_once)


def test_alignment_and_uniformity_are_their_formulas():
    first, second = unit(80), unit(80, seed=1)
    partners = [((a.astype(float) - b) ** 2).sum() for a, b in zip(first, second, strict=True)]
    assert analysis.alignment(first, second) == pytest.approx(np.mean(partners))
    assert analysis.alignment(first, first) == 0
    every = [np.exp(-2 * ((a.astype(float) - b) ** 2).sum()) for a, b in itertools.combinations(first, 2)]
    assert analysis.uniformity(first) == pytest.approx(np.log(np.mean(every)), abs=1e-5)
    assert analysis.uniformity(np.repeat(first[:1], 9, axis=0)) == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match=r"equal rows: got shapes \(80, 16\) and \(79, 16\)"):
        analysis.alignment(first, second[1:])
    with pytest.raises(ValueError, match="uniformity takes two vectors at least: got 1"):
        analysis.uniformity(first[:1])


def test_uniformity_of_many_is_that_of_some(monkeypatch):
    vectors = unit(3000)
    whole = analysis.uniformity(vectors)
    monkeypatch.setattr(analysis, "MOST_PAIRED", 1500)
    some = analysis.uniformity(vectors)
    assert some != whole and some == pytest.approx(whole, abs=0.01)
    assert analysis.uniformity(vectors) == some != analysis.uniformity(vectors, seed=1)


def test_cka_does_not_see_rotations_and_scales_and_is_the_kernels_form():
    first, second = unit(60), unit(60, dim=9, seed=1)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))[0]
    assert analysis.cka(first, 3 * first @ turn + 1) == pytest.approx(1)
    centre = np.eye(60) - 1 / 60
    kernels = [centre @ (v.astype(float) @ v.T) @ centre for v in (first, second)]
    norms = np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1])
    assert analysis.cka(first, second) == pytest.approx((kernels[0] * kernels[1]).sum() / norms)
    assert (
        analysis.cka(first, second) == pytest.approx(analysis.cka(second, first)) and analysis.cka(first, second) < 0.5
    )
    with pytest.raises(ValueError, match="the same items: got 60 and 59"):
        analysis.cka(first, second[1:])
    with pytest.raises(ValueError, match="all items are equal"):
        analysis.cka(first, np.ones((60, 4)))


def test_clusters_are_found_with_their_medoids():
    centres = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 4)))[0].T  # at right angles
    which = np.repeat([2, 0, 3, 1], [90, 60, 40, 30])
    vectors = (centres[which] + 0.02 * np.random.default_rng(1).standard_normal((220, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cluster, medoids = analysis.clusters(vectors, 4)
    assert cluster.tolist() == np.repeat([0, 1, 2, 3], [90, 60, 40, 30]).tolist()  # the largest first
    for number, medoid in enumerate(medoids):
        members = np.flatnonzero(cluster == number)
        mean = vectors[members].mean(axis=0)
        assert medoid == members[np.argmax(vectors[members] @ mean)]
    again, _ = analysis.clusters(vectors, 4)
    assert (again == cluster).all()
    own, its = analysis.clusters(vectors[:3], 3)
    assert its[own].tolist() == [0, 1, 2]  # each item has a cluster of its own
    few, its = analysis.clusters(np.repeat(vectors[[0, -1]], [2, 5], axis=0), 5)  # two different items
    assert few.tolist() == [1, 1, 0, 0, 0, 0, 0] and its.tolist() == [2, 0]  # empty clusters are left out
    for number in (0, 4):
        with pytest.raises(ValueError, match=rf"must lie in 1\.\.3, that of the items: got {number}"):
            analysis.clusters(vectors[:3], number)
