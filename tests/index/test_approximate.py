"""Every type of index against brute force, through adding, removing, updating, saving and compacting."""

import dataclasses
import logging
import threading

import numpy as np
import pytest

from mm.index import Index
from mm.index.approximate import Approximate
from tests.shared import unit

FACTORIES = [
    "exact",
    "Flat",
    "HNSW16",
    "HNSW16,SQ8",
    "HNSW16_PQ8",
    "IVF16,Flat",
    "IVF16,PQ8",
    "IVF16,SQ8",
    "PCA16,IVF16,Flat",
    "SQ8",
    "IVF16,PQ8x4fs",
    "IVF16,RaBitQ",
    "PCAR16,HNSW16",
    "PQ8x4fs",
    "IVF16_HNSW8,SQfp16",
    "IVF16,PQ8,RFlat",
]
APPROXIMATE = [factory for factory in FACTORIES if factory not in ("exact", "Flat")]
every_type = pytest.mark.parametrize("factory", FACTORIES)
some_types = pytest.mark.parametrize("factory", ["exact", "HNSW16", "IVF16,PQ8", "PCA16,IVF16,Flat", "IVF16,PQ8x4fs"])


def details(rows):
    return [{"half": row % 2, "tenth": row % 10, "modality": "image"} for row in rows]


def asked_with(index, effort, rerank):
    """Make the index ask its approximate one with this effort, whatever takes less time."""
    index._approximate.setting = dataclasses.replace(
        index._approximate.setting,
        effort=effort,
        rerank=rerank,
        wide_effort=effort,
        wide_rerank=rerank,
        exact_ms=np.inf,
        exact_many_ms=np.inf,
    )
    return index


def generous(index):
    """Make the index look at everything that it has."""
    return asked_with(index, 2000, 200) if index._approximate else index


def check(index, kept):
    """Answers to many queries and to one, with conditions and without, are those of brute force; kept: {id: vector}."""
    ids, vectors = list(kept), np.stack(list(kept.values()))
    asked = unit(12, 32, seed=77)
    scores = asked.astype(np.float64) @ vectors.T.astype(np.float64)
    order = np.argsort(-scores, axis=1)
    expected = [[ids[position] for position in row[:12]] for row in order]
    hits = index.search(asked, 12)
    assert hits.ids == expected
    np.testing.assert_allclose(hits.scores, -np.sort(-scores)[:, :12], atol=1e-6)
    assert [index.search(query, 12).ids[0] for query in asked] == expected
    every = index.search(asked, len(ids) + 50)
    assert all(len(row) == len(ids) and set(row) == set(ids) for row in every.ids)
    np.testing.assert_allclose(every.scores, -np.sort(-scores), atol=1e-6)
    without = index.search(asked[:3], 12, exclude=[row[0] for row in expected[:3]]).ids
    gone = {row[0] for row in expected[:3]}
    assert without == [[ids[p] for p in row if ids[p] not in gone][:12] for row in order[:3]]
    for condition in ({"half": 1}, {"tenth": [3, 4]}):
        ((key, wanted),) = condition.items()
        met = [values[key] in np.atleast_1d(wanted) for values in index.metadata(ids)]
        found = index.search(asked, 12, condition)
        assert found.ids == [[ids[p] for p in row if met[p]][:12] for row in order]
        assert [index.search(query, 12, condition).ids[0] for query in asked[:5]] == found.ids[:5]


@every_type
def test_answers_equal_brute_force_all_its_life(factory, tmp_path):
    vectors = unit(1000, 32)
    kept = dict(enumerate(vectors[:800]))
    index = Index.build(vectors[:800], range(800), details(range(800)), factory=factory)
    assert index.built == (factory if factory in APPROXIMATE else "exact")
    check(generous(index), kept)

    index.add(vectors[800:], range(800, 1000), details(range(800, 1000)))
    kept |= dict(enumerate(vectors[800:], start=800))
    check(index, kept)

    gone = [*range(0, 300, 3), 999]
    index.remove(gone)
    for id_ in gone:
        del kept[id_]
    check(index, kept)

    anew = [1, 500, 998, 4]
    index.update(unit(4, 32, seed=5), anew)
    for id_, vector in zip(anew, unit(4, 32, seed=5), strict=True):
        del kept[id_]
        kept[id_] = vector
    check(index, kept)
    assert index.ids == list(kept)
    assert index.metadata([1, 998]) == details([1, 998])

    index.save(tmp_path)
    check(Index.load(tmp_path), kept)
    check(Index.load(tmp_path, mmap=True), kept)
    loaded = Index.load(tmp_path)
    assert (loaded.built, loaded.trials) == (index.built, index.trials)
    loaded.remove([998])  # its key was the last but two: that of no later item
    loaded.add(unit(2, 32, seed=6), [998, 2000], details([998, 2000]))
    del kept[998]
    kept |= dict(zip([998, 2000], unit(2, 32, seed=6), strict=True))
    check(loaded, kept)

    loaded.compact()
    assert loaded._approximate is None or len(loaded._approximate) == len(loaded) == len(kept)
    check(generous(loaded), kept)


