"""Signals, ranks, the training loop, and embedding whole folders."""

import copy
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.index import OVERHEAD, unit_rows
from benchmarks.result import STATUS, Result, alternate, extra_memory_mb, in_own_process
from mm.config import LoopConfig, OptimConfig
from mm.data import Inputs
from mm.data import folder as files_in
from mm.encoders.image_networks import fold
from mm.engine import Stream, fit
from mm.engine.optim import build_optimiser
from mm.features import Features
from mm.metrics import ranks
from mm.signal import FLOOR, Stft, log_mel
from mm.tasks.retrieval import LossConfig, Objective, Retrieval, build_model

CORES = 2
LAST_LAYER = {"mobilenet_v2": "classifier", "resnet50": "fc"}  # what classifies, and no encoder has


def bench_log_mel(clips: int = 64, seconds: float = 10.0, repeats: int = 9) -> Iterator[Result]:
    """Log-mel spectrograms of a batch against librosa, one clip after the other."""
    import librosa

    stft, bands = Stft(sample_rate=16000), 64
    at = torch.arange(round(seconds * stft.sample_rate)) / stft.sample_rate  # (T,) seconds
    pitch_hz = torch.linspace(80, 2000, clips)[:, None]  # (B, 1)
    tones = torch.sin(2 * math.pi * pitch_hz * (1 + at / 10) * at)  # (B, T) rising
    noise = torch.randn(tones.shape, generator=torch.Generator().manual_seed(0))  # (B, T)
    waves = (0.4 * tones + 0.05 * noise) * (torch.sin(3 * at) > -0.5)  # (B, T) with pauses

    def with_librosa(wave: np.ndarray) -> np.ndarray:
        options = {"n_fft": stft.n_fft, "hop_length": stft.hop, "win_length": stft.window, "window": stft.kind}
        mel = librosa.feature.melspectrogram(
            y=wave, sr=stft.sample_rate, n_mels=bands, pad_mode="constant", **options
        )  # (bands, N)
        return np.log(np.maximum(mel, FLOOR))

    jobs = (lambda: log_mel(waves, stft, bands), lambda: [with_librosa(wave) for wave in waves.numpy()])
    cpu, _, (found, expected) = alternate(repeats, *jobs)
    difference = float(np.abs(found.numpy() - np.stack(expected)).max())
    setting = f"{clips} clips of {seconds:g} s at 16 kHz; librosa in a loop"
    yield Result("log_mel", "CPU s", *cpu, 2.0, {"difference in nats": (difference, 2e-3)}, setting)


