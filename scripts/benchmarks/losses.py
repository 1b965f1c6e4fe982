"""Metric-learning losses with their gradients, and batches larger than memory."""

import ctypes
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.result import STATUS, Result, alternate, extra_memory_mb, in_own_process
from mm.data import Inputs
from mm.engine.memory import M_MMAP_THRESHOLD
from mm.losses import hinge, info_nce
from mm.tasks.retrieval import Objective, Retrieval, build_model
from mm.tasks.retrieval_model import JointModel

CHUNKS = 8
GIVEN_BACK = 65536  # bytes from which on malloc gives back what is freed
MORE = 1 / 1.3  # ratio of the memories when that of many chunks is 30 % larger


def unit_rows(rows: int, dim: int, seed: int) -> Tensor:
    """(rows, dim) random unit vectors that want a gradient."""
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(values, dim=-1).requires_grad_()


def info_nce_memory_mb(batch_size: int, dim: int) -> float:
    """What InfoNCE and its gradients need beside the vectors at their peak."""
    a, b = (unit_rows(batch_size, dim, seed) for seed in (0, 1))
    with_gradient(lambda: info_nce(a[:2], b[:2], 20.0), a, b)  # what is loaded on first use
    return extra_memory_mb(lambda: with_gradient(lambda: info_nce(a, b, 20.0), a, b))


def with_gradient(loss: Callable[[], Tensor], a: Tensor, b: Tensor) -> list[Tensor]:
    """The loss, and its gradients by both matrices."""
    value = loss()
    return [value.detach(), *torch.autograd.grad(value, (a, b))]


def bench_losses(batch_size: int = 2048, dim: int = 256, repeats: int = 5) -> Iterator[Result]:
    """Losses with their gradients against the formula written down with autograd."""
    a, b = (unit_rows(batch_size, dim, seed) for seed in (0, 1))

    def masked_max() -> Tensor:
        scores = a @ b.T  # (B, B)
        positive, own = scores.diagonal(), torch.eye(batch_size, dtype=torch.bool)
        rows = (0.2 + scores - positive[:, None]).clamp_min(0).masked_fill(own, 0).amax(dim=1)  # (B,)
        columns = (0.2 + scores - positive).clamp_min(0).masked_fill(own, 0).amax(dim=0)  # (B,)
        return rows.sum() + columns.sum()

    def cross_entropies() -> Tensor:
        logits, target = 20 * a @ b.T, torch.arange(batch_size)  # (B, B), (B,)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    for name, goal, ours, plain in (
        ("hardest negative", 2.0, lambda: hinge(a, b, None, 0.2, hardest=True), masked_max),
        ("InfoNCE", 1.0, lambda: info_nce(a, b, 20.0), cross_entropies),
    ):
        cpu, _, results = alternate(repeats, partial(with_gradient, ours, a, b), partial(with_gradient, plain, a, b))
        apart = max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(*results, strict=True))
        checks: dict[str, tuple[float, float]] = {"relative difference": (apart, 1e-5)}
        if name == "InfoNCE" and STATUS.exists():
            checks["extra MB"] = (in_own_process(info_nce_memory_mb, batch_size, dim), 100)
        setting = f"batch {batch_size}, D = {dim}, with gradient; {plain.__name__.replace('_', ' ')} by autograd"
        yield Result(name, "CPU s", *cpu, goal, checks, setting)


def large_batch(rows: int, chunk: int) -> tuple[JointModel, dict]:
    """Small CNN and GRU, and a batch of pictures and sentences; chunk = 0 encodes it at once."""
    torch.manual_seed(0)
    cfg = Retrieval(modalities=["image", "text"])
    cfg.loss.chunk = chunk
    model = build_model(cfg, [f"word{i}" for i in range(1000)]).eval()  # BatchNorm alike for any chunk
    pictures = torch.randint(0, 256, (rows, 3, 64, 64), dtype=torch.uint8)
    sentences = torch.randint(2, 1000, (rows, 12))
    at = torch.arange(rows)
    texts = Inputs(sentences, torch.full((rows,), 12), at)
    return model, {"owner": at[:, None], "image": Inputs(pictures, None, at), "text": texts}


def gradients(model: JointModel, batch: dict) -> list[Tensor]:
    """Those of one step by all weights that have one."""
    objective = Objective(Retrieval().loss)
    loss = torch.stack(list(objective(model, batch, 0).values())).sum()
    return list(torch.autograd.grad(loss, list(model.parameters())))


def step_memory_mb(rows: int, chunk: int) -> float:
    """What a step needs beside the weights and the batch at its peak, not counting holes that malloc keeps."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, GIVEN_BACK)
    model, batch = large_batch(rows, chunk)
    few = {name: value[:2] if torch.is_tensor(value) else first(value) for name, value in batch.items()}
    model.chunk = 1
    gradients(model, few)  # what is loaded on first use
    model.chunk = chunk
    return extra_memory_mb(lambda: gradients(model, batch))


def first(inputs: Inputs, rows: int = 2) -> Inputs:
    """The first rows of what a batch holds of a modality."""
    lengths = None if inputs.lengths is None else inputs.lengths[:rows]
    return Inputs(inputs.values[:rows], lengths, inputs.rows[:rows])


def bench_chunks(chunk: int = 128) -> Iterator[Result]:
    """A step with a batch of eight chunks: CPU and gradients against the same at once, memory against one chunk."""
    rows = CHUNKS * chunk
    jobs = (partial(large_batch, rows, size) for size in (chunk, 0))
    cpu, _, (ours, whole) = alternate(1, *(partial(gradients, *job()) for job in jobs))
    size = torch.stack([y.norm() for y in whole]).norm()
    apart = float(torch.stack([(x - y).norm() for x, y in zip(ours, whole, strict=True)]).norm() / size)
    checks = {"relative difference of the gradients": (apart, 1e-5)}
    setting = f"small_cnn + gru, a step with {rows} rows in {CHUNKS} chunks"
    yield Result("chunks", "CPU s", *cpu, 0.6, checks, f"{setting}, which computes forwards twice, against all at once")
    if STATUS.exists():
        peaks = [in_own_process(step_memory_mb, count, chunk) for count in (rows, chunk)]
        yield Result("chunks, memory", "MB", *peaks, MORE, {}, f"{setting} against {chunk} rows")
