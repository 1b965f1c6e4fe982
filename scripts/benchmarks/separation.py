"""Separation: the loss that finds the order of the voices, and BSS-eval's ratios, against their plain forms."""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from scipy.linalg import toeplitz
from scipy.signal import fftconvolve

from benchmarks.result import Result, alternate, in_own_process, status_kb
from mm.config import load
from mm.metrics.bss_eval import TAPS
from mm.metrics.separation import sdr
from mm.signal import pit
from mm.sound_files import SoundFiles
from mm.tasks import separation
from mm.tasks.separation_files import faces_alone, separate_files

RATE = 16000  # Hz
SIDE_PX = 128  # of a video
BEST_DB = 60.0  # of the estimates, up to which the values of the losses must agree


def voices(batch: int, sources: int, seconds: float) -> torch.Tensor:
    """(B, S, T) float32: noise of a smooth spectrum that swells and fades like syllables, each at its own pace."""
    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(round(seconds * RATE)) / RATE  # (T,)
    noise = torch.randn(batch, sources, len(time_s), generator=generator)  # (B, S, T)
    smooth = noise + 0.9 * noise.roll(1, -1) + 0.5 * noise.roll(2, -1)  # (B, S, T)
    pace_hz = 2 + 3 * torch.rand(batch, sources, 1, generator=generator)  # (B, S, 1)
    return 0.1 * smooth * (2 * math.pi * pace_hz * time_s).sin().clamp_min(0.05)  # (B, S, T)


def estimates_of(targets: torch.Tensor) -> torch.Tensor:
    """(B, S, T) the targets in another order with noise, the first mixture of a batch at 0 dB, the last at 60 dB."""
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))  # (B, S, T)
    noise = noise * targets.square().mean(-1, keepdim=True).sqrt()
    level_db = torch.linspace(0, BEST_DB, len(targets))[:, None, None]  # (B, 1, 1)
    return (targets + noise * 10 ** (-level_db / 20)).roll(1, 1)  # (B, S, T)


def best_of_all_pairs(estimates: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) SI-SDR of the best order, from what is left of every estimate beside every target."""
    e, s = (waves - waves.mean(-1, keepdim=True) for waves in (estimates, targets))  # (B, S, T)
    e, s = e[:, :, None], s[:, None]  # (B, S, 1, T), (B, 1, S, T)
    kept = (e * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True) * s  # (B, S, S, T)
    pairwise = 10 * (kept.square().sum(-1) / (e - kept).square().sum(-1)).log10()  # (B, S_est, S_ref)
    numbers = range(targets.shape[1])
    orders = [pairwise[:, order, numbers].mean(-1) for order in itertools.permutations(numbers)]
    return torch.stack(orders).amax(0)  # (B,)


def bench_pit(batch: int = 16, sources: int = 4, seconds: float = 3.0, repeats: int = 3) -> Iterator[Result]:
    """SI-SDR of the best order with its gradient, against all pairs in full and every order.

    Args:
        batch: B, mixtures.
        sources: S, voices in each.
        seconds: of each.
        repeats: runs of each.
    """
    targets = voices(batch, sources, seconds)
    estimates = estimates_of(targets)

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        given = estimates.clone().requires_grad_()
        values = pit(given, targets)[0].mean(-1)  # (B,)
        return values.detach(), torch.autograd.grad(-values.mean(), given)[0]

    def plain(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        given = estimates.to(dtype).requires_grad_()
        values = best_of_all_pairs(given, targets.to(dtype))  # (B,)
        return values.detach(), torch.autograd.grad(-values.mean(), given)[0]

    cpu, _, ((values, gradient), _) = alternate(repeats, ours, plain)
    exact, slope = plain(torch.float64)
    size = slope.square().sum((1, 2)).sqrt()  # (B,)
    checks = {
        f"most dB that a value differs up to {BEST_DB:g} dB": (float((values - exact).abs().max()), 1e-4),
        "gradients, relative": (float(((gradient - slope).square().sum((1, 2)).sqrt() / size).max()), 1e-4),
    }
    setting = f"{batch} mixtures of {sources} voices, {seconds:g} s at 16 kHz, with gradient; checked in float64"
    yield Result("separation_pit", "CPU s", *cpu, 5.0, checks, setting)


def projected(estimate: np.ndarray, references: np.ndarray, taps: int) -> np.ndarray:
    """(T + taps - 1,) the projection of (T,) onto all shifts of (V, T), by their Gram matrix as it stands."""
    length = len(estimate) + taps - 1
    n_fft = 1 << (length - 1).bit_length()
    of_references, of_estimate = np.fft.rfft(references, n_fft), np.fft.rfft(estimate, n_fft)  # (V, F), (F,)
    blocks = []
    for one in of_references:
        lags = np.fft.irfft(one.conj() * of_references, n_fft)  # (V, n_fft), negative lags from the end
        blocks.append([toeplitz(row[:taps], np.r_[row[0], row[:-taps:-1]]) for row in lags])
    sides = np.fft.irfft(of_references.conj() * of_estimate, n_fft)[:, :taps]  # (V, taps)
    filters = np.linalg.solve(np.block(blocks), sides.ravel()).reshape(-1, taps)  # (V, taps)
    return fftconvolve(references, filters, axes=-1).sum(0)  # (T + taps - 1,)


def ratio_db(kept: np.ndarray, lost: np.ndarray) -> float:
    """Of two energies."""
    return float(10 * np.log10(np.square(kept).sum() / np.square(lost).sum()))


def with_zeros(wave: np.ndarray) -> np.ndarray:
    """As long as a projection."""
    return np.pad(wave, (0, TAPS - 1))


def dense_sdr(estimates: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(S,) SDR alone, from one dense system of TAPS equations for each target."""
    own = [projected(e, s[None], TAPS) for e, s in zip(estimates, targets, strict=True)]
    return np.array([ratio_db(part, with_zeros(e) - part) for part, e in zip(own, estimates, strict=True)])


