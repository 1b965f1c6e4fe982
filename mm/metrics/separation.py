"""How well voices were separated from a mixture: SI-SDR, SNR, BSS-eval's SDR, SIR and SAR, STOI and PESQ.

Waves are float tensors or arrays, and estimate j belongs to target j: no order is sought here (`mm.signal.pit` does).
Numbers come back as float64 arrays; ratios are in dB and stay within those of `mm.signal.si_sdr`, -80 to 120.

- A silent target, zero or constant, has no score: NaN, which `summarise` leaves out and counts.
- A silent estimate of a target that speaks is a failure and gets the worst score, by every metric: the plain formula
  of the SNR would give it 0 dB.
- SDR allows the target to pass a filter of 512 taps first, so a delay costs it little and SI-SDR all: see both.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from mm import signal
from mm.metrics.bss_eval import TAPS, energies, explained
from mm.naming import known
from mm.signal import HIGHEST_DB, LOWEST_DB, is_silent

EXTRAS = ("SIR", "SAR", "STOI", "PESQ")  # of `scores`; the first two take longer, the others need packages
PACKAGES = {"STOI": "pystoi", "PESQ": "pesq"}
PESQ_MODES = {8000: "nb", 16000: "wb"}  # Hz: narrow band (ITU-T P.862.1), wide band (P.862.2)
LOWEST_STOI, LOWEST_PESQ = 0.0, 1.0  # no correlation; the worst opinion on a scale of 1 to 5
STOI_HZ, STOI_SAMPLES = 10_000, 3968  # its own rate, and its 30 frames of 256 samples every 128: 0.4 s

Waves = Tensor | np.ndarray


def si_sdr(estimates: Waves, targets: Waves) -> np.ndarray:
    """`mm.signal.si_sdr` in float64: (..., T) -> (...,) dB, NaN for silent targets.

    Raises:
        ValueError: shapes differ, or a wave is empty, not float or not finite. All functions here raise it.
    """
    e, s = _pairs(estimates, targets)
    return _ruled(signal.si_sdr(e, s).numpy(), is_silent(e), is_silent(s))


def snr(estimates: Waves, targets: Waves) -> np.ndarray:
    """Signal-to-noise ratio, |s|^2 / |s - e|^2: (..., T) -> (...,) dB, NaN for silent targets.

    Args:
        estimates: (..., T), at the level of the targets.
        targets: (..., T).
    """
    e, s = _pairs(estimates, targets)
    return _ruled(_db(_energy(s.numpy()), _energy((s - e).numpy())), is_silent(e), is_silent(s))


def sdr(estimates: Waves, targets: Waves, taps: int = TAPS) -> np.ndarray:
    """Signal-to-distortion ratio of BSS-eval version 3: (..., T) -> (...,) dB, NaN for silent targets.

    The ratio of what the target explains of the estimate to the rest, where the target may pass any filter of so many
    taps: that of `mir_eval.separation.bss_eval_sources` without permutation (Vincent et al. 2006).

    Args:
        estimates: (..., T).
        targets: (..., T).
        taps: of the filter.
    """
    e, s = _pairs(estimates, targets)
    length = s.shape[-1]
    return _sdr(e.reshape(-1, 1, length), s.reshape(-1, length), taps).reshape(s.shape[:-1])  # (...,)


def si_sdr_improvement(estimates: Waves, targets: Waves, mixture: Waves) -> np.ndarray:
    """SI-SDR less that of the mixture, taken for each target: (..., S, T), (..., S, T), (..., T) -> (..., S) dB."""
    e, s, m = _mixed(estimates, targets, mixture)
    return si_sdr(e, s) - si_sdr(m, s)


def sdr_improvement(estimates: Waves, targets: Waves, mixture: Waves, taps: int = TAPS) -> np.ndarray:
    """SDR less that of the mixture, taken for each target: (..., S, T), (..., S, T), (..., T) -> (..., S) dB."""
    e, s, m = _mixed(estimates, targets, mixture)
    length = s.shape[-1]
    both = torch.stack([e, m], dim=-2).reshape(-1, 2, length)  # (N, 2, T)
    found = _sdr(both, s.reshape(-1, length), taps)  # (N, 2)
    return (found[:, 0] - found[:, 1]).reshape(s.shape[:-1])  # (..., S)


def sir_sar(estimates: Waves, targets: Waves, taps: int = TAPS) -> tuple[np.ndarray, np.ndarray]:
    """Signal-to-interference and signal-to-artefacts ratios of BSS-eval version 3 (Vincent et al. 2006).

    An estimate is what its own target explains, and what the other targets explain beyond that (interference), and the
    rest (artefacts). Silent targets explain nothing.

    Args:
        estimates: (S, T) of one mixture.
        targets: (S, T), all voices in it.
        taps: of the filters that targets may pass.

    Returns:
        SIR and SAR: (S,) dB each. Both are NaN for silent targets; SIR is NaN where no other target speaks.
    """
    e, s = _pairs(estimates, targets)
    _of_one_mixture(s)
    mute, quiet = is_silent(e), is_silent(s)  # (S,)
    sir, sar = (_ruled(np.zeros(len(s)), mute, quiet) for _ in range(2))  # (S,)
    rows = torch.nonzero(~mute & ~quiet)[:, 0].tolist()
    if rows:
        own = np.concatenate([explained(e[row, None], s[row, None], taps)[0] for row in rows])  # (R, T + taps - 1)
        every, rest = explained(e[rows], s[~quiet], taps)  # (R, T + taps - 1)
        sir[rows] = _db(_energy(own), _energy(every - own))
        sar[rows] = _db(_energy(every), _energy(rest))
    if (~quiet).sum() == 1:
        sir[:] = math.nan
    return sir, sar


def stoi(estimates: Waves, targets: Waves, sample_rate: int) -> np.ndarray:
    """Short-time objective intelligibility, about 0 to 1 (Taal et al. 2011), by pystoi: (..., T) -> (...,).

    NaN also where fewer than 0.4 s of the target are loud enough to be judged.

    Args:
        estimates: (..., T).
        targets: (..., T).
        sample_rate: Hz, any.

    Raises:
        ValueError: pystoi is not installed, or as `si_sdr`.
    """
    package = _package("STOI")

    def measured(target: np.ndarray, estimate: np.ndarray) -> float:
        if len(target) * STOI_HZ < STOI_SAMPLES * sample_rate:
            return math.nan
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            try:
                return package.stoi(target, estimate, sample_rate)
            except RuntimeWarning:
                return math.nan

    return _each(measured, estimates, targets, LOWEST_STOI)


def pesq(estimates: Waves, targets: Waves, sample_rate: int) -> np.ndarray:
    """Perceptual evaluation of speech quality, 1 to 4.6 (MOS-LQO of ITU-T P.862), by pesq: (..., T) -> (...,).

    NaN also where the target has no utterance, and below a quarter of a second.

    Args:
        estimates: (..., T).
        targets: (..., T).
        sample_rate: 16000 Hz is wide band, 8000 narrow band; their numbers do not compare.

    Raises:
        ValueError: another rate, pesq is not installed, or as `si_sdr`.
    """
    if sample_rate not in PESQ_MODES:
        raise ValueError(f"PESQ is defined at 8000 and 16000 Hz: got {sample_rate}. Resample both, or leave it out.")
    package = _package("PESQ")

    def measured(target: np.ndarray, estimate: np.ndarray) -> float:
        try:
            return package.pesq(sample_rate, target, estimate, PESQ_MODES[sample_rate])
        except (package.NoUtterancesError, package.BufferTooShortError):
            return math.nan

    return _each(measured, estimates, targets, LOWEST_PESQ)


def available(sample_rate: int) -> tuple[str, ...]:
    """Those of EXTRAS that can be computed here at a rate in Hz."""
    missing = {name for name, package in PACKAGES.items() if importlib.util.find_spec(package) is None}
    if sample_rate not in PESQ_MODES:
        missing.add("PESQ")
    return tuple(name for name in EXTRAS if name not in missing)


def scores(
    estimates: Waves, targets: Waves, mixture: Waves, sample_rate: int, extras: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Everything that is measured of one mixture.

    Args:
        estimates: (S, T).
        targets: (S, T).
        mixture: (T,).
        sample_rate: Hz.
        extras: of EXTRAS; None = `available(sample_rate)`.

    Returns:
        {name: (S,)}: SI-SDR, SI-SDRi, SNR, SDR, SDRi and the extras; an i means less that of the mixture.

    Raises:
        ValueError: an unknown extra, or one that cannot be computed here; or as `si_sdr`.
    """
    chosen = available(sample_rate) if extras is None else [known(name, EXTRAS, "extra metric") for name in extras]
    e, s, m = _mixed(estimates, targets, mixture)
    _of_one_mixture(s)
    level, (own, untouched) = si_sdr(e, s), _sdr(torch.stack([e, m], dim=1), s, TAPS).T  # (S,) each
    found = {"SI-SDR": level, "SI-SDRi": level - si_sdr(m, s), "SNR": snr(e, s), "SDR": own, "SDRi": own - untouched}
    if {"SIR", "SAR"} & set(chosen):
        both = dict(zip(("SIR", "SAR"), sir_sar(e, s), strict=True))
        found |= {name: values for name, values in both.items() if name in chosen}
    if "STOI" in chosen:
        found["STOI"] = stoi(e, s, sample_rate)
    if "PESQ" in chosen:
        found["PESQ"] = pesq(e, s, sample_rate)
    return found


