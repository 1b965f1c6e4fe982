"""Receptive fields against what networks show themselves: where a gradient has its support, how far a NaN spreads."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import vgg

from mm.encoders.audio_networks import ResNet, SoundNet, Vgg
from mm.encoders.image import ImageEncoder
from mm.encoders.image_networks import layers_of
from mm.explain.fields import Field, receptive_field


def output_of(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, given, output: kept.append(output.clone()))
    with torch.no_grad():
        model.eval()(inputs)
    handle.remove()
    return kept[-1]


def check_by_nan(model: nn.Module, size: tuple[int, int, int], layer: str, every: int = 5, gaps: bool = False) -> Field:
    """A place of a layer is NaN just where a line of NaN through the input lies in the formula's field.

    With gaps in the field, just the places that lie within the input, from their first such line to their last.
    """
    torch.manual_seed(0)
    field = receptive_field(model, size, layer)
    map_ = output_of(model, layer, torch.zeros(1, *size)).shape[2:]
    spans = [
        (start + stride * torch.arange(places), start + stride * torch.arange(places) + length)  # (H' or W',) each
        for start, stride, length, places in zip(field.start, field.stride, field.size, map_, strict=True)
    ]
    for axis in (0, 1):
        lines = torch.arange(0, size[1 + axis], every)
        inputs = torch.rand(len(lines), *size)
        for picture, line in zip(inputs, lines, strict=True):
            picture.select(1 + axis, line).fill_(math.nan)
        found = output_of(model, layer, inputs).isnan().any(1)  # (lines, H', W')
        (starts, ends), (others, other_ends) = spans[axis], spans[1 - axis]
        expected = (starts <= lines[:, None]) & (lines[:, None] < ends)  # (lines, H' or W')
        seen = (others < size[2 - axis]) & (other_ends > 0)  # (W' or H',): not padding alone
        expected = expected.unsqueeze(2 - axis) & seen.unsqueeze(axis)  # (lines, H', W')
        if gaps:
            assert not (found & ~expected).any()
            inside = ((starts >= 0) & (ends <= size[1 + axis])).nonzero().flatten()
            assert len(inside) > 1
            found = (found.int().cummax(0)[0] & found.int().flip(0).cummax(0)[0].flip(0)).bool()
            found, expected = found.index_select(1 + axis, inside), expected.index_select(1 + axis, inside)
        assert torch.equal(found, expected), (field, axis)
    return field


class Named(nn.Module):
    """Layers one after the other, then something else."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


class Through(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.end = nn.Conv2d(3, 6, 3, 2, 1), nn.LazyConv2d(4, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.function(self.first(x))))


# Formula ------------------------------------------------------------------------------------------------------------


def test_vgg_11_is_the_published_field_and_the_support_of_a_gradient() -> None:
    torch.manual_seed(0)
    model = vgg.make_layers(vgg.cfgs["A"], batch_norm=False)[:11]
    field = receptive_field(model, (3, 112, 112), "10")
    assert field == Field((30, 30), (8, 8), (-11, -11))
    for parameter in model.parameters():
        parameter.requires_grad_(False).abs_()  # no ReLU closes a path
    x = torch.rand(6, 3, 112, 112, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, :, 10, 4].sum(), x)
    support = gradient.abs().sum((0, 1))  # (112, 112)
    rows, columns = support.sum(1).nonzero().flatten().tolist(), support.sum(0).nonzero().flatten().tolist()
    assert rows == list(range(69, 99)) and columns == list(range(21, 51))
    assert field.box(10, 4) == (21, 69, 51, 99)


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [("alexnet", 195, 32), ("vgg16", 212, 32)],  # Araujo et al. 2019, table 1
)
def test_published_fields_of_whole_networks(name: str, size: int, stride: int) -> None:
    layers = layers_of(name, 64)
    del layers["avgpool"]
    field = receptive_field(nn.Sequential(*layers.values()), (3, 64, 64), str(len(layers) - 1))
    assert (field.size, field.stride, field.whole) == ((size, size), (stride, stride), "")


def closed(windows: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """(size, stride, start) of windows (span, stride, padding) one after the other, written out from the last back."""
    first, last_ = 0, 0
    for span, stride, padding in reversed(windows):
        first, last_ = first * stride - padding, last_ * stride - padding + span - 1
    return last_ - first + 1, math.prod(stride for _, stride, _ in windows), first


CHAINS = {
    "conv": [nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)],
    "pools": [nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 1, 2), nn.AvgPool2d(2)],
    "dilated": [nn.Conv2d(3, 4, 3, dilation=3, padding=3), nn.MaxPool2d(2, dilation=2), nn.Conv2d(4, 2, 3, 2)],
    "ceil": [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(3, 4, 3, 3, 1), nn.AvgPool2d(2, 2, ceil_mode=True)],
    "gaps": [nn.Conv2d(3, 4, 2, 5), nn.Conv2d(4, 4, 2, 1, 1)],  # no place sees some of the rows
    "one": [nn.Conv2d(3, 4, 1)],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_chains_by_the_closed_formula_and_by_nan(chain: str) -> None:
    def number(value):
        return value if isinstance(value, int) else value[0]

    model = Named(*CHAINS[chain])
    field = check_by_nan(model, (3, 47, 52), "layers", every=1, gaps=chain in ("dilated", "gaps"))
    windows = [
        (
            number(getattr(layer, "dilation", 1)) * (number(layer.kernel_size) - 1) + 1,
            number(layer.stride),
            number(layer.padding),
        )
        for layer in CHAINS[chain]
        if not isinstance(layer, nn.ReLU)
    ]
    size, stride, start = closed(windows)
    assert field == Field((size, size), (stride, stride), (start, start))


