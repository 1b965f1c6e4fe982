"""Climbs to what a network scores high: they rise, repeat, and each of their settings does what it says."""

import pytest
import torch
from torch import Tensor, nn

from mm.encoders.image_networks import layers_of
from mm.explain.visualise import NOISE, visualise


def network(channels: int = 3, seed: int = 0) -> nn.Module:
    """A small network with random weights and the statistics of noise, (B, channels, H, W) -> (B, 10)."""
    torch.manual_seed(seed)
    layers = layers_of("small_cnn", 64)
    if channels != 3:
        layers["conv1"][0] = nn.Conv2d(channels, 24, 3, 2, 1, bias=False)
    model = nn.Sequential(*layers.values(), nn.Flatten(), nn.Linear(192, 10))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, channels, 64, 64))
    return model.eval()


@pytest.mark.parametrize(("seed", "target"), [(0, 3), (1, 7)])
def test_the_score_rises_in_nearly_every_step_and_the_target_wins(seed: int, target: int) -> None:
    model = network(seed=seed)
    found = visualise(model, target, (3, 64, 64), steps=60, seed=seed)
    assert found.image.shape == (1, 3, 64, 64) and found.scores.shape == (61,)
    assert (found.scores.diff() > 0).float().mean() >= 0.95
    assert model(found.image).argmax() == target
    assert found.scores[-1] == pytest.approx(model(found.image)[0, target].item(), abs=1e-4)
    assert found.scores[-1] > found.scores[0] + 1


def test_spectrograms_and_targets_of_all_kinds() -> None:
    model = network(channels=1)
    by_number = visualise(model, 4, (1, 40, 100), steps=20)
    assert by_number.image.shape == (1, 1, 40, 100) and by_number.scores[-1] > by_number.scores[0]
    for target in (torch.tensor([4]), lambda output: output[:, 4]):
        assert torch.equal(visualise(model, target, (1, 40, 100), steps=20).image, by_number.image)

    class Fourth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x)[:, 4]

    assert torch.equal(visualise(Fourth(), None, (1, 40, 100), steps=20).image, by_number.image)


def test_a_seed_is_an_image() -> None:
    model = network()
    first, same, other = (visualise(model, 3, (3, 32, 32), steps=10, seed=seed, jitter=3) for seed in (5, 5, 6))
    torch.testing.assert_close(first.image, same.image, atol=1e-6, rtol=0)
    assert torch.equal(first.scores, same.scores)
    assert (first.image - other.image).abs().max() > 0.1


def test_it_is_adam_written_out() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 6, dtype=torch.float64)

    class Quadratic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ weight.to(x.dtype).T - x.flatten(1).pow(4).sum(1, keepdim=True)

    found = visualise(Quadratic(), 1, (1, 2, 3), steps=25, rate=0.1, seed=3, decay=0.3, variation=0.7)
    x = NOISE * torch.randn(1, 1, 2, 3, generator=torch.Generator().manual_seed(3)).double()[0, 0]  # (2, 3)
    mean, square = torch.zeros(2, 3), torch.zeros(2, 3)
    for step in range(1, 26):
        slope = weight[1].view(2, 3) - 4 * x**3 - 0.3 * 2 * x / 6  # of the score and of the mean square
        for row in range(2):
            for column in range(3):
                for other, pairs in (((row - 1, column), 3), ((row + 1, column), 3)):
                    if 0 <= other[0] < 2:
                        slope[row, column] -= 0.7 * 2 * (x[row, column] - x[other]) / pairs
                for other, pairs in (((row, column - 1), 4), ((row, column + 1), 4)):
                    if 0 <= other[1] < 3:
                        slope[row, column] -= 0.7 * 2 * (x[row, column] - x[other]) / pairs
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        x = x + 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(found.image[0, 0].double(), x, atol=1e-5, rtol=0)


# Settings -----------------------------------------------------------------------------------------------------------


