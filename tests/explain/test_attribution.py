"""Attribution maps: equal to slow loops, finite differences and captum; what they refuse; what they leave alone."""

from __future__ import annotations

import builtins
import copy
from pathlib import Path
from typing import NamedTuple

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.explain import attribution as by
from mm.explain import layers
from mm.explain.attention import upsample as plain_upsample
from tests.explain.cases import (
    METHODS,
    assert_close,
    by_gradient,
    every_method,
    every_target,
    hooks,
    pictures,
    plain_gradient,
    quiet,
)
from tests.explain.networks import SIDE, Linear, Small, noise, resnet, seeded

# Gradients of the input ---------------------------------------------------------------------------------------------


def test_saliency_is_the_finite_difference() -> None:
    model, step = copy.deepcopy(resnet()).double(), 1e-6
    inputs = noise(2, 3, SIDE, SIDE, seed=3, dtype=torch.float64)
    maps = by.saliency(model, inputs, 7)  # (2, H, W)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _ in range(8):
            b, y, x = (int(torch.randint(0, most, (), generator=generator)) for most in (2, SIDE, SIDE))
            slopes = []
            for channel in range(3):
                moved = inputs[b].repeat(2, 1, 1, 1)
                moved[0, channel, y, x] += step
                moved[1, channel, y, x] -= step
                above, below = model(moved)[:, 7]
                slopes.append(float(above - below) / (2 * step))
            assert abs(float(maps[b, y, x]) - max(map(abs, slopes))) <= 1e-5 * float(maps.max())


@every_target
def test_saliency_is_captums_largest_over_the_channels(target, scores) -> None:
    model, inputs = resnet(), pictures(side=SIDE)
    found = by.saliency(model, inputs, target)
    assert_close(found, quiet(captum.attr.Saliency(lambda x: scores(model(x))), inputs).amax(1), 1e-6)
    assert_close(found, plain_gradient(model, inputs, scores).abs().amax(1), 1e-6)
    assert found.dtype == torch.float32 and not found.requires_grad


def test_smooth_grad_is_a_loop_over_noisy_copies() -> None:
    model, inputs = seeded(Small, relu=nn.Tanh()), pictures() * torch.tensor([1.0, 5.0])[:, None, None, None]
    generator = torch.Generator().manual_seed(6)
    total = torch.zeros_like(inputs)
    for _ in range(5):
        drawn = torch.randn((3, 16, 16), generator=generator)
        for b, one in enumerate(inputs):
            noisy = one + 0.3 * (one.max() - one.min()) * drawn
            total[b] += plain_gradient(model, noisy[None], lambda output: output[:, 1])[0] / 5
    found = by.smooth_grad(model, inputs, 1, samples=5, noise=0.3, seed=6)
    assert_close(found, total.abs().amax(1), 1e-5)
    assert_close(by.smooth_grad(model, inputs[1:], 1, samples=5, noise=0.3, seed=6), found[1:], 1e-5)
    assert not torch.allclose(by.smooth_grad(model, inputs, 1, samples=5, noise=0.3, seed=7), found, rtol=1e-3)
    assert_close(by.smooth_grad(model, inputs, 1, samples=2, noise=0.0), by.saliency(model, inputs, 1), 1e-6)


def test_integrated_gradients_of_a_linear_model_are_its_terms() -> None:
    model, inputs = Linear(3, 6, 9), noise(2, 3, 6, 9)
    found = by.integrated_gradients(model, inputs, torch.tensor([2, 0]), baseline=0.3, steps=2)
    assert_close(found, (model.weight[[2, 0]].detach() * (inputs - 0.3)).sum(1), 1e-5)


@every_target
def test_integrated_gradients_add_up_to_what_the_score_changes(target, scores) -> None:
    model, inputs = seeded(Small, relu=nn.Tanh()), 2 * pictures()
    found = by.integrated_gradients(model, inputs, target, baseline=-0.5, steps=200)
    with torch.no_grad():
        change = scores(model(inputs)) - scores(model(torch.full_like(inputs, -0.5)))  # (B,)
    assert_close(found.sum((1, 2)), change, 0.01)


def test_integrated_gradients_are_captums_of_all_steps_at_once() -> None:
    model, inputs = seeded(Small), pictures()
    expected = quiet(captum.attr.IntegratedGradients(model), inputs, target=2, n_steps=50).sum(1)
    assert_close(by.integrated_gradients(model, inputs, 2), expected, 1e-5)