def test_rows_and_columns_apart() -> None:
    model = Named(nn.Conv2d(1, 2, (5, 3), (2, 1), (0, 1)), nn.MaxPool2d((1, 4), (1, 2)), nn.Conv2d(2, 2, (1, 3)))
    assert check_by_nan(model, (1, 30, 41), "layers", every=1) == Field((5, 10), (2, 2), (0, -1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    model = Named(nn.Conv2d(3, 4, (3, 4), padding=padding), nn.Conv2d(4, 2, 3, padding=padding, dilation=2))
    check_by_nan(model, (3, 20, 21), "layers", every=1)


# Whole networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("small_cnn", "layer2"),
        ("lips_cnn", "conv4"),
        ("alexnet", "features.5"),
        ("googlenet", "inception3a"),
        ("resnet18", "layer1"),
        ("resnet50", "layer1"),
        ("densenet121", "features.transition1"),
        ("squeezenet1_1", "features.7"),
        ("mobilenet_v2_relu", "features.5"),
        ("mobilenet_v3_small", "features.0"),
        ("convnext_tiny", "features.1"),
        ("regnet_y_400mf", "stem"),
    ],
)
def test_networks_with_branches_by_nan(name: str, layer: str) -> None:
    encoder = ImageEncoder(name, size=96, layer=layer, freeze=True).eval()
    model = nn.Sequential(*(encoder.net.get_submodule(stage) for stage in encoder.kept))
    field = check_by_nan(model, (3, 96, 80), str(len(model) - 1), every=13)
    assert field.whole == "" and 0 < field.size[0] < 96
    through = receptive_field(encoder, (3, 96, 96), f"net.{layer}")  # pixels are normalised, and gradient is cut off
    assert through == field


@pytest.mark.parametrize(("network", "size"), [(Vgg, (1, 40, 61)), (ResNet, (1, 40, 61)), (SoundNet, (1, 1, 30_000))])
def test_networks_over_sound(network, size) -> None:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.end = network(4), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.net(x, None)[0])

    field = check_by_nan(Sound(), size, "end", every=1 if size[1] > 1 else 997)
    assert field.whole == ""


@pytest.mark.parametrize(
    ("name", "layer", "whole"),
    [("vit_b_16", "encoder.layers.encoder_layer_0", "flatten"), ("mobilenet_v3_small", "features.1", "mul")],
)
def test_where_every_place_sees_all_it_is_said(name: str, layer: str, whole: str) -> None:
    encoder = ImageEncoder(name, size=32)
    field = receptive_field(encoder, (3, 32, 32), f"net.{layer}")
    assert field == Field((32, 32), (0, 0), (0, 0), whole)
    assert output_of(encoder, f"net.{layer}", torch.full((1, 3, 32, 32), math.nan)).isnan().all()
    assert field.box(7, 3) == (0, 0, 32, 32)


# Operations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation",
    [
        *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Hardswish"),
        *("Hardsigmoid", "Hardtanh", "Sigmoid", "Tanh", "Softplus", "Softsign", "LogSigmoid", "Threshold", "Dropout"),
        *("Dropout2d", "AlphaDropout", "Identity", "Tanhshrink", "Softshrink", "Hardshrink"),
    ],
)
def test_what_is_done_place_by_place_changes_nothing(activation: str) -> None:
    layer = getattr(nn, activation)(*((0.1, 0.0) if activation == "Threshold" else ()))
    model = Named(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), layer, nn.Conv2d(4, 2, 3))
    assert receptive_field(model, (3, 16, 16), "layers") == Field((5, 5), (1, 1), (0, 0))


