"""Retrieval metrics against slow obvious versions: full sorts, every order of equals, the official protocol."""

import itertools
import logging

import numpy as np
import pytest
import torch

from mm.metrics import chance, evaluate, ranks
from mm.metrics import ranking as engine


def unit(rows, dim=8, seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def shuffled(result, seed=0):
    """Vectors and owners of one side in another order: nothing may depend on it."""
    vectors, owners = result
    order = np.random.default_rng(seed).permutation(len(vectors))
    return vectors[order], np.asarray(owners)[order]


def numbers_of_one_order(is_match):
    """Metrics of one ranking without ties: rank of the first match, R@1/5/10, AP@10."""
    places = np.flatnonzero(is_match) + 1
    precisions = [np.mean(is_match[:place]) for place in places if place <= 10]
    ap = sum(precisions) / min(len(places), 10)
    return [places[0], *(float(places[0] <= k) for k in (1, 5, 10)), ap]


def by_all_orders(scores, is_match):
    """Slow and obvious: the mean of the metrics over every order of equal scores."""
    runs = [np.flatnonzero(scores == value) for value in np.unique(scores)[::-1]]
    orders = itertools.product(*(itertools.permutations(run) for run in runs))
    return np.mean([numbers_of_one_order(is_match[np.concatenate(order)]) for order in orders], axis=0)


def by_sorting(scores, is_match):
    """Slow and obvious, for scores that all differ."""
    return np.array(numbers_of_one_order(is_match[np.argsort(-scores)]))


def numbers(found):
    """The same numbers of every query, (n, 5)."""
    recalls = [found.recall(k) for k in (1, 5, 10)]
    return np.stack([found.best(), *recalls, found.average_precision()], axis=1)


def slow(a, b, owner_a, owner_b, one):
    scores = a.astype(np.float64) @ b.astype(np.float64).T
    matches = np.asarray(owner_a)[:, None] == np.asarray(owner_b)[None]
    forth = [one(s, m) for s, m in zip(scores, matches, strict=True)]
    back = [one(s, m) for s, m in zip(scores.T, matches.T, strict=True)]
    return np.array(forth), np.array(back)


@pytest.mark.parametrize(
    ("counts_a", "counts_b"),
    [
        ([1] * 40, [1] * 40),
        ([1] * 30, [5] * 30),
        ([1] * 30, [1, 4, 9, 2, 1, 12] * 5),
        ([7, 1, 30, 3], [20, 25, 1, 40]),
    ],
    ids=["pairs", "five captions", "any number of captions", "classes"],
)
@pytest.mark.parametrize("tile", [(512, 2560), (8, 16)], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_sorting_every_row(counts_a, counts_b, tile, dtype, monkeypatch):
    monkeypatch.setattr(engine, "TILE", tile)
    a, owner_a = shuffled((unit(sum(counts_a), seed=1, dtype=dtype), np.repeat(np.arange(len(counts_a)), counts_a)), 1)
    b, owner_b = shuffled((unit(sum(counts_b), seed=2, dtype=dtype), np.repeat(np.arange(len(counts_b)), counts_b)), 2)
    forth, back = ranks(a, b, owner_a, owner_b)
    expected_forth, expected_back = slow(a, b, owner_a, owner_b, by_sorting)
    np.testing.assert_allclose(numbers(forth), expected_forth, rtol=1e-12)
    np.testing.assert_allclose(numbers(back), expected_back, rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_ties_are_the_mean_over_every_order_of_equals(seed):
    """Few different vectors, so most scores tie; several matches within and across the ties."""
    generator = np.random.default_rng(seed)
    a = np.eye(3)[generator.integers(0, 3, 5)]
    b = np.eye(3)[generator.integers(0, 3, 8)]
    b[:2] = [[1, 1, 0], [1, 0, 1]]
    owner_a, owner_b = generator.integers(0, 3, 5), np.r_[0, 1, 2, generator.integers(0, 3, 5)]
    owner_a[:3] = 0, 1, 2
    forth, back = ranks(a, b, owner_a, owner_b)
    expected_forth, expected_back = slow(a, b, owner_a, owner_b, by_all_orders)
    np.testing.assert_allclose(numbers(forth), expected_forth, rtol=1e-12)
    np.testing.assert_allclose(numbers(back), expected_back, rtol=1e-12)


def test_more_matches_than_places_and_ties_across_the_tenth_place():
    """14 matches, of which 9 come first and 5 tie with 3 others: the mean over random orders, by simulation."""
    scores = np.r_[np.arange(20, 11, -1), np.full(8, 5.0), 1.0]
    is_match = np.r_[np.ones(9), 1, 1, 1, 1, 1, 0, 0, 0, 0].astype(bool)
    forth, _ = ranks(np.ones((1, 1)), scores[:, None], [1], is_match.astype(int))
    generator = np.random.default_rng(0)
    runs = [numbers_of_one_order(is_match[np.lexsort((generator.random(18), -scores))])[-1] for _ in range(4000)]
    assert forth.average_precision()[0] == pytest.approx(np.mean(runs), abs=0.001)
    assert forth.total[0] == 14


def five_caption_protocol(images, captions):
    """The protocol of the visual-semantic-embedding papers: of the 5 captions of an image the best one counts."""

    def report(places):
        return [np.mean(places < k) for k in (1, 5, 10)] + [np.floor(np.median(places)) + 1, places.mean() + 1]

    to_text = np.zeros(len(images))
    for i, image in enumerate(images):
        order = np.argsort(captions @ image)[::-1]
        to_text[i] = min(np.flatnonzero(order == 5 * i + c)[0] for c in range(5))
    to_image = np.zeros(len(captions))
    for j, caption in enumerate(captions):
        to_image[j] = np.flatnonzero(np.argsort(images @ caption)[::-1] == j // 5)[0]
    return report(to_text), report(to_image)


@pytest.mark.parametrize("images", [120, 1100])
def test_equals_the_official_five_caption_protocol(images):
    things = unit(images, 16, seed=3, dtype=np.float64)
    captions = np.repeat(things, 5, 0) + 0.3 * unit(5 * images, 16, seed=4, dtype=np.float64)
    vectors = {"image": things, "text": captions}
    result = evaluate(vectors, {"image": np.arange(images), "text": np.repeat(np.arange(images), 5)})
    for name, expected in zip(("image_to_text", "text_to_image"), five_caption_protocol(things, captions), strict=True):
        measured = [result[f"{name}_{metric}"] for metric in ("R@1", "R@5", "R@10", "MedR", "MeanR")]
        np.testing.assert_allclose(measured, expected, rtol=1e-12)
    recalls = [value for name, value in result.items() if "_R@" in name]
    assert len(recalls) == 6
    assert result["rsum"] == pytest.approx(sum(recalls))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tile", [(512, 2560), (40, 70)])
def test_constant_embeddings_score_exactly_chance(dtype, tile, monkeypatch):
    monkeypatch.setattr(engine, "TILE", tile)
    owners = {"image": np.arange(203), "text": np.repeat(np.arange(203), 3), "audio": np.arange(203)[::-1] // 2 * 2}
    owners["audio"][:3] = 1, 3, 5
    owners = {name: np.r_[code, np.arange(203)] for name, code in owners.items()}
    constant = unit(1, 100, dtype=dtype)
    vectors = {name: np.repeat(constant, len(code), 0) for name, code in owners.items()}
    expected = chance(owners)
    assert len(expected) == 6 * 6 + 1
    assert evaluate(vectors, owners) == pytest.approx(expected, rel=1e-12)


def test_chance_is_what_random_vectors_score():
    owners = {"image": np.arange(50), "text": np.repeat(np.arange(50), 4)}
    runs = [
        evaluate({name: unit(len(code), 6, seed=10 * s + len(name)) for name, code in owners.items()}, owners)
        for s in range(60)
    ]
    expected = chance(owners)
    assert expected["text_to_image_R@1"] == pytest.approx(1 / 50)
    assert expected["text_to_image_MeanR"] == pytest.approx(25.5)
    for name in ("image_to_text_R@5", "image_to_text_MeanR", "image_to_text_mAP@10", "text_to_image_mAP@10"):
        assert np.mean([run[name] for run in runs]) == pytest.approx(expected[name], rel=0.12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_item_twice_scores_half(dtype):
    once = unit(500, 64, dtype=dtype)
    twice = np.concatenate([once, once])
    result = evaluate({"image": twice, "text": twice}, {"image": np.arange(1000), "text": np.arange(1000)})
    assert result["image_to_text_R@1"] == 0.5
    assert result["text_to_image_R@1"] == 0.5
    assert result["image_to_text_MeanR"] == 1.5
    assert result["image_to_text_mAP@10"] == 0.75


def test_owners_are_compared_by_value_across_kinds_of_sequences():
    vectors = unit(4)
    names = ["b", "a", "d", "c"]
    text = evaluate({"image": vectors, "text": torch.from_numpy(vectors)}, {"image": names, "text": np.array(names)})
    assert text["rsum"] == 6
    with pytest.raises(ValueError, match="image must have a match in text: row 0 has none, 2 of 2"):
        evaluate({"image": vectors[:2], "text": vectors[:2]}, {"image": [1, 2], "text": ["1", "2"]})


def test_folds_are_the_mean_over_parts_of_the_owners():
    images, captions = unit(60, seed=1), unit(180, seed=2)
    owners = {"image": np.arange(60), "text": np.repeat(np.arange(60), 3)}
    parts = [
        evaluate(
            {"image": images[i : i + 20], "text": captions[3 * i : 3 * i + 60]},
            {"image": owners["image"][i : i + 20], "text": owners["text"][3 * i : 3 * i + 60]},
        )
        for i in (0, 20, 40)
    ]
    result = evaluate({"image": images, "text": captions}, owners, folds=3)
    assert result == pytest.approx({name: np.mean([part[name] for part in parts]) for name in parts[0]})
    assert chance(owners, folds=3)["text_to_image_R@1"] == pytest.approx(1 / 20)
    with pytest.raises(ValueError, match="between 1 and the number of owners, 60: got 61"):
        evaluate({"image": images, "text": captions}, owners, folds=61)


def subset_protocol(images, recipes, subset):
    """The protocol of the recipe papers, for pairs: ten random subsets, medians that are not rounded, their means."""
    reports = []
    for number in range(10):
        chosen = np.random.default_rng(number).choice(len(images), subset, replace=False)
        scores = images[chosen] @ recipes[chosen].T
        places = [1 + np.flatnonzero(np.argsort(-row) == own)[0] for own, row in enumerate(scores)]
        reports.append([*(np.mean([place <= k for place in places]) for k in (1, 5, 10)), np.median(places)])
    return np.mean(reports, axis=0)


@pytest.mark.parametrize("subset", [1, 40, 75, 120])
def test_random_subsets_are_those_of_the_recipe_protocol(subset):
    images = unit(120, 16, seed=5, dtype=np.float64)
    recipes = images + 0.5 * unit(120, 16, seed=6, dtype=np.float64)
    order = np.random.default_rng(7).permutation(120)  # owners are drawn, wherever their items are
    vectors = {"image": images, "text": recipes[order]}
    result = evaluate(vectors, {"image": np.arange(120), "text": order}, subset=subset)
    for name, one, other in (("image_to_text", images, recipes), ("text_to_image", recipes, images)):
        measured = [result[f"{name}_{metric}"] for metric in ("R@1", "R@5", "R@10", "MedR")]
        np.testing.assert_allclose(measured, subset_protocol(one, other, subset), rtol=1e-12)
    everything = evaluate(vectors, {"image": np.arange(120), "text": order})
    if subset == 120:
        assert {n: v for n, v in result.items() if "MedR" not in n} == pytest.approx(
            {n: v for n, v in everything.items() if "MedR" not in n}
        )
    else:
        assert result["image_to_text_R@1"] > everything["image_to_text_R@1"]  # fewer to be mistaken for


def test_medians_over_random_subsets_are_not_rounded_and_chance_is_told_for_them():
    owners = {"image": np.arange(50), "text": np.repeat(np.arange(50), 3)}
    constant = {name: np.repeat(unit(1), len(code), 0) for name, code in owners.items()}
    expected = chance(owners, subset=8)
    assert evaluate(constant, owners, subset=8) == pytest.approx(expected)
    assert expected["text_to_image_R@1"] == pytest.approx(1 / 8)
    assert expected["text_to_image_MedR"] == 4.5 and chance(owners)["text_to_image_MedR"] == 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": 13}, "a subset must have between 1 and 12 owners, which is all: got 13"),
        ({"subset": -1}, "a subset must have between 1 and 12 owners, which is all: got -1"),
        ({"subset": 5, "folds": 2}, "folds or random subsets: got 2 folds and subsets of 5"),
    ],
)
def test_rejected_subsets(options, message):
    owners = {"image": range(12), "text": range(12)}
    with pytest.raises(ValueError, match=message):
        evaluate({"image": unit(12), "text": unit(12)}, owners, **options)
    with pytest.raises(ValueError, match=message):
        chance(owners, **options)


def test_queries_without_a_match_are_an_error_or_left_out_aloud(caplog):
    vectors = {"image": unit(6), "audio": unit(3)}
    owners = {"image": list("abcdef"), "audio": list("ace")}
    with pytest.raises(ValueError, match=r"every image must have a match in audio: row 1 has none, 3 of 6"):
        evaluate(vectors, owners)
    with caplog.at_level(logging.WARNING):
        result = evaluate(vectors, owners, partial=True)
    assert "3 of 6 image queries have no match in audio" in caplog.text
    kept = {"image": vectors["image"][[0, 2, 4]], "audio": vectors["audio"]}
    alone = evaluate(kept, {"image": list("ace"), "audio": list("ace")})
    assert result["image_to_audio_MeanR"] == alone["image_to_audio_MeanR"]
    assert result["audio_to_image_MeanR"] > alone["audio_to_image_MeanR"]  # the other pictures stay as distractors
    assert chance(owners, partial=True)["audio_to_image_R@1"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_an_error_naming_modality_and_row(bad):
    vectors = {"image": unit(5), "text": unit(5)}
    vectors["text"][3, 2] = bad
    owners = {"image": range(5), "text": range(5)}
    with pytest.raises(ValueError, match="text: vectors must be finite: row 3 is not"):
        evaluate(vectors, owners)


@pytest.mark.parametrize(
    ("vectors", "owners", "message"),
    [
        ({"image": unit(3), "text": unit(3)}, {"image": range(3)}, "name the same modalities"),
        ({"image": unit(3)}, {"image": range(3)}, r"at least two modalities: got \['image'\]"),
        ({"image": unit(3), "text": unit(3)}, {"image": range(3), "text": range(4)}, "text: every row needs one owner"),
        ({"image": unit(3), "text": unit(3, 5)}, {"image": range(3), "text": range(3)}, "one width: got .*8.*5"),
        ({"image": unit(3)[0], "text": unit(3)}, {"image": range(8), "text": range(3)}, r"image: .* got \(8,\)"),
        ({"image": unit(3)[:0], "text": unit(3)}, {"image": [], "text": range(3)}, r"at least one row: got \(0, 8\)"),
    ],
)
def test_shapes_that_do_not_agree_are_errors(vectors, owners, message):
    with pytest.raises(ValueError, match=message):
        evaluate(vectors, owners)