def summarise(rows: Iterable[Mapping[str, np.ndarray]]) -> tuple[dict[str, float], dict[str, int]]:
    """The mean of each metric over what was not skipped, and how many numbers were.

    Args:
        rows: what `scores` gave of each mixture; all have the same metrics.

    Returns:
        {name: mean}, NaN where all were skipped, and {name: numbers skipped}.

    Raises:
        ValueError: no mixture, or mixtures of different metrics.
    """
    rows = list(rows)
    if not rows or any(set(row) != set(rows[0]) for row in rows):
        names = sorted({", ".join(row) for row in rows})
        raise ValueError(f"a mean needs mixtures that all have the same metrics: got {names or 'none'}.")
    values = {name: np.concatenate([np.atleast_1d(row[name]) for row in rows]) for name in rows[0]}  # (n,) each
    skipped = {name: int(np.isnan(numbers).sum()) for name, numbers in values.items()}
    kept = {name: numbers[~np.isnan(numbers)] for name, numbers in values.items()}
    return {name: float(numbers.mean()) if len(numbers) else math.nan for name, numbers in kept.items()}, skipped


def pairwise_si_sdr(estimates: Waves, targets: Waves) -> np.ndarray:
    """SI-SDR of every estimate against every target: (..., S_est, T), (..., S_ref, T) -> (..., S_est, S_ref) dB."""
    e, s = _wave(estimates, "estimates"), _wave(targets, "targets")
    if min(e.dim(), s.dim()) < 2 or e.shape[:-2] != s.shape[:-2] or e.shape[-1] != s.shape[-1]:
        raise ValueError(
            "estimates (..., S_est, T) and targets (..., S_ref, T) must differ in S alone: "
            f"got {tuple(e.shape)} and {tuple(s.shape)}."
        )
    return si_sdr(*torch.broadcast_tensors(e[..., :, None, :], s[..., None, :, :]))  # (..., S_est, S_ref)


