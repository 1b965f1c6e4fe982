"""Localisation metrics against the published procedures step by step, hand-worked maps and every prediction."""

import itertools
import json
import logging
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch.nn import functional

from mm.metrics import boxes as truth
from mm.metrics import control_maps, localisation, score_maps
from mm.metrics.boxes import SIDE, consensus_map, empty_truths
from mm.metrics.localisation import PROTOCOLS, RULES, auc, ciou, evaluate, ious, success, success_curve, upper_bound
from mm.metrics.sources import auroc, confidence, detection, found_sources, peaks

PIXELS = SIDE * SIDE
LEFT_HALF = [[[0.0, 0.0, 0.5, 1.0]]]
BROKEN = -2.8823037615171176e16  # stands in the published file of VGG-SS


def random_boxes(n, seed=0, annotators=1, most=3):
    """Boxes of any size; some leave the picture, some are inverted or empty."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        people = []
        for _ in range(annotators):
            corners = np.sort(generator.uniform(-0.1, 1.1, (generator.integers(1, most + 1), 2, 2)), axis=1)
            corners = corners.reshape(-1, 4)
            corners[generator.random(len(corners)) < 0.1, 2] = BROKEN
            people.append(corners.tolist())
        found.append(people)
    return found


def random_maps(n, grid=(7, 7), seed=0):
    return np.random.default_rng(seed).standard_normal((n, *grid)).astype(np.float32)


def row_of_cells(*values):
    """(1, 1, W) a map of one row."""
    return np.array([[values]], dtype=np.float32)


# --- The truth ---


def test_boxes_of_one_annotator_are_united():
    assert consensus_map([[[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.5]]], side=4).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_two_annotators_make_a_pixel_fully_true():
    rows = [[0, 0, 0.25, 1]], [[0, 0, 0.5, 1]], [[0, 0, 0.75, 1], [0, 0, 0.75, 1]]
    assert consensus_map(rows, side=4)[0].tolist() == [1, 1, 0.5, 0]
    assert consensus_map(rows[1:], side=4)[0].tolist() == [1, 1, 0.5, 0]
    assert consensus_map([rows[2], []], side=4)[0].tolist() == [0.5, 0.5, 0.5, 0]  # the other one saw nothing


def test_edges_are_cut_off_to_whole_pixels():
    """0.49 of 4 pixels is 1.96: the second pixel is not in the box; a box within a pixel covers nothing."""
    assert consensus_map([[[0.3, 0, 0.49, 1]]], side=4).sum() == 0
    assert consensus_map([[[0.2, 0, 0.49, 1]]], side=4)[0].tolist() == [1, 0, 0, 0]


def as_lvs_draws(corners):
    """One annotator, by the evaluation code of LVS, step by step."""
    drawn = np.zeros((SIDE, SIDE))
    for box in corners:
        left, top, right, bottom = (int(SIDE * max(share, 0)) for share in box)
        drawn[top:bottom, left:right] += 1
    drawn[drawn > 0] = 1
    return drawn


def as_ez_vsl_draws(corners):
    """One annotator, by the evaluation code of EZ-VSL and SLAVC, step by step."""
    drawn = np.zeros((SIDE, SIDE))
    for left, top, right, bottom in (np.clip(np.array(corners), 0, 1) * SIDE).astype(int):
        drawn[top:bottom, left:right] += 1
    drawn[drawn > 0] = 1
    return drawn


@pytest.mark.parametrize("published", [as_lvs_draws, as_ez_vsl_draws])
def test_one_annotator_as_published(published):
    for people in random_boxes(60, seed=1):
        np.testing.assert_array_equal(consensus_map(people), published(people[0]))


def test_three_annotators_as_published():
    """Flickr-SoundNet's file has pixels of a picture of 256 x 256; its boxes are added and halved."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        corners = np.sort(generator.integers(0, 257, (3, 2, 2)), axis=1).reshape(3, 4)
        drawn = np.zeros((SIDE, SIDE))
        for box in corners:
            left, top, right, bottom = (int(SIDE * int(pixel) / 256) for pixel in box)
            drawn[top:bottom, left:right] += 1
        drawn = np.minimum(drawn / 2, 1)
        np.testing.assert_array_equal(consensus_map([[(box / 256).tolist()] for box in corners]), drawn)