@some_types
def test_keys_of_items_that_were_removed_before_saving_are_not_given_again(factory, tmp_path):
    index = Index.build(unit(800, 32), range(800), factory=factory)
    index.remove([799])
    index.save(tmp_path)
    loaded = generous(Index.load(tmp_path))
    loaded.add(unit(1, 32, seed=9), ["new"])
    best = loaded.search(unit(800, 32)[[799]], 800)
    assert "new" in best.ids[0] and 799 not in best.ids[0]
    assert best.scores[0].max() < 0.99  # no row answers for an item whose key it does not have
    assert loaded.search(unit(1, 32, seed=9), 1).rows()[0].score == pytest.approx(1, abs=1e-6)


@some_types
def test_removed_ids_never_come_back(factory):
    vectors = unit(1200, 32)
    index = generous(Index.build(vectors[:1000], range(1000), details(range(1000)), factory=factory))
    gone = set(np.random.default_rng(1).choice(1000, 100, replace=False).tolist())
    index.remove(gone)
    index.add(vectors[1000:], range(1000, 1200), details(range(1000, 1200)))
    asked = vectors[sorted(gone)]  # each next to what is gone
    kept = [row for row in range(1200) if row not in gone]
    expected = [[kept[position] for position in row] for row in np.argsort(-(asked @ vectors[kept].T), axis=1)[:, :10]]
    assert index.search(asked, 10).ids == expected
    assert not {id_ for row in index.search(asked, 300, {"half": 0}).ids for id_ in row} & gone


def test_a_save_says_when_most_rows_are_of_items_that_are_gone(tmp_path, caplog):
    index = Index.build(unit(400, 32), range(400), factory="HNSW16")
    for _ in range(3):
        index.update(unit(400, 32), range(400))
    index.save(tmp_path)
    assert caplog.text == ""
    index.update(unit(1, 32), [0])
    index.save(tmp_path)
    assert "1201 rows of HNSW16 are of items that are gone, and 400 of others" in caplog.text
    caplog.clear()
    index.compact()
    index.save(tmp_path)
    assert caplog.text == ""


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,PQ8x4fs", "HNSW16", "PCA16,IVF16,Flat", "IVF16,PQ8,RFlat"])
def test_little_effort_misses_some_and_yet_k_come_back_when_k_exist(factory):
    vectors = unit(1600, 32)
    index = Index.build(vectors[:1500], range(1500), details(range(1500)), factory=factory)
    asked_with(index, 1, 1)
    asked = vectors[1500:]
    assert 0.05 < index.recall(1, asked) < 0.999  # the approximate index does answer
    assert index.search(asked, 10, exact=True).ids == [
        row.tolist() for row in np.argsort(-(asked @ vectors[:1500].T), axis=1, kind="stable")[:, :10]
    ]
    for k, where, exist in ((10, None, 1500), (1500, None, 1500), (1600, None, 1500), (200, {"tenth": 3}, 150)):
        hits = index.search(asked, k, where)
        assert all(len(set(row)) == len(row) == min(k, exist) for row in hits.ids)
        assert (np.diff(hits.scores) <= 0).all()
    every = index.search(asked[:2], 1600).ids  # one list holds far less: these are answered exactly
    assert every == index.search(asked[:2], 1600, exact=True).ids