def follows_face(pairwise: np.ndarray, faces: np.ndarray) -> float:
    """The share of outputs that are nearest to the voice of the face that they were given.

    An output equally near to several voices counts as the share that falls to its own, so chance scores chance.

    Args:
        pairwise: (..., S_est, S_ref) SI-SDR of each output against each target; see `pairwise_si_sdr`. NaN = silent.
        faces: (..., S_est) integers; the target whose face was shown for each output.

    Returns:
        The share in 0..1 of the outputs whose own target speaks; NaN if there is none.

    Raises:
        ValueError: shapes that do not agree, or no such target.
    """
    pairwise, faces = np.asarray(pairwise, np.float64), np.asarray(faces)
    if pairwise.ndim < 2 or faces.shape != pairwise.shape[:-1] or faces.dtype.kind not in "iu":
        raise ValueError(
            f"each of {pairwise.shape[:-1]} outputs must have one face, an integer: got {faces.dtype} {faces.shape} "
            f"for SI-SDR of {pairwise.shape}."
        )
    if not ((faces >= 0) & (faces < pairwise.shape[-1])).all():
        raise ValueError(f"faces must be numbers of targets, 0 to {pairwise.shape[-1] - 1}: got {np.unique(faces)}.")
    near = np.where(np.isnan(pairwise), -np.inf, pairwise)  # (..., S_est, S_ref)
    nearest = near == near.max(-1, keepdims=True)  # (..., S_est, S_ref)
    shares = nearest / nearest.sum(-1, keepdims=True)  # (..., S_est, S_ref)
    own, spoken = (
        np.take_along_axis(x, faces[..., None], -1)[..., 0] for x in (shares, near > -np.inf)
    )  # (..., S_est)
    return float(own[spoken].mean()) if spoken.any() else math.nan


