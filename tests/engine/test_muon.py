"""Muon against torch's own, which takes matrices alone, and against AdamW for what is no matrix."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mm.config import OptimConfig
from mm.engine.muon import RMS, matrices, orthogonal
from mm.engine.optim import build_optimiser, load_state_tensors, state_tensors


class Mixed(nn.Module):
    """Words, a kernel, matrices wide and tall, a row, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.kernel = nn.Conv1d(6, 5, 3)
        self.wide, self.tall, self.row = nn.Linear(9, 4), nn.Linear(4, 9), nn.Linear(9, 1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        seen = self.kernel(self.words(tokens).transpose(1, 2))  # (B, 5, L - 2)
        return self.row(torch.relu(self.tall(torch.relu(self.wide(seen.flatten(1)[:, :9])))))  # (B, 1)


CONFIG = OptimConfig(name="muon", lr=3e-2, weight_decay=0.1)
TOKENS = torch.tensor([[0, 1, 2, 3, 4], [6, 5, 4, 3, 2]])
TURNED = ("kernel.weight", "wide.weight", "tall.weight")


def trained(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        (model(TOKENS) - 1).square().mean().backward()
        optimiser.step()


def test_steps_are_those_of_torch() -> None:
    """Several, with gradients of their own, so that momenta and their corrections count."""
    torch.manual_seed(0)
    model = Mixed()
    ours = build_optimiser(model, CONFIG)
    theirs = {
        name: nn.Parameter(p.detach().clone().flatten(1) if name in TURNED else p.detach().clone())
        for name, p in model.named_parameters()
    }
    groups = [
        torch.optim.Muon([theirs[n] for n in TURNED], lr=3e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for n, p in theirs.items() if n not in TURNED and p.ndim > 1], lr=3e-2, weight_decay=0.1),
        torch.optim.AdamW([p for p in theirs.values() if p.ndim == 1], lr=3e-2, weight_decay=0.0),
    ]
    for scale in (1.0, 0.1, 5.0, 0.5):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter) * scale
            theirs[name].grad = parameter.grad.reshape(theirs[name].shape).clone()
        for optimiser in (ours, *groups):
            optimiser.step()
    for name, parameter in model.named_parameters():
        close = {"rtol": 0.02, "atol": 2e-3} if name in TURNED else {"rtol": 1e-5, "atol": 1e-6}  # bfloat16
        torch.testing.assert_close(parameter.detach().reshape(theirs[name].shape), theirs[name].detach(), **close)


def test_a_closure_makes_the_gradients() -> None:
    torch.manual_seed(0)
    model = Mixed()
    before = model.tall.weight.detach().clone()

    def closure() -> torch.Tensor:
        loss = (model(TOKENS) - 1).square().mean()
        loss.backward()
        return loss

    expected = float((model(TOKENS) - 1).square().mean().detach())
    assert float(build_optimiser(model, CONFIG).step(closure).detach()) == pytest.approx(expected)
    assert not torch.equal(model.tall.weight, before)


def test_which_parameters_are_matrices() -> None:
    model = Mixed()
    names = {id(p): name for name, p in model.named_parameters()}
    assert tuple(names[id(p)] for p in matrices(model)) == TURNED
    groups = build_optimiser(model, CONFIG).param_groups
    turned = {names[id(p)] for group in groups if group["orthogonal"] for p in group["params"]}
    assert turned == set(TURNED)
    assert {group["weight_decay"] for group in groups if group["orthogonal"]} == {0.1}


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_orthogonal_matrices(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    given = torch.randn(shape) @ torch.diag(torch.logspace(-2, 2, shape[2]))
    turned = orthogonal(given).float()
    values = torch.linalg.svdvals(turned)
    large = torch.linalg.svdvals(given) / given.norm(dim=(1, 2))[:, None] > 0.02
    assert values.max() < 1.3 and values[large].min() > 0.4
    alone = torch.cat([orthogonal(matrix[None]) for matrix in given]).float()
    torch.testing.assert_close(turned, alone, rtol=0.05, atol=0.02)
    scaled = orthogonal(given * 1e4).float()
    torch.testing.assert_close(turned, scaled, rtol=0.05, atol=0.02)


def test_a_step_is_about_as_long_as_that_of_adamw() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False)
    optimiser = build_optimiser(layer, OptimConfig(name="muon", lr=1e-2, weight_decay=0.0))
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(64, 64)
    optimiser.step()
    rms = (layer.weight.detach() - before).square().mean().sqrt() / 1e-2
    assert 0.7 * RMS < rms < 1.2 * RMS


def test_a_continued_optimiser_takes_the_same_steps() -> None:
    torch.manual_seed(0)
    model = Mixed()
    optimiser = build_optimiser(model, CONFIG)
    trained(model, optimiser, 3)
    twin = copy.deepcopy(model)
    continued = build_optimiser(twin, CONFIG)
    assert all(group["fused"] for group in continued.param_groups), "torch leaves `step` on the CPU without it"
    load_state_tensors(twin, continued, {k: v.clone() for k, v in state_tensors(model, optimiser).items()})
    trained(model, optimiser, 3)
    trained(twin, continued, 3)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))


def test_what_has_no_gradient_stays_and_training_fits() -> None:
    torch.manual_seed(0)
    model = Mixed()
    model.tall.weight.requires_grad_(False)
    still = model.tall.weight.clone()
    optimiser = build_optimiser(model, CONFIG)
    optimiser.step()  # nothing has a gradient yet
    trained(model, optimiser, 60)
    assert torch.equal(model.tall.weight, still)
    assert (model(TOKENS) - 1).square().mean() < 1e-2
