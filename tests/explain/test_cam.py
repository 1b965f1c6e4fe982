"""Class activation maps add up to the output; boxes are those that were put there; what they find beside a control."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.explain.attribution import grad_cam
from mm.explain.cam import box_of, box_scores, cam, peaks_inside
from tests.explain.networks import SIDE, Small, noise, resnet, seeded


def overlap(a, b) -> float:
    """IoU of two boxes, slow and obvious: the share of a fine grid's points."""
    at = (np.arange(1000) + 0.5) / 1000
    covered = []
    for left, top, right, bottom in (a, b):
        covered.append(((left <= at) & (at < right))[None] & ((top <= at) & (at < bottom))[:, None])
    one, other = covered
    return float((one & other).sum() / (one | other).sum())


# Class activation maps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [3, torch.arange(16) % 10], ids=["number", "numbers"])
def test_it_is_grad_cam_times_the_places_and_adds_up_to_the_output(target) -> None:
    model, inputs = resnet(), noise(16, 3, 96, 96)
    found = cam(model, inputs, target, "layer4", "fc")
    gradients = grad_cam(model, inputs, target, "layer4")
    assert found.shape == (16, 3, 3)
    assert (found - 9 * gradients).abs().max() <= 1e-5 * found.abs().max()
    columns = torch.as_tensor(target).expand(16)
    with torch.no_grad():
        output, bias = model(inputs)[range(16), columns], model.fc.bias[columns]
    assert (found.mean((1, 2)) + bias - output).abs().max() <= 1e-5
    assert (gradients.sum((1, 2)) + bias - output).abs().max() <= 1e-5
    assert found.amin() < 0 and not found.requires_grad


def test_it_is_a_loop_over_places_and_channels_without_a_bias_and_by_modules() -> None:
    model, inputs = seeded(Small), noise(2, 3, 6, 4)
    model.head = nn.Linear(8, 4, bias=False)
    model.train()
    with torch.no_grad():
        grid = model.relu(model.second(model.relu(model.first(inputs))))  # (B, 8, 3, 2)
    found = cam(model, inputs, torch.tensor([2, 0]), model.relu, model.head)
    for b, y, x in itertools.product(range(2), range(3), range(2)):
        weights = model.head.weight[(2, 0)[b]].tolist()
        terms = [weight * value for weight, value in zip(weights, grid[b, :, y, x].tolist(), strict=True)]
        assert float(found[b, y, x]) == pytest.approx(sum(terms), abs=1e-6)
    assert model.training and not any(module._forward_hooks for module in model.modules())


