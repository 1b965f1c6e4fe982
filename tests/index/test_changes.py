"""What an index goes through over months: updates, merges, ranges, and the questions of how good it is."""

import logging

import numpy as np
import pytest

from mm.index import Index
from tests.shared import unit


def small(rows=50, **options):
    return Index.build(
        unit(rows), [f"i{row}" for row in range(rows)], [{"n": row} for row in range(rows)], modality="image", **options
    )


# Update ---------------------------------------------------------------------------------------------------------------


def test_update_gives_new_vectors_and_where_given_new_metadata():
    index = small()
    old = index.search(unit(50)[[7]], 1)
    index.update(unit(2, seed=3), ["i7", "i3"])
    np.testing.assert_array_equal(index.vectors(["i3", "i7"]), unit(2, seed=3)[::-1])
    assert index.metadata(["i7", "i3"]) == [{"n": 7, "modality": "image"}, {"n": 3, "modality": "image"}]
    assert index.ids[-2:] == ["i7", "i3"] and len(index) == 50  # as if they were added now
    with pytest.raises(LookupError, match="1 of these items were removed since they were found"):
        _ = old.metadata
    index.update(unit(2, seed=4), ["i7", "i8"], [{"n": 70}, {"m": 1, "modality": "text"}])
    assert index.metadata(["i7", "i8"]) == [{"n": 70, "modality": "image"}, {"m": 1, "modality": "text"}]
    assert index.search(unit(2, seed=4), 1, {"n": 70}).ids == [["i7"], ["i7"]]
    assert index.modalities == {"image": 49, "text": 1}


@pytest.mark.parametrize(
    ("ids", "metadata", "error", "message"),
    [
        (["i1", "i1"], None, ValueError, "ids must be different: got 2, of which 1"),
        (["i1", "x"], None, LookupError, "id 'x' must be one of the 50"),
        (["i1"], None, ValueError, "equally many: got 2 embeddings, 1 ids"),
        (["i1", "i2"], [{}, {"x": float("nan")}], ValueError, "metadata must be JSON values: row 1"),
        (["i1", "i2"], [{}], ValueError, "equally many"),
    ],
)
def test_an_update_that_is_refused_changes_nothing(ids, metadata, error, message):
    index = small()
    with pytest.raises(error, match=message):
        index.update(unit(2, seed=3), ids, metadata)
    with pytest.raises(ValueError, match="row 0 has length 0"):
        index.update(0 * unit(2), ["i1", "i2"])
    assert index.ids == small().ids
    np.testing.assert_array_equal(index.vectors(index.ids), unit(50))
    assert index.metadata(index.ids) == small().metadata(index.ids)


# Merge ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["exact", "IVF16,Flat", "HNSW16,SQ8"])
def test_a_merged_index_answers_as_if_all_had_been_added(factory, monkeypatch):
    monkeypatch.setattr("mm.index.store.MERGED", 100)  # in several parts
    vectors = unit(1200)
    index = Index.build(vectors[:900], range(900), modality="image", fingerprint="f", factory=factory)
    other = Index.build(vectors[900:], range(900, 1200), [{"n": 1}] * 300, modality="text", fingerprint="f")
    other.remove([950])
    index.merge(other)
    assert index.ids == [row for row in range(1200) if row != 950]
    assert index.modalities == {"image": 900, "text": 299}
    assert index.metadata([1000]) == [{"n": 1, "modality": "text"}]
    assert index.search(vectors[[1000, 2]], 1).ids == [[1000], [2]]
    assert len(other) == 299 and other.search(vectors[[1000]], 1).ids == [[1000]]


def test_indexes_that_do_not_belong_together_are_not_merged():
    index = small(fingerprint="f")
    other = Index.build(unit(3, seed=2), ["a", "i4", "i9"], fingerprint="f")
    with pytest.raises(ValueError, match="'i4' is in both indexes, 2 are in all"):
        index.merge(other)
    with pytest.raises(ValueError, match="must have one fingerprint: got 'f' and 'g'"):
        index.merge(Index.build(unit(1, seed=2), ["a"], fingerprint="g"))
    with pytest.raises(ValueError, match="must have one dim: got 16 and 8"):
        index.merge(Index.build(unit(1, 8), ["a"], fingerprint="f"))
    with pytest.raises(ValueError, match="is in both"):
        index.merge(index)
    assert len(index) == 50
    index.merge(Index(16, "f"))
    assert len(index) == 50


