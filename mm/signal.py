"""Sound as numbers, batched and differentiable, on any device: STFT, mel, MFCC, compression, mixing, SI-SDR, PIT, BSS.

Waves are (..., T) float in [-1, 1]; spectrograms (..., F, N): F bins or bands, N frames. Frame n is centred on sample
n * hop, with zeros before and behind the clip, so zero padding behind a clip changes none of its real frames:
`Stft.frames_of(lengths)` says how many those are.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-10  # power below which a log spectrogram does not fall: -23 nats, librosa's amin
LOWEST_DB, HIGHEST_DB = -80.0, 120.0  # si_sdr stays within these
MOST_SOURCES = 6  # pit tries every order: 720 of six
CHUNK_SAMPLES = 1 << 18  # on the CPU, spectrograms of more than this at once fall out of the cache and take 4x longer


@dataclass(frozen=True)
class Stft:
    """Short-time Fourier transform and its exact inverse.

    `librosa.stft` gives the same numbers with `n_fft, hop_length=hop, win_length=window, window=kind, center=True,
    pad_mode="constant"` (its own default padding).

    Attributes:
        sample_rate: Hz.
        window_s: seconds.
        hop_s: seconds from one frame to the next, at most half a window.
        kind: "hamming" or "hann", periodic.
        n_fft: samples transformed; 0 = the power of two that holds a window.

    >>> stft = Stft(sample_rate=16000)
    >>> stft.window, stft.hop, stft.n_fft, stft.bins
    (400, 160, 512, 257)
    >>> stft(torch.zeros(2, 16000)).shape, stft.frames_of(16000)
    (torch.Size([2, 257, 101]), 101)
    """

    sample_rate: int
    window_s: float = 0.025
    hop_s: float = 0.010
    kind: Literal["hamming", "hann"] = "hamming"
    n_fft: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("hamming", "hann"):
            raise ValueError(f"the window must be 'hamming' or 'hann': got {self.kind!r}.")
        if not 1 <= self.hop <= self.window // 2:
            raise ValueError(
                f"a hop must be at least one sample and at most half a window: got {self.hop} and {self.window} "
                f"samples ({self.hop_s} s and {self.window_s} s at {self.sample_rate} Hz)."
            )
        if not self.n_fft:
            object.__setattr__(self, "n_fft", 1 << (self.window - 1).bit_length())
        if self.n_fft < self.window:
            raise ValueError(f"n_fft must hold a window of {self.window} samples: got {self.n_fft}. Leave it 0.")

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.window_s * self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_s * self.sample_rate)

    @property
    def bins(self) -> int:
        """F."""
        return self.n_fft // 2 + 1

    @overload
    def frames_of(self, lengths: int) -> int: ...
    @overload
    def frames_of(self, lengths: Tensor) -> Tensor: ...
    def frames_of(self, lengths: int | Tensor) -> int | Tensor:
        """How many frames of clips of `lengths` samples are real."""
        return 1 + lengths // self.hop

    def __call__(self, waves: Tensor) -> Tensor:
        """(..., T) float -> (..., F, N) complex of the same precision, N = frames_of(T)."""
        _at_least_one_sample(waves)
        window = _window(self.kind, self.window, waves.dtype, waves.device)
        flat = waves.reshape(-1, waves.shape[-1])  # (B, T)
        spec = torch.stft(
            flat, self.n_fft, self.hop, self.window, window, center=True, pad_mode="constant", return_complex=True
        )  # (B, F, N)
        return spec.reshape(*waves.shape[:-1], *spec.shape[1:])  # (..., F, N)

    def inverse(self, spec: Tensor, length: int) -> Tensor:
        """The wave of `length` samples whose transform is nearest to `spec`: (..., F, N) complex -> (..., T).

        Raises:
            ValueError: `spec` has fewer frames than `length` samples need.
        """
        if not 1 <= self.frames_of(length) <= spec.shape[-1] or spec.shape[-2] != self.bins:
            raise ValueError(
                f"a spectrogram of {length} samples must have {self.bins} bins and {self.frames_of(length)} frames or "
                f"more: got {tuple(spec.shape)}."
            )
        window = _window(self.kind, self.window, spec.real.dtype, spec.device)
        flat = spec.reshape(-1, *spec.shape[-2:])  # (B, F, N)
        waves = torch.istft(flat, self.n_fft, self.hop, self.window, window, center=True, length=length)  # (B, T)
        return waves.reshape(*spec.shape[:-2], length)  # (..., T)

    def power(self, waves: Tensor) -> Tensor:
        """(..., T) -> (..., F, N) squared magnitudes."""
        spec = self(waves)
        return spec.real.square() + spec.imag.square()


def mel_filters(sample_rate: int, n_fft: int, bands: int, low_hz: float = 0.0, high_hz: float | None = None) -> Tensor:
    """Triangles on Slaney's mel scale, each of area one in Hz: (bands, F) float64, F = n_fft // 2 + 1.

    The scale is linear (200/3 Hz a mel) below 1 kHz and logarithmic (27 mel for a factor of 6.4) above it, as in
    Slaney's Auditory Toolbox (1998); equal to `librosa.filters.mel` (htk=False, norm="slaney").

    Args:
        sample_rate: Hz.
        n_fft: samples transformed.
        bands: number of triangles.
        low_hz: lower edge of the first triangle.
        high_hz: upper edge of the last; None = half the sample rate.
    """
    high_hz = sample_rate / 2 if high_hz is None else high_hz
    if bands < 1 or not 0 <= low_hz < high_hz <= sample_rate / 2:
        raise ValueError(
            f"mel filters need at least one band and 0 <= low_hz < high_hz <= {sample_rate / 2}: got {bands} bands "
            f"from {low_hz} to {high_hz} Hz."
        )
    step = math.log(6.4) / 27
    low, high = (15 + math.log(hz / 1000) / step if hz >= 1000 else hz * 3 / 200 for hz in (low_hz, high_hz))
    mels = torch.linspace(low, high, bands + 2, dtype=torch.float64)  # (bands + 2,)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp(step * (mels - 15)))  # (bands + 2,) Hz
    left, centre, right = (e[:, None] for e in (edges[:-2], edges[1:-1], edges[2:]))  # (bands, 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)  # (F,) Hz
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0)
    return triangles * 2 / (right - left)  # (bands, F)


def log_mel(waves: Tensor, stft: Stft, bands: int = 64, floor: float = FLOOR) -> Tensor:
    """Natural log of the mel power spectrogram: (..., T) -> (..., bands, N).

    Equal within 2e-3 nats to `librosa.feature.melspectrogram` (power 2, the Slaney scale) followed by
    `log(max(., floor))`.
    """
    matrix = _mel(stft.sample_rate, stft.n_fft, bands, waves.dtype, waves.device)  # (F, bands)

    def of(part: Tensor) -> Tensor:
        return (stft.power(part).transpose(-1, -2) @ matrix).clamp_min(floor).log()  # (..., N, bands)

    at_once = max(CHUNK_SAMPLES // max(waves.shape[-1], 1), 1)
    if waves.dim() != 2 or waves.device.type != "cpu" or len(waves) <= at_once:
        return of(waves).transpose(-1, -2)  # (..., bands, N)
    return torch.cat([of(part) for part in waves.split(at_once)]).transpose(-1, -2)  # (B, bands, N)


def log_power(waves: Tensor, stft: Stft, floor: float = FLOOR) -> Tensor:
    """Natural log of the power spectrogram: (..., T) -> (..., F, N)."""
    return stft.power(waves).clamp_min(floor).log()


def clip_peak(spec: Tensor, frames: Tensor | None = None) -> Tensor:
    """The largest value among each clip's real frames: (..., F, N), (...,) int64 or None -> (..., 1, 1)."""
    if frames is not None:
        real = torch.arange(spec.shape[-1], device=spec.device) < frames[..., None, None]  # (..., 1, N)
        spec = spec.masked_fill(~real, float("-inf"))
    return spec.amax(dim=(-2, -1), keepdim=True)  # (..., 1, 1)


