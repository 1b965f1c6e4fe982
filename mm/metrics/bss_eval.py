"""What references explain of an estimate when each may pass a filter first: the projections of BSS-eval version 3.

Vincent et al. 2006, section III.B: the least-squares projection onto the shifts of the references by 0 .. taps - 1
samples, with zeros before and behind. No reference may be silent (`mm.signal.is_silent`).
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq, matmul_toeplitz, solve_toeplitz, toeplitz
from scipy.signal import oaconvolve
from torch import Tensor

from mm.signal import bss_statistics

TAPS = 512  # of BSS-eval version 3
EXACT, ROUNDING = 1e-6, 1e-14  # how far two ways to count what is left may lie apart: share of it, and of the whole


def explained(estimates: Tensor, references: Tensor, taps: int = TAPS) -> tuple[np.ndarray, np.ndarray]:
    """What references together explain of each estimate, and the rest of it.

    Args:
        estimates: (K, T) float64.
        references: (S, T) float64.
        taps: of the filter of each reference.

    Returns:
        Two waves whose sum is an estimate with zeros behind: (K, T + taps - 1) float64 each.
    """
    references = F.normalize(references, dim=-1)  # so that quiet ones do not count as rounding
    auto, cross = (x.numpy() for x in bss_statistics(estimates, references, taps))  # (S, S, taps), (K, S, taps)
    numbers = range(len(references))
    gram = np.block([[toeplitz(auto[i, j], auto[j, i]) for j in numbers] for i in numbers])  # (S taps, S taps)
    sides = cross.reshape(len(cross), -1).T  # (S taps, K)
    try:
        filters = cho_solve(cho_factor(gram), sides)  # (S taps, K)
    except LinAlgError:  # rounding has made it singular: take the smallest of all filters that are equally good
        filters = lstsq(gram, sides)[0]  # (S taps, K)
    part = oaconvolve(references[None].numpy(), filters.T.reshape(cross.shape), axes=-1).sum(1)  # (K, T + taps - 1)
    return part, np.pad(estimates.numpy(), ((0, 0), (0, taps - 1))) - part


def energies(estimates: Tensor, reference: Tensor, taps: int = TAPS) -> tuple[np.ndarray, np.ndarray]:
    """The energy of what one reference explains of each estimate, and that of the rest, by a Toeplitz solver.

    Levinson's recursion is fastest, but loses every digit where a sound is nearly predictable from its own past, as
    speech without its highest frequencies and with silence at both ends. What it leaves then differs from what it
    should leave, and `explained` takes its place.

    Args:
        estimates: (K, T) float64.
        reference: (T,) float64.
        taps: of the filter.

    Returns:
        (K,) float64 each.
    """
    statistics = bss_statistics(estimates, reference[None], taps)
    auto, cross = statistics.auto[0, 0].numpy(), statistics.cross[:, 0].numpy().T  # (taps,), (taps, K)
    whole = estimates.square().sum(-1).numpy()  # (K,)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            filters = solve_toeplitz(auto, cross)  # (taps, K)
            kept, ideal = ((filters * x).sum(0) for x in (matmul_toeplitz(auto, filters, check_finite=False), cross))
            right = np.abs(kept - ideal) <= EXACT * (whole - ideal) + ROUNDING * whole  # (K,)
    except LinAlgError:  # a pivot is zero
        right = np.zeros(len(whole), bool)
    if right.all():
        return kept, np.maximum(whole - ideal, 0)
    part, rest = explained(estimates, reference[None], taps)  # (K, T + taps - 1) each
    return np.square(part).sum(-1), np.square(rest).sum(-1)