def test_images_without_a_true_pixel_are_named():
    nothing = [[[0.3, 0.2, BROKEN, 0.9], [0.5, 0, 0.5, 1], [0.5, 0.5, 0.501, 0.9]]]
    assert empty_truths([LEFT_HALF, nothing, [[]], [[], LEFT_HALF[0]]]).tolist() == [1, 2]


# --- cIoU ---


def test_ciou_by_hand():
    g = np.array([[1, 0.5], [0, 0]])
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [1, 0]]], bool)
    np.testing.assert_allclose(ciou(masks, np.stack([g] * 4)), [1 / 1.5, 1, 1.5 / 3.5, 0])


def test_nothing_true_and_nothing_predicted_is_nothing_found():
    nothing = np.zeros((2, 2))
    assert ciou(nothing > 0, nothing) == 0
    assert ciou(nothing == 0, nothing) == 0


CUBIC = -0.75  # of torch's bicubic interpolation


def enlarged_slowly(grid, mode, align_corners):
    """Separable interpolation by its definition, weight by weight."""

    def weights(size):
        table = np.zeros((SIDE, size))
        for pixel in range(SIDE):
            at = pixel * (size - 1) / (SIDE - 1) if align_corners else (pixel + 0.5) * size / SIDE - 0.5
            for cell in range(math.floor(at) - 1, math.floor(at) + 3):
                away = abs(at - cell)
                if mode == "bilinear":
                    weight = max(1 - away, 0)
                elif away <= 1:
                    weight = (CUBIC + 2) * away**3 - (CUBIC + 3) * away**2 + 1
                else:
                    weight = CUBIC * away**3 - 5 * CUBIC * away**2 + 8 * CUBIC * away - 4 * CUBIC if away < 2 else 0
                table[pixel, min(max(cell, 0), size - 1)] += weight
        return table

    height, width = grid.shape
    return weights(height) @ grid.astype(np.float64) @ weights(width).T


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("grid", [(7, 7), (8, 5), (20, 20)])
def test_enlarged_by_the_definition(protocol, grid):
    maps, how = random_maps(1, grid), PROTOCOLS[protocol]
    expected = enlarged_slowly(maps[0], how.mode, how.align_corners)
    np.testing.assert_allclose(score_maps.enlarge(maps, how)[0], expected, atol=2e-5)


