"""The encoder of the frames of a spectrogram: what it sees, and that neither level nor padding changes it."""

from __future__ import annotations

import pytest
import torch

from mm.encoders.spectrogram import SpectrogramEncoder, level
from mm.signal import Stft, compress

RATE = 8000


def encoder(**options) -> SpectrogramEncoder:
    torch.manual_seed(0)
    return SpectrogramEncoder(**{"sample_rate": RATE, "window_s": 0.032, "hop_s": 0.016, "width": 24, **options}).eval()


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def test_what_is_seen_is_the_compressed_spectrum_at_a_level_of_one() -> None:
    (wave,) = waves(5000)
    stft = Stft(RATE, 0.032, 0.016)
    spec = compress(stft(wave / wave.square().mean().sqrt()) / stft.window**0.5, 0.3)
    expected = torch.stack([spec.abs(), spec.real, spec.imag])
    torch.testing.assert_close(encoder().seen(wave[None])[0], expected)
    assert 0.5 < expected[0].mean() < 1.5


def test_a_vector_for_each_frame() -> None:
    model = encoder()
    (wave,) = waves(5000)
    with torch.no_grad():
        found = model(wave[None])
    assert found.map.shape == (1, model.stft.frames_of(5000), 24)
    assert found.grid == (model.stft.frames_of(5000),)
    torch.testing.assert_close(found.vector, found.map.mean(dim=1))


def test_how_loud_a_recording_is_does_not_matter_unless_it_is_silent() -> None:
    model = encoder()
    (wave,) = waves(4000)
    with torch.no_grad():
        one, loud = model(wave[None]).map, model(7 * wave[None]).map
        hiss = model(1e-6 * wave[None]).map
        nothing = model(torch.zeros(1, 4000)).map
    torch.testing.assert_close(one, loud, rtol=1e-4, atol=1e-4)
    assert bool(torch.isfinite(nothing).all())
    assert (hiss - nothing).norm() < 0.5 * (one - nothing).norm()  # compressed, but not lifted


def test_a_batch_gives_what_each_clip_gives_alone() -> None:
    model = encoder()
    clips = waves(5000, 3111, 4096)
    together = model.encode(clips)
    for row, clip in enumerate(clips):
        alone = model.encode([clip])
        frames = alone.map.shape[1]
        assert together.mask[row].sum() == frames
        torch.testing.assert_close(together.map[row, :frames], alone.map[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.vector[row], alone.vector[0], rtol=1e-4, atol=1e-4)


def test_a_frame_hears_eight_frames_either_way_and_no_more() -> None:
    model = encoder()
    (wave,) = waves(8000)
    wave = wave * 0 + 0.1 * torch.sin(torch.arange(8000.0) * 0.3)  # so that the level hardly moves
    other = wave.clone()
    other[4000] += 0.5
    with torch.no_grad():
        changed = (model(wave[None]).map - model(other[None]).map).norm(dim=-1)[0]
    centre, reach = round(4000 / RATE / 0.016), 7 + 1  # dilations 1 + 2 + 4, and a window reaches a hop either way
    far = torch.cat([changed[: centre - reach], changed[centre + reach + 1 :]])
    assert changed[centre] > 50 * far.max()


def test_level_counts_real_samples() -> None:
    wave = torch.full((1, 100), 0.5)
    padded = torch.cat([wave, torch.zeros(1, 300)], dim=1)
    assert level(padded, torch.tensor([100])).item() == pytest.approx(0.5)
    assert level(torch.zeros(1, 100)).item() == pytest.approx(1e-4)


def test_it_is_kept_and_read_back(tmp_path) -> None:
    model = encoder(power=0.5)
    model.save_pretrained(tmp_path)
    again = SpectrogramEncoder.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.fingerprint() == model.fingerprint()
    assert encoder(power=0.4).fingerprint() != model.fingerprint()


@pytest.mark.parametrize("options", [{"power": 0}, {"power": 1.5}, {"width": 0}])
def test_numbers_out_of_range_are_rejected(options) -> None:
    with pytest.raises(ValueError, match="power must lie in"):
        encoder(**options)


def test_a_view_is_rejected() -> None:
    with pytest.raises(ValueError, match="sounds have no fixed crops"):
        encoder().prepare(torch.zeros(10), view=1)
