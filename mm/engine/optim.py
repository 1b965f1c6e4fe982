"""Optimiser with parameter groups, learning-rate schedule, and a running average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mm.config import ConfigError, OptimConfig
from mm.engine.muon import Muon, matrices
from mm.naming import hint

MOMENTUM = 0.9  # of SGD


def schedule(step: int, steps: int, warmup: int, kind: str = OptimConfig.schedule) -> float:
    """Share of the peak learning rate at a step: a linear rise over `warmup` steps, then half a cosine to zero.

    Args:
        step: of the update, 0 for the first.
        steps: of the whole run.
        warmup: the peak is reached at step `warmup - 1`.
        kind: "cosine" (Loshchilov and Hutter 2017, eq. 5, one period), or "constant" after the rise.

    Returns:
        A number in (0, 1].

    >>> [round(schedule(step, steps=6, warmup=2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def build_optimiser(model: nn.Module, config: OptimConfig, rates: Mapping[str, float] | None = None) -> Optimizer:
    """The optimiser of a model's trainable parameters, in groups by learning rate and weight decay.

    Parameters of fewer than two axes (biases, norms, a temperature) have no weight decay. Each group carries its
    `rate`, the factor on the learning rate; `set_rate` applies it.

    Args:
        model: parameters with requires_grad=False stay out.
        config: AdamW (Loshchilov and Hutter 2019), Muon (`mm.engine.muon`), or SGD with a momentum of 0.9.
        rates: {prefix of parameter names: factor}, such as {"encoders.image": 0.1}; the longest prefix counts.

    Raises:
        ConfigError: a number out of its range, a prefix that no parameter has, or nothing to train.
    """
    for name in ("lr", "weight_decay", "clip_norm", "warmup_steps"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= 0) or (name == "lr" and value == 0):
            raise ConfigError(f"optim.{name} must be {'positive' if name == 'lr' else 'at least 0'}: got {value}.")
    rates = dict(rates or {})
    prefixes = dict.fromkeys(_prefixes(model))
    for prefix, rate in rates.items():
        if prefix not in prefixes:
            near = hint(prefix, prefixes)
            raise ConfigError(f"a learning-rate factor must name a part of the model: got {prefix!r}.{near}")
        if not (math.isfinite(rate) and rate > 0):
            raise ConfigError(
                f"the learning-rate factor of {prefix!r} must be positive: got {rate}. Freeze it instead."
            )
    orthogonal = {id(parameter) for parameter in matrices(model)} if config.name == "muon" else set()
    groups: dict[tuple[float, bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_name = [prefix for prefix in rates if name == prefix or name.startswith(f"{prefix}.")]
            rate = rates[max(of_name, key=len)] if of_name else 1.0
            groups.setdefault((rate, parameter.ndim >= 2, id(parameter) in orthogonal), []).append(parameter)
    if not groups:
        raise ConfigError("a model must have something to train: every parameter is frozen.")
    described = [
        {
            "params": parameters,
            "rate": rate,
            "weight_decay": config.weight_decay if decays else 0.0,
            "orthogonal": turned,
        }
        for (rate, decays, turned), parameters in groups.items()
    ]
    if config.name == "muon":
        return Muon(described, lr=config.lr)
    if config.name == "sgd":
        return SGD(described, lr=config.lr, momentum=MOMENTUM)
    return AdamW(described, lr=config.lr, fused=True)  # one pass over all weights: five times faster on a CPU


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Give every group the learning rate `rate` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]


class Average:
    """Exponential moving average of the trainable parameters and of the floating-point buffers (BatchNorm statistics).

    The decay rises with the number of updates, min(decay, (1 + n) / (10 + n)), so that a short run is not dominated by
    its first weights (TensorFlow's ExponentialMovingAverage with num_updates).

    Args:
        model: what is averaged; the average starts as a copy of its weights.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.values = {name: value.clone() for name, value in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        weights = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        return weights | {name: b for name, b in self.model.named_buffers() if b.is_floating_point()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move towards the model's weights of now.

        Args:
            updates: optimiser steps made so far, n >= 1.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(decay)(list(self.values.values()), list(self._live().values()), updates)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the model has the averaged weights; afterwards its own again, bit for bit."""
        live = self._live()
        kept = {name: value.clone() for name, value in live.items()}
        copy_all(self.values, live)
        try:
            yield
        finally:
            copy_all(kept, self._live())


@torch.no_grad()
def copy_all(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copy every named tensor of `source` into the one of the same name."""
    for name, value in source.items():
        target[name].copy_(value)


def _prefixes(model: nn.Module) -> Iterator[str]:
    """Every dotted prefix of every parameter's name."""
    for name, _ in model.named_parameters():
        words = name.split(".")
        yield from (".".join(words[:end]) for end in range(1, len(words) + 1))


def state_tensors(model: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory under names "<parameter>/<what>", such as "head.weight/exp_avg"."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{what}": value
        for parameter, state in optimiser.state.items()
        for what, value in state.items()
    }


def load_state_tensors(model: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the memory that `state_tensors` wrote."""
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    ordered = [names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition("/")
        like = parameters[name].detach()
        if value.shape == like.shape:  # a fused optimiser goes through memory, so its order must be the parameter's
            value = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
        state.setdefault(ordered.index(name), {})[what] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