def scaled_as_published(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high != low else values


def by_hard_way(grid, g, rule):
    """LVS: cv2's half-pixel interpolation, the map upside down and back, above the threshold or at 1."""
    plane = functional.interpolate(torch.from_numpy(grid)[None, None], (SIDE, SIDE), mode="bilinear")[0, 0].numpy()
    scores = 1 - scaled_as_published(-plane)
    count = {"half": PIXELS // 2, "per_image": int((g != 0).sum()) or PIXELS // 2}.get(rule)
    if count is None:
        scores = (scores >= 0.5).astype(float)
    else:
        threshold = np.sort(scores.flatten())[PIXELS - count]
        scores[scores > threshold] = 1
        scores[scores < 1] = 0
    return published_ciou(scores >= 0.5, g)


def by_mode(mode):
    def follow(grid, g, rule):
        """EZ-VSL and SLAVC: corners aligned, at the threshold or above."""
        plane = functional.interpolate(torch.from_numpy(grid)[None, None], (SIDE, SIDE), mode=mode, align_corners=True)
        scores = scaled_as_published(plane[0, 0].numpy())
        count = {"half": PIXELS // 2, "per_image": int((g != 0).sum()) or PIXELS // 2}.get(rule)
        threshold = 0.5 if count is None else np.sort(scores.flatten())[PIXELS - count]
        return published_ciou(scores >= threshold, g)

    return follow


def published_ciou(mask, g):
    mask = mask.astype(np.float64)
    union = np.sum(g) + np.sum(mask * (g == 0))
    return np.sum(mask * g) / union if union else 0.0


PUBLISHED = {"hard_way": by_hard_way, "ez_vsl": by_mode("bilinear"), "slavc": by_mode("bicubic")}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("annotators", [1, 3])
def test_equals_the_published_procedure(protocol, rule, annotators):
    maps, boxes = random_maps(40, seed=3), random_boxes(40, seed=4, annotators=annotators)
    boxes[5] = [[]] * annotators  # nothing true
    maps[6] = np.maximum(maps[6] - 1, 0)  # most cells equal the median
    maps[7, 2:] = maps[7].max()  # most equal the peak
    slow = [PUBLISHED[protocol](grid, consensus_map(people), rule) for grid, people in zip(maps, boxes, strict=True)]
    np.testing.assert_array_equal(ious(maps, boxes, protocol, rule), slow)


def test_protocols_differ():
    maps, boxes = random_maps(30), random_boxes(30)
    found = [ious(maps, boxes, protocol) for protocol in PROTOCOLS]
    for one, other in itertools.combinations(found, 2):
        assert 0.001 < np.abs(one - other).mean() < 0.1


def test_a_plateau_at_the_median_is_out_by_hard_way_and_in_by_the_others():
    """One cell stands out of a flat map: above the median there is that cell alone, at it there is everything."""
    maps = np.zeros((1, 7, 7), np.float32)
    maps[0, 3, 3] = 1
    boxes = [[[[3 / 7, 3 / 7, 4 / 7, 4 / 7]]]]  # 32 x 32 pixels; the enlarged cell reaches 64 x 64
    assert ious(maps, boxes, "hard_way")[0] == pytest.approx(1 / 4)
    assert ious(maps, boxes, "ez_vsl")[0] == pytest.approx(1 / 49)


def test_fixed_threshold_of_the_scaled_map():
    """Two cells, 0 and 1: enlarged, the right half lies above 0.5, and the right fifth and the rim near 1."""
    maps = row_of_cells(-3, 5)
    right = [[[[0.5, 0, 1, 1]]]]
    assert ious(maps, right, rule="fixed")[0] == 1
    assert ious(maps, right, rule="fixed", threshold=0.9)[0] == pytest.approx(0.6, abs=0.01)  # from 0.7 on
    assert ious(maps, right, rule="fixed", threshold=0)[0] == 0.5


def test_per_image_predicts_as_many_pixels_as_are_true():
    """A slope from left to right, and a truth that is its right tenth."""
    maps = row_of_cells(*range(224))
    right = [[[[1 - 22 / 224, 0, 1, 1]]]]
    assert ious(maps, right, "ez_vsl", "per_image")[0] == 1
    assert ious(maps, right, "ez_vsl", "half")[0] == pytest.approx(22 / 112)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("constant", [-0.2, 0.0, 0.1, 1e30])
def test_a_constant_map_predicts_every_pixel(protocol, rule, constant):
    found = ious(np.full((2, 7, 5), constant), [LEFT_HALF, [[[0, 0, 0.25, 0.5]]]], protocol, rule)
    assert found.tolist() == [0.5, 0.125]


def test_order_chunks_and_company_change_nothing(monkeypatch):
    maps, boxes = random_maps(11), random_boxes(11)
    found = ious(maps, boxes)
    order = np.random.default_rng(0).permutation(11)
    np.testing.assert_array_equal(ious(maps[order], [boxes[image] for image in order]), found[order])
    single = [ious(maps[image : image + 1], boxes[image : image + 1])[0] for image in range(11)]
    np.testing.assert_array_equal(single, found)
    whole = evaluate(maps, boxes)
    monkeypatch.setattr(score_maps, "CHUNK", 4)
    assert evaluate(maps, boxes) == whole


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rule", RULES)
def test_scale_and_shift_change_nothing(protocol, rule):
    maps, boxes = random_maps(20), random_boxes(20)
    found = ious(maps, boxes, protocol, rule)
    np.testing.assert_array_equal(ious(maps * 2**-9, boxes, protocol, rule), found)
    np.testing.assert_allclose(ious(maps * 30 - 7, boxes, protocol, rule), found, atol=2e-4)  # a few pixels' rounding


def test_arrays_tensors_and_lists_are_alike():
    maps, boxes = random_maps(3), random_boxes(3)
    expected = ious(maps, boxes).tolist()
    tensor = torch.from_numpy(maps).requires_grad_()
    for same in (tensor, list(tensor), list(maps), maps.astype(np.float64), maps.tolist()):
        assert ious(same, boxes).tolist() == expected


# --- Curve, area and bound ---


def test_success_counts_what_reaches_the_threshold():
    found = np.array([0.5, 0.49, 1.0, 0.0])
    assert success(found) == 0.5
    thresholds, shares = success_curve(found)
    assert thresholds[10] == 0.5
    assert shares[[0, 9, 10, 11, 20]].tolist() == [1, 0.75, 0.5, 0.25, 0.25]


def test_area_under_the_curve_as_published():
    found = np.random.default_rng(0).random(57)
    curve = [np.sum(found >= 0.05 * step) / len(found) for step in range(21)]
    assert auc(found) == sklearn_metrics.auc([0.05 * step for step in range(21)], curve)
    assert auc(np.ones(3)) == pytest.approx(1)
    assert auc(np.zeros(3)) == pytest.approx(0.025)  # at the threshold 0 all succeed


@pytest.mark.parametrize("g", list(itertools.product([0, 0.5, 1], repeat=4))[::3], ids=str)
def test_bound_is_the_best_of_all_predictions(g):
    """On 2 x 3 pixels, of which two are always wrong: every choice of half of them."""
    g = np.array([*g, 0, 0], np.float32).reshape(2, 3)
    masks = [np.isin(np.arange(6), chosen).reshape(2, 3) for chosen in itertools.combinations(range(6), 3)]
    assert upper_bound(g[None])[0] == pytest.approx(max(float(ciou(mask, g)) for mask in masks))
    for rule in ("fixed", "per_image"):
        assert upper_bound(g[None], rule)[0] == float(g.any())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rule", RULES)
def test_no_map_passes_the_bound(protocol, rule):
    boxes = random_boxes(30, annotators=2)
    truths = np.stack([consensus_map(people) for people in boxes])
    bound = upper_bound(truths, rule)
    assert (ious(random_maps(30), boxes, protocol, rule) <= bound + 1e-12).all()
    perfect = truths + 1e-3 * random_maps(30, (SIDE, SIDE))  # no plateaus
    np.testing.assert_allclose(ious(perfect, boxes, protocol, rule, threshold=0.25), bound, atol=0.002)


# --- Peaks ---


def test_top1_asks_for_the_centre_of_the_highest_cell():
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 1, 2] = 1  # its centre is (0.625, 0.375)
    for box, hit in (
        ([0.6, 0.3, 0.7, 0.4], 1),
        ([0.625, 0.375, 0.7, 0.4], 1),  # left and upper edges belong to the box
        ([0.5, 0.3, 0.625, 0.4], 0),  # right and lower ones do not
        ([0.3, 0.6, 0.4, 0.7], 0),  # rows are y
        ([0.7, 0.3, 0.6, 0.4], 0),
    ):
        assert localisation.top1(maps, [[[box]]])[0] == hit
    assert localisation.top1(maps, [[[[0, 0, 0.1, 0.1]], [[0.6, 0.3, 0.7, 0.4]]]])[0] == 1  # of any annotator


def test_cells_that_share_the_peak_share_the_place():
    maps = np.array([[[2, 2, 0, 2]], [[1, 1, 1, 1]]], np.float32)
    assert localisation.top1(maps, [LEFT_HALF, [[[0, 0, 0.25, 1]]]]).tolist() == [pytest.approx(2 / 3), 0.25]


def played_slowly(plane, g):
    """Every peak pixel, and the distance to every true one."""
    hits = []
    for row, column in np.argwhere(plane == plane.max()):
        away = [(row - y) ** 2 + (column - x) ** 2 for y, x in np.argwhere(g > 0)]
        hits.append(min(away, default=math.inf) < localisation.TOLERANCE**2)
    return np.mean(hits)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pointing_game_by_every_distance(protocol):
    maps, boxes = random_maps(40, (14, 14)), random_boxes(40, annotators=2, most=1)
    fine = score_maps.enlarge(maps, PROTOCOLS[protocol])
    slow = [played_slowly(plane, consensus_map(people)) for plane, people in zip(fine, boxes, strict=True)]
    assert 0.2 < np.mean(slow) < 0.8
    np.testing.assert_allclose(localisation.pointing_game(maps, boxes, protocol), slow)


@pytest.mark.parametrize(("gap", "hit"), [(14, 1), (15, 0)])
def test_the_tolerance_ends_before_15_pixels(gap, hit):
    plane = np.zeros((1, SIDE, SIDE), np.float32)
    plane[0, 100, 50] = 1
    first = (50 + gap) / SIDE
    assert localisation.pointing_game(plane, [[[[first, 0.4, 1, 0.6]]]])[0] == hit
    corner = [first, (100 + gap) / SIDE, 1, 1]
    assert localisation.pointing_game(plane, [[[corner]]])[0] == 0  # 14 across and 14 down are 19.8


def test_a_constant_map_points_at_every_pixel():
    """15 columns away is too far: the left half and 14 more columns are near."""
    found = localisation.pointing_game(np.full((1, 7, 7), 0.1), [LEFT_HALF])[0]
    assert found == pytest.approx((112 + 14) / 224)


def test_separate_peaks_by_hand():
    scores = [
        [0, 0, 0, 0, 0, 0],
        [0, 9, 8, 0, 0, 5],
        [0, 0, 0, 0, 0, 5],
        [7, 0, 0, 6, 0, 0],
    ]
    assert peaks(np.array(scores), 9).tolist() == [[1, 1], [3, 0], [3, 3], [1, 5]]  # 8 leans on 9, one 5 on the other
    assert peaks(np.array(scores), 9, apart=0).tolist() == [[1, 1], [3, 0], [3, 3], [1, 5], [2, 5]]
    assert peaks(np.array(scores), 9, apart=2.3).tolist() == [[1, 1], [3, 3], [1, 5]]  # 7 is 2.24 from 9
    assert peaks(np.array(scores), 2).tolist() == [[1, 1], [3, 0]]


def test_a_constant_map_has_no_peak():
    assert len(peaks(np.full((5, 5), 0.3), 3)) == 0
    assert found_sources(np.full((1, 5, 5), 0.3), [[[[0, 0, 1, 1]]]])[0] == 0


def test_each_peak_must_find_another_source():
    scores = np.zeros((4, 1, 9), np.float32)
    scores[0, 0, [1, 7]] = 5, 4  # one peak in each
    scores[1, 0, [1, 3]] = 5, 4  # both in the first
    scores[2, 0, [3, 7]] = 4, 5  # the higher one in the second
    scores[3, 0, 1] = 5  # only one peak
    two = [[[0, 0, 0.5, 1]], [[0.7, 0, 0.75, 1], [0.75, 0, 1, 1]]]
    assert found_sources(scores, [two] * 4).tolist() == [1, 0, 1, 0]
    assert found_sources(scores[1:2], [[[[0, 0, 0.25, 1]], [[0, 0, 0.5, 1]]]])[0] == 1  # the first lies in both
    assert found_sources(scores[1:2], [[[[0, 0, 0.5, 1]], [[0, 0, 0.25, 1]]]])[0] == 1
    assert found_sources(scores, [two[:1]] * 4).tolist() == [1, 1, 0, 1]
    assert found_sources(scores[:1], [[*two, [[0, 0, 1, 1]]]])[0] == 0  # three sources, two peaks


# --- Silence ---


def detected_slowly(found, positives, negatives):
    """SLAVC's evaluation, item by item."""
    items = [(True, *pair) for pair in zip(found, positives, strict=True)] + [(False, 0, c) for c in negatives]

    def at(threshold):
        right = false = missed = 0
        for positive, value, sure in items:
            if positive and sure < threshold:
                missed += 1
            elif positive and value >= 0.5:
                right += 1
            elif sure >= threshold:
                false += 1
        precision = right / (right + false) if right + false else 1.0
        return precision, right / (right + missed) if right + missed else 1.0

    ordered = sorted(sure for *_, sure in items)
    curve = [at(threshold) for threshold in ordered[:-1][:: -max(1, len(items) // 200)]]
    best = [max(precision for precision, _ in curve[step:]) for step in range(len(curve))]
    ap = sum(best[step] * (curve[step + 1][1] - curve[step][1]) for step in range(len(curve) - 1))
    f1 = [2 * r * p / (r + p) if r + p else 0 for p, r in map(at, ordered[:: max(1, len(items) // 10)])]
    return {"AP": ap, "max_F1": max(f1)}


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (30, 20), (330, 270), (5, 300)])
@pytest.mark.parametrize("ties", [False, True])
def test_detection_as_published(positive, negative, ties):
    generator = np.random.default_rng(positive)
    found = generator.random(positive)
    sure, unsure = generator.normal(1, 1, positive) + found, generator.normal(0.5, 1, negative)
    if ties:
        sure, unsure = sure.round(), unsure.round()
    ours = detection(found, sure, unsure)
    slow = detected_slowly(found, sure, unsure)
    assert {name: ours[name] for name in slow} == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_strict_average_precision_and_auroc_as_sklearn_has_them(ties):
    generator = np.random.default_rng(0)
    found, sure, unsure = generator.random(60), generator.normal(1, 1, 60), generator.normal(0, 1, 45)
    if ties:
        sure, unsure = sure.round(), unsure.round()
    both, right = np.r_[sure, unsure], np.r_[found >= 0.5, np.zeros(45, bool)]
    ours = detection(found, sure, unsure)
    expected = sklearn_metrics.average_precision_score(right, both) * right.sum() / 60  # of all positives
    assert ours["AP_strict"] == pytest.approx(expected)
    assert ours["AUROC"] == pytest.approx(sklearn_metrics.roc_auc_score(np.arange(105) < 60, both))


def test_one_half_is_found():
    assert detection([0.5], [1.0], [0.0])["AP_strict"] == 1
    assert detection([0.49], [1.0], [0.0])["AP_strict"] == 0


def test_auroc_by_hand():
    assert auroc([3, 2], [1, 1]) == 1
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert auroc([0, 2], [1, 2]) == pytest.approx((0 + 0 + 1 + 0.5) / 4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_confidence_is_the_mean_of_the_highest_quarter(protocol):
    maps = random_maps(5)
    fine = score_maps.enlarge(maps, PROTOCOLS[protocol])
    slow = [np.sort(plane.flatten())[-PIXELS // 4 :].mean() for plane in fine]
    np.testing.assert_allclose(confidence(maps, protocol), slow, rtol=1e-5)


# --- All together ---


def test_evaluate_says_what_its_parts_say():
    maps, boxes = random_maps(50), random_boxes(50)
    truths = np.stack([consensus_map(people) for people in boxes])
    found, best = ious(maps, boxes, "slavc", "per_image"), upper_bound(truths, "per_image")
    names = truth.size_names(truths.sum((1, 2)))
    sizes = {f"cIoU@0.5/{size}": success(found[names == size]) for size in set(names)}
    assert evaluate(maps, boxes, "slavc", "per_image") == {
        "cIoU@0.5": success(found),
        "AUC": auc(found),
        "top1": localisation.top1(maps, boxes).mean(),
        "pointing": localisation.pointing_game(maps, boxes, "slavc").mean(),
        "upper_bound@0.5": success(best),
        "upper_bound_AUC": auc(best),
        **sizes,
    }


def test_sizes_by_area():
    areas = [0, 32**2 - 1, 32**2, 96**2 - 0.5, 96**2, 144**2 - 1, 144**2, PIXELS]
    expected = ["small", "small", "medium", "medium", "large", "large", "huge", "huge"]
    assert truth.size_names(np.array(areas)).tolist() == expected
    assert "cIoU@0.5/small" not in evaluate(random_maps(1), [LEFT_HALF])


def test_constant_maps_and_empty_truths_are_logged(caplog):
    maps = random_maps(4)
    maps[2] = 0.3
    with caplog.at_level(logging.WARNING):
        evaluate(maps, [LEFT_HALF, [[[0.5, 0, 0.5, 1]]], LEFT_HALF, [[]]])
    assert caplog.messages == [
        "1 of 4 maps are constant: their prediction is every pixel",
        "2 of 4 images have no true pixel and count as missed: images 1, 3",
    ]
    caplog.clear()
    evaluate(maps[:2], [LEFT_HALF] * 2)
    assert not caplog.messages


def test_control_maps_by_hand():
    boxes = [LEFT_HALF, [[[0, 0, 0.25, 1]]]]
    assert ious(control_maps.whole_image(2), boxes).tolist() == [0.5, 0.25]
    prior = control_maps.mean_prior((consensus_map(people) for people in boxes), 2)
    assert sorted(set(prior[1, 0].tolist())) == [0, 0.5, 1]
    assert prior[1, 7, 20] == 1 and prior[0, 7, 100] == 0.5
    assert ious(prior, boxes).tolist() == [0.5, 1]  # half of the pixels equal the median: only the higher quarter
    mask = control_maps.centre_disc(1)[0] > -88
    assert mask.sum() == pytest.approx(math.pi * 88**2, rel=0.01)
    assert np.argwhere(mask).mean(0).tolist() == [112, 112]
    assert evaluate(control_maps.centre_disc(1), [[[[0.4, 0.4, 0.6, 0.6]]]])["pointing"] == 1
    noise = control_maps.random(3, (4, 5), np.random.default_rng(1))
    assert len(np.unique(noise)) == noise.size == 60


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ("whole_image", {"cIoU@0.5": 21.95, "AUC": 31.25}),
        ("centre_disc", {"cIoU@0.5": 34.10, "AUC": 37.46}),
        ("mean_prior", {"cIoU@0.5": 34.45, "AUC": 37.76}),
        ("random", {"cIoU@0.5": 1.12, "AUC": 21.93}),
    ],
)
def test_published_boxes_of_vggss(maps, expected, real_data):
    file = real_data("vggss") / "vggss.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    boxes = [[entry["bbox"]] for entry in json.loads(file.read_text())]
    assert empty_truths(boxes).tolist() == [97, 4622]
    n = len(boxes)
    scores = {
        "whole_image": lambda: control_maps.whole_image(n),
        "centre_disc": lambda: control_maps.centre_disc(n),
        "mean_prior": lambda: control_maps.mean_prior(map(consensus_map, boxes), n),
        "random": lambda: control_maps.random(n, (7, 7), np.random.default_rng(0)),
    }[maps]()
    found = {name: 100 * value for name, value in evaluate(scores, boxes).items()}
    slack = 0.4 if maps == "random" else 0.005
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=slack)
    assert found["upper_bound@0.5"] == pytest.approx(50.54, abs=0.005)
    assert found["upper_bound_AUC"] == pytest.approx(49.47, abs=0.005)


# --- What is refused ---


@pytest.mark.parametrize(
    ("maps", "boxes", "options", "message"),
    [
        (np.zeros((0, 7, 7)), [], {}, "at least one image is needed"),
        ([], [], {}, "at least one image is needed"),
        (np.zeros((7, 7)), [LEFT_HALF], {}, r"maps must be \(n, H, W\).*got \(7, 7\)"),
        (np.zeros((1, 0, 7)), [LEFT_HALF], {}, r"maps must be \(n, H, W\)"),
        ([np.zeros((7, 7)), np.zeros((7, 8))], [LEFT_HALF] * 2, {}, "grids of one shape"),
        (random_maps(2), [LEFT_HALF], {}, "got 2 maps and the boxes of 1 images"),
        (np.where(np.arange(40).reshape(40, 1, 1) == 37, np.nan, random_maps(40)), [LEFT_HALF] * 40, {}, "map 37"),
        (np.full((1, 2, 2), np.inf), [LEFT_HALF], {}, "must be finite"),
        (np.array([[[1e300, 0]]]), [LEFT_HALF], {}, "must be finite"),
        (np.array([[[3e38, -3e38]]]), [LEFT_HALF], {}, "range in float32"),
        (random_maps(1), [[]], {}, "image 0 must have the boxes of at least one annotator"),
        (random_maps(1), [[[[0, 0, 1]]]], {}, r"each box of image 0 .* got \[0, 0, 1\]"),
        (random_maps(1), [[[0, 0, 1, 1]]], {}, "one list per annotator"),
        (random_maps(1), [[0, 0, 1, 1]], {}, "a list of boxes per annotator"),
        (random_maps(1), [[[[0, 0, 1, math.nan]]]], {}, "four finite shares"),
        (random_maps(1), [[[["a", 0, 1, 1]]]], {}, "four finite shares"),
        (random_maps(1), [LEFT_HALF], {"protocol": "slvac"}, "Did you mean 'slavc'"),
        (random_maps(1), [LEFT_HALF], {"rule": "halve"}, "unknown rule 'halve'.*Did you mean 'half'"),
        (random_maps(1), [LEFT_HALF], {"rule": "fixed", "threshold": 50}, "threshold must lie in 0..1"),
    ],
)
def test_bad_input_is_refused(maps, boxes, options, message):
    for metric in (ious, evaluate):
        with pytest.raises(ValueError, match=message):
            metric(maps, boxes, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: localisation.top1(random_maps(2), [LEFT_HALF]), "got 2 maps"),
        (lambda: localisation.pointing_game(random_maps(1), [LEFT_HALF], "hard"), "unknown protocol 'hard'"),
        (lambda: confidence(random_maps(1), "hard"), "unknown protocol 'hard'"),
        (lambda: confidence(np.full((1, 2, 2), np.nan)), "must be finite"),
        (lambda: upper_bound(np.ones((1, 2, 2)), "all"), "unknown rule 'all'"),
        (lambda: ciou(np.ones((2, 2), bool), np.ones((1, 2, 2))), "must have one shape"),
        (lambda: success(np.array([])), "at least one image"),
        (lambda: auc(np.array([])), "at least one image"),
        (lambda: consensus_map([]), "at least one annotator"),
        (lambda: peaks(np.zeros((1, 2, 2)), 1), "one map"),
        (lambda: peaks(np.array([[np.nan]]), 1), "finite"),
        (lambda: peaks(np.eye(3), 0), "got count=0"),
        (lambda: found_sources(random_maps(2), [LEFT_HALF, []]), "image 1 has none"),
        (lambda: detection([0.5], [1, 2], [0]), "a cIoU and a confidence"),
        (lambda: detection([0.5], [1], []), "negatives must be finite scores"),
        (lambda: auroc([], [1]), "positives must be finite scores"),
        (lambda: auroc([1], [np.nan]), "negatives must be finite scores"),
        (lambda: control_maps.mean_prior([], 3), "at least one consensus map"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