def pairs(images: int, captions: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, D), captions (m, D) that lie near theirs, and the owners of both."""
    owner = np.random.default_rng(2).permutation(captions) % images  # (m,)
    a, b = unit_rows(images, dim, 0), unit_rows(captions, dim, 1)
    b *= 4  # nearer to noise than to the image: the ranks are spread
    b += a[owner]
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return a, b, np.arange(images), owner


def ranks_memory_mb(*sizes: int) -> float:
    """What `ranks` needs beside the vectors at its peak."""
    return extra_memory_mb(partial(ranks, *pairs(*sizes)))


def bench_ranks(
    images: int = 5000, captions: int = 25000, dim: int = 256, one_in: int = 20, repeats: int = 3
) -> Iterator[Result]:
    """Ranks of both directions against an argsort for every item, of which one in `one_in` is timed."""
    a, b, owner_a, owner_b = pairs(images, captions, dim)

    def by_sorting(queries: np.ndarray, gallery: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> list[int]:
        orders = ((i, np.argsort(-(gallery @ queries[i]))) for i in range(0, len(queries), one_in))
        return [int(np.argmax(theirs[order] == mine[i])) + 1 for i, order in orders]

    def per_item() -> tuple[list[int], list[int]]:
        return by_sorting(a, b, owner_a, owner_b), by_sorting(b, a, owner_b, owner_a)

    (ours, part), _, (found, expected) = alternate(repeats, lambda: ranks(a, b, owner_a, owner_b), per_item)
    wrong = sum(int((ours.best()[::one_in] != plain).sum()) for ours, plain in zip(found, expected, strict=True))
    checks: dict[str, tuple[float, float]] = {f"ranks that differ, of {sum(map(len, expected))}": (wrong, 0)}
    if STATUS.exists():
        checks["extra MB"] = (in_own_process(ranks_memory_mb, images, captions, dim), 200)
    setting = f"{images} x {captions}, D = {dim}; argsort per item in float32, timed on one in {one_in} and multiplied"
    yield Result("ranks", "CPU s", ours, part * one_in, 12.0, checks, setting)


def bench_loop(batch_size: int = 32, steps: int = 24) -> Iterator[Result]:
    """A step of `fit` that clips and logs against forward, backward and update; they take turns step by step."""
    torch.manual_seed(0)
    words = [f"word{i}" for i in range(1000)]
    model = build_model(Retrieval(modalities=["image", "text"]), words)
    rows = torch.arange(batch_size)
    pictures = torch.randint(0, 256, (batch_size, 3, 64, 64), dtype=torch.uint8)
    sentences = Inputs(torch.randint(2, 1000, (batch_size, 12)), torch.full((batch_size,), 12), rows)
    batch = {"owner": rows[:, None], "image": Inputs(pictures, None, rows), "text": sentences}
    # A constant rate and a bound on the gradient that is never reached: both must end with the same weights.
    objective, optim = Objective(LossConfig()), OptimConfig(schedule="constant", warmup_steps=0, clip_norm=1e9)
    twin = copy.deepcopy(model).train()
    optimiser = build_optimiser(twin, optim)
    ours, bare = [], []

    def turns(start: int) -> Iterator[dict]:
        for number in itertools.count(start):
            begun = time.process_time()
            torch.stack(list(objective(twin, batch, number).values())).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
            given = time.process_time()
            bare.append(given - begun)
            yield batch
            ours.append(time.process_time() - given)

    with tempfile.TemporaryDirectory() as out:
        loop = LoopConfig(steps=steps, log_every=1, device="cpu")
        fit(model, [Stream("joint", turns, objective)], Retrieval(out=out, optim=optim, loop=loop))
    weights = zip(model.parameters(), twin.parameters(), strict=True)
    apart = max(float((x - y).detach().abs().max()) for x, y in weights)
    times = [statistics.median(each[steps // 4 :]) for each in (ours, bare)]
    setting = f"fit with a log line at every step; the bare step of small_cnn + gru, batch {batch_size}"
    yield Result("loop", "CPU s", *times, OVERHEAD, {"difference of the weights": (apart, 0)}, setting)


def write_pictures(folder: Path, count: int, width: int = 500, height: int = 375) -> None:
    """JPEG files of random clouds whose detail falls with its size as in photographs, about 45 kB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        total = np.zeros((height, width, 3))
        for size in (4, 16, 64, 250):
            grid = rng.integers(0, 256, (size * height // width, size, 3), np.uint8)
            total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / size**0.2
        total *= 255 / total.max()
        Image.fromarray(total.astype(np.uint8)).save(folder / f"{number}.jpg", quality=85)


@torch.no_grad()
def bench_embed(
    name: str, goal: float, count: int, folder: Path | None = None, batch_size: int = 16, repeats: int = 3
) -> Iterator[Result]:
    """A folder of pictures into the joint space, on two threads, against the network alone on tensors at hand."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    cfg = Retrieval(modalities=["image", "text"])
    cfg.encoder.image.name, cfg.head.pool.image = name, "vector"
    model = build_model(cfg, ["no words are embedded here"]).eval()
    encoder: Any = model.encoder("image")
    network = get_model(name, weights=None)
    setattr(network, LAST_LAYER[name], nn.Identity())
    network.load_state_dict(encoder.net.state_dict())
    network.eval().to(memory_format=torch.channels_last)
    folded = copy.deepcopy(network)  # as ours is: beside it, what is measured is reading, resizing and copying alone
    fold(folded)
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            write_pictures(Path(made), count)
        files = [entry.source for entry in files_in(folder or made, "image")[:count]]
        values = torch.stack([encoder.prepare(file) for file in files])  # (n, 3, H, W)
        ready = ((values - encoder.mean) / encoder.std).contiguous(memory_format=torch.channels_last).split(batch_size)
        threads = torch.get_num_threads()
        torch.set_num_threads(CORES)
        try:
            jobs = (
                lambda: model.embed("image", files, batch_size=batch_size, workers=CORES),
                lambda: torch.cat([network(batch) for batch in ready]),
                lambda: torch.cat([folded(batch) for batch in ready]),
            )
            cpu, wall, (found, vectors, _) = alternate(repeats, *jobs)
        finally:
            torch.set_num_threads(threads)
    expected = model.head.embed("image", Features(vectors[:, None], torch.ones(len(vectors), 1) > 0, vectors, (1,)))
    checks = {"largest difference": (float((found - expected).abs().max()), 1e-4)}
    for number, what in ((1, "torchvision's network"), (2, "its BatchNorm folded")):
        setting = f"{len(files)} files, batch {batch_size}; {what} alone; CPU ratio {cpu[number] / cpu[0]:.2f}"
        yield Result(f"embed_{name}", "wall s", wall[0], wall[number], goal, checks, setting)
