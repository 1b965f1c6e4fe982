"""Losses of separated voices. A silent target moves nothing: nobody has said how its estimate should sound."""

from __future__ import annotations

import torch
from torch import Tensor

from mm.signal import HIGHEST_DB, Stft, compress, si_sdr

SILENT = 1e-8  # mean square of a target below which it is silent: 80 dB below full scale
GOOD_ENOUGH_DB = 30.0  # of the signal-to-noise ratio: what is better pulls less and less


def si_sdr_loss(estimates: Tensor, targets: Tensor) -> Tensor:
    """Minus the scale-invariant ratio in dB on average over the targets that are not silent: (..., T) -> ().

    The level of an estimate is free: overlapping windows of a long sound then differ in it. `snr_loss` pins it.
    """
    return mean_over_speaking(-si_sdr(estimates.float(), targets.float()), targets)


def snr_loss(estimates: Tensor, targets: Tensor) -> Tensor:
    """Minus the signal-to-noise ratio in dB, soft above 30 dB, on average over the targets that are not silent.

    Wisdom et al. 2020 (mixture invariant training), eq. 2: 10 log10(|s|^2 / (|s - e|^2 + tau |s|^2)).

    Args:
        estimates: (..., T).
        targets: (..., T).

    Returns:
        () float32.
    """
    estimates, targets = estimates.float(), targets.float()
    energy = targets.square().sum(-1)  # (...,)
    lost = (targets - estimates).square().sum(-1) + 10 ** (-GOOD_ENOUGH_DB / 10) * energy  # (...,)
    ratio = energy.clamp_min(10 ** (-HIGHEST_DB / 10)) / lost.clamp_min(10 ** (-HIGHEST_DB / 10))
    return mean_over_speaking(-10 * ratio.log10(), targets)


def compressed_loss(estimates: Tensor, targets: Tensor, stft: Stft, power: float = 0.3) -> Tensor:
    """Mean squared distance between compressed complex spectrograms (Ephrat et al. 2018, section 3.2).

    Waves are measured at the level of their target, so that quiet ones count as much as loud ones.

    Args:
        estimates: (..., T).
        targets: (..., T).
        stft: in which they are compared.
        power: magnitudes are raised to it, phases stay.

    Returns:
        () float32, on average over the targets that are not silent.
    """
    level = targets.float().square().mean(-1, keepdim=True).clamp_min(SILENT).sqrt()  # (..., 1)
    level = level * stft.window**0.5  # a bin of noise then has a magnitude about 1
    ours, theirs = (compress(stft(x.float() / level), power) for x in (estimates, targets))  # (..., F, N)
    return mean_over_speaking((ours - theirs).abs().square().mean(dim=(-2, -1)), targets)


def mean_over_speaking(losses: Tensor, targets: Tensor) -> Tensor:
    """The mean over the targets that are not silent: (...,), (..., T) -> (); 0 without gradient where all are."""
    speaking = targets.float().square().mean(-1) > SILENT  # (...,)
    kept = torch.where(speaking, losses, torch.zeros_like(losses))  # (...,)
    return kept.sum() / speaking.sum().clamp_min(1)
