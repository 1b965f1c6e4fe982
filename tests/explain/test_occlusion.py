"""Occlusion: equal to a slow loop, whatever the batch; what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mm.explain import attribution as by
from tests.explain.cases import (
    assert_close,
    pictures,
)
from tests.explain.networks import SIDE, Linear, Small, noise, resnet, seeded


def occluded_by_loop(model, inputs: Tensor, column: int, window, stride, fill: float) -> tuple[Tensor, int]:
    """One window and one input at a time."""
    count, _, height, width = inputs.shape
    falls, covered = torch.zeros(count, height, width), torch.zeros(height, width)
    tops, lefts = (
        range(0, side - extent + step, step) for side, extent, step in zip((height, width), window, stride, strict=True)
    )
    with torch.no_grad():
        for top, left in itertools.product(tops, lefts):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            covered[rows, columns] += 1
            for b, one in enumerate(inputs):
                other = one.clone()
                other[:, rows, columns] = fill
                falls[b, rows, columns] += float((model(one[None]) - model(other[None]))[0, column])
    return falls / covered, len(tops) * len(lefts)


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((12, 12), 4, 4),
        ((12, 12), 4, 2),
        ((13, 10), 4, 3),
        ((13, 10), (5, 2), (2, 1)),
        ((7, 9), (7, 9), 1),
        ((7, 9), (1, 9), 1),
    ],
)
def test_occlusion_is_a_loop_over_windows(size, window, stride) -> None:
    model, inputs = seeded(Small), noise(2, 3, *size)
    pair = [(sides, sides) if isinstance(sides, int) else sides for sides in (window, stride)]
    expected, count = occluded_by_loop(model, inputs, 1, *pair, 0.4)
    rows: list[int] = []
    handle = model.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    found = by.occlusion(model, inputs, 1, window, stride, fill=0.4, at_once=5)
    handle.remove()
    assert_close(found, expected, 1e-5)
    below, beside = by.positions(size, window, stride)
    assert below * beside == count and sum(rows) == 2 * (count + 1)  # once as they are
    assert max(rows) <= 2 * 5


@pytest.mark.parametrize(("at_once", "batches"), [(1, 49), (16, 4), (49, 1), (1000, 1)])
def test_occlusion_at_once_or_one_by_one(at_once, batches) -> None:
    model, inputs, calls = resnet(), pictures(side=SIDE), []
    words = noise(2, 10, seed=8)  # a function may hold something of each input
    assert by.positions((SIDE, SIDE), 16, 8) == (7, 7)
    expected = by.occlusion(model, inputs, lambda output: (output * words).sum(1), 16, 8, at_once=7)
    handle = model.register_forward_hook(lambda module, given, output: calls.append(len(output)))
    found = by.occlusion(model, inputs, lambda output: (output * words).sum(1), 16, 8, at_once=at_once)
    handle.remove()
    assert_close(found, expected, 1e-5)
    assert len(calls) == batches + 1


def test_occlusion_of_a_linear_model_is_what_the_window_adds() -> None:
    model, inputs = Linear(3, 14, 10), noise(2, 3, 14, 10)
    found = by.occlusion(model, inputs, 2, (4, 5), (4, 5), fill=-0.2)
    terms = (model.weight[2].detach() * (inputs + 0.2)).sum(1)  # (B, H, W)
    for top, left in itertools.product(range(0, 14, 4), range(0, 10, 5)):
        part = (slice(None), slice(top, top + 4), slice(left, left + 5))
        expected = terms[part].sum((1, 2))[:, None, None]
        torch.testing.assert_close(found[part], expected.expand_as(found[part]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "stride", "options", "message"),
    [
        (17, 4, {}, r"a window must lie within the input of \(16, 16\) px: got \(17, 17\)"),
        ((16, 20), 4, {}, r"got \(16, 20\)"),
        (0, 1, {}, r"got \(0, 0\)"),
        (4, 5, {}, r"a stride must be 1 px up to the window of \(4, 4\): got \(5, 5\)"),
        (4, (4, 0), {}, r"got \(4, 0\)"),
        (4, 4, {"at_once": 0}, "a position at once or more and a finite fill: got 0, 0.0"),
        (4, 4, {"fill": float("nan")}, "got 16, nan"),
    ],
)
def test_rejected_windows(window, stride, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        by.occlusion(seeded(Small), pictures(), 1, window, stride, **options)