SAME = {
    "slices": lambda x: x[:, :2, 1:-1:2, ::3],
    "negative slices": lambda x: x[..., -9:, -8:-1],
    "padding": lambda x: functional.pad(x, (3, 1, 0, 2)),
    "cropping": lambda x: functional.pad(x, (-3, 0, -1, -1)),
    "replicated": lambda x: functional.pad(x, (2, 2, 1, 1), mode="replicate"),
    "channels": lambda x: torch.cat([x.chunk(2, 1)[1], x.mean(1, keepdim=True), x.softmax(1), x[:, 3].unsqueeze(1)], 1),
    "unit vectors": lambda x: functional.normalize(x, dim=1),
    "channels last": lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2),
    "linear": lambda x: functional.gelu(functional.linear(x.permute(0, 2, 3, 1), torch.ones(5, 6))).permute(0, 3, 1, 2),
    "shuffle": lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
    "turned": lambda x: functional.max_pool2d(x.transpose(2, 3), (3, 1)).transpose(2, 3),
    "branches": lambda x: functional.avg_pool2d(x, 5, 2, 2) + functional.max_pool2d(x, 1, 2),
    "in place": lambda x: functional.avg_pool2d(x, 3, 1, 1).add_(x).relu_(),
    "even pooling": lambda x: functional.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 4)),
    "mixed": lambda x: torch.where(x > 0, x, 0.1 * x).contiguous(memory_format=torch.channels_last).to(torch.float32),
    "stem": lambda x: x.to(torch.float64).clone().float() * torch.ones(6, 1, 1),
}


@pytest.mark.parametrize("name", SAME)
def test_functions_between_layers_by_nan(name: str) -> None:
    model = Through(SAME[name])
    model(torch.zeros(1, 3, 32, 48))
    field = check_by_nan(model, (3, 32, 48), "end", every=1, gaps="slices" in name)
    assert field.whole == ""


WHOLE = {
    "mean": (lambda x: x - x.mean((2, 3), keepdim=True), "mean"),
    "mean of all": (lambda x: x - x.mean(), "mean"),
    "group_norm": (lambda x: functional.group_norm(x, 2), "group_norm"),
    "batch_norm": (lambda x: functional.batch_norm(x, None, None, training=True), "batch_norm"),
    "instance_norm": (functional.instance_norm, "instance_norm"),
    "attention": (lambda x: (x.flatten(2).softmax(2) * x.flatten(2)).view_as(x), "flatten"),
    "softmax over rows": (lambda x: x.softmax(2), "softmax"),
    "flip": (lambda x: x.flip(2), "flip"),
    "reflected": (lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), "pad"),
    "uneven pooling": (lambda x: functional.adaptive_avg_pool2d(x, 7), "adaptive_avg_pool2d"),
    "strides that differ": (lambda x: x[..., ::2, ::2] + x[..., :8, :12], "add"),
    "norm over rows": (lambda x: functional.layer_norm(x, x.shape[2:]), "layer_norm"),
    "linear over rows": (lambda x: functional.linear(x, torch.ones(x.shape[3], x.shape[3])), "linear"),
    "beside itself": (lambda x: torch.cat([x, x], 3), "cat"),
    "turned and added": (lambda x: x + x[..., :16].transpose(2, 3).repeat(1, 1, 1, 2)[..., :24], "repeat"),
    "a row for all": (lambda x: x + x[:, :, :1], "add"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_mixes_places_or_has_no_formula_is_named(name: str) -> None:
    function, whole = WHOLE[name]
    model = Through(function)
    model(torch.zeros(1, 3, 32, 48))
    assert receptive_field(model, (3, 32, 48), "end") == Field((32, 48), (0, 0), (0, 0), whole)


def test_writing_into_a_part_of_a_tensor_is_an_upper_bound() -> None:
    def written(x: Tensor) -> Tensor:
        output = x.clone()
        output[:, :2].add_(functional.avg_pool2d(x, 3, 1, 1)[:, :2])
        return output

    model = Through(written)
    model(torch.zeros(1, 3, 32, 48))
    assert receptive_field(model, (3, 32, 48), "end").whole == "add"


def test_what_follows_a_layer_does_not_change_it() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return x.add_(self.second(x))

    model = Adds()
    assert receptive_field(model, (3, 16, 16), "first").size == (3, 3)
    assert receptive_field(model, (3, 16, 16), "second").size == (7, 7)


# Models and errors --------------------------------------------------------------------------------------------------


def test_of_a_layer_that_runs_twice_the_last_call_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    assert receptive_field(Twice(), (3, 16, 16), "conv").size == (5, 5)


def test_the_model_stays_as_it_was() -> None:
    model = Named(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    receptive_field(model, (3, 16, 16), model.layers[1])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
    model(torch.rand(2, 3, 16, 16)).sum().backward()  # nothing of it is left in inference mode


def test_a_model_that_fails_keeps_no_hooks() -> None:
    model = Named(nn.Conv2d(3, 4, 3))
    with pytest.raises(RuntimeError):
        receptive_field(model, (2, 16, 16), "layers")
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_no_layer_or_size() -> None:
    model = Named(nn.Conv2d(3, 4, 3))
    model.spare = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match=r"no layer 'layer\.0'. Did you mean one of: layers\.0"):
        receptive_field(model, (3, 16, 16), "layer.0")
    with pytest.raises(ValueError, match="layer 'spare' must run, and the model did not call it"):
        receptive_field(model, (3, 16, 16), "spare")
    for size in ((16, 16), (3, 0, 16)):
        with pytest.raises(ValueError, match=r"the size of an input must be \(C, H, W\), 1 or more each: got \("):
            receptive_field(model, size, "layers")
