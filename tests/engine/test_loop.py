"""The loop against a plain one written out, and everything it does around a step."""

import copy
import logging
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mm.config import ConfigError, DataConfig, LoopConfig, OptimConfig
from mm.engine import CheckpointError, Interrupted, NonFiniteLoss, Stream, checkpoint, fit, seed_everything
from mm.engine import loop as loop_module
from mm.engine import stop as stop_module
from mm.engine.log import read_csv
from mm.engine.optim import schedule

OPTIM = OptimConfig(lr=0.02, warmup_steps=3)


@dataclass
class Task:
    seed: int = 0
    out: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=lambda: copy.copy(OPTIM))
    loop: LoopConfig = field(default_factory=LoopConfig)


def settings(**changes) -> LoopConfig:
    plain = {"steps": 12, "evaluate_every": 0, "checkpoint_every": 5, "log_every": 4, "tensorboard": False}
    return LoopConfig(**{**plain, **changes})


def network(dropout: float = 0.0) -> nn.Sequential:
    seed_everything(1)
    return nn.Sequential(
        nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
    )


def batches(start: int) -> Iterator[Tensor]:
    number = start
    while True:
        yield torch.from_numpy(np.random.default_rng(number).normal(size=(6, 5)).astype(np.float32))
        number += 1


def step(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
    error = model(x).squeeze(-1) - x.sum(1)  # (B,)
    return {"square_loss": error.square().mean(), "small_loss": 0.1 * error.abs().mean(), "error": error.abs().mean()}


def train(out: Path, model: nn.Module | None = None, streams=None, cfg: LoopConfig | None = None, **options):
    model = network() if model is None else model
    streams = [Stream("digits", batches, step)] if streams is None else streams
    task = Task(options.pop("seed", 0), str(out), optim=options.pop("optim", OPTIM), loop=cfg or settings())
    progress = fit(model, streams, options.pop("config", task), **options)
    return model, progress


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def last_weights(out: Path) -> dict[str, Tensor]:
    folder = checkpoint.find(out, "last")
    assert folder is not None
    return checkpoint.read_tensors(folder, "model")


def test_equals_a_loop_written_out(tmp_path: Path) -> None:
    model, progress = train(tmp_path, cfg=settings(accumulate=3))
    plain = network().train()
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": OPTIM.weight_decay},
            {"params": [p for p in plain.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
    )
    iterator = batches(0)
    for number in range(12):
        for group in optimiser.param_groups:
            group["lr"] = OPTIM.lr * schedule(number, 12, 3)
        optimiser.zero_grad()
        for _ in range(3):
            parts = step(plain, next(iterator), number)
            ((parts["square_loss"] + parts["small_loss"]) / 3).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), OPTIM.clip_norm)
        optimiser.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert (progress.step, progress.finished) == (12, True)
    assert not model.training