def cepstrum(log_spec: Tensor, coefficients: int) -> Tensor:
    """First coefficients of the orthonormal DCT-II over the bands: (..., bands, N) -> (..., coefficients, N)."""
    bands = log_spec.shape[-2]
    if not 1 <= coefficients <= bands:
        raise ValueError(f"there are between 1 and {bands} coefficients of {bands} bands: got {coefficients}.")
    return _dct(coefficients, bands, log_spec.dtype, log_spec.device) @ log_spec  # (..., coefficients, N)


def mfcc(
    waves: Tensor,
    stft: Stft,
    coefficients: int = 20,
    bands: int = 128,
    top_db: float = 80.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """Mel-frequency cepstral coefficients of the power in dB: (..., T) -> (..., coefficients, N).

    Equal within 1e-2 to `librosa.feature.mfcc`. The dB range is cut at `top_db` below each clip's own peak, never a
    batch's, so that a clip's coefficients do not depend on its neighbours.

    Args:
        waves: (..., T).
        stft: the transform.
        coefficients: how many, from the zeroth.
        bands: mel bands, at least `coefficients`.
        top_db: range kept, dB.
        lengths: (...,) real samples; None = T. The peak is sought among real frames only.
    """
    decibel = log_mel(waves, stft, bands) * (10 / math.log(10))  # (..., bands, N)
    peak = clip_peak(decibel, None if lengths is None else stft.frames_of(lengths))
    return cepstrum(torch.maximum(decibel, peak - top_db), coefficients)  # (..., coefficients, N)


def compress(spec: Tensor, power: float = 0.3) -> Tensor:
    """Magnitudes to the `power`, phases as they are: (...) complex -> (...) complex.

    Ephrat et al. 2018, section 3, take 0.3. Below a magnitude of 1e-8 the curve is a straight line, so that the
    gradient stays finite at zero.
    """
    return spec * spec.abs().clamp_min(1e-8).pow(power - 1)


def expand(spec: Tensor, power: float = 0.3) -> Tensor:
    """The inverse of `compress` with the same `power`."""
    return spec * spec.abs().clamp_min(1e-30).pow(1 / power - 1)


def mix_at_snr(
    target: Tensor, noise: Tensor, snr_db: Tensor | float, within: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Add two sounds at a stated signal-to-noise ratio.

    Args:
        target: (..., T), kept at its level unless the mixture would leave [-1, 1].
        noise: (..., T), scaled.
        snr_db: 10 log10 of the ratio of their energies; a number or (...,).
        within: keep the mixture within [-1, 1]; False where more sounds follow.

    Returns:
        The mixture, and the target and the noise in it; mixture = target + noise. Where the mixture's peak would exceed
        1 all three are scaled down together.

    Raises:
        ValueError: shapes differ or a sound is silent.
    """
    if target.shape != noise.shape:
        raise ValueError(f"target and noise must have one shape: got {tuple(target.shape)} and {tuple(noise.shape)}.")
    energies = target.square().sum(-1), noise.square().sum(-1)  # (...,)
    for name, energy in zip(("target", "noise"), energies, strict=True):
        if not bool((energy > 0).all()):
            rows = (energy <= 0).nonzero().tolist()[:5]
            raise ValueError(f"a signal-to-noise ratio needs two sounds: the {name} is silent at {rows}. Leave it out.")
    ratio = 10 ** (torch.as_tensor(snr_db, dtype=target.dtype, device=target.device) / 10)  # (...,)
    noise = noise * (energies[0] / (energies[1] * ratio)).sqrt()[..., None]  # (..., T)
    if within:
        gain = (target + noise).abs().amax(-1, keepdim=True).clamp_min(1).reciprocal()  # (..., 1)
        target, noise = target * gain, noise * gain
    return target + noise, target, noise


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, larger is better (a loss is its negative): (..., T) -> (...,).

    Le Roux et al. 2019, eq. 5, of signals less their means, from the explicit residual, which stays exact in float32
    where inner products alone would not. A silent target or estimate gives -80 dB and no gradient; a perfect estimate
    gives 120 dB.

    >>> target = torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> round(si_sdr(target + torch.tensor([0.1, 0.1, -0.1, -0.1]), target).item(), 3)
    20.0
    """
    if estimate.shape != target.shape:
        raise ValueError(f"estimate and target must pair up: got {tuple(estimate.shape)} and {tuple(target.shape)}.")
    with torch.autocast(estimate.device.type, enabled=False):  # which takes inner products in bfloat16
        (e, _, flat_e), (s, energy, flat_s) = _centred(estimate), _centred(target)
        scale = (torch.linalg.vecdot(e, s) / energy.clamp_min(1e-30)).masked_fill(flat_e | flat_s, 0.0)  # (...,)
        left = torch.addcmul(e, scale[..., None], s, value=-1)  # (..., T)
        kept, lost = scale.square() * energy, torch.linalg.vecdot(left, left)  # (...,)
    least = kept.detach() * 10 ** (-HIGHEST_DB / 10) + 1e-30
    return 10 * (kept / torch.maximum(lost, least)).clamp_min(10 ** (LOWEST_DB / 10)).log10()  # (...,)


def pit(estimates: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """SI-SDR under the order of the estimates that is best on average (permutation invariant, Yu et al. 2017).

    The order is found without gradient from inner products; the pairs chosen are then measured by `si_sdr`.

    Args:
        estimates: (B, S, T).
        targets: (B, S, T), S at most 6.

    Returns:
        scores: (B, S_ref) dB, with gradient.
        order: (B, S_ref) int64; `order[b, j]` is the estimate given to target j.
    """
    if estimates.shape != targets.shape or targets.dim() != 3 or not 1 <= targets.shape[1] <= MOST_SOURCES:
        raise ValueError(
            f"estimates and targets must both be (B, S, T) with S of 1 to {MOST_SOURCES}: got {tuple(estimates.shape)} "
            f"and {tuple(targets.shape)}."
        )
    sources = targets.shape[1]
    with torch.no_grad(), torch.autocast(targets.device.type, enabled=False):
        (e, ours, _), (s, theirs, _) = (_centred(x.float()) for x in (estimates, targets))  # (B, S, T), (B, S)
        share = (e @ s.transpose(1, 2)).square() / (ours[:, :, None] * theirs[:, None]).clamp_min(1e-30)
        share = share.clamp(10 ** (LOWEST_DB / 10), 1 - 1e-7)  # (B, S_est, S_ref)
        pairwise = (share / (1 - share)).log10()  # (B, S_est, S_ref)
        orders = torch.tensor(list(itertools.permutations(range(sources))), device=targets.device)  # (P, S_ref)
        totals = pairwise[:, orders, torch.arange(sources, device=targets.device)].sum(-1)  # (B, P)
        order = orders[totals.argmax(1)]  # (B, S_ref)
    chosen = estimates[torch.arange(len(order), device=order.device)[:, None], order]  # (B, S_ref, T)
    return si_sdr(chosen, targets), order


def is_silent(waves: Tensor) -> Tensor:
    """Whether a wave is zero or constant, which `si_sdr` gives -80 dB: (..., T) -> (...,) bool."""
    return _centred(waves)[2]  # (...,)


class BssStatistics(NamedTuple):
    """Correlations of waves that are zero outside their T samples: all that BSS-eval's projections need; float64.

    The inner product of reference i shifted by k samples with reference j shifted by l is auto[i, j, k - l], or
    auto[j, i, l - k] where l > k; that of reference j shifted by m with estimate e is cross[e, j, m].

    Attributes:
        auto: (..., S, S, taps); auto[i, j, m] is the sum over t of reference_i(t) * reference_j(t + m).
        cross: (..., E, S, taps); cross[e, j, m] is the sum over t of reference_j(t) * estimate_e(t + m).
    """

    auto: Tensor
    cross: Tensor


def bss_statistics(estimates: Tensor, references: Tensor, taps: int = 512) -> BssStatistics:
    """Correlations of references with each other and with estimates, by FFT in float64.

    Args:
        estimates: (..., E, T).
        references: (..., S, T).
        taps: samples of the filter that a reference may pass through, 512 in BSS-eval.

    Raises:
        ValueError: lengths or leading axes differ, or taps is below 1.
    """
    shapes = tuple(estimates.shape), tuple(references.shape)
    if min(map(len, shapes)) < 2 or shapes[0][:-2] != shapes[1][:-2] or shapes[0][-1] != shapes[1][-1] or taps < 1:
        raise ValueError(
            "estimates (..., E, T) and references (..., S, T) must differ in E and S alone, and taps be at least 1: "
            f"got {shapes[0]}, {shapes[1]} and {taps}."
        )
    _at_least_one_sample(references)
    n_fft = 4 << (taps - 1).bit_length()  # blocks that stay in the cache; their products are added up
    step = n_fft - taps + 1
    behind = -shapes[1][-1] % step + taps - 1
    e, s = (F.pad(waves.double(), (0, behind)) for waves in (estimates, references))  # (..., K * step + taps - 1)
    first = torch.fft.rfft(s[..., : 1 - taps or None].unflatten(-1, (-1, step)), n_fft).conj()  # (..., S, K, F)
    e, s = (torch.fft.rfft(waves.unfold(-1, n_fft, step)) for waves in (e, s))  # (..., E or S, K, F)
    auto = torch.fft.irfft(torch.einsum("...ikf,...jkf->...ijf", first, s), n_fft)  # (..., S, S, n_fft)
    cross = torch.fft.irfft(torch.einsum("...jkf,...ekf->...ejf", first, e), n_fft)  # (..., E, S, n_fft)
    return BssStatistics(auto[..., :taps].contiguous(), cross[..., :taps].contiguous())


def _centred(waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Less their mean, the energy of that, and whether it is the rounding of a constant: (..., T), (...,), (...,)."""
    mean = waves.mean(-1, keepdim=True)  # (..., 1)
    centred = waves - mean  # (..., T)
    energy = torch.linalg.vecdot(centred, centred)  # (...,)
    return centred, energy, energy <= 1e-12 * (energy + waves.shape[-1] * mean[..., 0].square())


def _at_least_one_sample(waves: Tensor) -> None:
    if waves.shape[-1] == 0 or not waves.is_floating_point():
        raise ValueError(f"waves must be float with at least one sample: got {waves.dtype} {tuple(waves.shape)}.")


# Built in float64 once for each precision and device. inference_mode(False): a tensor first made under inference mode
# could never be used where gradients flow.


@lru_cache
def _window(kind: str, samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        build = torch.hamming_window if kind == "hamming" else torch.hann_window
        return build(samples, periodic=True, dtype=torch.float64).to(device, dtype)  # (window,)


@lru_cache
def _mel(sample_rate: int, n_fft: int, bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return mel_filters(sample_rate, n_fft, bands).T.contiguous().to(device, dtype)  # (F, bands)


@lru_cache
def _dct(coefficients: int, bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        k = torch.arange(coefficients, dtype=torch.float64)[:, None]  # (coefficients, 1)
        m = torch.arange(bands, dtype=torch.float64)  # (bands,)
        matrix = torch.cos(math.pi * k * (2 * m + 1) / (2 * bands)) * math.sqrt(2 / bands)  # (coefficients, bands)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device, dtype)