class Behind(Small):
    """Its output is something else than the head's result of the mean."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.extra = kind, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.relu(self.second(self.relu(self.first(x))))
        pooled = grid.amax((2, 3)) if self.kind == "greatest" else grid.mean((2, 3))
        output = self.head(pooled.tanh() if self.kind == "between" else pooled)
        return {"behind": output.softmax(1), "wider": self.extra(output)}.get(self.kind, output)


@pytest.mark.parametrize(
    ("model", "target", "layer", "head", "message"),
    [
        (
            lambda: seeded(Behind, "greatest"),
            1,
            "relu",
            "head",
            "takes an output that is the head's result of",
        ),
        (lambda: seeded(Behind, "between"), 1, "relu", "head", "got one that differs by .* or use grad_cam"),
        (lambda: seeded(Behind, "behind"), 1, "relu", "head", "got one that differs by"),
        (
            lambda: seeded(Behind, "wider"),
            1,
            "relu",
            "head",
            r"must give the output, \(2, 5\): it gives \(2, 4\)",
        ),
        (lambda: seeded(Small), 1, "second", "head", "Give the last layer before the mean"),  # a ReLU too early
        (resnet, 1, "layer3", "fc", "an nn.Linear of the layer's 256 channels: got Linear.in_features=512"),
        (
            lambda: seeded(Small),
            1,
            "relu",
            "second",
            r"of the layer's 8 channels: got Conv2d.*Use grad_cam",
        ),
        (lambda: seeded(Small), 1, "relu", "haed", "the model has no layer 'haed'. Did you mean one of: head"),
        (lambda: seeded(Small), 1, "head", "head", r"must give floats \(B, C, H, W\)"),
        (lambda: seeded(Small), 4, "relu", "head", "a target must lie in 0..3"),
        (lambda: seeded(Small), None, "relu", "head", "a target must be an int, or int64"),
        (lambda: seeded(Small), lambda output: output[:, 0], "relu", "head", "got function"),
    ],
)
def test_what_is_no_mean_and_linear_layer_is_refused(model, target, layer, head, message) -> None:
    with pytest.raises(ValueError, match=message):
        cam(model(), noise(2, 3, SIDE, SIDE), target, layer, head)


# Boxes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 20, 14), (3, 2, 4, 3), (7, 1, 20, 9), (0, 13, 5, 14)])
def test_the_box_that_is_lit_comes_back(box) -> None:
    left, top, right, bottom = box
    heat = np.zeros((14, 20))
    heat[top:bottom, left:right] = 1
    true = (left / 20, top / 14, right / 20, bottom / 14)
    for scale in (1.0, 1e-6):
        assert box_of(scale * heat) == pytest.approx(true)
    assert box_of(torch.from_numpy(heat).float() - 0.5) == pytest.approx(true)
    scores = box_scores([heat], [true])
    assert scores.ious.tolist() == [1.0] and scores.share == 1.0


@pytest.mark.parametrize("size", [(60, 80), (96, 48)])
def test_a_larger_map_gives_edges_between_cells(size) -> None:
    """A cell of 1 beside cells of 0 falls to 0.2 after 0.8 of the way to the next centre."""
    heat = np.zeros((6, 8))
    heat[2:4, 3:6] = 1
    found = box_of(heat, 0.2, size)
    assert found is not None
    expected = (3 - 0.3, 2 - 0.3, 6 + 0.3, 4 + 0.3)  # cells
    for share, cells, among, pixels in zip(found, expected, (8, 6, 8, 6), (size[1], size[0]) * 2, strict=True):
        assert share == pytest.approx(cells / among, abs=1.01 / pixels)


def test_the_largest_part_counts_then_the_highest_then_the_first() -> None:
    heat = np.zeros((8, 8))
    heat[0, 0:2] = 1.0  # the highest is not the largest
    heat[4:6, 4:6] = 0.3
    assert box_of(heat) == (4 / 8, 4 / 8, 6 / 8, 6 / 8)
    assert box_of(heat, 0.3) == (0, 0, 2 / 8, 1 / 8)  # above, not at
    heat[0:2, 0:2] = 0.5
    heat[1, 1] = 0.6
    assert box_of(heat) == (0, 0, 2 / 8, 2 / 8)
    heat[4, 4] = 0.7
    assert box_of(heat) == (4 / 8, 4 / 8, 6 / 8, 6 / 8)
    heat[4, 4] = 0.6
    assert box_of(heat) == (0, 0, 2 / 8, 2 / 8)


def test_a_part_inside_another_is_none_of_it() -> None:
    heat = np.zeros((8, 16))
    heat[0:5, 0:5] = 0.5
    heat[1:4, 1:4] = 0
    heat[2, 2] = 1.0  # within a ring of 16 cells
    heat[0:4, 8:12] = heat[4, 8] = 0.4  # 17 cells
    assert box_of(heat) == (8 / 16, 0, 12 / 16, 5 / 8)


def test_cells_that_touch_at_a_corner_are_one_part() -> None:
    heat = np.eye(6)
    heat[0, 4:] = 1
    assert box_of(heat) == (0, 0, 1, 1)
    assert box_of(heat[:, ::-1]) == (0, 0, 1, 1)
    heat[2] = heat[3] = 0
    assert box_of(heat) == (0, 0, 2 / 6, 2 / 6)


def test_nothing_above_zero_is_no_box() -> None:
    for heat in (np.zeros((3, 4)), np.full((3, 4), -1.0), torch.full((3, 4), -1e-9)):
        assert box_of(heat) is None
    assert box_scores([np.zeros((3, 4))], [(0, 0, 0.5, 0.5)]).ious.tolist() == [0.0]
    assert box_of(np.full((3, 4), 0.1)) == (0, 0, 1, 1)
    heat = np.full((3, 4), -1.0)
    heat[1, 2] = 1e-9
    assert box_of(heat, 0.0) == (2 / 4, 1 / 3, 3 / 4, 2 / 3)


def test_scores_are_overlaps_beside_those_of_a_box_in_the_middle() -> None:
    generator = np.random.default_rng(0)
    corners = generator.integers([[0, 0], [11, 11]], [[11, 11], [22, 22]], (12, 2, 2))  # left and top, right and bottom
    boxes = (corners / 21).reshape(12, 4)
    lit = np.roll(boxes, 1, axis=0)
    heats = np.zeros((12, 21, 21))
    for heat, (left, top, right, bottom) in zip(heats, np.rint(lit * 21).astype(int), strict=True):
        heat[top:bottom, left:right] = 2
    found = box_scores(torch.from_numpy(heats), boxes)
    width, height = (boxes[:, 2:] - boxes[:, :2]).mean(axis=0)
    middle = (0.5 - width / 2, 0.5 - height / 2, 0.5 + width / 2, 0.5 + height / 2)
    np.testing.assert_allclose(found.ious, [overlap(a, b) for a, b in zip(lit, boxes, strict=True)], atol=0.02)
    assert found.share == (found.ious >= 0.5).mean() > 0
    assert found.control == np.mean([overlap(middle, box) >= 0.5 for box in boxes]) > 0


def test_of_several_true_boxes_the_best_counts() -> None:
    heat = np.zeros((4, 4))
    heat[2:, 2:] = 1
    found = box_scores([heat, heat], [[(0, 0, 1, 1), (0.5, 0.5, 1, 1)], (0, 0, 0.5, 0.5)])
    assert found.ious.tolist() == [1.0, 0.0] and found.share == 0.5
    assert found.control == 0  # a box of the mean of all three, 2/3 of each side, is 4/9 of the whole
    assert box_scores([heat], [[(0, 0, 1, 1), (0, 0, 1, 1), (0.5, 0.5, 1, 1)]]).control == 1  # 5/6 of each, 25/36


def test_peaks_inside_boxes_and_masks() -> None:
    heats = np.zeros((4, 5, 10))
    for heat, (y, x) in zip(heats, [(2, 3), (2, 3), (0, 9), (4, 0)], strict=True):
        heat[y, x] = 1
    boxes = [(0.3, 0.4, 0.4, 0.6), (0.36, 0.4, 0.5, 0.6), [(0, 0, 0.1, 0.1), (0.9, 0, 1, 0.2)], (0, 0.8, 0.05, 1)]
    assert peaks_inside(heats - 5, boxes).tolist() == [1, 0, 1, 0]  # a centre at the right edge is outside
    masks = np.zeros((4, 10, 20), bool)
    masks[0, 4:6, 6:8] = masks[1, 0:4] = masks[2, 0:2, 18:] = masks[3, 8:, :2] = True
    assert peaks_inside(torch.from_numpy(heats), masks).tolist() == [1, 0, 1, 1]
    assert peaks_inside(heats[:1], torch.from_numpy(masks[:1])).tolist() == [1]


def test_equally_high_cells_share_so_that_a_constant_map_scores_as_chance() -> None:
    heat = np.zeros((10, 10))
    assert peaks_inside([heat], [(0.2, 0.3, 0.7, 0.5)]) == pytest.approx([0.5 * 0.2])
    heat[0, 0] = heat[9, 9] = heat[5, 5] = 1
    assert peaks_inside([heat], [(0, 0, 0.6, 0.6)]) == pytest.approx([2 / 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: box_of(np.zeros(4)), r"a heat map must be finite \(H, W\): got \(4,\)"),
        (lambda: box_of(np.zeros((0, 4))), r"got \(0, 4\)"),
        (lambda: box_of(np.full((2, 2), np.nan)), "or values that are not"),
        (lambda: box_of(np.ones((2, 2)), 1.0), "a threshold must be .* at least 0 and below 1: got 1.0"),
        (lambda: box_of(np.ones((2, 2)), -0.1), "got -0.1"),
        (lambda: box_of(np.ones((2, 2)), float("nan")), "got nan"),
        (lambda: box_of(np.ones((2, 2)), size=(0, 4)), r"of 1 px or more: got \(1, 2, 2\) at \(0, 4\)"),
        (
            lambda: box_scores([np.ones((2, 2))], []),
            "every heat map must have its true boxes: got 1 maps and boxes of 0",
        ),
        (lambda: box_scores([], []), "got 0 maps and boxes of 0"),
        (
            lambda: box_scores([np.ones((2, 2))], [(0.5, 0, 0.5, 1)]),
            r"left < right, .* got \[0.5, 0, 0.5, 1\]|0.5, 0.0",
        ),
        (lambda: box_scores([np.ones((2, 2))], [(0, 0, 20, 20)]), "Divide pixels by the width and height"),
        (lambda: box_scores([np.ones((2, 2))], [(0, 0, 1)]), "a true box must be"),
        (lambda: box_scores([np.ones((2, 2))], [[]]), "a true box must be"),
        (lambda: peaks_inside([np.ones((2, 2))], []), "every heat map must have its place: got 1 maps and 0"),
        (lambda: peaks_inside([], []), "got 0 maps and 0"),
        (lambda: peaks_inside([np.ones((2, 2))], [np.ones(4, bool)]), r"a mask must be \(h, w\) bool: got \(4,\)"),
        (lambda: peaks_inside([np.ones((2, 2))], [(0, 0, 0.5, float("nan"))]), "a true box must be"),
    ],
)
def test_rejected_maps_and_boxes(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Weak localisation: no box is ever trained on -----------------------------------------------------------------------


def squares(count: int, seed: int, side: int = 32) -> tuple[Tensor, Tensor, np.ndarray]:
    """Noise with a square at a random place, red, green or none: (n, 3, side, side), (n,) classes, (n, 4) boxes."""
    generator = np.random.default_rng(seed)
    images = 0.5 * generator.standard_normal((count, 3, side, side))
    kinds, boxes = generator.integers(0, 3, count), np.zeros((count, 4))
    for image, kind, box in zip(images, kinds, boxes, strict=True):
        extent = int(generator.integers(8, 17))
        left, top = generator.integers(0, side - extent + 1, 2)
        box[:] = np.array([left, top, left + extent, top + extent]) / side
        if kind < 2:
            image[kind, top : top + extent, left : left + extent] += 1.5
    return torch.from_numpy(images).float(), torch.from_numpy(kinds), boxes


def gap_net() -> nn.Module:
    layers: list[nn.Module] = []
    for given, made in ((3, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(given, made, 3, padding=1), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def test_a_network_that_never_saw_a_box_finds_squares_where_a_box_in_the_middle_does_not() -> None:
    model = seeded(gap_net)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        images, kinds, _ = squares(32, seed=step)
        loss = functional.cross_entropy(model(images), kinds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    images, kinds, boxes = squares(330, seed=10_000)
    there = kinds < 2
    images, kinds, boxes = images[there][:200], kinds[there][:200], boxes[there.numpy()][:200]
    assert len(images) == 200
    with torch.no_grad():
        assert (model(images).argmax(1) == kinds).float().mean() >= 0.95
    heats = cam(model, images, kinds, "0", "3")
    found = box_scores(heats, boxes)
    assert found.share >= 0.9, found
    assert found.control <= 0.4, found
    assert peaks_inside(heats, boxes).mean() >= 0.95
    width, height = (boxes[:, 2:] - boxes[:, :2]).mean(axis=0)
    middle = (0.5 - width / 2, 0.5 - height / 2, 0.5 + width / 2, 0.5 + height / 2)
    assert found.ious.mean() > np.mean([overlap(middle, box) for box in boxes]) + 0.3
    assert box_scores(heats, boxes, size=(64, 64)).share >= 0.9