# Maps ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsample_is_that_of_attention_and_keeps_signs(mode) -> None:
    maps = noise(3, 4, 5)
    found = by.upsample(maps, (30, 17), mode)
    for one, large in zip(maps, found, strict=True):
        lowest = float(one.min())  # of attention, nothing is below 0
        expected = lowest + plain_upsample((one - lowest).ravel().numpy(), (4, 5), (30, 17), mode)
        torch.testing.assert_close(large, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    if mode == "bilinear":
        expected = functional.interpolate(maps[:, None], (30, 17), mode="bilinear", align_corners=True)[:, 0]
        assert (found - expected).abs().max() > 0.2 * maps.abs().max()
    torch.testing.assert_close(by.upsample(-maps, (30, 17), mode), -found)


def test_upsampled_cells_lie_over_their_areas() -> None:
    maps = torch.zeros(1, 3, 2)
    maps[0, 1, 1] = -1.0
    for mode in ("nearest", "bilinear", "bicubic"):
        y, x = divmod(int(by.upsample(maps, (30, 40), mode)[0].argmin()), 40)
        assert y // 10 == 1 and x // 20 == 1


def test_normalise_also_faint_maps() -> None:
    maps = torch.stack([noise(4, 5), 1e-7 * noise(4, 5, seed=1), -3e20 * noise(4, 5, seed=2), torch.full((4, 5), 2.0)])
    found = by.normalise(maps)
    for one, scaled in zip(maps[:3], found[:3], strict=True):
        assert scaled.min() == 0 and scaled.max() == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(scaled, (one - one.min()) / (one.max() - one.min()))
    assert not found[3].any()
    torch.testing.assert_close(by.normalise(found), found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: by.upsample(noise(1, 2, 2), (4, 4), "bilinaer"), "unknown mode 'bilinaer'.*Did you mean 'bilinear'"),
        (lambda: by.upsample(noise(2, 2), (4, 4)), r"maps must be \(B, H, W\).* got \(2, 2\) at \(4, 4\)"),
        (lambda: by.upsample(noise(1, 2, 2), (0, 4)), r"at \(0, 4\)"),
        (lambda: by.normalise(noise(2, 2)), r"maps must be finite \(B, H, W\): got \(2, 2\)"),
        (lambda: by.normalise(torch.full((1, 2, 2), torch.nan)), "or values that are not"),
    ],
)
def test_rejected_maps(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Of any input, model and target -------------------------------------------------------------------------------------


@every_method
def test_a_batch_is_its_inputs_one_by_one(method) -> None:
    model, inputs = seeded(Small), pictures(3)
    target = torch.tensor([3, 0, 1])
    found = method(model, inputs, target)
    for b in range(3):
        assert_close(found[b], method(model, inputs[b : b + 1], int(target[b]))[0], 1e-5)
    assert_close(method(model, inputs, target.int()), found, 1e-6)
    assert_close(method(model, inputs, lambda output: output.gather(1, target[:, None])[:, 0]), found, 1e-6)


class Second(Small):
    """One number for each input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 1]


@every_method
def test_an_output_of_one_number_needs_no_target(method) -> None:
    assert_close(method(seeded(Second), pictures(), None), method(seeded(Small), pictures(), 1), 1e-6)


class Both(Small):
    """An output that is no tensor."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": super().forward(x), "other": x}


@every_method
def test_a_function_may_take_any_output(method) -> None:
    model, inputs = seeded(Both), pictures()
    target = lambda output: output["scores"][:, 1]  # noqa: E731
    if method is METHODS["occlusion"]:
        with pytest.raises(ValueError, match=r"a tensor of as many rows, 8: got dict\. Give at_once=1"):
            method(model, inputs, target)
        found = by.occlusion(model, inputs, target, 8, 8, at_once=1)
        assert_close(found, by.occlusion(seeded(Small), inputs, 1, 8, 8), 1e-5)
    else:
        assert_close(method(model, inputs, target), method(seeded(Small), inputs, 1), 1e-6)


@every_method
def test_a_spectrogram_is_explained_as_a_picture_is(method) -> None:
    """(B, 1, F, N), of which a few bands of a few frames are heard, by a network that hears power."""
    model, inputs = seeded(Small, channels=1, relu=torch.square), 0.01 * noise(2, 1, 24, 40).abs()
    with torch.no_grad():
        for layer in (model.first, model.second, model.head):
            layer.weight.abs_()
    inputs[:, :, 8:16, 24:32] += 3
    found = method(model, inputs, 1)
    found = found.abs().amax(1) if found.dim() == 4 else found  # (B, F, N)
    assert found.shape in ((2, 24, 40), (2, 12, 20))
    for one in found:
        band, frame = divmod(int(one.argmax()), one.shape[1])
        assert 8 <= (band + 0.5) * 24 / one.shape[0] <= 16 and 24 <= (frame + 0.5) * 40 / one.shape[1] <= 32