def test_streams_take_turns_with_their_weights(tmp_path: Path) -> None:
    seen: list[tuple[str, float, int]] = []

    def of(name: str):
        def one(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
            seen.append((name, float(x[0, 0]), number))
            return {"loss": model(x).square().mean()}

        return one

    streams = [Stream("a", batches, of("a")), Stream("b", lambda start: batches(100 + start), of("b"), weight=0.25)]
    train(tmp_path, streams=streams, cfg=settings(steps=2, accumulate=2))
    first = [float(next(batches(k))[0, 0]) for k in (0, 1, 2, 3, 100, 101, 102, 103)]
    expected = [("a", 0, 0), ("b", 4, 0), ("a", 1, 0), ("b", 5, 0), ("a", 2, 1), ("b", 6, 1), ("a", 3, 1), ("b", 7, 1)]
    assert seen == [(name, first[index], number) for name, index, number in expected]
    plain = network().train()
    optimiser = torch.optim.SGD(plain.parameters(), lr=OPTIM.lr / 3, momentum=0.9)
    loss = sum(w * plain(next(batches(k))).square().mean() / 2 for k, w in ((0, 1), (100, 0.25), (1, 1), (101, 0.25)))
    loss.backward()
    optimiser.step()
    optim = OptimConfig(name="sgd", lr=OPTIM.lr, warmup_steps=3, weight_decay=0.0, clip_norm=0.0)
    other, _ = train(tmp_path / "sgd", streams=streams, cfg=settings(steps=1, accumulate=2), optim=optim)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(dict(other.named_parameters())[name], value, rtol=1e-5, atol=1e-7)


def test_an_evaluation_does_not_disturb_training(tmp_path: Path) -> None:
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        drawn = random.random() + float(np.random.rand()) + float(torch.rand(()))
        return {"rsum": float(model(torch.ones(2, 5)).sum()), "drawn": drawn}

    def noisy(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        assert model.training
        return {"loss": (random.random() + float(np.random.rand())) * step(model, x, number)["square_loss"]}

    noise = [Stream("noisy", batches, noisy)]
    train(tmp_path / "a", network(0.4), noise)
    train(tmp_path / "b", network(0.4), noise, settings(evaluate_every=2), evaluate=evaluate)
    assert same(last_weights(tmp_path / "a"), last_weights(tmp_path / "b"))


def test_frozen_modules_keep_their_mode(tmp_path: Path) -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True):
            super().train(mode)
            self[1].eval()
            return self

    model = Frozen(*network())
    before = model[1].running_mean.clone()
    train(tmp_path, model, cfg=settings(evaluate_every=3), evaluate=lambda model: {"rsum": 0.0})
    assert torch.equal(model[1].running_mean, before)


def test_the_best_averaged_weights_are_kept_and_left_in_the_model(tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0, 2.5])
    held: list[dict[str, Tensor]] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        held.append(weights(model))
        return {"rsum": next(scores)}

    cfg = settings(evaluate_every=3, ema=0.8)
    model, progress = train(tmp_path, cfg=cfg, evaluate=evaluate)
    assert (progress.best_step, progress.best, progress.metrics, progress.waited) == (6, 3.0, {"rsum": 3.0}, 2)
    assert same(weights(model), held[1])
    assert not same(last_weights(tmp_path), held[3])  # those are the weights as trained, not averaged
    rows = [(row[0], row[3]) for row in read_csv(tmp_path / "metrics.csv") if row[2] == "val/rsum"]
    assert rows == [("3", "1.0"), ("6", "3.0"), ("9", "2.0"), ("12", "2.5")]


def test_of_a_loss_the_smallest_is_best_and_nan_never(tmp_path: Path) -> None:
    scores = iter([math.nan, 3.0, 2.0, 2.5])
    cfg = settings(evaluate_every=3)
    _, progress = train(tmp_path, cfg=cfg, evaluate=lambda model: {"val_loss": next(scores)}, best="val_loss")
    assert (progress.best_step, progress.best) == (9, 2.0)


def test_without_evaluation_the_final_averaged_weights_are_best(tmp_path: Path) -> None:
    model, progress = train(tmp_path, cfg=settings(ema=0.5))
    folder = checkpoint.find(tmp_path, "last")
    assert folder is not None
    average = checkpoint.read_tensors(folder, "ema")
    assert average
    assert all(torch.equal(model.state_dict()[name], value) for name, value in average.items())
    assert progress.best is None


def test_patience_ends_a_run_early(tmp_path: Path) -> None:
    scores = iter([1.0, 5.0, 4.0, 3.0, 9.0])
    cfg = settings(steps=50, evaluate_every=2, patience=2)
    _, progress = train(tmp_path, cfg=cfg, evaluate=lambda model: {"rsum": next(scores)})
    assert (progress.step, progress.best_step, progress.finished) == (8, 4, True)


def test_a_finished_run_is_taken_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, progress = train(tmp_path)
    rows = read_csv(tmp_path / "metrics.csv")

    def never(*arguments):
        raise AssertionError("a finished run must not train")

    with caplog.at_level(logging.INFO):
        again, found = train(tmp_path, nn.Sequential(*network()), [Stream("digits", never, never)])
    assert "is finished at step 12, nothing to train" in caplog.text
    assert same(weights(again), weights(model))
    assert found == progress
    assert read_csv(tmp_path / "metrics.csv") == rows


