"""Gradients through rewritten ReLUs: equal to captum's where that is right; what they refuse."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import nn

from mm.explain import attribution as by
from tests.explain.cases import (
    METHODS,
    assert_close,
    pictures,
    plain_gradient,
    quiet,
)
from tests.explain.networks import FUNCTIONAL, SIDE, SMOOTH, Branches, Small, noise, resnet, seeded

REWRITTEN = {
    "deconvnet": (by.deconvnet, captum.attr.Deconvolution),
    "guided_backprop": (by.guided_backprop, captum.attr.GuidedBackprop),
}
every_rewritten = pytest.mark.parametrize(("method", "reference"), REWRITTEN.values(), ids=REWRITTEN)


@every_rewritten
def test_it_is_captums_on_resnet18(method, reference) -> None:
    """Whose ReLUs work in place, each module twice."""
    model, inputs = resnet(), pictures(side=SIDE)
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))
    target = torch.tensor([4, 1])
    assert_close(method(model, inputs, target), quiet(reference(model), inputs, target=target), 1e-6)


@pytest.mark.parametrize("in_place", [False, True])
def test_guided_and_deconvnet_are_a_way_back_by_hand(in_place) -> None:
    model, inputs = seeded(Small, relu=nn.ReLU(inplace=in_place)), pictures()
    with torch.no_grad():
        first = model.first(inputs)
        second = model.second(first.relu())
        at_mean = model.head.weight[1][:, None, None].expand_as(second) / second[0, 0].numel()  # (B, C, H, W)
    for method, guided in ((by.guided_backprop, True), (by.deconvnet, False)):
        passed = at_mean.clamp_min(0) * (second > 0 if guided else 1)
        passed = nn.grad.conv2d_input(first.shape, model.second.weight.detach(), passed, stride=2, padding=1)
        passed = passed.clamp_min(0) * (first > 0 if guided else 1)
        expected = nn.grad.conv2d_input(inputs.shape, model.first.weight.detach(), passed, padding=1)
        assert_close(method(model, inputs, 1), expected, 1e-5)


@every_rewritten
def test_one_relu_on_two_branches_is_as_two(method, reference) -> None:
    """captum 0.9 takes the gradient of one branch for that of the other in its deconvnet."""
    shared, apart = seeded(Branches, True), seeded(Branches, False)
    inputs = pictures()
    assert_close(method(shared, inputs, 1), method(apart, inputs, 1), 1e-6)
    assert_close(method(apart, inputs, 1), quiet(reference(apart), inputs, target=1), 1e-6)


@pytest.mark.parametrize("smooth", SMOOTH.values(), ids=SMOOTH)
@every_rewritten
def test_without_a_relu_it_is_the_plain_gradient(method, reference, smooth) -> None:
    model, inputs = seeded(Small, relu=smooth), pictures()
    assert_close(method(model, inputs, 1), plain_gradient(model, inputs, lambda output: output[:, 1]), 1e-6)


@pytest.mark.parametrize(("function", "name"), FUNCTIONAL.values(), ids=FUNCTIONAL)
@pytest.mark.parametrize("method", [by.deconvnet, by.guided_backprop, METHODS["guided_grad_cam"]])
def test_a_rectification_elsewhere_is_an_error(method, function, name) -> None:
    model = seeded(Small, relu=function)
    with pytest.raises(ValueError, match="would be silently wrong where a model rectifies otherwise") as caught:
        method(model, pictures(), 1)
    assert f"got {name}, called 2 times outside nn.ReLU. Use nn.ReLU modules, or a method such as" in str(caught.value)
    assert by.saliency(model, pictures(), 1).max() > 0
    assert by.grad_cam(model, pictures(), 1, "second").abs().max() > 0


@pytest.mark.parametrize("method", [by.deconvnet, by.guided_backprop])
def test_every_rectification_elsewhere_is_counted_also_beside_modules(method) -> None:
    model = nn.Sequential(seeded(Small), nn.ReLU(), nn.Linear(4, 4))
    with pytest.raises(ValueError) as caught:
        method(model, pictures(), lambda output: output.relu().clamp_min(0)[:, 0])
    assert "got clamp_min (ClampMinBackward0), called 1 times, relu (ReluBackward0), called 1" in str(caught.value)
    with pytest.raises(ValueError, match=r"got relu \(ReluBackward0\), called 1 times outside nn.ReLU"):
        method(model, pictures(), lambda output: nn.ReLU()(output)[:, 0])  # a module, but none of the model's


@pytest.mark.parametrize("method", [by.deconvnet, by.guided_backprop])
def test_a_rectification_that_is_not_on_the_way_is_none(method) -> None:
    """As in a sentence's encoder, to which a picture is compared."""
    model, inputs, words = seeded(Small), pictures(), noise(2, 4, seed=8).requires_grad_()
    found = method(model, inputs, lambda output: (output * words.relu()).sum(1))
    assert_close(found, method(model, inputs, lambda output: (output * words.detach().relu()).sum(1)), 1e-6)