def dense(estimates: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(3, S) SDR, SIR and SAR, as the classic tool does: one more dense system of S * TAPS equations for each."""
    rows = []
    for e, s in zip(estimates, targets, strict=True):
        own, every = projected(e, s[None], TAPS), projected(e, targets, TAPS)  # (T + TAPS - 1,)
        whole = with_zeros(e)
        rows.append([ratio_db(own, whole - own), ratio_db(own, every - own), ratio_db(every, whole - every)])
    return np.array(rows).T


def bench_sdr(sources: int = 2, seconds: float = 3.0, repeats: int = 9) -> Iterator[Result]:
    """BSS-eval's ratios against the classic dense solve, which has no SDR without SIR and SAR.

    Args:
        sources: S, voices in the mixture.
        seconds: of the mixture.
        repeats: runs of each.
    """
    targets = voices(1, sources, seconds)[0]  # (S, T)
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1))  # (S, T)
    bleeding = targets + 0.2 * targets.sum(0) + 0.01 * noise
    e, s = bleeding.double().numpy(), targets.double().numpy()  # (S, T)

    cpu, _, (values, (classic, *_), alone) = alternate(
        repeats, lambda: sdr(bleeding, targets), lambda: dense(e, s), lambda: dense_sdr(e, s)
    )
    setting = f"{sources} voices, {seconds:g} s at 16 kHz, {TAPS} taps"
    for name, reference, goal, expected, note in (
        ("separation_sdr", cpu[1], 10.0, classic, "the classic evaluation gives SIR and SAR as well"),
        ("separation_sdr, alone", cpu[2], 2.0, alone, "against its systems for SDR alone"),
    ):
        checks = {"most dB that a ratio differs": (float(np.abs(values - expected).max()), 1e-3)}
        yield Result(name, "CPU s", cpu[0], reference, goal, checks, f"{setting}; {note}")


def separated(folder: Path, seconds: int, width: int) -> float:
    """Wall seconds that it takes to separate two faces by files of so many seconds, decoding and writing included.

    Args:
        folder: to write into.
        seconds: of the mixture, at 16 kHz, and of two videos of 128 x 128 px at 25 frames a second.
        width: of the head; all else as in configs/separation/grid.yaml.
    """
    config = Path(__file__).parents[2] / "configs/separation/grid.yaml"
    cfg = load(separation.Separation, ["--config", str(config), "encoder.video.cache=false", f"head.width={width}"])
    torch.manual_seed(0)
    model = separation.build_model(cfg).eval()
    rng = np.random.default_rng(0)
    with SoundFiles([folder / "mixture.wav"], RATE) as file:
        for _ in range(seconds):
            file.write(torch.from_numpy(0.1 * rng.standard_normal((1, RATE)).astype(np.float32)))
    videos = [folder / f"{name}.mp4" for name in ("one", "other")]
    for video in videos:
        with av.open(str(video), "w") as container:
            track = container.add_stream("h264", rate=25)
            track.width = track.height = SIDE_PX
            track.pix_fmt = "yuv420p"
            picture = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            for number in range(25 * seconds):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, number, axis=0), format="rgb24")
                container.mux(track.encode(frame))
            container.mux(track.encode())
    begun = time.perf_counter()
    separate_files(model, folder / "mixture.wav", faces_alone(videos), folder / "voices")
    return time.perf_counter() - begun


def memory_mb(seconds: int, width: int) -> float:
    """The peak of this process's memory when so many seconds are separated; to be run in a process of its own."""
    with TemporaryDirectory() as folder:
        separated(Path(folder), seconds, width)
    return status_kb("VmHWM") * 1.024e-3


def bench_realtime(seconds: int = 30, longer: int = 5, width: int = 256) -> Iterator[Result]:
    """Two faces, from files to files, against the time that the sound lasts; the memory of a longer one beside it.

    Args:
        seconds: of the mixture.
        longer: how many times as long the other is whose memory is compared.
        width: of the head.
    """
    with TemporaryDirectory() as folder:
        took = separated(Path(folder), seconds, width)
    memory, more = (in_own_process(memory_mb, length, width) for length in (seconds, longer * seconds))
    checks = {f"MB more for {longer} times the length": (more - memory, 64.0)}
    setting = f"{seconds} s at 16 kHz, two videos of {SIDE_PX} px, {torch.get_num_threads()} threads; {memory:.0f} MB"
    yield Result("separation_realtime", "s", took, float(seconds), 2.0, checks, setting)
