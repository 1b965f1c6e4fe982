"""The separator: as many masks as faces, in their order, at the right times; and what each kind of mask can reach."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mm.features import Features
from mm.heads.separator import MOST_FACES, Separator, SeparatorConfig, ideal_mask, masked, others
from mm.signal import Stft, si_sdr

BINS, FRAMES, VIDEO_FRAMES = 9, 21, 12
TRUNKS = ("recurrent", "convolutional")


def features(map: Tensor, lengths: Tensor | None = None) -> Features:
    batch, places, _ = map.shape
    mask = torch.ones(batch, places, dtype=torch.bool)
    if lengths is not None:
        mask = torch.arange(places) < lengths[:, None]
    return Features(map * mask[..., None], mask, map.mean(1), (places,))


def separator(trunk: str = "recurrent", mask: str = "complex", heard_only: bool = False) -> Separator:
    torch.manual_seed(0)
    cfg = SeparatorConfig(mask=mask, trunk=trunk, width=16, blocks=3)
    return Separator(6, 5, BINS, 25.0, 0.02, cfg, heard_only).eval()


def inputs(batch: int = 2, sources: int = 2) -> tuple[Features, Features]:
    generator = torch.Generator().manual_seed(1)
    audio = features(torch.randn(batch, FRAMES, 6, generator=generator))
    return audio, features(torch.randn(batch * sources, VIDEO_FRAMES, 5, generator=generator))


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("sources", range(1, MOST_FACES + 1))
def test_the_same_weights_serve_one_to_four_faces_and_permuting_the_faces_permutes_the_masks(trunk, sources) -> None:
    head = separator(trunk)
    audio, faces = inputs(2, sources)
    with torch.no_grad():
        masks = head(audio, faces, sources)
        order = torch.randperm(sources, generator=torch.Generator().manual_seed(3))
        permuted = faces._replace(map=faces.map.unflatten(0, (2, sources))[:, order].flatten(0, 1))
        assert masks.shape == (2, sources, BINS, FRAMES)
        torch.testing.assert_close(head(audio, permuted, sources), masks[:, order], rtol=1e-5, atol=1e-5)
    if sources > 1:
        assert (masks[:, 0] - masks[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("trunk", TRUNKS)
def test_two_identical_faces_get_identical_masks(trunk) -> None:
    head = separator(trunk)
    audio, faces = inputs()
    twice = faces._replace(map=faces.map[::2].repeat_interleave(2, dim=0))
    with torch.no_grad():
        masks = head(audio, twice, 2)
    torch.testing.assert_close(masks[:, 0], masks[:, 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_batch_gives_what_each_mixture_gives_alone_and_padding_changes_nothing(trunk) -> None:
    head = separator(trunk)
    audio, faces = inputs(3)
    frames, shown = torch.tensor([21, 13, 17]), torch.tensor([12, 12, 8, 5, 9, 10])
    with torch.no_grad():
        together = head(features(audio.map, frames), features(faces.map, shown), 2)
        for b in range(3):
            own = features(audio.map[b : b + 1, : frames[b]])
            rows = slice(2 * b, 2 * b + 2)
            longest = int(shown[rows].max())
            seen = features(faces.map[rows, :longest], shown[rows])
            alone = head(own, seen, 2)
            torch.testing.assert_close(together[b : b + 1, :, :, : frames[b]], alone, rtol=1e-5, atol=1e-5)


def test_faces_are_aligned_by_time() -> None:
    head = separator()  # 25 frames a second, a frame of sound every 20 ms: two for one
    audio, _ = inputs(1, 1)
    ramp = torch.arange(float(VIDEO_FRAMES)).expand(5, -1).T[None]  # (1, N, 5): the number of the frame
    timed = head.timed(features(ramp), 1, audio)[0, 0, :, 0]
    expected = (torch.arange(FRAMES) * 0.02 * 25).clamp_max(VIDEO_FRAMES - 1)
    torch.testing.assert_close(timed, expected)
    short = head.timed(features(ramp, torch.tensor([4])), 1, audio)[0, 0, :, 0]
    torch.testing.assert_close(short, expected.clamp_max(3))  # the last real frame stays


def test_the_others_are_their_mean_and_nobody_is_zero() -> None:
    x = torch.randn(2, 3, 4)
    slow = torch.stack([torch.stack([x[:, j] for j in range(3) if j != k]).mean(0) for k in range(3)], dim=1)
    torch.testing.assert_close(others(x), slow)
    assert others(x[:, :1]).abs().max() < 1e-6


def test_a_mask_of_magnitudes_lies_in_0_to_1() -> None:
    audio, faces = inputs()
    head = separator(mask="magnitude")
    with torch.no_grad():
        head.out.weight.mul_(20)
        masks = head(audio, faces, 2)
    assert masks.dtype == torch.float32
    assert 0 <= masks.min() < 0.05
    assert 0.95 < masks.max() <= 1


def test_complex_and_phase_sensitive_masks_may_turn_signs() -> None:
    audio, faces = inputs()
    with torch.no_grad():
        found = separator(mask="complex")(features(100 * audio.map), faces, 2)
        real = separator(mask="phase_sensitive")(features(100 * audio.map), faces, 2)
    assert found.is_complex()
    assert found.imag.abs().max() > 0.01
    assert real.dtype == torch.float32
    assert real.min() < 0 < real.max()


def test_without_faces_each_voice_has_a_query_of_its_own() -> None:
    head = separator(heard_only=True)
    audio, faces = inputs()
    with torch.no_grad():
        masks = head(audio, None, 3)
    assert masks.shape[1] == 3
    assert (masks[:, 0] - masks[:, 1]).abs().max() > 1e-3
    sized = [sum(p.numel() for p in separator(heard_only=flag).parameters()) for flag in (False, True)]
    assert sized[1] - sized[0] == MOST_FACES * 5  # the queries
    with pytest.raises(ValueError, match="separates 1 to 4 voices: got 5"):
        head(audio, None, 5)
    with pytest.raises(ValueError, match="a model with faces needs them"):
        separator()(audio, None, 2)
    with pytest.raises(ValueError, match="2 mixtures of 3 must have as many faces: got 4"):
        separator()(audio, faces, 3)


@pytest.mark.parametrize("changes", [{"width": 15}, {"width": 0}, {"blocks": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_sizes_out_of_range_are_rejected(changes) -> None:
    cfg = dataclasses.replace(SeparatorConfig(), **changes)
    with pytest.raises(ValueError, match=r"head\.width must be even"):
        Separator(6, 5, BINS, 25.0, 0.02, cfg)


def tones() -> tuple[Tensor, Tensor]:
    """Two voices (2, T) with harmonics that cross, and their sum."""
    generator = torch.Generator().manual_seed(5)
    t = torch.arange(16000) / 8000
    waves = []
    for pitch, rate in ((120.0, 3.0), (170.0, 2.3)):
        phase = 2 * torch.pi * torch.cumsum(pitch * (1 + 0.1 * torch.sin(2 * torch.pi * rate * t)), 0) / 8000
        wave = sum(torch.sin(k * phase) / k for k in range(1, 12))
        waves.append(
            0.1 * wave * (0.2 + torch.sin(torch.pi * rate * t).abs()) + 0.002 * torch.randn(16000, generator=generator)
        )
    targets = torch.stack(waves)
    return targets, targets.sum(0)


def test_ideal_masks_reach_their_bounds() -> None:
    targets, mixture = tones()
    stft = Stft(8000, 0.032, 0.008)
    spec, target_spec = stft(mixture), stft(targets)
    reached = {}
    for kind in ("complex", "phase_sensitive", "magnitude"):
        mask = ideal_mask(kind, target_spec, spec.expand_as(target_spec))[None]  # (1, S, F, N)
        voices = stft.inverse(masked(mask, spec[None]), 16000)[0]
        reached[kind] = float((si_sdr(voices, targets) - si_sdr(mixture.expand_as(targets), targets)).mean())
    assert reached["complex"] > 60
    assert reached["complex"] > reached["phase_sensitive"] > reached["magnitude"] > 6


def test_the_phase_sensitive_mask_is_the_best_real_number() -> None:
    targets, mixture = tones()
    stft = Stft(8000, 0.032, 0.008)
    spec, target = stft(mixture), stft(targets[0])
    mask = ideal_mask("phase_sensitive", target, spec)
    best = (target - mask * spec).abs()
    for other in (mask + 0.05, mask - 0.05, ideal_mask("magnitude", target, spec)):
        assert bool((best <= (target - other * spec).abs() + 1e-6).all())


def test_where_the_mixture_is_zero_the_ideal_mask_is_finite() -> None:
    zero = torch.zeros(3, 4, dtype=torch.complex64)
    for kind in ("complex", "phase_sensitive", "magnitude"):
        assert bool((ideal_mask(kind, zero, zero) == 0).all())
