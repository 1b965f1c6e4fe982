"""What `test_distributed.py` runs under torchrun with two processes; any assertion that fails ends it with an error."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mm import distributed
from mm.config import LoopConfig, OptimConfig
from mm.engine import Interrupted, NonFiniteLoss, Stream, checkpoint, fit, seed_everything

BATCH = 10


class Two(nn.Module):
    """Two encoders and a temperature."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 4))
        self.b = nn.Linear(5, 4)
        self.unused = nn.Linear(2, 2)  # a head that is not called
        self.ignored = nn.Linear(4, 2)  # a head whose output no loss reads
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.tensor(1.0))  # returned, but no loss reads it

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        a, b = functional.normalize(self.a(a), dim=-1), functional.normalize(self.b(b), dim=-1)
        return {"a": a, "b": b, "scale": self.scale, "bias": self.bias, "ignored": self.ignored(a)}


def build(dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Two:
    seed_everything(0)
    return Two(dropout).to(dtype)


def data(number: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(number)
    return tuple(torch.from_numpy(generator.normal(size=(BATCH, width))).to(dtype) for width in (6, 5))


class Views(nn.Module):
    """What DDP needs to be told of a model that returns a parameter; the loop does the same."""

    def __init__(self, model: Two) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        out = self.model(a, b)
        return {**out, "scale": out["scale"].view_as(out["scale"]), "bias": out["bias"].view_as(out["bias"])}


def whole_loss(model: nn.Module, batch: tuple[Tensor, Tensor], number: int = 0) -> Tensor:
    out = model(*batch)
    return info_nce(out["a"], out["b"], out["scale"])


def info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    logits = scale.exp() * a @ b.T  # (B, B)
    owner = torch.arange(len(a))
    return (functional.cross_entropy(logits, owner) + functional.cross_entropy(logits.T, owner)) / 2


def gathered_loss(model: nn.Module, batch: tuple[Tensor, Tensor], number: int = 0) -> dict[str, Tensor]:
    out = model(*batch)
    a, b = distributed.gather_with_gradient(out["a"]), distributed.gather_with_gradient(out["b"])
    return {"loss": info_nce(a, b, out["scale"])}


def check_gathering() -> None:
    """Rows in the order of the ranks for any counts; a gradient comes back to where its row came from."""
    rank = distributed.rank()
    for counts in ((3, 3), (2, 5), (4, 0), (0, 1)):
        x = torch.arange(float(counts[rank] * 2)).reshape(-1, 2) + 100 * rank
        x.requires_grad_()
        gathered = distributed.gather_with_gradient(x)
        parts = [torch.arange(float(count * 2)).reshape(-1, 2) + 100 * r for r, count in enumerate(counts)]
        assert torch.equal(gathered, torch.cat(parts)), counts
        weight = torch.arange(1.0, len(gathered) + 1)[:, None]  # (sum of counts, 1)
        ((1 + rank) * weight * gathered).sum().backward()  # ranks count 1 + 2 = 3 times in all
        first = sum(counts[:rank])
        assert torch.equal(x.grad, 3 * weight[first : first + counts[rank]].expand(-1, 2)), counts
    with torch.no_grad():
        assert distributed.gather_with_gradient(torch.tensor([rank])).tolist() == [0, 1]
    # One rank has nothing to learn from: without care the other would wait for it in its backward pass.
    x = torch.ones(2, 2, requires_grad=rank == 0)
    distributed.gather_with_gradient(x).sum().backward()
    assert x.grad is None if rank else torch.equal(x.grad, torch.full((2, 2), 2.0))


def check_gradients() -> None:
    """DDP over gathered embeddings gives the gradients of one process, also when the ranks have unequal shares."""
    whole = build()
    whole_loss(whole, data(0)).backward()
    for first in (5, 7, 1):
        model = build()
        wrapped = DistributedDataParallel(Views(model), find_unused_parameters=True)
        share = slice(0, first) if distributed.is_main() else slice(first, BATCH)
        gathered_loss(wrapped, tuple(part[share] for part in data(0)))["loss"].backward()
        for (name, one), two in zip(whole.named_parameters(), model.parameters(), strict=True):
            if one.grad is not None:
                error = float((one.grad - two.grad).norm() / one.grad.norm())
                assert error < 1e-6, (name, first, error)


def check_small_things() -> None:
    """Objects, means, and that everybody waits."""
    rank = distributed.rank()
    assert (distributed.world_size(), distributed.is_main()) == (2, rank == 0)
    assert distributed.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert distributed.broadcast(["of", rank]) == ["of", 0]
    rows = [{"loss": 1.0 + rank}, {"loss": 3.0, **({"only": 5.0} if rank else {})}]
    assert distributed.mean(rows) == [{"loss": 1.5}, {"loss": 3.0, "only": 5.0}]
    distributed.barrier()
    assert distributed.init("cpu") == torch.device("cpu")  # joining again changes nothing


def shares(start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive parts of the global batches, 6 and 4 rows."""
    rows = slice(0, 6) if distributed.is_main() else slice(6, BATCH)
    number = start
    while True:
        yield tuple(part[rows] for part in data(number))
        number += 1


def settings(**changes) -> LoopConfig:
    plain = {"steps": 12, "accumulate": 2, "evaluate_every": 4, "checkpoint_every": 5, "log_every": 3, "ema": 0.9}
    return LoopConfig(**{**plain, "device": "cpu", "tensorboard": False, **changes})


@dataclass
class Pairs:
    """Settings of the runs here."""

    out: str
    seed: int = 0
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.01, warmup_steps=2))
    loop: LoopConfig = field(default_factory=settings)


def train(out: Path, model: nn.Module, step=gathered_loss) -> nn.Module:
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert distributed.is_main(), "only rank 0 evaluates"
        return {"rsum": -float(whole_loss(model, data(99)))}

    fit(model, [Stream("pairs", shares, step)], Pairs(str(out)), evaluate=evaluate)
    return model


def check_training(out: Path, single: Path) -> None:
    """A run of two processes equals one with the whole batch, and goes on exactly after one rank was asked to stop."""
    model = train(out / "whole", build())
    expected = checkpoint.read_tensors(single, "model")
    found = checkpoint.read_tensors(checkpoint.find(out / "whole", "last"), "model")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)
    names = distributed.gather({name: value.tolist() for name, value in model.state_dict().items()})
    assert names[0] == names[1], "all ranks must end with the same weights"

    def interrupted(model: nn.Module, batch: tuple[Tensor, Tensor], number: int) -> dict[str, Tensor]:
        if number == 6 and not distributed.is_main():
            os.kill(os.getpid(), signal.SIGTERM)
        return gathered_loss(model, batch)

    train(out / "dropout", build(0.4))
    try:
        train(out / "parts", build(0.4), interrupted)
        raise AssertionError("the run must have stopped")
    except Interrupted as stopped:
        assert stopped.code == 143
    assert (out / "parts/checkpoints/last").read_text() == "step-00000007\n"
    train(out / "parts", build(0.4))
    distributed.barrier()
    for pointer in checkpoint.POINTERS:
        one, two = (checkpoint.read_tensors(checkpoint.find(out / r, pointer), "model") for r in ("dropout", "parts"))
        assert all(torch.equal(one[name], two[name]) for name in one), pointer


def check_that_all_stop(out: Path) -> None:
    """A loss that is NaN on one rank stops both with one message."""

    def breaking(model: nn.Module, batch: tuple[Tensor, Tensor], number: int) -> dict[str, Tensor]:
        loss = gathered_loss(model, batch)["loss"]
        return {"loss": loss * float("nan") if number == 3 and distributed.rank() else loss}

    try:
        train(out / "nan", build(), breaking)
        raise AssertionError("the run must have stopped")
    except NonFiniteLoss as error:
        assert "at step 4, pairs/loss = nan" in str(error)


def main() -> None:
    """All checks, in an order that every rank shares."""
    out, single = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    assert distributed.init("cpu") == torch.device("cpu")
    check_small_things()
    check_gathering()
    check_gradients()
    check_training(out, single)
    check_that_all_stop(out)
    distributed.barrier()
    if distributed.is_main():
        (out / "passed").write_text("")
    distributed.finish()


if __name__ == "__main__":
    main()
