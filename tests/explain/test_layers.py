"""Layers by name, what they give, and Grad-CAM over them."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.explain import attribution as by
from mm.explain import layers
from tests.explain.cases import (
    assert_close,
    every_target,
    hooks,
    pictures,
    quiet,
)
from tests.explain.networks import SIDE, Small, Tokens, noise, resnet, seeded


@every_target
@pytest.mark.parametrize("layer", ["layer4", "layer4.1", "layer4.1.relu", "layer2.0.bn1", "conv1", "relu", "maxpool"])
def test_grad_cam_is_captums(layer, target, scores) -> None:
    """Also of layers whose output is written into (bn1), and which run twice (layer4.1.relu)."""
    model, inputs = resnet(), pictures(side=SIDE)
    reference = captum.attr.LayerGradCam(lambda x: scores(model(x)), by.layer_of(model, layer))
    expected = quiet(reference, inputs)[:, 0]
    found = by.grad_cam(model, inputs, target, layer)
    assert_close(found, expected, 1e-5)
    assert found.min() < 0 or callable(target)  # it keeps its signs
    torch.testing.assert_close(by.grad_cam(model, inputs, target, by.layer_of(model, layer)), found)


def test_guided_grad_cam_is_captums_with_a_stated_mode() -> None:
    model, inputs = resnet(), pictures(side=SIDE)
    reference = captum.attr.GuidedGradCam(model, model.layer3)
    expected = quiet(reference, inputs, target=5, interpolate_mode="bilinear")
    assert_close(by.guided_grad_cam(model, inputs, 5, by.grad_cam(model, inputs, 5, "layer3")), expected, 1e-5)


class Twice(Small):
    """Runs one layer twice, the second time with fewer places, and one layer not at all."""

    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.never, self.pair = nn.Conv2d(8, 8, 1), nn.Identity()
        self.aside = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pair((self.again(self.first(x)), None))[0]
        self.aside(x)
        return self.head(self.again(functional.max_pool2d(x, 2).relu()).relu().mean((2, 3)))


def test_of_a_layer_that_runs_twice_the_last_time_counts() -> None:
    model, inputs = seeded(Twice), pictures()
    with torch.no_grad():
        first = functional.max_pool2d(model.again(model.first(inputs)), 2).relu()
    last = model.again(first).detach().requires_grad_()  # (B, C, 8, 8)
    slopes = torch.autograd.grad(model.head(last.relu().mean((2, 3)))[:, 1].sum(), last)[0].mean((2, 3))
    assert_close(layers.activations(model, inputs, "again"), last.detach(), 1e-6)
    assert_close(by.grad_cam(model, inputs, 1, "again"), (last.detach() * slopes[..., None, None]).sum(1), 1e-5)


@pytest.mark.parametrize("at", ["activations", "grad_cam"])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("frist", "the model has no layer 'frist'. Did you mean one of: first"),
        ("xyz.uvw", "the model has no layer 'xyz.uvw'. Did you mean one of: first, second, relu, head, again"),
        (nn.ReLU(), "a layer must be part of the model: got a ReLU that is not"),
        ("never", "layer 'never' must run, and the model did not call it"),
        (
            "head",
            r"layer 'head' must give floats \(B, C, H, W\), or of square inputs tokens .* for 2 inputs: got \(2, 4\)",
        ),
        ("pair", "layer 'pair' must give floats .* got tuple"),
    ],
)
def test_rejected_layers(at, layer, message) -> None:
    model = seeded(Twice)
    with pytest.raises(ValueError, match=message):
        if at == "activations":
            layers.activations(model, pictures(), layer)
        else:
            by.grad_cam(model, pictures(), 1, layer)
    assert hooks(model) == 0


def test_a_layer_that_the_target_does_not_use_is_an_error() -> None:
    with pytest.raises(ValueError, match="the target must follow from what is explained by a gradient"):
        by.grad_cam(seeded(Twice), pictures(), 1, "aside")


def test_activations_are_what_a_layer_gave_before_others_wrote_into_it() -> None:
    model, inputs = resnet(), pictures(side=SIDE)
    with torch.no_grad():
        expected = model.bn1(model.conv1(inputs))
    assert expected.min() < 0
    torch.testing.assert_close(layers.activations(model, inputs, "bn1"), expected)
    torch.testing.assert_close(layers.activations(model, inputs, model.relu), expected.relu())


@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_of_a_square_are_a_grid(class_token) -> None:
    model, inputs = seeded(Tokens, 20, class_token), noise(2, 3, 20, 20)
    grid = layers.activations(model, inputs, "embedded")
    torch.testing.assert_close(grid, model.patches(inputs).detach())  # (B, 8, 5, 5)
    tokens = torch.cat([model.extra.expand(2, -1, -1), grid.flatten(2).transpose(1, 2)], dim=1).detach()
    tokens.requires_grad_()
    score = model.head(torch.tanh(model.mixed(tokens.transpose(1, 2))).mean(2))[:, 3].sum()
    slopes = torch.autograd.grad(score, tokens)[0][:, int(class_token) :].mean(1)  # (B, 8)
    assert_close(by.grad_cam(model, inputs, 3, "embedded"), torch.einsum("bchw,bc->bhw", grid, slopes), 1e-5)
    assert layers.layers_with_maps(model, inputs) == {"patches": (8, 5, 5), "embedded": (8, 5, 5)}


def test_tokens_of_no_square_are_refused() -> None:
    model = seeded(Tokens, 20, True)
    model.extra = nn.Parameter(noise(1, 3, 8))
    model.mixed = nn.Linear(28, 28)
    with pytest.raises(ValueError, match=r"layer 'embedded' must give .* tokens .* got \(2, 28, 8\)"):
        by.grad_cam(model, noise(2, 3, 20, 20), 1, "embedded")


def test_layers_with_maps_come_in_the_order_in_which_they_end() -> None:
    model = resnet()
    found = layers.layers_with_maps(model, pictures(side=SIDE))
    names = [name for name in found if name.startswith("layer") and "." not in name]
    assert [(name, found[name]) for name in names] == [
        ("layer1", (64, 16, 16)),
        ("layer2", (128, 8, 8)),
        ("layer3", (256, 4, 4)),
        ("layer4", (512, 2, 2)),
    ]
    assert list(found)[:4] == ["conv1", "bn1", "relu", "maxpool"] and "fc" not in found
    assert list(found).index("layer1.0.bn2") < list(found).index("layer1.0.relu") < list(found).index("layer1.0")
    for name, shape in found.items():
        assert layers.activations(model, pictures(side=SIDE), name).shape[1:] == shape
    assert list(layers.layers_with_maps(seeded(Twice), pictures())) == ["first", "aside", "again"]
    assert layers.layers_with_maps(seeded(Twice), pictures())["again"] == (8, 8, 8)