# Waves, and what silence means ----------------------------------------------------------------------------------------


def _wave(values: Waves, name: str) -> Tensor:
    """(..., T) float64 on the CPU."""
    waves = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if not waves.is_floating_point() or waves.dim() < 1 or waves.shape[-1] == 0:
        raise ValueError(
            f"{name} must be float waves (..., T) of at least one sample: got {waves.dtype} {tuple(waves.shape)}."
        )
    if not bool(torch.isfinite(waves).all()):
        raise ValueError(
            f"{name} must be finite: got NaN or infinity, which must not pass for silence. Mend the source."
        )
    return waves.double()


def _pairs(estimates: Waves, targets: Waves) -> tuple[Tensor, Tensor]:
    e, s = _wave(estimates, "estimates"), _wave(targets, "targets")
    if e.shape != s.shape:
        raise ValueError(
            f"estimates and targets must pair up: got {tuple(e.shape)} and {tuple(s.shape)}. Cut or pad them to one "
            "length, one estimate for each target."
        )
    return e, s


def _mixed(estimates: Waves, targets: Waves, mixture: Waves) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates, targets and the mixture in place of each estimate: (..., S, T) each."""
    e, s = _pairs(estimates, targets)
    m = _wave(mixture, "the mixture")
    if s.dim() < 2 or m.shape != s.shape[:-2] + s.shape[-1:]:
        raise ValueError(
            f"a mixture (..., T) must go with targets (..., S, T): got {tuple(m.shape)} and {tuple(s.shape)}."
        )
    return e, s, m.unsqueeze(-2).expand_as(s)


def _of_one_mixture(s: Tensor) -> None:
    if s.dim() != 2:
        raise ValueError(
            f"estimates and targets must be (S, T), of one mixture: got {tuple(s.shape)}. Take one by one."
        )


def _ruled(values: np.ndarray, mute: Tensor, quiet: Tensor) -> np.ndarray:
    """The same numbers, the lowest where the estimate is silent and NaN where the target is: (...,) each."""
    return np.where(quiet, math.nan, np.where(mute, LOWEST_DB, values))  # (...,)


def _each(
    measured: Callable[[np.ndarray, np.ndarray], float], estimates: Waves, targets: Waves, worst: float
) -> np.ndarray:
    """A metric of single waves, target first, of all of them: (..., T) -> (...,)."""
    e, s = _pairs(estimates, targets)
    mute, quiet = is_silent(e), is_silent(s)  # (...,)
    found = np.where(quiet, math.nan, worst)  # (...,)
    for place in np.argwhere((~mute & ~quiet).numpy()):
        found[tuple(place)] = measured(s[tuple(place)].numpy(), e[tuple(place)].numpy())
    return found


def _package(metric: str) -> ModuleType:
    try:
        return importlib.import_module(PACKAGES[metric])
    except ImportError as error:
        raise ValueError(
            f"{metric} needs the package {PACKAGES[metric]}, which is not installed. Run: pip install 'mm[metrics]'"
        ) from error


# Ratios --------------------------------------------------------------------------------------------------------------


def _sdr(estimates: Tensor, targets: Tensor, taps: int) -> np.ndarray:
    """SDR of K estimates of each target: (N, K, T), (N, T) -> (N, K)."""
    quiet = is_silent(targets)  # (N,)
    found = np.zeros(estimates.shape[:2])  # (N, K)
    for row in torch.nonzero(~quiet)[:, 0].tolist():
        found[row] = _db(*energies(estimates[row], targets[row], taps))  # (K,)
    return _ruled(found, is_silent(estimates), quiet[:, None])


def _energy(waves: np.ndarray) -> np.ndarray:
    return np.square(waves).sum(-1)  # (...,)


def _db(kept: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """The ratio of two energies: (...,) each -> (...,) dB, within the bounds."""
    least = kept * 10 ** (-HIGHEST_DB / 10) + np.finfo(np.float64).tiny
    return 10 * np.log10(np.maximum(kept / np.maximum(lost, least), 10 ** (LOWEST_DB / 10)))  # (...,)
