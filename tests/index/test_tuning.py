"""What is measured: recall on queries that had no part in building, the settings chosen by it, and what "auto" is."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from mm.index import Index, Trial
from mm.index.setting import Setting, fetched
from mm.index.tuning import Sample, automatic
from tests.shared import unit


def clustered(rows, dim=32, centres=100, seed=0):
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((rows, dim)).astype(np.float32) / np.float32(dim**0.5)
    values = unit(centres, dim, 1)[generator.integers(0, centres, rows)] + 0.7 * noise
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def naive_recall(index, asked, k):
    found, right = index.search(asked, k).ids, index.search(asked, k, exact=True).ids
    return np.mean([len(set(ours) & set(best)) / k for ours, best in zip(found, right, strict=True)])


@pytest.mark.parametrize(
    ("factory", "effort"),
    [("HNSW16", "efSearch"), ("IVF32,Flat", "nprobe"), ("PCA16,IVF32,SQ8", "nprobe"), ("PQ8x4fs", None)],
)
def test_what_is_built_is_measured_and_reaches_its_recall_on_others(factory, effort, caplog):
    vectors = clustered(4300)
    index = Index.build(vectors[:4000], range(4000), factory=factory)
    assert "no setting" not in caplog.text
    trials = index.trials
    assert [one.ms for one in trials] == sorted(one.ms for one in trials)
    assert [one.recall for one in trials] == sorted({one.recall for one in trials})  # each buys recall with its time
    assert max(one.recall for one in trials) >= 0.95
    assert all(set(one.parameters) == {"rerank"} | ({effort} if effort else set()) for one in trials)
    setting = index._approximate.setting
    chosen = next(one for one in trials if one.recall >= 0.95)
    assert (setting.ms, setting.rerank, setting.k) == (chosen.ms, chosen.parameters["rerank"], 10)
    assert setting.effort == chosen.parameters.get(effort, 1)
    assert index.recall(10, vectors[4000:]) == pytest.approx(naive_recall(index, vectors[4000:], 10), abs=1e-6)
    assert index.recall(10, vectors[4000:]) > 0.92
    assert len(index._approximate) == 4000  # those that were held out are in it now
    assert sorted(index._approximate.keys.tolist()) == list(range(4000))


def test_a_list_is_never_searched_alone_where_that_finds_too_little():
    vectors = unit(4300, 32)
    index = Index.build(vectors[:4000], range(4000), factory="IVF64,Flat")
    assert index._approximate.setting.effort > 1
    alone = dataclasses.replace(index._approximate.setting, effort=1)
    tuned = index.recall(10, vectors[4000:])
    index._approximate.setting = alone
    assert index.recall(10, vectors[4000:]) < 0.9 < tuned


def test_tuning_sets_the_quickest_that_reaches_the_recall_and_is_kept(tmp_path):
    vectors = clustered(2200)
    index = Index.build(vectors[:2000], range(2000), factory="IVF16,PQ8x4fs")
    asked = vectors[2000:]
    reached = []
    for recall in (0.3, 0.9, 0.99):
        trials = index.tune(recall, queries=asked)
        assert index.recall(10, asked) >= recall
        assert index._approximate.setting.ms == next(one.ms for one in trials if one.recall >= recall)
        reached.append(index._approximate.setting.effort * index._approximate.setting.rerank)
    assert reached == sorted(reached) and reached[0] < reached[2]
    assert index.tune(0.9, k=50, queries=asked)[-1].recall > 0.9
    assert index._approximate.setting.k == 50
    assert index.recall(50, asked) >= 0.9
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    assert [Trial(**one) for one in manifest["search"]["trials"]] == index.trials
    loaded = Index.load(tmp_path)
    assert (loaded.trials, loaded._approximate.setting) == (index.trials, index._approximate.setting)
    assert loaded.search(asked, 50).ids == index.search(asked, 50).ids


def test_tuning_without_queries_asks_with_items_that_are_no_answers_to_themselves():
    vectors = clustered(3000)
    index = Index.build(vectors, range(3000), factory="IVF32,Flat")
    trials = index.tune(0.9)
    own = np.sort(np.random.default_rng(0).choice(3000, 1000, replace=False))
    scores = vectors[own] @ vectors.T
    scores[np.arange(1000), own] = -2
    right = np.argsort(-scores, axis=1)[:, :10]
    setting = index._approximate.setting
    for trial in trials[-2:]:
        effort, rerank = trial.parameters["nprobe"], trial.parameters["rerank"]
        index._approximate.setting = dataclasses.replace(setting, effort=effort, rerank=rerank, k=11)
        found = [[i for i in row if i != me] for row, me in zip(index.search(vectors[own], 11).ids, own, strict=True)]
        shares = [len(set(row[:10]) & set(best.tolist())) / 10 for row, best in zip(found, right, strict=True)]
        assert trial.recall == pytest.approx(np.mean(shares), abs=2e-3)


@pytest.mark.parametrize("factory", ["HNSW16", "IVF16,Flat", "SQ8"])
def test_what_tuning_measures_is_what_a_search_finds_where_most_rows_are_dead(factory, caplog):
    vectors = clustered(2200)
    index = Index.build(vectors[:2000], range(2000), factory=factory)
    index.remove(range(1970))
    caplog.clear()
    for queries in (vectors[2000:], None):
        trials = index.tune(0.9, queries=queries)
        assert trials[-1].recall >= 0.9 and "no setting" not in caplog.text
        assert index.recall(10, vectors[2000:]) >= 0.9


def test_a_recall_that_none_reaches_is_said_and_the_best_is_set(caplog):
    vectors = unit(2500, 32)
    index = Index.build(vectors[:2000], range(2000), factory="PQ2x4fs")
    caplog.clear()
    trials = index.tune(1.0, queries=vectors[2000:])
    best = trials[-1]
    assert best.recall < 1
    assert f"no setting of PQ2x4fs reaches recall@10 1.000: the best, {best.recall:.3f}" in caplog.text
    assert index._approximate.setting.ms == best.ms


def test_wrong_questions_about_recall():
    index = Index.build(unit(800, 32), range(800), factory="IVF16,Flat")
    before = index._approximate.setting
    for arguments, message in (
        ({"recall": 1.1}, r"recall must lie in 0\.\.1: got 1\.1"),
        ({"recall": float("nan")}, r"recall must lie in 0\.\.1: got nan"),
        ({"k": 0}, "k must be at least 1: got 0"),
        ({"queries": unit(800, 32)[:3]}, "must not be items, which find themselves: 3 of 3"),
        ({"queries": unit(3, 16)}, "width of the index, 32"),
        ({"queries": unit(0, 32)}, "got 0 queries for 800 items"),
    ):
        with pytest.raises(ValueError, match=message):
            index.tune(**arguments)
    assert index._approximate.setting == before
    with pytest.raises(ValueError, match="at least 2 items to be tuned without queries: it has 1"):
        Index.build(unit(1, 32), [0]).tune()


def test_exact_search_has_one_setting_which_finds_all():
    index = Index.build(unit(50, 32), range(50))
    (trial,) = index.tune(0.9)
    assert (trial.recall, trial.parameters) == (1.0, {}) and trial.ms > 0
    assert index.trials == []


# Samples --------------------------------------------------------------------------------------------------------------


def test_equally_good_answers_are_right_answers():
    groups = unit(5, 32, seed=3)
    index = Index.build(groups[np.arange(100) % 5], range(100), factory="exact")
    sample = Sample(index._vectors, index._items.keys, groups[:2], 10)
    assert sample.recall(index.search(groups[:2], 10, exclude=range(0, 50)).scores) == 1.0  # ten other twins
    assert sample.recall(index.search(groups[:2], 10, exclude=range(0, 70)).scores) == 0.6  # six are left
    own = Sample(index._vectors, index._items.keys, groups[:2], 10, own=np.array([0, 1]))
    assert own.recall(np.ones((2, 10))) == 1.0


def test_the_power_law_goes_through_what_was_measured():
    setting = Setting(10, 16, 2, 0.1, 64, 8, 0.5, 10.0, 4.0, 1000)
    assert (setting.effort_for(1), setting.rerank_for(1)) == (16, 2)
    assert (setting.effort_for(10), setting.rerank_for(10)) == (64, 8)
    assert setting.effort_for(10**0.5) == 32
    assert setting.pays(1, 1, 1000)  # no filter: what was asked for is used
    assert setting.pays(10, 125, 1000) and not setting.pays(10, 124, 1000)  # 0.5 ms against 4.01 ms times the share
    assert setting.pays(10, 36, 1) and not setting.pays(10, 35, 1)  # 14 ms


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize(("k", "rerank"), [(1, 1), (10, 1), (10, 4), (100, 2)])
def test_enough_is_fetched_for_a_filter_to_leave_k(share, k, rerank):
    kept = np.random.default_rng(0).binomial(fetched(k, rerank, share), share, 10_000)
    assert (kept < k).mean() < 0.05
    assert fetched(k, rerank, 1.0) == k * rerank


# Auto -----------------------------------------------------------------------------------------------------------------


def test_auto_finds_99_of_100_above_its_threshold_and_is_exact_below(monkeypatch):
    monkeypatch.setattr("mm.index.tuning.EXACT_UP_TO", 19_000)
    vectors = clustered(20_500, 64, 400)
    index = Index.build(vectors[:20_000], range(20_000))
    assert (index.factory, index.built) == ("auto", "IVF128,PQ32x4fs")
    assert index.recall(10, vectors[20_000:]) >= 0.99
    index.remove(range(1500))
    index.compact()
    assert (index.built, index.trials) == ("exact", [])
    assert index.search(vectors[[1600]], 1).ids == [[1600]]


def test_auto_stays_exact_where_nothing_reaches_the_recall(monkeypatch, caplog):
    monkeypatch.setattr("mm.index.tuning.EXACT_UP_TO", 2000)
    monkeypatch.setattr("mm.index.tuning.AUTO_TARGET", 1.1)
    with caplog.at_level(logging.WARNING):
        index = Index.build(unit(2100, 32), range(2100))
    assert index.built == "exact"
    assert "IVF64,PQ16x4fs does not pay on these 2100 items: they are searched exactly" in caplog.text
    assert index.search(unit(2100, 32)[:5], 1).ids == [[row] for row in range(5)]


def test_what_auto_stands_for():
    assert automatic(200_000, 256) == "IVF512,PQ128x4fs"
    assert automatic(1_000_000, 512) == "IVF1024,PQ256x4fs"
    assert automatic(150_000, 5) == "IVF512,PQ5x4fs"  # an odd width has no pairs