class State(NamedTuple):
    """What must be as it was."""

    training: list[bool]
    wanted: list[bool]
    gradients: list[Tensor]
    values: list[Tensor]
    in_place: list[bool]
    hooks: int
    random: Tensor


def state(model: nn.Module) -> State:
    parameters = list(model.parameters())
    return State(
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in parameters],
        [parameter.grad.clone() for parameter in parameters if parameter.grad is not None],
        [value.clone() for value in model.state_dict().values()],
        [module.inplace for module in model.modules() if isinstance(module, nn.ReLU)],
        hooks(model),
        torch.get_rng_state(),
    )


def same(one: State, other: State) -> bool:
    def equal(a, b) -> bool:
        if isinstance(a, list):
            return len(a) == len(b) and all(map(equal, a, b))
        return torch.equal(a, b) if isinstance(a, Tensor) else a == b

    return all(map(equal, one, other))


ON_RESNET = {
    **METHODS,
    "smooth_grad": lambda *given: by.smooth_grad(*given, samples=2),
    "integrated_gradients": lambda *given: by.integrated_gradients(*given, steps=2),
    "occlusion": lambda *given: by.occlusion(*given, window=32, stride=32),
    "grad_cam": lambda *given: by.grad_cam(*given, "layer3"),
    "guided_grad_cam": lambda *given: by.guided_grad_cam(*given, by.grad_cam(*given, "layer3")),
    "activations": lambda model, inputs, target: layers.activations(model, inputs, "layer3"),
}


@pytest.mark.parametrize("method", ON_RESNET.values(), ids=ON_RESNET)
def test_in_the_middle_of_training_nothing_is_touched(method) -> None:
    """Some modules train and some do not, some parameters are frozen, gradients wait, and a step is under way."""
    model, inputs = copy.deepcopy(resnet()), pictures(side=SIDE)
    model.train()
    model.layer1.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number)
    model.conv1.weight.grad = None
    model.layer2.requires_grad_(False)
    loss = model.fc(noise(2, 512)).square().sum()
    before, given = state(model), inputs.clone()
    expected = method(resnet(), inputs, 1)
    found = method(model, inputs, 1)
    assert same(state(model), before) and torch.equal(inputs, given) and not inputs.requires_grad
    assert before.hooks == 0 and True in before.in_place and {True, False} == set(before.training)
    torch.testing.assert_close(found, expected)  # eval mode, whatever the model's
    assert torch.equal(method(model, inputs, 1), found) and not found.requires_grad
    assert torch.autograd.grad(loss, model.fc.weight)[0].abs().max() > 0


@pytest.mark.parametrize("broken", ["target", "model"])
@every_method
def test_nothing_is_touched_by_an_error(method, broken) -> None:
    model = seeded(Small, relu=nn.ReLU(inplace=True)).train()
    if broken == "model":
        model.head = nn.Linear(3, 4)
    before = state(model)
    with pytest.raises((RuntimeError, ValueError)):
        method(model, pictures(), 99)
    assert same(state(model), before)


@every_method
def test_frozen_parameters_and_no_grad_and_inference_mode(method) -> None:
    model, inputs = seeded(Small), pictures()
    expected = method(model, inputs, 1)
    model.requires_grad_(False)
    assert torch.equal(method(model, inputs, 1), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(method(model, inputs, 1), expected)
    with torch.inference_mode():
        assert torch.equal(method(model, pictures(), 1), expected)
    assert torch.equal(method(model, inputs.clone().requires_grad_(), 1), expected)


class Overwriting(Small):
    """Its first step writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.5))


@every_method
def test_a_model_may_write_into_its_input(method) -> None:
    inputs = pictures()
    given = inputs.clone()
    found = method(seeded(Overwriting), inputs, 1)
    assert torch.equal(inputs, given) and found.abs().max() > 0


class Coarse(Small):
    """Large inputs, little work."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.avg_pool2d(x, 16))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux says it")
@pytest.mark.parametrize("name", METHODS)
def test_a_hundred_calls_leave_no_memory_behind(name) -> None:
    def used_mb() -> float:
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1.024e-3

    quick = {
        "smooth_grad": lambda *given: by.smooth_grad(*given, samples=1),
        "integrated_gradients": lambda *given: by.integrated_gradients(*given, steps=1),
        "occlusion": lambda *given: by.occlusion(*given, window=144, stride=144),
    }
    method = quick.get(name, METHODS[name])
    model, inputs = seeded(Coarse), pictures(2, side=144)  # 0.5 MB: a hundred of them would be seen
    for _ in range(5):
        method(model, inputs, 1)
    before = used_mb()
    for _ in range(100):
        method(model, inputs, 1)
    assert used_mb() - before < 20


