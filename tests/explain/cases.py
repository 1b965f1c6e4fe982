"""What the tests of attribution share: methods, targets, and how maps are compared."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from mm.explain import attribution as by
from tests.explain.networks import noise

METHODS = {
    "saliency": by.saliency,
    "smooth_grad": lambda *given: by.smooth_grad(*given, samples=3),
    "integrated_gradients": lambda *given: by.integrated_gradients(*given, steps=4),
    "deconvnet": by.deconvnet,
    "guided_backprop": by.guided_backprop,
    "occlusion": lambda *given: by.occlusion(*given, window=8, stride=8),
    "grad_cam": lambda *given: by.grad_cam(*given, "second"),
    "guided_grad_cam": lambda *given: by.guided_grad_cam(*given, by.grad_cam(*given, "second")),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
by_gradient = pytest.mark.parametrize(
    "method", [METHODS[name] for name in METHODS if name != "occlusion"], ids=[n for n in METHODS if n != "occlusion"]
)
TARGETS = {
    "number": (2, lambda output: output[:, 2]),
    "numbers": (torch.tensor([3, 0]), lambda output: output[[0, 1], [3, 0]]),
    "function": (lambda output: output.square().sum(1), lambda output: output.square().sum(1)),
}
every_target = pytest.mark.parametrize(("target", "scores"), TARGETS.values(), ids=TARGETS)


def pictures(count: int = 2, channels: int = 3, side: int = 16, seed: int = 1) -> Tensor:
    return noise(count, channels, side, side, seed=seed)


def quiet(method, inputs: Tensor, *arguments, **options) -> Tensor:
    """What captum gives; it warns of hooks and of gradients that it asks for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.attribute(inputs.clone(), *arguments, **options).detach()


def plain_gradient(model: nn.Module, inputs: Tensor, scores) -> Tensor:
    x = inputs.clone().requires_grad_()
    return torch.autograd.grad(scores(model(x)).sum(), x)[0]


def assert_close(found: Tensor, expected: Tensor, share: float) -> None:
    """They differ by no more than a share of the largest."""
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= share * expected.abs().max()


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
