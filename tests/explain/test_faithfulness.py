"""Curves, infidelity and random weights against slow versions of themselves and against maps known to be right."""

import builtins
import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.config import ConfigError
from mm.explain.attribution import grad_cam, saliency, upsample
from mm.explain.faithfulness import blurred, deletion, infidelity, insertion, randomised

SIDE, PATCH = 32, 8
TEXTURES = torch.stack(  # (4, 8, 8): rows, columns, squares and diagonals
    [
        ((torch.arange(8)[:, None] // 2) % 2).expand(8, 8),
        ((torch.arange(8) // 2) % 2).expand(8, 8),
        (torch.arange(8)[:, None] // 2 + torch.arange(8) // 2) % 2,
        ((torch.arange(8)[:, None] + torch.arange(8)) // 2) % 2,
    ]
).float()


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with one texture somewhere: (count, 1, 32, 32), its class (count,), and where it is (count, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    places = torch.randint(SIDE - PATCH + 1, (count, 2), generator=generator).tolist()
    images, masks = 0.3 * torch.randn(count, 1, SIDE, SIDE, generator=generator), torch.zeros(count, SIDE, SIDE)
    for item, (row, column) in enumerate(places):
        there = (item, slice(row, row + PATCH), slice(column, column + PATCH))
        masks[there] = 1
        images[:, 0][there] += 2 * TEXTURES[labels[item]] - 1
    return images, labels, masks


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 16, 5, 1, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    convs += [nn.Conv2d(16, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    model = nn.Sequential(*convs, nn.Linear(32, 4))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(100):
        images, labels, _ = pictures(32, seed=step + 1)
        optimiser.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    images, labels, _ = pictures(200, seed=0)
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.95
    return model


class Linear(nn.Module):
    """Scores (B, K) of inputs (B, C, H, W) by weights (K, C, H, W)."""

    def __init__(self, classes: int, *size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, *size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight)


# Insertion and deletion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve_of", [insertion, deletion])
@pytest.mark.parametrize("fill", ["blur", 0.3])
def test_curves_are_those_of_pixels_changed_one_after_the_other(curve_of, fill) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
    inputs, maps = torch.randn(3, 2, 6, 7), torch.randn(3, 6, 7)
    with torch.no_grad():
        model(inputs)
        filled = blurred(inputs) if fill == "blur" else torch.full_like(inputs, fill)
        curve = curve_of(model, inputs, torch.tensor([0, 1, 1]), maps, steps=42, fill=fill)
        for item, target in enumerate([0, 1, 1]):
            x, other = (filled, inputs) if curve_of is insertion else (inputs, filled)
            x, other = x[item].clone(), other[item]
            expected = [model(x[None])[0, target].item()]
            for pixel in sorted(range(42), key=lambda pixel: -maps[item].flatten()[pixel]):
                row, column = divmod(pixel, 7)
                x[:, row, column] = other[:, row, column]
                expected.append(model(x[None])[0, target].item())
            np.testing.assert_allclose(curve.scores[item], expected, atol=1e-5)
            area = sum((a + b) / 2 / 42 for a, b in itertools.pairwise(expected))
            assert curve.area[item] == pytest.approx(area, abs=1e-5)
    torch.testing.assert_close(curve.shares, torch.arange(43) / 42)
    coarse = curve_of(model, inputs, torch.tensor([0, 1, 1]), maps, steps=6, fill=fill)
    torch.testing.assert_close(coarse.scores, curve.scores[:, ::7])
    alone = curve_of(model, inputs[1:2], 1, maps[1:2], steps=42, fill=fill)
    torch.testing.assert_close(alone.scores[0], curve.scores[1])
    torch.testing.assert_close(alone.control[0], curve.control[1])


def test_the_right_map_of_a_linear_model_is_beaten_by_none() -> None:
    model, inputs = Linear(2, 1, 6, 6), torch.rand(4, 1, 6, 6)
    right = inputs[:, 0] * model.weight[1, 0].detach()  # (4, 6, 6): what each pixel adds
    for other in (-right, torch.rand(4, 6, 6), right.square()):
        assert (
            insertion(model, inputs, 1, right, 36, fill=0.0).area > insertion(model, inputs, 1, other, 36, 0.0).area
        ).all()
        assert (deletion(model, inputs, 1, right, 36).area < deletion(model, inputs, 1, other, 36).area).all()
    curve = insertion(model, inputs, 1, right, 36, fill=0.0)
    added = right.flatten(1).sort(1, descending=True)[0].cumsum(1)  # (4, 36)
    torch.testing.assert_close(curve.scores[:, 1:], added, atol=1e-5, rtol=1e-5)
    assert (curve.scores[:, 0] == 0).all()


def test_the_place_of_the_object_beats_random_orders(trained) -> None:
    images, labels, masks = pictures(40, seed=0)

    def probability(output: Tensor) -> Tensor:
        return output.softmax(1).gather(1, labels[:, None])[:, 0]

    for maps in (masks, upsample(grad_cam(trained, images, labels, "6"), (SIDE, SIDE))):
        comes = insertion(trained, images, probability, maps, steps=16)
        goes = deletion(trained, images, probability, maps, steps=16)
        assert (comes.area - comes.control).mean() > 0.05 and (goes.control - goes.area).mean() > 0.05


def test_equal_pixels_come_in_the_order_of_the_seed_and_not_from_the_top() -> None:
    model, inputs = Linear(1, 1, 8, 8), torch.ones(2, 1, 8, 8)
    with torch.no_grad():
        model.weight.zero_()[0, 0, :4] = 1.0  # the upper half
    areas = [insertion(model, inputs, 0, torch.zeros(2, 8, 8), 64, 0.0, seed=seed).area for seed in range(30)]
    mean = torch.stack(areas).mean().item()
    assert mean == pytest.approx(16, abs=0.7)  # as of a random order; from the top it would be 24
    assert torch.equal(areas[0], insertion(model, inputs, 0, torch.zeros(2, 8, 8), 64, 0.0, seed=0).area)
    assert len({area[0].item() for area in areas}) > 20
    more = insertion(model, inputs, 0, torch.zeros(2, 8, 8), 64, 0.0, controls=40)
    assert more.control[0].item() == pytest.approx(16, abs=0.7)


def test_blur_is_a_gaussian_of_11_px() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 9, 20, dtype=torch.float64)
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets**2) / 50) / np.exp(-(offsets**2) / 50).sum()
    padded = np.pad(inputs.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)), mode="edge")
    expected = sum(
        a * b * padded[:, :, row : row + 9, column : column + 20]
        for row, a in enumerate(weights)
        for column, b in enumerate(weights)
    )
    np.testing.assert_allclose(blurred(inputs), expected, atol=1e-12)
    assert torch.allclose(blurred(torch.full((1, 2, 3, 3), 0.7)), torch.tensor(0.7))


# Infidelity ---------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_linear_model_has_no_infidelity_and_a_wrong_one_has() -> None:
    model, inputs, targets = Linear(3, 2, 5, 6), torch.randn(4, 2, 5, 6), torch.tensor([0, 2, 1, 1])
    gradient = model.weight.detach()[targets]  # (4, 2, 5, 6)
    assert infidelity(model, inputs, targets, gradient).max() <= 1e-6
    assert infidelity(model, inputs, targets, -gradient).min() > 0.1
    summed = infidelity(model, inputs, targets, gradient.sum(1))  # all channels of a pixel move together
    assert summed.shape == (4,) and summed.max() <= 1e-6
    assert infidelity(model, inputs, targets, gradient.sum(1).flip(1)).min() > 0.1


def test_infidelity_is_its_formula() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
    inputs, maps = torch.randn(3, 2, 6, 7), torch.randn(3, 2, 6, 7)
    with torch.no_grad():
        scores = model(inputs)[:, 1]
        found = infidelity(model, inputs, 1, maps, samples=20, noise=0.2, seed=4)
        generator = torch.Generator().manual_seed(4)
        told, fell = [], []
        for _ in range(20):
            taken = 0.2 * torch.randn(2, 6, 7, generator=generator)
            told.append((taken * maps).sum((1, 2, 3)))
            fell.append(scores - model(inputs - taken)[:, 1])
    told, fell = torch.stack(told), torch.stack(fell)  # (20, 3) each
    torch.testing.assert_close(found, (told - fell).square().mean(0))
    best = (told * fell).sum(0) / told.square().sum(0)
    scaled = infidelity(model, inputs, 1, maps, samples=20, noise=0.2, seed=4, any_scale=True)
    torch.testing.assert_close(scaled, (best * told - fell).square().mean(0), atol=1e-4, rtol=1e-4)
    larger = infidelity(model, inputs, 1, 1000 * maps, samples=20, noise=0.2, seed=4, any_scale=True)
    torch.testing.assert_close(larger, scaled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(infidelity(model, inputs[1:2], 1, maps[1:2], 20, 0.2, 4), found[1:2])
    assert not torch.equal(infidelity(model, inputs, 1, maps, samples=20, noise=0.2, seed=5), found)


def test_the_gradient_is_more_faithful_than_its_size(trained) -> None:
    images, labels, _ = pictures(20, seed=0)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(trained(x).gather(1, labels[:, None]).sum(), x)
    right = infidelity(trained, images, labels, gradient, noise=0.01, any_scale=True)
    assert right.mean() < 0.2 * infidelity(trained, images, labels, gradient.abs(), noise=0.01, any_scale=True).mean()


def test_without_captum_it_is_said_what_to_install(monkeypatch) -> None:
    found = builtins.__import__

    def absent(name, *given, **options):
        if name.startswith("captum"):
            raise ImportError(name)
        return found(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"infidelity needs captum, .*pip install 'mm\[explain\]'"):
        infidelity(Linear(1, 1, 4, 4), torch.rand(1, 1, 4, 4), 0, torch.rand(1, 4, 4))


# Random weights -----------------------------------------------------------------------------------------------------


def edges(images: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, H, W): how much neighbours differ, whatever any network says."""
    return (
        functional.pad(images.diff(dim=2), (0, 0, 0, 1))[:, 0].abs() + functional.pad(images.diff(), (0, 1))[:, 0].abs()
    )


def test_maps_that_explain_the_model_lose_it_and_an_edge_detector_does_not(trained) -> None:
    images, labels, _ = pictures(16, seed=0)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    names = ["9", "5", "4", "1", "0"]
    methods = [(lambda m: grad_cam(m, images, labels, "6"), 0.4), (lambda m: saliency(m, images, labels), 0.65)]
    for method, most in methods:
        found = randomised(trained, method)
        assert [layer for layer, _ in found] == names
        assert all(abs(correlation) < most for _, correlation in found[2:]), found
    assert [one.correlation for one in randomised(trained, lambda m: edges(images))] == pytest.approx([1.0] * 5)
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())


def test_layers_become_random_one_after_the_other() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh())
    )
    model[1].running_mean.fill_(3.0)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    changed = []

    def method(m: nn.Module) -> Tensor:
        changed.append([key for key, value in m.state_dict().items() if not torch.equal(value, original[key])])
        return torch.rand(2, 3, 3)

    found = randomised(model, method)
    assert [layer for layer, _ in found] == ["3.0", "1", "0"]
    weights = [["3.0.weight", "3.0.bias"], ["1.running_mean"], ["0.weight", "0.bias"]]
    for number, keys in enumerate(changed):
        assert sorted(keys) == sorted(itertools.chain(*weights[:number]))
    changed.clear()
    assert [layer for layer, _ in randomised(model, method, layers=["0", "3"])] == ["0", "3"]
    assert [len(keys) for keys in changed] == [0, 2, 4]


def test_correlations_are_spearmans_of_absolute_values() -> None:
    torch.manual_seed(0)
    model, maps = nn.Sequential(nn.Conv2d(1, 1, 3)), iter(torch.randn(2, 3, 5, 6))
    kept = torch.randn(2, 3, 5, 6)
    maps = iter(kept)
    ((_, correlation),) = randomised(model, lambda m: next(maps))
    rhos = [scipy.stats.spearmanr(a.abs().flatten(), b.abs().flatten()).statistic for a, b in zip(*kept, strict=True)]
    assert correlation == pytest.approx(np.mean(rhos))
    signs = iter([kept[0], -kept[0]])
    assert randomised(model, lambda m: next(signs))[0].correlation == pytest.approx(1)
    constant = iter([kept[0], torch.ones(3, 5, 6)])
    assert randomised(model, lambda m: next(constant))[0].correlation == 0


def test_weights_without_a_reset_keep_their_mean_and_deviation() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(5 + 0.1 * torch.randn(4000))
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.attention = nn.MultiheadAttention(8, 2)

    torch.manual_seed(0)
    model, seen = Own(), []
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def method(m: nn.Module) -> Tensor:
        seen.append([parameter.detach().clone() for parameter in m.parameters()])
        return torch.rand(1, 3, 3)

    assert [layer for layer, _ in randomised(model, method)] == ["attention.out_proj", "attention", "Own"]
    scale, token, in_proj = seen[-1][0], seen[-1][1], seen[-1][2]
    assert not torch.equal(scale, before[0]) and not torch.equal(in_proj, before[2])
    assert scale.mean() == pytest.approx(5, abs=0.02) and scale.std() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(token, before[1])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_seed_and_the_state_of_all_else(trained) -> None:
    images, labels, _ = pictures(4, seed=0)
    modes, state = [module.training for module in trained.modules()], torch.get_rng_state()
    for parameter in trained.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    first, same, other = (randomised(trained, lambda m: saliency(m, images, labels), ["9"], s) for s in (1, 1, 2))
    assert first == same != other
    assert torch.equal(torch.get_rng_state(), state)
    insertion(trained, images, labels, torch.rand(4, SIDE, SIDE, generator=torch.Generator()), steps=2)
    infidelity(trained, images, labels, images, samples=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in trained.modules()] == modes
    assert all(bool((parameter.grad == 0.5).all()) for parameter in trained.parameters())
    assert not any(module._forward_hooks for module in trained.modules())


def test_a_method_that_fails_leaves_the_weights(trained) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    calls = itertools.count()

    def method(m: nn.Module) -> Tensor:
        if next(calls) == 3:
            raise RuntimeError("halfway")
        return torch.rand(2, 4, 4)

    with pytest.raises(RuntimeError, match="halfway"):
        randomised(trained, method)
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [insertion, deletion, infidelity])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"maps": torch.rand(2, 3, 3)}, r"maps must be finite and of .*\(2, 6, 6\).*: got \(2, 3, 3\)"),
        ({"maps": torch.rand(1, 6, 6)}, r"maps must be finite and of .*: got \(1, 6, 6\)"),
        ({"maps": torch.full((2, 6, 6), float("nan"))}, "maps must be finite"),
        ({"inputs": torch.rand(0, 1, 6, 6)}, r"inputs must be a tensor of floats \(B, C, H, W\): got \(0, 1, 6, 6\)"),
        ({"inputs": torch.rand(1, 6, 6)}, r"inputs must be a tensor of floats \(B, C, H, W\): got \(1, 6, 6\)"),
        ({"target": 2}, r"a target must lie in 0\.\.1"),
    ],
)
def test_what_cannot_be_measured(measure, given, message) -> None:
    settings = {"inputs": torch.rand(2, 1, 6, 6), "target": 0, "maps": torch.rand(2, 6, 6), **given}
    with pytest.raises(ValueError, match=message):
        measure(Linear(2, 1, 6, 6), **settings)


@pytest.mark.parametrize(
    ("measure", "settings", "message"),
    [
        (insertion, {"steps": 0}, r"a curve takes 1\.\.36 steps.*: got 0, 3"),
        (deletion, {"steps": 37}, r"a curve takes 1\.\.36 steps.*: got 37, 3"),
        (deletion, {"steps": 4, "controls": 0}, "a control or more: got 4, 0"),
        (insertion, {"fill": "grey"}, "fill must be a finite number, or 'blur': got 'grey'"),
        (deletion, {"fill": float("inf")}, "fill must be a finite number, or 'blur': got inf"),
        (infidelity, {"samples": 0}, "a sample or more and noise above 0: got 0 and 0.1"),
        (infidelity, {"noise": 0.0}, "a sample or more and noise above 0: got 50 and 0.0"),
    ],
)
def test_settings_out_of_their_range(measure, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        measure(Linear(2, 1, 6, 6), torch.rand(2, 1, 6, 6), 0, torch.rand(2, 6, 6), **settings)


def test_what_cannot_become_random(trained) -> None:
    with pytest.raises(ValueError, match=r"the model has no layer '90'"):
        randomised(trained, lambda m: torch.rand(1, 2, 2), ["90"])
    with pytest.raises(ValueError, match="layers that become random must have weights: got 2, 3"):
        randomised(trained, lambda m: torch.rand(1, 2, 2), ["9", "2", "3"])
    with pytest.raises(ValueError, match="must have weights: got a model without any"):
        randomised(nn.Sequential(nn.ReLU()), lambda m: torch.rand(1, 2, 2))
    with pytest.raises(ValueError, match=r"maps must be finite \(B, H, W\): got \(2, 2\).* of the original weights"):
        randomised(trained, lambda m: torch.rand(2, 2))
    maps = iter([torch.rand(1, 2, 2), torch.full((1, 2, 2), float("nan"))])
    with pytest.raises(ValueError, match="of random 9"):
        randomised(trained, lambda m: next(maps))
    shapes = iter([torch.rand(1, 2, 2), torch.rand(2, 2, 2)])
    with pytest.raises(ValueError, match="maps must keep their shape"):
        randomised(trained, lambda m: next(shapes))
