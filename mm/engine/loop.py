"""The training loop: plain PyTorch, on one process or under torchrun; the only file that computes gradients.

A step takes `accumulate` batches of every stream in turn, adds up their weighted losses, and makes one optimiser step.
All that training depends on is in the last checkpoint, so that a run killed at any moment goes on from there and ends
with the very weights of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mm import distributed
from mm.config import ConfigError, LoopConfig, OptimConfig, to_yaml
from mm.engine.log import Log, Throughput, keep_source_state
from mm.engine.memory import keep_freed_memory
from mm.engine.optim import Average, build_optimiser, schedule, set_rate
from mm.engine.rng import preserved_rng
from mm.engine.run import Progress, Run
from mm.engine.stop import Interrupted, StopRequest, only_process
from mm.engine.stream import Stream, count_items, losses, map_tensors, next_batch
from mm.files import write_text
from mm.modes import in_eval_mode

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between two log lines where there is no progress bar


class NonFiniteLoss(ArithmeticError):
    """A loss or gradient that is NaN or infinite; the checkpoints are those of before."""


class Config(Protocol):
    """What the settings of a run have, whatever its task: a dataclass."""

    seed: int  # of what is random while training (dropout)
    out: str  # the run folder
    optim: OptimConfig
    loop: LoopConfig


def fit(
    model: nn.Module,
    streams: Sequence[Stream],
    config: Config,
    *,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    best: str = "rsum",
    rates: Mapping[str, float] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Progress:
    """Train a model, or go on with the run that its folder holds, or take a finished one as it is.

    The folder, made if missing, holds config.yaml, git.txt (the code's commit and changes), metrics.csv, checkpoints/
    and TensorBoard events. Under torchrun every process calls it alike, and all of them must see the folder.

    Args:
        model: trained in place. Afterwards it has the weights of checkpoints/best, in eval mode.
        streams: visited in turn at every step.
        config: all settings of the run, kept as config.yaml.
        evaluate: evaluate(model) gives {name: number}; it is called in eval mode without gradient, with the averaged
            weights if there are any, on rank 0 only, and may draw random numbers: training does not notice.
        best: the name among them that decides which weights are best: the largest, or for "...loss" the smallest.
            Without `evaluate` the final weights are best.
        rates: {prefix of parameter names: factor on the learning rate}.
        files: {"name.json": JSON value} to put into every checkpoint.

    Returns:
        The progress at the end of training.

    Raises:
        ConfigError: a setting out of its range, or the folder holds a run with other settings, or is in use.
        CheckpointError: a checkpoint cannot be written, or the one to go on from is damaged.
        NonFiniteLoss: with all parts of the loss, and the step.
        Interrupted: after SIGINT or SIGTERM, when the step is done and saved. The same call goes on.
    """
    cfg, out = config.loop, config.out
    _check(streams, cfg, evaluate is not None)
    device = distributed.init(cfg.device)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    if device.type == "cpu":
        keep_freed_memory()
    model.to(device).train()
    optimiser = build_optimiser(model, config.optim, rates)
    average = Average(model, cfg.ema) if cfg.ema else None
    names = [stream.name for stream in streams]
    run = Run(config, model, optimiser, average, names, files or {}, device)
    with only_process(out) if distributed.is_main() else contextlib.nullcontext(), StopRequest() as stop:
        run.restore()
        if run.progress.finished:
            log.info("%s is finished at step %d, nothing to train. Choose another out= to train anew.", out, run.saved)
        else:
            _Loop(run, streams, config, evaluate, best).train(stop)
        distributed.barrier()
        run.take_best()
    return run.progress


class _Loop:
    """What happens between the start of a run and its end."""

    def __init__(
        self,
        run: Run,
        streams: Sequence[Stream],
        config: Config,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
        best: str,
    ):
        self.run, self.streams, self.cfg, self.optim = run, streams, config.loop, config.optim
        self.evaluate, self.best = evaluate, best
        self.unread: list[tuple[int, dict[str, Tensor]]] = []  # (step, its numbers), still on the device
        self.pace = Throughput()
        self.shown = distributed.is_main() and sys.stderr.isatty()  # the progress bar
        self.said = time.perf_counter()  # when the latest log line was written
        self.model: nn.Module = torch.compile(run.model) if self.cfg.compile else run.model  # type: ignore[assignment]
        if distributed.world_size() > 1:
            ids = [run.device.index] if run.device.type == "cuda" else None
            # A batch may lack a modality and a stream may use one head of several: some parameters get no gradient.
            self.model = DistributedDataParallel(_NoLeaves(self.model), device_ids=ids, find_unused_parameters=True)

    def train(self, stop: StopRequest) -> None:
        """Step until the run is finished or asked to stop."""
        run, progress, cfg = self.run, self.run.progress, self.cfg
        begun = time.perf_counter() - progress.seconds
        with self._open():
            run.set_generators()
            if not run.saved:
                run.save_last()  # whenever the run is killed, there is a last beside a best
            while not progress.finished:
                number = self._agree(stop.signal)
                if self._evaluation_due() and not number:
                    self._evaluate()
                waited_enough = 0 < cfg.patience <= progress.waited
                progress.finished = not number and (waited_enough or progress.step >= cfg.steps)
                progress.seconds = time.perf_counter() - begun
                due = number or progress.step % cfg.checkpoint_every == 0
                if progress.finished or (due and progress.step > run.saved):
                    self._read()
                    if progress.finished and progress.best is None:
                        self._save_best()
                    run.save_last()
                if number:
                    distributed.barrier()  # a rank that left now would take down those that still write
                    log.info("Stopped at step %d. The same command goes on from there.", progress.step)
                    raise Interrupted(number)
                if not progress.finished:
                    self._step()

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """Have batches, log and progress bar at hand, and put them away at the end."""
        run, main = self.run, distributed.is_main()
        if run.saved:
            log.info("%s goes on from step %d.", run.out, run.saved)
        if main:
            write_text(run.out / "config.yaml", to_yaml(run.config))
            keep_source_state(run.out, run.progress.step)
        self.log = Log(run.out, self.cfg.tensorboard, run.saved) if main else None
        self.iterators = [stream.batches(run.saved * self.cfg.accumulate) for stream in self.streams]
        self.bar = tqdm(total=self.cfg.steps, initial=run.saved, disable=not self.shown, unit="step")
        try:
            with logging_redirect_tqdm() if self.shown else contextlib.nullcontext(), self.bar:
                yield
        finally:
            self.iterators = []  # ends the loading processes
            if self.log:
                self.log.close()

    def _step(self) -> None:
        """One optimiser step."""
        run, cfg, optim, step = self.run, self.cfg, self.optim, self.run.progress.step
        begun = time.perf_counter()
        set_rate(run.optimiser, optim.lr * schedule(step, cfg.steps, optim.warmup_steps, optim.schedule))
        values, items = self._gradients()
        trained = [p for group in run.optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if optim.clip_norm:
            nn.utils.clip_grads_with_norm_(trained, optim.clip_norm, norm)
        self.unread.append((step + 1, {**values, "train/grad_norm": norm}))
        logs = (step + 1) % cfg.log_every == 0
        if logs or run.device.type == "cpu":  # each step would make a GPU stop and wait
            self._read()
        run.optimiser.step()
        run.optimiser.zero_grad()
        run.progress.step += 1
        if run.average:
            run.average.update(run.progress.step)
        self.pace.add(items * distributed.world_size(), time.perf_counter() - begun)
        self.bar.update()
        if logs:
            self._report()

    def _gradients(self) -> tuple[dict[str, Tensor], int]:
        """Forward and backward through all batches of a step: the numbers to log, and how many items there were."""
        values: dict[str, Tensor] = {}
        items = 0
        passes = [pair for _ in range(self.cfg.accumulate) for pair in zip(self.streams, self.iterators, strict=True)]
        for number, (stream, iterator) in enumerate(passes, start=1):
            batch = next_batch(stream, iterator, self.run.device)
            with self._synchronised(number == len(passes)):
                with torch.autocast(self.run.device.type, torch.bfloat16, enabled=self.cfg.amp):
                    parts = stream.step(self.model, batch, self.run.progress.step)
                loss = torch.stack(losses(stream, parts)).sum() * (stream.weight / self.cfg.accumulate)
                loss.backward()
            shares = {f"train/{stream.name}/{name}": part / self.cfg.accumulate for name, part in parts.items()}
            for name, value in {**shares, "train/loss": loss}.items():
                value = value.detach().to(self.run.device, torch.float32)
                values[name] = values[name] + value if name in values else value
            items += count_items(batch)
        return values, items

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are averaged over the ranks once a step, in its last backward pass."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _agree(self, number: int) -> int:
        """The signal that any rank was sent, at a step where all ranks ask; 0 = go on."""
        asked = self.run.device.type == "cpu" or self.run.progress.step % self.cfg.log_every == 0
        if distributed.world_size() > 1:
            return max(distributed.gather(number)) if asked else 0
        return number

    def _read(self) -> None:
        """Bring the numbers of the latest steps over from the device, average them over the ranks, and check them."""
        if not self.unread:
            return
        numbers = iter(torch.stack([value for _, values in self.unread for value in values.values()]).tolist())
        rows = distributed.mean([{name: next(numbers) for name in values} for _, values in self.unread])
        for (step, _), row in zip(self.unread, rows, strict=True):
            if not all(math.isfinite(v) for name, v in row.items() if name.endswith(("loss", "grad_norm"))):
                parts = ", ".join(f"{name.removeprefix('train/')} = {value:g}" for name, value in row.items())
                raise NonFiniteLoss(
                    f"the loss and its gradient must be finite: at step {step}, {parts}. The last checkpoint is of "
                    f"step {self.run.saved}. Lower optim.lr, or look at what the step makes of that batch."
                )
            for name, value in row.items():
                window = self.run.progress.window.setdefault(name, [0.0, 0.0])
                window[0] += value
                window[1] += 1
        self.unread = []

    def _report(self) -> None:
        """Log the means since the latest report."""
        run, progress = self.run, self.run.progress
        means = {name: total / count for name, (total, count) in progress.window.items()}
        progress.window.clear()
        rates = {
            "train/lr": max(g["lr"] / g["rate"] for g in run.optimiser.param_groups),
            "time/items_per_s": self.pace.rate,
        }
        if self.log:
            self.log.scalars(progress.step, self._epoch(), **means, **rates)
        said = f"loss {means['train/loss']:.4g}, {self.pace.rate:.4g} items/s"
        self.bar.set_postfix_str(said, refresh=False)
        if not self.shown and time.perf_counter() - self.said > LINE_SECONDS:
            self.said = time.perf_counter()
            log.info("step %d of %d: %s", progress.step, self.cfg.steps, said)

    def _epoch(self) -> float | None:
        per_epoch = getattr(self.streams[0].batches, "per_epoch", None)
        return self.run.progress.step * self.cfg.accumulate / per_epoch if per_epoch else None

    def _evaluation_due(self) -> bool:
        step, every = self.run.progress.step, self.cfg.evaluate_every
        due = step >= self.cfg.steps or (every > 0 and step % every == 0)
        return self.evaluate is not None and due and step > self.run.progress.evaluated

    def _evaluate(self) -> None:
        """Evaluate on rank 0, with the averaged weights if there are any, and keep the weights if they are the best."""
        run, progress = self.run, self.run.progress
        self._read()
        metrics: dict[str, float] = {}
        if distributed.is_main() and self.evaluate is not None:
            with preserved_rng(run.device), self._averaged(), in_eval_mode(run.model):
                metrics = {name: float(value) for name, value in self.evaluate(run.model).items()}
        metrics = distributed.broadcast(metrics)
        if self.best not in metrics:
            raise ConfigError(f"the evaluation must give {self.best!r}, which decides: it gave {', '.join(metrics)}.")
        value = metrics[self.best]
        progress.evaluated = progress.step
        smaller = self.best.endswith("loss")
        better = progress.best is None or (value < progress.best if smaller else value > progress.best)
        if better and not math.isnan(value):
            progress.best, progress.best_step, progress.metrics, progress.waited = value, progress.step, metrics, 0
            self._save_best()
        else:
            progress.waited += 1
        if self.log:
            self.log.scalars(progress.step, self._epoch(), **{f"val/{name}": v for name, v in metrics.items()})
        best = progress.best if progress.best is not None else math.nan
        log.info("step %d: %s %.5g, best %.5g at step %d", progress.step, self.best, value, best, progress.best_step)

    def _save_best(self) -> None:
        if distributed.is_main():
            with self._averaged():
                self.run.save_best()

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self.run.average.applied() if self.run.average else contextlib.nullcontext()


class _NoLeaves(nn.Module):
    """A model that gives views of the parameters it returns, such as a temperature: DDP takes bare ones for unused."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        outputs = self.model(*inputs, **named)
        return map_tensors(lambda t: t.view_as(t) if t.is_leaf and t.requires_grad else t, outputs)


def _check(streams: Sequence[Stream], cfg: LoopConfig, evaluates: bool) -> None:
    """Reject settings out of their range."""
    for name, least in {"steps": 1, "accumulate": 1, "checkpoint_every": 1, "log_every": 1}.items():
        if getattr(cfg, name) < least:
            raise ConfigError(f"loop.{name} must be at least {least}: got {getattr(cfg, name)}.")
    for name in ("evaluate_every", "patience", "threads"):
        if getattr(cfg, name) < 0:
            raise ConfigError(f"loop.{name} must be at least 0: got {getattr(cfg, name)}.")
    if not 0 <= cfg.ema < 1:
        raise ConfigError(f"loop.ema must be in [0, 1): got {cfg.ema}.")
    if cfg.patience and not (evaluates and cfg.evaluate_every):
        raise ConfigError(f"loop.patience={cfg.patience} needs evaluations to count: set loop.evaluate_every.")
    names = [stream.name for stream in streams]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"there must be streams, each with a name of its own: got {names}.")
    if wrong := [stream.name for stream in streams if not (math.isfinite(stream.weight) and stream.weight > 0)]:
        raise ConfigError(f"the weight of a stream must be positive: that of {', '.join(wrong)} is not.")