class Detached(Small):
    """A frozen trunk that leaves no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.second(self.relu(self.first(x)))
        return self.head(self.relu(x).mean((2, 3)))


@by_gradient
def test_a_score_without_gradient_is_an_error(method) -> None:
    message = "the target must follow from what is explained by a gradient, and does not"
    with pytest.raises(ValueError, match=message):
        method(seeded(Detached), pictures(), 1)
    words = torch.ones(2, requires_grad=True)
    with pytest.raises((ValueError, RuntimeError), match=f"{message}|appears to not have been used"):
        method(seeded(Small), pictures(), lambda output: output[:, 1].detach() * words)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (pictures()[0], r"inputs must be a tensor of floats \(B, C, H, W\): got \(3, 16, 16\) torch.float32"),
        ((255 * pictures()).byte(), r"got \(2, 3, 16, 16\) torch.uint8. Normalise pictures first"),
        (pictures()[:0], r"got \(0, 3, 16, 16\)"),
        (pictures().numpy(), "got ndarray"),
        (pictures().index_fill(2, torch.tensor([3]), float("nan")), "must be finite: got 96 of 1536 values that are"),
        (pictures() / 0, "inputs must be finite: got 1536"),
    ],
)
@every_method
def test_rejected_inputs(method, inputs, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(seeded(Small), inputs, 1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "a target must lie in 0..3, the numbers of the outputs: got 4"),
        (-1, "0..3, the numbers of the outputs: got -1"),
        (torch.tensor([0, 7]), "0..3, the numbers of the outputs: got 7"),
        (torch.tensor([0, 1, 2]), r"a target must be an int, or int64 \(2,\), one for each input: got \(3,\)"),
        (torch.tensor(1), r"got \(\) torch.int64"),
        (torch.tensor([0.0, 1.0]), r"got \(2,\) torch.float32"),
        (True, "got True"),
        (1.0, "got 1.0"),
        ("cat", "got 'cat'"),
        (None, r"without a target, the output must give a float for each of the 2 inputs: got \(2, 4\)"),
        (lambda output: output, r"a target must give a float for each of the 2 inputs: got \(2, 4\)"),
        (lambda output: output[:, 0].sum(), r"got \(\) torch.float32"),
        (lambda output: output.argmax(1), r"got \(2,\) torch.int64"),
        (lambda output: 1.0, "got 1.0"),
        (lambda output: output[:, 0] / 0, "the scores of the inputs must be finite"),
    ],
)
@every_method
def test_rejected_targets(method, target, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(seeded(Small), pictures(), target)


@pytest.mark.parametrize("target", [1, torch.tensor([0, 1])])
def test_a_number_takes_an_output_of_columns(target) -> None:
    for model in (seeded(Second), seeded(Both)):
        with pytest.raises(ValueError, match=r"numbers as target take an output of \(2, K\): got .*Give a function"):
            by.saliency(model, pictures(), target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *given: by.smooth_grad(*given, samples=0), "one sample or more and noise of 0 or more: got 0 and 0.15"),
        (lambda *given: by.smooth_grad(*given, noise=-0.1), "got 25 and -0.1"),
        (lambda *given: by.smooth_grad(*given, noise=float("nan")), "got 25 and nan"),
        (lambda *given: by.integrated_gradients(*given, steps=0), "a step or more and a finite baseline: got 0, 0.0"),
        (lambda *given: by.integrated_gradients(*given, baseline=float("inf")), "got 50, inf"),
        (lambda *given: by.guided_grad_cam(*given, noise(1, 4, 4)), r"of grad_cam, \(2, H', W'\): got \(1, 4, 4\)"),
        (lambda *given: by.guided_grad_cam(*given, noise(2, 1, 4, 4)), r"got \(2, 1, 4, 4\)"),
    ],
)
def test_rejected_options(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(seeded(Small), pictures(), 1)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_without_captum_it_is_said_what_to_install(name, monkeypatch) -> None:
    found = builtins.__import__

    def without(module, *given, **options):
        if module.startswith("captum"):
            raise ImportError(module)
        return found(module, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"need captum, which is not installed. Run: pip install 'mm\[explain\]'"):
        METHODS[name](seeded(Small), pictures(), 1)
    assert by.saliency(seeded(Small), pictures(), 1).max() > 0
