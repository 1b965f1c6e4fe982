"""The patches that excite a unit most, found where they were planted; and filters as pictures."""

import pytest
import torch
from torch import Tensor, nn

from mm.encoders.image import ImageEncoder
from mm.explain.fields import receptive_field
from mm.explain.layers import activations
from mm.explain.patches import filters, strongest_patches

CROSS = torch.eye(5) + torch.eye(5).flip(1)  # (5, 5)


def seeker() -> nn.Module:
    """A network whose unit 2 of layer "3" is excited by a cross in the second of three channels."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(4, 3, 3, padding=1)
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), last, nn.Flatten(), nn.LazyLinear(2))
    with torch.no_grad():
        first.weight[1] = 0
        first.weight[1, 1] = CROSS - CROSS.mean()
        last.weight[2] = 0
        last.weight[2, 1] = 1.0
        last.weight[2, 1, 1, 1] = 5.0
        model(torch.zeros(1, 3, 48, 64))
    return model


def planted(count: int, every: int) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """Noisy pictures (count, 3, 48, 64), and the row and column of the cross in every so many of them."""
    generator = torch.Generator().manual_seed(1)
    pictures = 0.1 * torch.randn(count, 3, 48, 64, generator=generator)
    where = {}
    for item in range(every - 1, count, every):
        row, column = (int(torch.randint(side - 4, (1,), generator=generator)) for side in (48, 64))
        pictures[item, 1, row : row + 5, column : column + 5] += CROSS
        where[item] = (row, column)
    return pictures, where


def test_the_nine_strongest_of_two_hundred_all_contain_the_pattern() -> None:
    model, (pictures, where) = seeker(), planted(200, 7)
    found = strongest_patches(model, pictures.split(64), "3", 2)
    assert len(found) == 9 and len({patch.item for patch in found}) == 9
    for patch in found:
        row, column = where[patch.item]
        left, top, right, bottom = patch.box_px
        assert left <= column and column + 5 <= right and top <= row and row + 5 <= bottom, patch
        assert right - left <= 10 and bottom - top <= 10  # 5 + 1 of the pooling + 4 of the convolution over it


def test_they_are_those_of_a_naive_search() -> None:
    model, (pictures, _) = seeker(), planted(30, 3)
    maps = activations(model, pictures, "3")[:, 1]  # (30, 24, 32)
    best = sorted(((-float(map_.max()), item) for item, map_ in enumerate(maps)))[:12]
    found = strongest_patches(model, [pictures], model[3], 1, top=12)
    assert [patch.item for patch in found] == [item for _, item in best]
    for patch, (negative, item) in zip(found, best, strict=True):
        assert patch.activation == pytest.approx(-negative)
        assert maps[item][patch.place] == pytest.approx(patch.activation)
        row, column = patch.place
        left, top = 2 * column - 4, 2 * row - 4  # of 10 px each way
        assert patch.box_px == (max(left, 0), max(top, 0), min(left + 10, 64), min(top + 10, 48))
    one_by_one = strongest_patches(model, pictures.split(1), "3", 1, top=12)
    assert [patch[2:] for patch in one_by_one] == [patch[2:] for patch in found]
    assert [patch.item for patch in one_by_one] == [patch.item for patch in found]


def test_nothing_but_the_patch_excites_the_unit() -> None:
    model, (pictures, _) = seeker(), planted(20, 2)
    for patch in strongest_patches(model, [pictures], "3", 2):
        left, top, right, bottom = patch.box_px
        alone = torch.full_like(pictures[patch.item], 7.0)
        alone[:, top:bottom, left:right] = pictures[patch.item, :, top:bottom, left:right]
        row, column = patch.place
        assert activations(model, alone[None], "3")[0, 2, row, column] == pytest.approx(patch.activation, rel=1e-5)


def test_equals_keep_their_order_and_few_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    pictures = torch.zeros(5, 1, 6, 6)
    pictures[3, 0, 4, 2] = pictures[3, 0, 1, 5] = 1.0
    nn.init.ones_(model[0].weight)
    found = strongest_patches(model, pictures.split(2), "0", 0, top=9)
    assert [patch.item for patch in found] == [3, 0, 1, 2, 4]
    assert [patch.place for patch in found] == [(1, 5), (0, 0), (0, 0), (0, 0), (0, 0)]
    assert found[0].box_px == (5, 1, 6, 2)
    assert [patch.item for patch in strongest_patches(model, pictures.split(2), "0", 0, top=2)] == [3, 0]


def test_pictures_of_several_sizes_and_sounds() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.manual_seed(0)
    sounds = [torch.rand(2, 1, 40, 61), torch.rand(1, 1, 40, 100)]
    found = strongest_patches(model, sounds, "1", 0, top=3)
    assert {patch.item for patch in found} == {0, 1, 2}
    whole = strongest_patches(model, sounds, "2", 0, top=3)  # one place, which sees all of each
    assert {patch.item: patch.box_px[2:] for patch in whole} == {0: (61, 40), 1: (61, 40), 2: (100, 40)}


def test_a_place_that_sees_padding_alone_has_an_empty_box() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, padding=2))
    nn.init.constant_(model[0].weight, -1.0)
    nn.init.zeros_(model[0].bias)
    (patch,) = strongest_patches(model, [torch.ones(1, 1, 4, 5)], "0", 0)
    assert patch.place == (0, 0) and patch.box_px == (0, 0, 0, 0)


def test_a_frozen_encoder_and_its_modes() -> None:
    encoder = ImageEncoder("small_cnn", size=64, freeze=True).train()
    modes = [module.training for module in encoder.modules()]
    pictures, state = torch.rand(3, 3, 64, 64), torch.get_rng_state()
    found = strongest_patches(encoder, [pictures], "net.layer2", 5, top=2)
    left, top, right, bottom = receptive_field(encoder, (3, 64, 64), "net.layer2").box(*found[0].place)
    assert len(found) == 2 and right - left == 39
    assert found[0].box_px == (max(left, 0), max(top, 0), min(right, 64), min(bottom, 64))
    assert [module.training for module in encoder.modules()] == modes
    assert not any(module._forward_hooks for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("batches", "layer", "unit", "top", "message"),
    [
        ([], "3", 0, 9, "of one input at least: got none"),
        ([torch.rand(1, 3, 48, 64)], "3", 3, 9, r"the unit must be one of 0\.\.2 of layer '3': got 3"),
        ([torch.rand(1, 3, 48, 64)], "3", -1, 9, r"the unit must be one of 0\.\.2 of layer '3': got -1"),
        ([torch.rand(1, 3, 48, 64)], "33", 0, 9, "no layer '33'. Did you mean one of: 3"),
        ([torch.rand(1, 3, 48, 64)], "5", 0, 9, r"layer '5' must give floats \(B, C, H, W\)"),
        ([torch.rand(1, 3, 48, 64)], "3", 0, 0, "the number of patches must be at least 1: got 0"),
        ([torch.rand(3, 48, 64)], "3", 0, 9, r"inputs must be a tensor of floats \(B, C, H, W\): got \(3, 48, 64\)"),
        ([torch.rand(0, 3, 48, 64)], "3", 0, 9, r"inputs must be a tensor of floats \(B, C, H, W\): got \(0, 3, 48"),
    ],
)
def test_what_has_no_strongest_patches(batches, layer, unit, top, message) -> None:
    with pytest.raises(ValueError, match=message):
        strongest_patches(seeker(), batches, layer, unit, top)


def test_activations_that_are_not_finite() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    nn.init.constant_(model[0].weight, 1e38)
    pictures = torch.ones(3, 1, 4, 4)
    pictures[2] = 1e10
    with pytest.raises(ValueError, match=r"activations must be finite: those of inputs 2\.\.2 are not"):
        strongest_patches(model, pictures.split(2), "0", 0)


# Filters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_each_filter_goes_from_0_to_1(channels: int) -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(channels, 6, (5, 4)), nn.Conv2d(6, 2, 3)))
    with torch.no_grad():
        model[1][0].weight[4] = 2.5
        model[1][0].weight[2] *= 1e-9  # faint ones are as bright
    shown = filters(model)
    weights = model[1][0].weight.detach()
    assert shown.shape == (6, channels, 5, 4) and not shown.requires_grad
    for weight, picture in zip(weights, shown, strict=True):
        low, high = float(weight.min()), float(weight.max())
        expected = (weight.double() - low) / (high - low) if high > low else torch.zeros_like(weight).double()
        torch.testing.assert_close(picture.double(), expected, atol=1e-5, rtol=0)


def test_filters_of_a_named_layer() -> None:
    encoder = ImageEncoder("alexnet", size=64)
    assert torch.equal(filters(encoder), filters(encoder, "net.features.0"))
    assert torch.equal(filters(encoder), filters(encoder, encoder.get_submodule("net.features.0")))
    with pytest.raises(ValueError, match=r"over 1 or 3 channels, here net\.features\.0: got Conv2d\(64, 192"):
        filters(encoder, "net.features.3")
    with pytest.raises(ValueError, match=r"over 1 or 3 channels, here net\.features\.0: got ReLU"):
        filters(encoder, "net.features.1")
    with pytest.raises(ValueError, match=r"Did you mean one of: net\.features\.0"):
        filters(encoder, "net.feature.0")
    with pytest.raises(ValueError, match=r"here none of this model: got no nn\.Conv2d"):
        filters(nn.Linear(3, 2))