# Range ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["exact", "HNSW16"])
@pytest.mark.parametrize("score", [-1, -0.2, 0.0, 0.3, 0.9, 1])
def test_a_range_holds_every_item_of_at_least_that_score(factory, score):
    vectors = np.concatenate([unit(200), unit(200)[:5]])  # five twins
    index = Index.build(vectors, range(205), [{"odd": row % 2} for row in range(205)], factory=factory)
    asked = unit(200)[:7]
    scores = asked.astype(np.float64) @ vectors.T.astype(np.float64)
    least = score - 1e-6 if score == 1 else score
    hits = index.search_range(asked, least)
    expected = [set(np.flatnonzero(row >= least).tolist()) for row in scores]
    assert [set(row) for row in hits.ids] == expected
    assert [len(row) for row in hits.ids] == [len(row) for row in hits.scores] == [len(row) for row in expected]
    assert all((np.diff(row) <= 0).all() for row in hits.scores)
    assert [row[:2] for row in hits.ids[:5]] == [[row, 200 + row] for row in range(5)]  # equals in the order of adding
    assert [[values["odd"] for values in row] for row in hits.metadata] == [[i % 2 for i in row] for row in hits.ids]
    odd = index.search_range(asked, least, {"odd": 1}, exclude=[1])
    assert [set(row) for row in odd.ids] == [{i for i in row if i % 2 and i != 1} for row in expected]


def test_the_end_of_a_range_belongs_to_it_and_what_is_no_cosine_is_refused():
    index = Index.build(np.eye(2, dtype=np.float32), ["x", "y"])
    assert index.search_range([1.0, 0.0], 0.0).ids == [["x", "y"]]
    assert index.search_range([1.0, 0.0], 1.0).rows()[0].id == "x"
    for wrong in (90, -1.5, float("nan")):
        with pytest.raises(ValueError, match="score must be a cosine, from -1 to 1: got"):
            index.search_range([1.0, 0.0], wrong)


# Recall ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["exact", "IVF16,Flat", "HNSW16"])
def test_recall_refuses_queries_that_are_items(factory):
    index = Index.build(unit(800), range(800), factory=factory)
    others = unit(20, seed=4)
    assert 0.5 < index.recall(10, others) <= 1
    mixed = np.concatenate([others, unit(800)[[5, 9]]])
    with pytest.raises(ValueError, match="must not be items, which find themselves: 2 of 22 are, first row 20"):
        index.recall(10, mixed)
    assert index.recall(1, mixed, self_queries=True) > 0.5
    with pytest.raises(ValueError, match="got 0 queries for 800 items"):
        index.recall(10, others[:0])
    with pytest.raises(ValueError, match="got 20 queries for 0 items"):
        Index(16).recall(10, others)
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        index.recall(0, others)


def test_recall_of_exact_search_is_1_also_where_k_is_larger_than_the_index():
    index = Index.build(unit(30), range(30))
    for k in (1, 10, 30, 500):
        assert index.recall(k, unit(9, seed=5)) == 1.0


def test_recall_is_the_share_of_right_answers():
    index = Index.build(unit(1500), range(1500), factory="IVF16,Flat")
    asked = unit(100, seed=8)
    for k in (1, 10):
        found, right = index.search(asked, k).ids, index.search(asked, k, exact=True).ids
        shares = [len(set(ours) & set(best)) / k for ours, best in zip(found, right, strict=True)]
        assert index.recall(k, asked) == pytest.approx(np.mean(shares), abs=1e-9)


def test_an_index_that_outgrows_exact_search_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr("mm.index.tuning.EXACT_UP_TO", 2000)
    index = Index.build(unit(1900), range(1900))
    assert index.built == "exact"
    index.add(unit(200, seed=1), range(1900, 2100))
    assert caplog.text == ""
    for _ in range(2):
        assert index.search(unit(1900)[[4]], 1).ids == [[4]]
    assert caplog.text.count("2100 items are searched exactly: compact() builds auto for them") == 1
    with caplog.at_level(logging.INFO, "mm.index"):
        index.compact()
    assert index.built == "IVF64,PQ8x4fs" or "does not pay" in caplog.text