@some_types
def test_a_filter_that_keeps_what_is_far_from_the_query_is_met_with_what_is_best_of_it(factory):
    """As when sentences ask for pictures, and all sentences are nearer to one another than to any picture."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((1520, 32)).astype(np.float32)
    values[::2, 0] += 12  # texts
    values[1::2, 0] -= 12  # images
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    index = Index.build(values[:1500], range(1500), [{"text": row % 2 == 0} for row in range(1500)], factory=factory)
    if factory != "exact":
        asked_with(index, 2, 4)
    asked = values[1500::2]
    images = np.arange(1, 1500, 2)
    expected = images[np.argsort(-(asked.astype(np.float64) @ values[images].T), axis=1)[:, :10]]
    assert index.search(asked, 10, {"text": False}).ids == expected.tolist()


def test_equal_vectors_come_in_the_order_of_adding_also_where_many_are_fetched():
    groups = unit(6, 32, seed=1)
    index = Index.build(groups[np.arange(900) % 6], range(900), [{"odd": row % 2} for row in range(900)], factory="SQ8")
    asked_with(index, 1, 900)
    twins = [row for row in range(900) if row % 6 == 2]
    for k in (1, 7, 15):
        for where in (None, {"odd": 0}):
            assert index.search(groups[[2, 2]], k, where).ids == [twins[:k]] * 2


def test_several_threads_search_at_once_with_different_efforts():
    vectors = unit(2100, 32)
    index = Index.build(vectors[:2000], range(2000), details(range(2000)), factory="IVF16,Flat")
    asked_with(index, 2, 1)
    index._approximate.setting = dataclasses.replace(index._approximate.setting, wide_effort=16, wide_ms=1.0)
    jobs = [(5, None), (100, None), (5, {"half": 1}), (40, {"tenth": [1, 2]}), (3, {"half": [0, 1]})]
    alone = [index.search(vectors[2000:], *job).ids for job in jobs]
    assert alone[0] != index.search(vectors[2000:], 5, exact=True).ids  # efforts do tell
    assert alone[1] == index.search(vectors[2000:], 100, exact=True).ids
    wrong = []

    def search(job, right):
        for _ in range(15):
            if index.search(vectors[2000:], *job).ids != right:
                wrong.append(job)

    threads = [threading.Thread(target=search, args=pair) for pair in zip(jobs, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Foo", "could not parse index string Foo"),
        ("HNSW32,Flatt", "could not parse"),
        ("PQ7", "should be a multiple of the number of subquantizers"),
        ("IVF99999999999,Flat", "stoi"),
        ("IVF16,PQ8x4fs,Refine", "could not parse"),
        ("LSH", "metric == METRIC_L2"),
        ("IMI2x4,Flat", "MultiIndex not implemented for inner prod"),
        ("", "could not parse"),
        (None, "must be auto, exact or"),
        ("IDMap,Flat", "ids are kept beside it"),
        ("NSG16", "nothing can be added to it once it is built"),
        ("HNSW0", "at least 2 neighbours"),
        ("HNSW1,SQ8", "at least 2 neighbours"),
        ("IVF0,Flat", "at least one list"),
        ("PCA64,IVF16,Flat", r"PCA leads from 32 numbers to 1\.\.32"),
    ],
)
def test_a_factory_that_cannot_serve_is_an_error_at_once_with_the_reason(factory, reason):
    for make in (lambda: Index(32, factory=factory), lambda: Index.build(unit(20, 32), range(20), factory=factory)):
        with pytest.raises(ValueError, match=reason) as caught:
            make()
        assert "/faiss/" not in str(caught.value)  # no place in another project's code
    index = Index.build(unit(20, 32), range(20), factory="SQ8")
    with pytest.raises(ValueError, match=reason):
        index.factory = factory
    assert index.factory == "SQ8"


def test_another_type_over_the_same_vectors():
    index = Index.build(unit(1000, 32), range(1000))
    assert index.built == "exact"
    for factory in ("HNSW8", "SQ8", "exact"):
        index.factory = factory
        index.compact()
        assert index.built == factory
        assert generous(index).search(unit(1000, 32)[::50], 1).ids == [[row] for row in range(0, 1000, 50)]


def test_what_was_found_not_to_pay_is_not_asked_for_after_each_load(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("mm.index.tuning.EXACT_UP_TO", 500)
    monkeypatch.setattr("mm.index.tuning.AUTO_TARGET", 1.1)  # out of reach
    index = Index.build(unit(600, 32), range(600))
    assert index.built == "exact" and "does not pay" in caplog.text
    index.save(tmp_path)
    caplog.clear()
    index = Index.load(tmp_path)
    assert index.search(unit(600, 32)[:1], 1).ids == [[0]]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("IVF16,Flat", 694),  # 39 for each list and a tenth to measure it
        ("PQ8", 285),
        ("IVF4,PQ8", 285),
        ("IVF64,PQ4x4fs", 2774),
        ("PCA16,SQ8", 18),
        ("OPQ8,IVF16,PQ8", 10984),
        ("HNSW16", 10),
    ],
)
def test_too_few_items_are_searched_exactly_until_there_are_enough(factory, least, caplog):
    vectors = unit(max(least, 800), 32)
    few = least - 1
    with caplog.at_level(logging.WARNING):
        index = Index.build(vectors[:few], range(few), factory=factory)
    assert f"{factory} needs at least {least} items" in caplog.text and f"there are {few}" in caplog.text
    assert (index.built, index.factory) == ("exact", factory)
    assert index.search(vectors[:3], 1).ids == [[0], [1], [2]]
    if least < 2000:
        caplog.clear()
        index.add(vectors[few:least], [few])
        assert index.search(vectors[:1], 1).ids == [[0]]
        index.search(vectors[:1], 1)
        assert caplog.text.count(f"{least} items are searched exactly: compact() builds {factory}") == 1
        index.compact()
        assert index.built == factory
        assert generous(index).search(vectors[:least:100], 1).ids == [[row] for row in range(0, least, 100)]


@every_type
def test_no_queries_have_no_answers_and_k_may_be_an_integer_of_numpy(factory):
    index = Index.build(unit(800, 32), range(800), details(range(800)), factory=factory)
    for where in (None, {"half": 1}):
        hits = index.search(unit(0, 32), 3, where)
        assert (hits.ids, hits.scores.shape, hits.metadata) == ([], (0, 3), [])
        ranged = index.search_range(unit(0, 32), 0.5, where)
        assert (ranged.ids, ranged.scores, ranged.metadata) == ([], [], [])
        assert index.search(unit(5, 32), np.int64(7), where).ids == index.search(unit(5, 32), 7, where).ids


def test_an_index_of_any_type_may_be_empty_and_may_become_so():
    for factory in FACTORIES:
        index = Index.build(np.zeros((0, 32), np.float32), [], factory=factory)
        assert index.search(unit(2, 32), 3, {"x": 1}).ids == [[], []]
        assert index.search_range(unit(2, 32), 0.5).ids == [[], []]
    index = Index.build(unit(800, 32), range(800), details(range(800)), factory="IVF16,Flat")
    index.remove(range(800))
    hits = index.search(unit(2, 32), 3, {"half": 1}, exclude=[5])
    assert (hits.ids, hits.scores.shape, hits.metadata) == ([[], []], (2, 0), [[], []])
    index.compact()
    assert index.built == "exact"


@some_types
def test_what_is_refused_leaves_the_index_as_it_was(factory):
    vectors = unit(800, 32)
    index = generous(Index.build(vectors, range(800), details(range(800)), factory=factory))
    bad = unit(3, 32, seed=3)
    bad[1] = np.nan
    for wrong, ids, message in (
        (bad, [800, 801, 802], "row 1 is not finite"),
        (unit(3, 32) * 0, [800, 801, 802], "row 0 has length 0"),
        (unit(3, 16), [800, 801, 802], "width of the index, 32"),
        (np.ones((3, 32), np.int64), [800, 801, 802], "floating-point numbers: got int64"),
        (unit(3, 32), [800, 801, 800], "ids must be unique: 800"),
        (unit(3, 32), [800, 7, 801], "ids must be unique: 7"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add(wrong, ids)
    with pytest.raises(LookupError, match="id 800 must be one of the 800"):
        index.remove([3, 800])
    with pytest.raises(ValueError, match="no item has the key 'thirds'"):
        index.search(unit(1, 32), 3, {"thirds": 1})
    assert len(index) == 800
    assert index._approximate is None or len(index._approximate) == 800
    assert index.search(vectors, 1).ids == [[row] for row in range(800)]


def test_rows_are_looked_up_by_the_keys_of_items():
    approximate = Approximate(32, "SQ8")
    approximate.train(unit(50, 32))
    approximate.add(unit(50, 32), np.arange(100, 150))
    keys = np.array([90, 100, 101, 149, 200])
    assert np.flatnonzero(approximate._positions(keys) >= 0).tolist() == [0, 1, 49]
    assert approximate._positions(keys)[[0, 1, 49, 50]].tolist() == [1, 2, 3, -1]


@pytest.mark.parametrize(("factory", "bits"), [("exact", 0), ("SQ8", 8), ("PQ16x4fs", 2), ("IVF16,Flat", 32)])
def test_sizes_are_those_of_the_files(factory, bits, tmp_path):
    index = Index.build(unit(2000, 32), range(2000), factory=factory)
    index.save(tmp_path)
    kept = index.sizes
    assert kept["vectors"] == 2000 * 32 * 4
    files = sum(path.stat().st_size for path in tmp_path.glob("v*/*") if path.name in ("search.faiss", "rows.npy"))
    assert kept["approximate"] == pytest.approx(files, abs=200)
    codes = 2000 * 32 * bits / 8
    assert codes <= kept["approximate"] <= 1.2 * codes + 60_000 * (bits > 0)  # beside ids, keys and what was learnt