def test_each_way_to_keep_an_image_smooth_does() -> None:
    model = network()

    def climbed(**settings) -> Tensor:
        return visualise(model, 3, (3, 64, 64), **{"decay": 0.0, "variation": 0.0, **settings}).image

    free = climbed()
    assert climbed(decay=5.0).square().mean() < 0.5 * free.square().mean()
    smooth = climbed(variation=5.0)
    for axis in (2, 3):
        assert smooth.diff(dim=axis).square().mean() < 0.2 * free.diff(dim=axis).square().mean()

    def moved(image: Tensor) -> float:
        """Its score wherever it is moved around to, the mean."""
        places = [(down, right) for down in range(-4, 5, 2) for right in range(-4, 5, 2)]
        with torch.no_grad():
            return model(torch.cat([image.roll(place, (2, 3)) for place in places]))[:, 3].mean().item()

    assert moved(climbed(jitter=4)) > moved(free) + 0.05


def test_values_keep_within_their_bounds() -> None:
    model = network()
    low, high = torch.tensor([-0.2, 0.0, -0.1]), torch.tensor([0.3, 0.1, 0.0])
    image = visualise(model, 3, (3, 32, 32), steps=20, low=low, high=high).image[0]  # (3, 32, 32)
    assert torch.equal(image.amin((1, 2)), low) and torch.equal(image.amax((1, 2)), high)
    image = visualise(model, 3, (3, 32, 32), steps=20, low=-0.25).image
    assert image.min() == -0.25 and image.max() > 0.5


def test_steps_and_rate() -> None:
    model = network()
    slow, fast = (visualise(model, 3, (3, 32, 32), steps=1, rate=rate) for rate in (0.01, 0.2))
    start = NOISE * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for found, rate in ((slow, 0.01), (fast, 0.2)):
        assert found.scores.shape == (2,)
        assert (found.image - start).abs().max() == pytest.approx(rate, rel=1e-3)  # Adam's first step
    assert slow.scores[0] == fast.scores[0]


# The model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_stays_as_it_was(frozen: bool) -> None:
    model = network().train()
    model[1].eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(not frozen and number % 3 > 0)
        parameter.grad = torch.full_like(parameter, 0.5)
    modes = [module.training for module in model.modules()]
    trains = [parameter.requires_grad for parameter in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    visualise(model, 3, (3, 32, 32), steps=3, jitter=2)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trains
    assert all(bool((parameter.grad == 0.5).all()) for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"a climb takes \(C, H, W\), a step and a rate above 0: got \(3, 32, 32\), 0 and 0.05"),
        ({"rate": 0.0}, r"\(3, 32, 32\), 60 and 0\.0"),
        ({"rate": float("inf")}, "60 and inf"),
        ({"size": (32, 32)}, r"a climb takes \(C, H, W\).*got \(32, 32\)"),
        ({"size": (3, 0, 32)}, r"a climb takes \(C, H, W\).*got \(3, 0, 32\)"),
        ({"decay": -1.0}, r"decay and variation must be 0 or more, jitter 0\.\.31 px: got -1\.0, 1\.0, 0"),
        ({"variation": float("nan")}, "got 0.1, nan, 0"),
        ({"jitter": 32}, r"jitter 0\.\.31 px: got .* 32"),
        ({"jitter": -1}, r"jitter 0\.\.31 px: got .* -1"),
        ({"low": torch.zeros(2)}, "one number, or one for each of 3 channels"),
        ({"low": 1.0, "high": 1.0}, "low must be less than high in every channel: got 1.0 and 1.0"),
        ({"low": float("nan")}, "low must be less than high in every channel: got nan and inf"),
        ({"target": 10}, r"a target must lie in 0\.\.9, the numbers of the outputs: got 10"),
        ({"target": None}, "without a target, the output must give a float for each of the 1 inputs"),
        ({"target": lambda output: output[:, 0].detach()}, "the target must follow from what is explained"),
        ({"target": lambda output: output[:, 0] / 0}, "must be finite"),
    ],
)
def test_what_is_no_climb(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        visualise(network(), **{"target": 3, "size": (3, 32, 32), **settings})
