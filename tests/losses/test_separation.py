"""Losses of separated voices: their definitions, that silence moves nothing, and that levels count."""

from __future__ import annotations

import pytest
import torch

from mm.losses import compressed_loss, si_sdr_loss, snr_loss
from mm.signal import Stft, compress, si_sdr

STFT = Stft(8000, 0.032, 0.016)
LOSSES = {
    "si_sdr": si_sdr_loss,
    "snr": snr_loss,
    "compressed": lambda estimates, targets: compressed_loss(estimates, targets, STFT),
}


def voices(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_si_sdr_loss_is_minus_the_mean_and_blind_to_the_level() -> None:
    targets, noise = voices(2, 3, 4000), voices(2, 3, 4000, seed=1)
    estimates = targets + 0.3 * noise
    assert si_sdr_loss(estimates, targets).item() == pytest.approx(-si_sdr(estimates, targets).mean().item(), abs=1e-5)
    assert si_sdr_loss(7 * estimates, targets).item() == pytest.approx(si_sdr_loss(estimates, targets).item(), abs=1e-3)


def test_snr_loss_is_minus_the_ratio_and_soft_above_30_db() -> None:
    targets, noise = voices(1, 8000).double(), voices(1, 8000, seed=1).double()
    noise = noise * (targets.norm() / noise.norm())
    for decibel in (-10.0, 0.0, 10.0):
        ratio = 10 ** (decibel / 10)
        loss = snr_loss(targets + noise / ratio**0.5, targets).item()
        assert loss == pytest.approx(-decibel + 10 * torch.tensor(1 + 1e-3 * ratio).log10().item(), abs=1e-3)
    assert snr_loss(targets, targets).item() == pytest.approx(-30, abs=1e-3)
    assert snr_loss(0.5 * targets, targets) > snr_loss(targets, targets) + 20  # the level counts


def test_compressed_loss_is_the_distance_of_compressed_spectra_at_the_level_of_the_target() -> None:
    targets, estimates = voices(2, 2, 3000), voices(2, 2, 3000, seed=1)
    rows = []
    for b in range(2):
        for s in range(2):
            level = targets[b, s].square().mean().sqrt() * STFT.window**0.5
            ours, theirs = compress(STFT(estimates[b, s] / level), 0.3), compress(STFT(targets[b, s] / level), 0.3)
            rows.append((ours - theirs).abs().square().mean())
    assert compressed_loss(estimates, targets, STFT, 0.3).item() == pytest.approx(
        torch.stack(rows).mean().item(), rel=1e-5
    )
    quiet = compressed_loss(0.01 * estimates, 0.01 * targets, STFT, 0.3).item()
    assert quiet == pytest.approx(compressed_loss(estimates, targets, STFT, 0.3).item(), rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_a_silent_target_moves_nothing_and_does_not_count(name) -> None:
    loss = LOSSES[name]
    targets, estimates = voices(2, 2, 3000), voices(2, 2, 3000, seed=1).requires_grad_()
    speaking = loss(estimates[:, :1], targets[:, :1]).item()
    silent = torch.cat([targets[:, :1], torch.zeros(2, 1, 3000)], dim=1)
    found = loss(estimates, silent)
    found.backward()
    assert found.item() == pytest.approx(speaking, rel=1e-5)
    assert bool((estimates.grad[:, 1] == 0).all())
    assert bool((estimates.grad[:, 0] != 0).any())


@pytest.mark.parametrize("name", LOSSES)
def test_only_silence_gives_a_loss_of_zero_and_finite_gradients(name) -> None:
    estimates = voices(1, 2, 3000).requires_grad_()
    loss = LOSSES[name](estimates, torch.zeros(1, 2, 3000))
    loss.backward()
    assert loss.item() == 0
    assert bool((estimates.grad == 0).all())


@pytest.mark.parametrize("name", LOSSES)
def test_silent_and_perfect_estimates_have_finite_gradients(name) -> None:
    targets = voices(1, 2, 3000)
    for estimates in (torch.zeros_like(targets), targets.clone(), 1e-6 * targets):
        estimates.requires_grad_()
        LOSSES[name](estimates, targets).backward()
        assert bool(torch.isfinite(estimates.grad).all())


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_falls_along_its_gradient(name) -> None:
    targets = voices(2, 2, 3000)
    estimates = (targets + voices(2, 2, 3000, seed=1)).requires_grad_()
    before = LOSSES[name](estimates, targets)
    before.backward()
    step = 1e-3 * estimates.norm() / estimates.grad.norm()
    assert LOSSES[name](estimates - step * estimates.grad, targets) < before
