"""Parameter groups, the schedule and the averaged weights, against the obvious way to compute them."""

import math

import pytest
import torch
from torch import nn

from mm.config import ConfigError, OptimConfig
from mm.engine.muon import Muon
from mm.engine.optim import (
    Average,
    build_optimiser,
    load_state_tensors,
    schedule,
    set_rate,
    state_tensors,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                "image": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
                "text": nn.ModuleDict({"words": nn.Embedding(5, 4), "rnn": nn.GRU(4, 4)}),
            }
        )
        self.head = nn.Linear(4, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def test_the_schedule_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    steps, warmup = 1000, 100
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([(step + 1) / 100 for step in range(100)])
    assert max(rates) == rates[warmup - 1] == rates[warmup] == 1.0
    assert all(a > b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert rates[550] == pytest.approx(0.5)  # half-way through the cosine
    assert 0 < rates[-1] < 1e-5
    assert [schedule(step, steps, 0) for step in (0, 500)] == pytest.approx([1.0, 0.5])


def test_a_constant_schedule_stays_at_its_peak() -> None:
    assert [schedule(step, 10, 4, "constant") for step in range(10)] == [0.25, 0.5, 0.75] + [1.0] * 7


def test_a_run_shorter_than_its_warm_up_only_rises() -> None:
    assert [schedule(step, 3, 10) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_groups_by_rate_and_decay() -> None:
    model = Model()
    model.encoders["image"][0].requires_grad_(False)
    rates = {"encoders": 0.5, "encoders.image": 0.1, "logit_scale": 2.0}
    optimiser = build_optimiser(model, OptimConfig(weight_decay=0.3), rates)
    set_rate(optimiser, 0.01)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    trained = {name: found.pop(id(p)) for name, p in model.named_parameters() if p.requires_grad}
    assert not found
    assert trained["encoders.image.1.weight"] == (0.01 * 0.1, 0.0)
    assert trained["encoders.text.words.weight"] == (0.01 * 0.5, 0.3)
    assert trained["encoders.text.rnn.bias_hh_l0"] == (0.01 * 0.5, 0.0)
    assert trained["head.weight"] == (0.01, 0.3)
    assert trained["logit_scale"] == (0.01 * 2.0, 0.0)
    assert "encoders.image.0.weight" not in trained


def test_a_prefix_ends_at_a_dot() -> None:
    model = nn.ModuleDict({"image": nn.Linear(2, 2), "image2": nn.Linear(2, 2)})
    optimiser = build_optimiser(model, OptimConfig(), {"image": 0.5})
    rates = {id(p): g["rate"] for g in optimiser.param_groups for p in g["params"]}
    assert (rates[id(model["image"].weight)], rates[id(model["image2"].weight)]) == (0.5, 1.0)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("muon", Muon), ("sgd", torch.optim.SGD)])
def test_optimisers_by_name(name, kind) -> None:
    assert isinstance(build_optimiser(Model(), OptimConfig(name=name)), kind)


@pytest.mark.parametrize(
    ("config", "rates", "message"),
    [
        (OptimConfig(lr=0.0), {}, r"optim\.lr must be positive: got 0\.0"),
        (OptimConfig(lr=-1.0), {}, r"optim\.lr must be positive: got -1\.0"),
        (OptimConfig(lr=math.nan), {}, r"optim\.lr must be positive: got nan"),
        (OptimConfig(lr=math.inf), {}, r"optim\.lr must be positive: got inf"),
        (OptimConfig(weight_decay=-0.1), {}, r"optim\.weight_decay must be at least 0: got -0\.1"),
        (OptimConfig(clip_norm=-1.0), {}, r"optim\.clip_norm must be at least 0"),
        (OptimConfig(warmup_steps=-1), {}, r"optim\.warmup_steps must be at least 0"),
        (OptimConfig(), {"encoder.image": 0.1}, r"got 'encoder\.image'\. Did you mean 'encoders\.image'"),
        (OptimConfig(), {"head": 0.0}, r"factor of 'head' must be positive: got 0\.0\. Freeze it instead"),
        (OptimConfig(), {"head": math.nan}, r"factor of 'head' must be positive: got nan"),
    ],
)
def test_what_is_rejected(config: OptimConfig, rates: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimiser(Model(), config, rates)


def test_a_frozen_model_is_rejected() -> None:
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        build_optimiser(Model().requires_grad_(False), OptimConfig())


def test_the_average_equals_the_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[2].weight.requires_grad_(False)
    average = Average(model, 0.7)
    names = [name for name, value in model.state_dict().items() if value.is_floating_point() and name != "2.weight"]
    expected = {name: model.state_dict()[name].double() for name in names}
    assert set(average.values) == set(names)
    for updates in range(1, 6):
        with torch.no_grad():
            for name in names:
                model.state_dict()[name].add_(torch.randn(()))
        average.update(updates)
        decay = min(0.7, (1 + updates) / (10 + updates))
        expected = {n: decay * v + (1 - decay) * model.state_dict()[n].double() for n, v in expected.items()}
    for name in names:
        torch.testing.assert_close(average.values[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_average_is_lent_and_taken_back() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = Average(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), average.applied():
        assert torch.equal(model[0].weight, average.values["0.weight"])
        assert not torch.equal(model[0].weight, before["0.weight"])
        raise KeyError("an evaluation that fails")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_the_optimisers_memory_makes_the_round_trip(name) -> None:
    def train(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(3):
            optimiser.zero_grad()
            model.head(torch.randn(5, 4)).square().mean().backward()  # the encoders get no gradient, and no memory
            optimiser.step()

    torch.manual_seed(0)
    one, two = Model(), Model()
    first, second = (build_optimiser(model, OptimConfig(name=name), {"head": 0.5}) for model in (one, two))
    train(one, first, 1)
    memory = state_tensors(one, first)
    assert {key.rpartition("/")[0] for key in memory} == {"head.weight", "head.bias"}
    two.load_state_dict(one.state_dict())
    load_state_tensors(two, second, {key: value.clone() for key, value in memory.items()})
    for model, optimiser in ((one, first), (two, second)):
        train(model, optimiser, 2)
    assert torch.equal(one.head.weight, two.head.weight)