def interrupting(at: int, number: int = signal.SIGTERM, times: int = 1):
    def one(model: nn.Module, x: Tensor, count: int) -> dict[str, Tensor]:
        for _ in range(times if count == at else 0):
            os.kill(os.getpid(), number)
        return step(model, x, count)

    return [Stream("digits", batches, one)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_exactly(tmp_path: Path, number: int, code: int) -> None:
    cfg = settings(evaluate_every=4, ema=0.9, accumulate=2)
    noise = {"evaluate": lambda model: {"rsum": float(model(torch.rand(3, 5)).sum())}}
    whole, progress = train(tmp_path / "whole", network(0.3), cfg=cfg, **noise)
    handler = signal.getsignal(number)
    for at in (3, 6, 11):  # 3: an evaluation is due when it stops; 11: the last step
        with pytest.raises(Interrupted) as stopped:
            train(tmp_path / "parts", network(0.3), interrupting(at, number), cfg, **noise)
        assert (stopped.value.code, stopped.value.signal) == (code, number)
        assert (tmp_path / "parts/checkpoints/last").read_text() == f"step-{at + 1:08d}\n"
    assert signal.getsignal(number) is handler
    parts, found = train(tmp_path / "parts", network(0.3), cfg=cfg, **noise)
    assert same(weights(parts), weights(whole))
    assert same(last_weights(tmp_path / "parts"), last_weights(tmp_path / "whole"))
    assert (found.metrics, found.best_step) == (progress.metrics, progress.best_step)
    rows, others = (
        [row for row in read_csv(tmp_path / out / "metrics.csv") if not row[2].startswith("time/")]
        for out in ("parts", "whole")
    )
    assert rows == others


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_module, "AGAIN_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, streams=interrupting(3, signal.SIGINT, times=2))
    folder = checkpoint.find(tmp_path, "last")
    assert folder is not None and folder.name == "step-00000000"


def test_it_runs_outside_the_main_thread(tmp_path: Path) -> None:
    steps: list[int] = []
    thread = threading.Thread(target=lambda: steps.append(train(tmp_path)[1].step))
    thread.start()
    thread.join()
    assert steps == [12]


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, clip: float) -> None:
    def breaking(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        parts = step(model, x, number)
        return {**parts, "small_loss": parts["small_loss"] * (math.inf if number == 7 else 1.0)}

    model = network()
    optim = OptimConfig(lr=0.02, warmup_steps=3, clip_norm=clip)
    message = (
        r"at step 8, digits/square_loss = \d.*, digits/small_loss = inf, .*grad_norm = nan.*checkpoint is of step 5"
    )
    with pytest.raises(NonFiniteLoss, match=message):
        train(tmp_path, model, [Stream("digits", batches, breaking)], optim=optim)
    assert (tmp_path / "checkpoints/last").read_text() == "step-00000005\n"
    assert all(value.isfinite().all() for value in last_weights(tmp_path).values())
    assert all(value.isfinite().all() for value in model.parameters())  # the update was not made


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    def breaking(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        zero = (model(x) * 0).sum()
        return {"loss": zero.abs().sqrt() if number == 2 else zero}  # its derivative at 0 is infinite

    with pytest.raises(NonFiniteLoss, match=r"at step 3, digits/loss = 0, loss = 0, grad_norm = nan"):
        train(tmp_path, streams=[Stream("digits", batches, breaking)])


def test_what_is_only_logged_may_be_nan(tmp_path: Path) -> None:
    def undefined(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        return {"loss": step(model, x, number)["square_loss"], "accuracy": torch.tensor(math.nan)}

    assert train(tmp_path, streams=[Stream("digits", batches, undefined)])[1].finished


def test_numbers_are_means_since_the_last_row(tmp_path: Path) -> None:
    class Epochs:
        per_epoch = 3

        def __call__(self, start: int) -> Iterator[Tensor]:
            return batches(start)

    def counting(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        return {"zero_loss": 0 * model(x).sum(), "half_loss": torch.tensor(number / 2), "number": torch.tensor(number)}

    train(tmp_path, streams=[Stream("digits", Epochs(), counting, weight=3.0)], cfg=settings(steps=8, accumulate=2))
    rows = [row for row in read_csv(tmp_path / "metrics.csv") if not row[2].startswith("time/")]
    found = {(row[0], row[2]): (row[1], float(row[3])) for row in rows}
    assert found["4", "train/digits/number"] == ("2.6667", 1.5)
    assert found["8", "train/digits/number"] == ("5.3333", 5.5)
    assert found["8", "train/digits/half_loss"] == ("5.3333", 2.75)
    assert found["8", "train/loss"] == ("5.3333", 8.25)
    assert found["8", "train/lr"][1] == pytest.approx(OPTIM.lr * schedule(7, 8, 3))
    rate = [float(row[3]) for row in read_csv(tmp_path / "metrics.csv") if row[2] == "time/items_per_s"]
    assert len(rate) == 2
    assert min(rate) > 0


def test_without_a_terminal_lines_say_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        train(tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.name == "mm.engine.loop"]
    assert [line.partition(":")[0] for line in lines] == ["step 4 of 12", "step 8 of 12", "step 12 of 12"]
    assert all("loss" in line and "items/s" in line for line in lines)


def test_bfloat16_computes_small_and_keeps_weights_large(tmp_path: Path) -> None:
    dtypes = set()

    def watching(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        y = model(x)
        dtypes.add(y.dtype)
        return {"loss": (y.squeeze(-1) - x.sum(1)).square().mean()}

    streams = [Stream("digits", batches, watching)]
    small, _ = train(tmp_path / "amp", streams=streams, cfg=settings(amp=True))
    assert dtypes == {torch.bfloat16}
    large, _ = train(tmp_path / "float", streams=streams)
    for one, two in zip(small.parameters(), large.parameters(), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, atol=0.05, rtol=0.05)


def test_files_are_in_every_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, files={"encoders.json": {"image": {"class": "X"}}})
    for pointer in checkpoint.POINTERS:
        folder = checkpoint.find(tmp_path, pointer)
        assert folder is not None
        assert '"X"' in (folder / "encoders.json").read_text()
        assert f"out: {tmp_path}" in (folder / "config.yaml").read_text()
    assert f"out: {tmp_path}" in (tmp_path / "config.yaml").read_text()
    assert re.match(r"[0-9a-f]{40}\n|mm .*, not from a git work tree\n", (tmp_path / "git.txt").read_text())
    for wrong in ("state.json", "words.txt"):
        with pytest.raises(ConfigError, match=rf"must be called <something>\.json.*got \['{wrong}'\]"):
            train(tmp_path, files={wrong: {}})


def test_other_settings_in_one_folder_are_refused(tmp_path: Path) -> None:
    cfg = settings()
    with pytest.raises(Interrupted):
        train(tmp_path, streams=interrupting(6), cfg=cfg)
    kept = last_weights(tmp_path)
    other = OptimConfig(lr=0.5, warmup_steps=3)
    with pytest.raises(
        ConfigError, match=r"seed: 0 there, 1 here\n  optim\.lr: 0\.02 there, 0\.5 here\nChoose another out="
    ):
        train(tmp_path, cfg=cfg, seed=1, optim=other)
    with pytest.raises(ConfigError, match=r"streams: \['digits'\] there, \['letters'\] here"):
        train(tmp_path, streams=[Stream("letters", batches, step)], cfg=cfg)
    assert same(last_weights(tmp_path), kept)
    (moved := tmp_path / "moved").mkdir()
    (tmp_path / "checkpoints").rename(moved / "checkpoints")
    free = Task(out=str(moved), loop=settings(threads=1, log_every=1, checkpoint_every=1, device="cpu"))
    free.data.workers, free.data.root, free.data.cache = 2, "/data", "/cache"
    threads = torch.get_num_threads()
    assert train(moved, config=free)[1].finished
    torch.set_num_threads(threads)


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, streams=interrupting(6))
    with pytest.raises(CheckpointError, match="must hold the weights of this very model"):
        train(tmp_path, nn.Sequential(nn.Linear(5, 1)))


def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, streams=interrupting(6))
    folder = checkpoint.find(tmp_path, "last")
    assert folder is not None
    file = folder / "optimiser.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"optimiser\.safetensors is damaged"):
        train(tmp_path)
    (tmp_path / "checkpoints/last").unlink()
    (tmp_path / "checkpoints/best").write_text(f"{folder.name}\n")
    with pytest.raises(ConfigError, match="has checkpoints/best but no last to go on from"):
        train(tmp_path)


def test_a_full_disk_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        if number == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        return step(model, x, number)

    try:
        with pytest.raises(CheckpointError, match=r"step 10 could not be written.*it goes on from the last one"):
            train(tmp_path / "parts", streams=[Stream("digits", batches, filling)], cfg=settings(log_every=50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "parts/checkpoints/last").read_text() == "step-00000005\n"
    parts, _ = train(tmp_path / "parts", cfg=settings(log_every=50))
    whole, _ = train(tmp_path / "whole", cfg=settings(log_every=50))
    assert same(weights(parts), weights(whole))


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=r"another process trains in .*: wait, or choose another out="):
            train(tmp_path)
        holder.communicate("\n")
    assert train(tmp_path)[1].finished


def test_a_folder_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"the run folder must be one that can be written: .*Choose another out="):
        train(tmp_path / "run")


def test_the_metric_that_decides_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must give 'rsum', which decides: it gave accuracy, ECE"):
        train(tmp_path, evaluate=lambda model: {"accuracy": 1.0, "ECE": 0.1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"loop\.steps must be at least 1: got 0"),
        ({"accumulate": 0}, r"loop\.accumulate must be at least 1"),
        ({"checkpoint_every": 0}, r"loop\.checkpoint_every must be at least 1"),
        ({"log_every": 0}, r"loop\.log_every must be at least 1"),
        ({"evaluate_every": -1}, r"loop\.evaluate_every must be at least 0: got -1"),
        ({"patience": -1}, r"loop\.patience must be at least 0"),
        ({"threads": -1}, r"loop\.threads must be at least 0"),
        ({"ema": 1.0}, r"loop\.ema must be in \[0, 1\): got 1\.0"),
        ({"ema": -0.1}, r"loop\.ema must be in \[0, 1\)"),
        ({"patience": 2}, r"loop\.patience=2 needs evaluations to count"),
        ({"patience": 2, "evaluate_every": 2}, r"loop\.patience=2 needs evaluations to count"),  # there is no evaluate
        ({"device": "gpu"}, r"the device must be cpu, cuda or cuda:<number>: got 'gpu'"),
        ({"device": "cuda:99"}, r"no device 'cuda:99' here"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", cfg=settings(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([], r"streams, each with a name of its own: got \[\]"),
        ([Stream("a", batches, step)] * 2, r"got \['a', 'a'\]"),
        ([Stream("a", batches, step, weight=0.0)], r"weight of a stream must be positive: that of a is not"),
        ([Stream("a", batches, step, weight=math.nan)], r"weight of a stream must be positive"),
        ([Stream("a", lambda start: iter([torch.ones(2, 5)]), step)], r"batches of 'a' must never end"),
        ([Stream("a", batches, lambda m, x, n: {"accuracy": x.sum()})], r"name ends in 'loss': 'a' gave"),
    ],
)
def test_wrong_streams(tmp_path: Path, streams, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", streams=streams)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # by torch's own import
def test_a_compiled_model_is_saved_under_its_own_names(tmp_path: Path) -> None:
    with torch.compiler.set_stance("force_eager"):  # the wrapper is there, the compiler's minute is saved
        compiled, _ = train(tmp_path / "compiled", cfg=settings(compile=True))
    plain, _ = train(tmp_path / "plain")
    assert same(last_weights(tmp_path / "compiled"), last_weights(tmp_path / "plain"))
    assert same(weights(compiled), weights(plain))


def test_a_run_that_dies_between_its_first_evaluation_and_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    cfg = settings(evaluate_every=2, checkpoint_every=100)

    def score(model: nn.Module) -> dict[str, float]:
        return {"rsum": float(next(model.parameters()).sum())}

    def dying(model: nn.Module, x: Tensor, number: int) -> dict[str, Tensor]:
        if number == 3:
            raise KeyError("the power went")
        return step(model, x, number)

    with pytest.raises(KeyError):
        train(tmp_path / "killed", network(0.5), [Stream("digits", batches, dying)], cfg, evaluate=score)
    assert checkpoint.find(tmp_path / "killed", "best") is not None
    train(tmp_path / "killed", network(0.5), cfg=cfg, evaluate=score)
    train(tmp_path / "whole", network(0.5), cfg=cfg, evaluate=score)
    assert same(last_weights(tmp_path / "killed"), last_weights(tmp_path / "whole"))
