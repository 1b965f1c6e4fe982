"""The index against brute force: search, filters, ids, ties, and every input it must refuse."""

import numpy as np
import pytest
import torch

from mm.index import Index
from mm.index.exact import ExactVectors
from tests.shared import unit


def details(rows):
    """Metadata with a string, numbers, a boolean and things that only some have."""
    return [
        {"split": "test" if row % 10 == 0 else "train", "seconds": row / 4, "loud": row % 3 == 0}
        | ({"speaker": f"s{row % 7}"} if row % 2 else {})
        for row in range(rows)
    ]


def brute_force(vectors, queries, k, allowed):
    """Positions of the k best among the allowed, by a full sort; equal scores by position."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return [[p for p in np.lexsort((np.arange(len(s)), -s)) if allowed[p]][:k] for s in scores]


@pytest.fixture
def index():
    return Index.build(unit(300), [f"item{i}" for i in range(300)], details(300), modality="image")


@pytest.mark.parametrize("queries", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 10, 300, 1000])
def test_search_equals_brute_force(index, queries, k):
    asked = unit(queries, seed=5)
    hits = index.search(asked, k)
    expected = brute_force(unit(300), asked, k, np.ones(300, bool))
    assert hits.ids == [[f"item{p}" for p in row] for row in expected]
    assert hits.scores.shape == (queries, min(k, 300))
    np.testing.assert_allclose(hits.scores, np.sort(asked @ unit(300).T)[:, ::-1][:, :k], atol=1e-6)


def test_one_vector_is_one_query_and_tensors_are_taken(index):
    asked = unit(1, seed=6)[0]
    one = index.search(asked, 4)
    assert one.ids == index.search(torch.from_numpy(asked)[None].double(), 4).ids
    best = one.rows()[0]
    assert (best.id, best.score) == (one.ids[0][0], float(one.scores[0, 0]))
    assert best.metadata == details(300)[int(best.id[4:])] | {"modality": "image"}
    assert [rows[0].id for rows in index.search(unit(3), 1)] == ["item0", "item1", "item2"]


FILTERS = {
    "value": ({"split": "test"}, lambda m: m["split"] == "test"),
    "list": ({"speaker": ["s1", "s4"]}, lambda m: m.get("speaker") in ("s1", "s4")),
    "set of numbers": ({"seconds": {0.25, 3, 7.5}}, lambda m: m["seconds"] in (0.25, 3, 7.5)),
    "range": ({"seconds": (10, 20.5)}, lambda m: 10 <= m["seconds"] <= 20.5),
    "from": ({"seconds": (60, None)}, lambda m: m["seconds"] >= 60),
    "up to": ({"speaker": (None, "s3")}, lambda m: m.get("speaker", "t") <= "s3"),
    "boolean": ({"loud": True}, lambda m: m["loud"]),
    "not given": ({"speaker": None}, lambda m: "speaker" not in m),
    "not given or": ({"speaker": [None, "s1"]}, lambda m: m.get("speaker") in (None, "s1")),
    "several": ({"split": "train", "loud": False}, lambda m: m["split"] == "train" and not m["loud"]),
    "numpy value": ({"seconds": np.float64(2.5)}, lambda m: m["seconds"] == 2.5),
    "no match": ({"split": "val"}, lambda m: False),
    "other type": ({"seconds": "2.5"}, lambda m: False),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("queries", [1, 5])
def test_filters_equal_brute_force_on_the_subset(index, name, queries, monkeypatch):
    monkeypatch.setattr("mm.index.products.BLOCK", 64)  # so that selected vectors are copied in several blocks
    monkeypatch.setattr("mm.index.products.GROUP", 16)
    where, keep = FILTERS[name]
    allowed = np.array([keep(values) for values in details(300)])
    asked = unit(queries, seed=7)
    hits = index.search(asked, 12, where)
    assert hits.ids == [[f"item{p}" for p in row] for row in brute_force(unit(300), asked, 12, allowed)]
    assert hits.scores.shape == (queries, min(12, allowed.sum()))
    assert all(keep(values) for row in hits.metadata for values in row)


def test_excluded_ids_are_no_answers_and_others_take_their_places(index):
    asked = unit(300)[[3]]
    assert index.search(asked, 1).ids == [["item3"]]
    allowed = np.array([values["loud"] for values in details(300)])
    allowed[3] = False
    expected = brute_force(unit(300), asked, 5, allowed)
    assert index.search(asked, 5, {"loud": True}, exclude=["item3", "nobody"]).ids == [
        [f"item{p}" for p in row] for row in expected
    ]


def test_several_modalities_live_together(index):
    index.add(unit(20, seed=9), range(20), modality="text")
    assert index.modalities == {"image": 300, "text": 20}
    hits = index.search(unit(2, seed=3), 30, {"modality": "text"})
    assert sorted(hits.ids[0]) == list(range(20))
    assert len(index.search(unit(2, seed=3), 30, {"modality": ["image", "text"]}).ids[0]) == 30
    with pytest.raises(ValueError, match="row 0 has metadata modality 'image', but modality='text'"):
        index.add(unit(1), ["x"], [{"modality": "image"}], modality="text")


def test_ids_stay_right_through_removing_and_adding():
    generator = np.random.default_rng(0)
    index = Index(8)
    kept = {}
    for turn in range(6):
        new = {f"{turn}/{i}": vector for i, vector in enumerate(unit(50, 8, seed=turn))}
        index.add(np.stack(list(new.values())), list(new), [{"turn": turn}] * 50)
        kept |= new
        gone = generator.choice(list(kept), 20, replace=False).tolist()
        index.remove(gone)
        kept = {id_: vector for id_, vector in kept.items() if id_ not in gone}
    assert index.ids == list(kept)
    assert len(index) == 180
    np.testing.assert_array_equal(index.vectors(kept), np.stack(list(kept.values())))
    assert [values["turn"] for values in index.metadata(kept)] == [int(id_[0]) for id_ in kept]
    asked = unit(1000, 8, seed=99)
    expected = brute_force(np.stack(list(kept.values())), asked, 3, np.ones(180, bool))
    hits = index.search(asked, 3)
    assert hits.ids == [[list(kept)[p] for p in row] for row in expected]
    assert all(values["turn"] == int(id_[0]) for id_, values in zip(hits.ids[0], hits.metadata[0], strict=True))


def test_a_removed_id_can_be_added_again_and_old_answers_say_that_they_are_old():
    index = Index.build(unit(3), ["a", "b", "c"])
    hits = index.search(unit(3)[1], 1)
    index.remove(["b"])
    index.add(unit(1, seed=8), ["b"])
    assert index.ids == ["a", "c", "b"]
    with pytest.raises(LookupError, match="1 of these items were removed since they were found"):
        _ = hits.metadata


def test_integer_and_string_ids_are_different():
    index = Index.build(unit(3), [1, "1", np.int64(2)])
    assert index.ids == [1, "1", 2]
    assert type(index.ids[2]) is int
    np.testing.assert_array_equal(index.vectors(["1"]), unit(3)[[1]])


@pytest.mark.parametrize("queries", [1, 30])
@pytest.mark.parametrize("where", [None, {"odd": 0}])
def test_equal_scores_come_in_the_order_of_adding_also_where_the_list_ends(queries, where, monkeypatch):
    monkeypatch.setattr("mm.index.products.MOST_RESULTS", 500)  # in several parts and blocks
    monkeypatch.setattr("mm.index.products.BLOCK", 64)
    monkeypatch.setattr("mm.index.products.GROUP", 16)
    groups = unit(6, 24, seed=1)
    vectors = groups[np.arange(600) % 6]
    index = Index.build(vectors, range(600), [{"odd": row % 2} for row in range(600)])
    asked = np.repeat(groups[[2]], queries, 0)
    twins = [row for row in range(600) if row % 6 == 2]  # 100 equal answers, all even
    for k in (1, 7, 99, 100):
        assert index.search(asked, k, where).ids == [twins[:k]] * queries


def test_an_empty_index_answers_nothing():
    index = Index(4)
    assert len(index) == 0
    hits = index.search(unit(2, 4), 5, {"anything": 1}, exclude=["x"])
    assert hits.ids == [[], []]
    assert hits.scores.shape == (2, 0)
    assert hits.metadata == [[], []]
    assert Index.build(np.zeros((0, 4), np.float32), []).vectors([]).shape == (0, 4)


def bad_row(value):
    vectors = unit(5)
    vectors[3] *= value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (bad_row(np.nan), "embeddings must be finite and of unit length: row 3 is not finite, 1 of 5"),
        (bad_row(np.inf), "row 3 is not finite"),
        (bad_row(0), "row 3 has length 0, 1 of 5 rows"),
        (bad_row(1.01), "row 3 has length 1.01"),
        (unit(5, 8), r"width of the index, 16: got shape \(5, 8\)"),
        (np.ones((5, 16), np.int64), "floating-point numbers: got int64"),
        (unit(5)[None], r"width of the index, 16: got shape \(1, 5, 16\)"),
    ],
)
def test_vectors_that_are_refused_leave_the_index_as_it_was(index, vectors, message):
    with pytest.raises(ValueError, match=message):
        index.add(vectors, list("abcde"))
    with pytest.raises(ValueError, match=message.replace("embeddings", "queries")):
        index.search(vectors, 3)
    assert len(index) == len(index.search(unit(1), 1000).ids[0]) == 300


@pytest.mark.parametrize(
    ("ids", "metadata", "message"),
    [
        (["a", "b", "a"], None, r"ids must be unique: 'a' \(row 2\) is there already"),
        (["a", "item7", "b"], None, r"'item7' \(row 1\)"),
        (["a", "b"], None, "equally many: got 3 embeddings, 2 ids and 2 metadata"),
        (["a", "b", "c"], [{}, {}], "got 3 embeddings, 3 ids and 2 metadata"),
        (["a", 1.5, "c"], None, "strings or integers: got 1.5 in row 1"),
        (["a", True, "c"], None, "strings or integers: got True in row 1"),
        (["a", "b", "c"], [{}, {"x": float("nan")}, {}], "metadata must be JSON values: row 1"),
        (["a", "b", "c"], [{}, {}, {"x": object()}], "metadata must be JSON values: row 2"),
        (["a", "b", "c"], [{}, {'x"y': 1}, {}], "printable strings without quotes: row 1"),
        (["a", "b", "c"], [{"x": "\udc80"}, {}, {}], "metadata must be JSON values: row 0"),
        (["a", "b", "c"], [{}, None, {}], "metadata must be a dict of JSON values: row 1 is NoneType"),
        (["a", "b", "c"], {"x": 1, "y": 2, "z": 3}, "metadata must be a dict of JSON values: row 0 is str"),
        ("abc", None, "ids must be a list or another collection of ids: got the string 'abc'"),
    ],
)
def test_ids_and_metadata_that_are_refused_leave_the_index_as_it_was(index, ids, metadata, message):
    with pytest.raises(ValueError, match=message):
        index.add(unit(3), ids, metadata)
    assert len(index) == len(index.search(unit(1), 1000).ids[0]) == 300
    index.add(unit(2), ["a", "b"])
    assert index.metadata(["b"]) == [{}]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"splitt": "test"}, "no item has the key 'splitt'. Keys are: loud, .*Did you mean 'split'"),
        ({"splitt": None}, "no item has the key 'splitt'"),
        ({'sp"lit': 1}, "no item has the key"),
        ({3: 1}, "no item has the key 3"),
        ({"split": "a\0b"}, "text without NUL"),
        ({"split": {"a": 1}}, "compares with strings, numbers"),
        ({"seconds": (1, 2, 3)}, r"a range is \(low, high\)"),
        ({"seconds": (None, None)}, r"a range is \(low, high\)"),
        ({"seconds": (1, "b")}, "two numbers or two strings"),
        ({"seconds": (float("nan"), 5)}, r"compares numbers between -2\*\*63 and 2\*\*63: got nan"),
        ({"seconds": [1.0, float("inf")]}, "got inf. None is no bound"),
        ({"seconds": (0, 10**30)}, "got 1000000000000000000000000000000"),
        ({"seconds": 2**63 + 1}, "got 9223372036854775809"),  # which SQLite would take for 2**63
        ("split=test", "where must be a mapping of metadata keys to what is wanted: got 'split=test'"),
        (lambda metadata: True, "where must be a mapping"),
    ],
)
def test_conditions_that_cannot_be_met_by_any_index_are_errors(index, where, message):
    with pytest.raises(ValueError, match=message):
        index.search(unit(1), 3, where)


def test_other_wrong_arguments(index):
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        index.search(unit(1), 0)
    with pytest.raises(
        LookupError, match=r"id 'item30000' must be one of the 300 of the index\. Did you mean 'item\d+'"
    ):
        index.remove(["item1", "item30000"])
    assert len(index) == 300
    with pytest.raises(LookupError, match="id 5 must be one of"):
        index.vectors([5])
    index.add(unit(2, seed=3), ["a", "b"])
    for wrong in (index.remove, index.vectors, index.metadata, lambda ids: index.search(unit(1), 3, exclude=ids)):
        with pytest.raises(ValueError, match="collection of ids: got the string 'ab'"):  # neither of them is meant
            wrong("ab")
    assert len(index) == 302
    with pytest.raises(ValueError, match=r"factory must be auto, exact or what FAISS makes .*: got 'HNSV32'"):
        Index(4, factory="HNSV32")
    with pytest.raises(ValueError, match=r"matrix \(n, D\): got shape \(16,\)"):
        Index.build(unit(1)[0], ["a"])
    with pytest.raises(ValueError, match="at least one number: got dim 0"):
        Index(0)


def test_a_filter_that_keeps_everything_changes_nothing():
    vectors = ExactVectors(16)
    vectors.add(unit(100))
    for queries in (unit(1, seed=2), unit(9, seed=2)):
        plain = vectors.nearest(queries, 7, None)
        filtered = vectors.nearest(queries, 7, np.arange(100))
        np.testing.assert_array_equal(plain[1], filtered[1])
        np.testing.assert_allclose(plain[0], filtered[0], atol=1e-6)
