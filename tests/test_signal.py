import itertools
import math
import time

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm import signal
from mm.signal import Stft

RATE = 16000
STFT = Stft(RATE)
LIBROSA = {
    "n_fft": 512,
    "hop_length": 160,
    "win_length": 400,
    "window": "hamming",
    "center": True,
    "pad_mode": "constant",
}


def waves(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 0.1


def decibel(true, other):
    return 10 * math.log10(
        float(true.double().square().sum() / (true - other).double().square().sum().clamp_min(1e-300))
    )


# STFT ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hamming", "hann"])
@pytest.mark.parametrize("length", [1, 2, 159, 160, 399, 400, 401, 513, 16000, 23456, 33333, 48001, 79999])
def test_inverse_gives_the_wave_back(kind, length):
    stft = Stft(RATE, kind=kind)
    for dtype, least in ((torch.float32, 120), (torch.float64, 250)):
        x = waves(2, length, dtype=dtype)
        spec = stft(x)
        assert spec.dtype == dtype.to_complex() and spec.shape == (2, 257, stft.frames_of(length))
        back = stft.inverse(spec, length)
        assert back.shape == x.shape and decibel(x, back) > least


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 3000), rate=st.sampled_from([8000, 16000, 22050]), seed=st.integers(0, 99))
def test_inverse_gives_any_length_back(length, rate, seed):
    stft = Stft(rate)
    x = waves(length, seed=seed)
    assert decibel(x, stft.inverse(stft(x), length)) > 120


@pytest.mark.parametrize("kind", ["hamming", "hann"])
@pytest.mark.parametrize("length", [520, 16000, 23457])
def test_stft_equals_librosa(kind, length):
    x = waves(length, dtype=torch.float64)
    true = librosa.stft(x.numpy(), **LIBROSA | {"window": "hamm" if kind == "hamming" else "hann"})
    ours = Stft(RATE, kind=kind)(x.float()[None, None])
    assert ours.shape == (1, 1, *true.shape) and ours.dtype == torch.complex64
    assert np.abs(ours[0, 0].numpy() - true).max() / np.abs(true).max() < 5e-7


def test_stft_equals_a_naive_transform():
    stft = Stft(8000, window_s=0.004, hop_s=0.002, kind="hann")
    assert (stft.window, stft.hop, stft.n_fft) == (32, 16, 32)
    x = waves(50, dtype=torch.float64)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / 32) for i in range(32)]
    spec = stft(x)
    for f, n in itertools.product((0, 1, 7, 16), range(4)):
        total = 0j
        for i in range(32):
            t = n * 16 - 16 + i
            if 0 <= t < 50:
                total += float(x[t]) * window[i] * np.exp(-2j * math.pi * f * i / 32)
        assert abs(complex(spec[f, n]) - total) < 1e-12


def test_zero_padding_changes_no_real_frame():
    lengths = torch.tensor([1, 159, 400, 5001, 16000])
    clips = [waves(n, seed=i) for i, n in enumerate(lengths.tolist())]
    batch = torch.zeros(5, 16000)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    frames = STFT.frames_of(lengths)
    many = STFT(batch), signal.log_mel(batch, STFT), signal.mfcc(batch, STFT, bands=40, lengths=lengths)
    for b, clip in enumerate(clips):
        single = STFT(clip), signal.log_mel(clip, STFT), signal.mfcc(clip, STFT, bands=40)
        assert single[0].shape[-1] == int(frames[b]) == STFT.frames_of(len(clip))
        for one, all_ in zip(single, many, strict=True):
            torch.testing.assert_close(all_[b, :, : frames[b]], one, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind": "boxcar"}, "must be 'hamming' or 'hann': got 'boxcar'"),
        ({"hop_s": 0.02}, "at most half a window: got 320 and 400 samples"),
        ({"hop_s": 0.0}, "at least one sample"),
        ({"n_fft": 256}, "n_fft must hold a window of 400 samples: got 256"),
    ],
)
def test_bad_transforms(settings_, message):
    with pytest.raises(ValueError, match=message):
        Stft(RATE, **settings_)


def test_bad_waves_and_spectrograms():
    with pytest.raises(ValueError, match="float with at least one sample"):
        STFT(torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"float with at least one sample: got torch\.int16"):
        STFT(torch.zeros(2, 100, dtype=torch.int16))
    with pytest.raises(ValueError, match="must have 257 bins and 101 frames"):
        STFT.inverse(STFT(waves(8000)), 16000)


def test_constants_made_under_inference_mode_can_train():
    stft = Stft(RATE, window_s=0.0125, hop_s=0.005)
    with torch.inference_mode():
        signal.mfcc(waves(1, 1000), stft, coefficients=3, bands=11)
    x = waves(1, 1000).requires_grad_()
    signal.mfcc(x, stft, coefficients=3, bands=11).sum().backward()
    assert torch.isfinite(x.grad).all()


# Mel and cepstrum ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "n_fft", "bands", "low", "high"),
    [(16000, 512, 64, 0, None), (8000, 256, 23, 0, None), (22050, 2048, 128, 0, None), (16000, 512, 40, 125, 7500)],
)
def test_mel_filters_equal_librosa(rate, n_fft, bands, low, high):
    true = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high)
    ours = signal.mel_filters(rate, n_fft, bands, low, high)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), true, rtol=1e-5, atol=1e-8)


def test_bad_mel_filters():
    for kwargs in ({"bands": 0}, {"bands": 4, "low_hz": 9000}, {"bands": 4, "high_hz": 9000}):
        with pytest.raises(ValueError, match="mel filters need at least one band"):
            signal.mel_filters(RATE, 512, **kwargs)


def test_log_mel_equals_librosa():
    x = waves(70, 16001) * torch.logspace(-4, 0.5, 70)[:, None]
    x[3, 4000:] = 0
    ours = signal.log_mel(x, STFT)
    assert ours.shape == (70, 64, 101)
    for clip, one in zip(x.numpy(), ours.numpy(), strict=True):
        true = librosa.feature.melspectrogram(y=clip, sr=RATE, n_mels=64, **LIBROSA)
        assert np.abs(one - np.log(np.maximum(true, 1e-10))).max() < 2e-3


def test_log_mel_in_parts_has_the_gradient_of_the_whole():
    x = waves(70, 16001).requires_grad_()
    assert len(x) > signal.CHUNK_SAMPLES // 16001  # so that it is cut into parts
    signal.log_mel(x, STFT).square().mean().backward()
    y = x.detach()[None].requires_grad_()  # three axes are not cut
    signal.log_mel(y, STFT).square().mean().backward()
    torch.testing.assert_close(x.grad, y.grad[0], rtol=1e-5, atol=1e-9)


def test_log_power_is_the_log_of_librosas_power():
    x = waves(5000)
    true = np.log(np.maximum(np.abs(librosa.stft(x.numpy(), **LIBROSA)) ** 2, 1e-10))
    assert np.abs(signal.log_power(x, STFT).numpy() - true).max() < 2e-3


def test_mfcc_equals_librosa_and_knows_no_neighbours():
    x = waves(6, 16000) * torch.tensor([1.0, 1e-1, 1e-3, 1.0, 3.0, 1e-2])[:, None]
    x[3, 200:] = 0  # most of this clip lies below the range kept
    ours = signal.mfcc(x, STFT, coefficients=20, bands=64)
    for b, clip in enumerate(x):
        true = librosa.feature.mfcc(y=clip.numpy(), sr=RATE, n_mfcc=20, n_mels=64, **LIBROSA)
        assert np.abs(ours[b].numpy() - true).max() < 1e-2
        torch.testing.assert_close(ours[b], signal.mfcc(clip, STFT, coefficients=20, bands=64), rtol=0, atol=1e-5)


def test_cepstrum_of_all_bands_is_a_rotation():
    x = waves(2, 13, 7, dtype=torch.float64)
    c = signal.cepstrum(x, 13)
    torch.testing.assert_close(c.square().sum(1), x.square().sum(1))
    for bad in (0, 14):
        with pytest.raises(ValueError, match=f"between 1 and 13 coefficients of 13 bands: got {bad}"):
            signal.cepstrum(x, bad)


def test_clip_peak_looks_at_real_frames_only():
    spec = torch.tensor([[[1.0, 2.0, 9.0], [0.0, 5.0, 7.0]], [[-3.0, 1.0, 4.0], [-2.0, 8.0, 8.0]]])
    assert signal.clip_peak(spec).flatten().tolist() == [9, 8]
    assert signal.clip_peak(spec, torch.tensor([2, 1])).flatten().tolist() == [5, -2]


def test_log_mel_is_faster_than_librosa():
    """2.7x less CPU on a quiet core; the bound leaves room for a busy one (`make bench` prints the ratio)."""
    x = waves(64, 10 * RATE)

    def theirs():
        for clip in x.numpy():
            np.log(np.maximum(librosa.feature.melspectrogram(y=clip, sr=RATE, n_mels=64, **LIBROSA), 1e-10))

    def cpu_seconds(job):
        job()
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            job()
            best = min(best, time.process_time() - start)
        return best

    assert cpu_seconds(theirs) >= 1.5 * cpu_seconds(lambda: signal.log_mel(x, STFT))


# Compression and mixing ---------------------------------------------------------------------------------------------


def test_compression_keeps_phases_and_is_undone():
    spec = STFT(waves(8000))
    small = signal.compress(spec)
    torch.testing.assert_close(small.abs(), spec.abs() ** 0.3)
    turned = torch.rad2deg((small * spec.conj()).angle().abs().max())
    assert turned < 1e-3
    assert decibel(torch.view_as_real(spec), torch.view_as_real(signal.expand(small))) > 110
    torch.testing.assert_close(signal.expand(signal.compress(spec, 0.5), 0.5), spec, rtol=1e-4, atol=1e-6)


def test_compression_of_silence_is_silence_with_a_finite_gradient():
    x = torch.zeros(2000, requires_grad=True)
    small = signal.compress(STFT(x))
    assert not small.abs().any() and not signal.expand(small).abs().any()
    (small.abs().sum() + signal.expand(small).abs().sum()).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("snr_db", [-20.0, -3.0, 0.0, 7.5, 40.0, torch.tensor([-5.0, 0.0, 30.0])])
def test_mixtures_have_the_ratio_asked_for(snr_db):
    target, noise = waves(3, 8000) * torch.tensor([[0.01], [1.0], [8.0]]), waves(3, 8000, seed=1)
    mixture, s, n = signal.mix_at_snr(target, noise, snr_db)
    measured = 10 * torch.log10(s.square().sum(-1) / n.square().sum(-1))
    torch.testing.assert_close(measured, torch.as_tensor(snr_db).expand(3), rtol=0, atol=0.01)
    torch.testing.assert_close(mixture, s + n, rtol=0, atol=1e-6)
    assert mixture.abs().max() <= 1 + 1e-6
    gain = (s / target).mean(-1)
    torch.testing.assert_close(s, target * gain[:, None])  # the target is scaled, never bent
    quiet = (target + n / gain[:, None]).abs().amax(-1) <= 1
    torch.testing.assert_close(gain[quiet], torch.ones(int(quiet.sum())))


def test_bad_mixtures():
    with pytest.raises(ValueError, match=r"must have one shape: got \(2, 5\) and \(2, 6\)"):
        signal.mix_at_snr(waves(2, 5), waves(2, 6), 0)
    with pytest.raises(ValueError, match=r"the noise is silent at \[\[1\]\]"):
        signal.mix_at_snr(waves(2, 5), waves(2, 5) * torch.tensor([[1.0], [0.0]]), 0)
    with pytest.raises(ValueError, match="the target is silent"):
        signal.mix_at_snr(torch.zeros(5), waves(5), 0)


# SI-SDR and PIT -----------------------------------------------------------------------------------------------------


def plain_si_sdr(estimate, target):
    """Le Roux et al. 2019 in float64, written out."""
    e = np.asarray(estimate, dtype=np.float64) - np.mean(np.asarray(estimate, dtype=np.float64))
    s = np.asarray(target, dtype=np.float64) - np.mean(np.asarray(target, dtype=np.float64))
    scaled = np.dot(e, s) / np.dot(s, s) * s
    return 10 * np.log10(np.sum(scaled**2) / np.sum((e - scaled) ** 2))


@pytest.mark.parametrize("level_db", [-20, 0, 10, 20, 40, 60])
def test_si_sdr_equals_plain_numpy(level_db):
    target = waves(4, 24000) + 0.3
    estimate = target + waves(4, 24000, seed=1) * 10 ** (-level_db / 20)
    ours = signal.si_sdr(estimate, target)
    for b in range(4):
        assert abs(float(ours[b]) - plain_si_sdr(estimate[b], target[b])) < (1e-4 if level_db < 50 else 1e-3)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), offset=st.floats(-0.5, 0.5), seed=st.integers(0, 99))
def test_si_sdr_knows_neither_scale_nor_offset(scale, offset, seed):
    target = waves(4000, seed=seed)
    estimate = target + waves(4000, seed=seed + 1) * 0.3
    moved = signal.si_sdr(estimate * scale + offset * scale, target)
    assert abs(float(moved - signal.si_sdr(estimate, target))) < 1e-4


def test_si_sdr_of_silence_is_finite_and_moves_nothing():
    noise = waves(4000)
    for target in (torch.zeros(4000), torch.full((4000,), 0.37)):
        estimate = noise.clone().requires_grad_()
        value = signal.si_sdr(estimate, target)
        value.backward()
        assert value == -80 and not estimate.grad.any()
    estimate = torch.zeros(4000, requires_grad=True)
    value = signal.si_sdr(estimate, noise)
    value.backward()
    assert value == -80 and torch.isfinite(estimate.grad).all()
    assert signal.si_sdr(noise, noise) == 120
    assert signal.si_sdr(noise, waves(4000, seed=3)) > -80
    with pytest.raises(ValueError, match="must pair up"):
        signal.si_sdr(noise, noise[:-1])


@pytest.mark.parametrize("sources", [1, 2, 3, 4])
def test_pit_equals_trying_every_order(sources):
    targets = waves(5, sources, 2000)
    order = torch.stack([torch.randperm(sources, generator=torch.Generator().manual_seed(b)) for b in range(5)])
    mixed = targets + 0.4 * waves(5, sources, 2000, seed=1)
    estimates = torch.empty_like(mixed)
    for b in range(5):
        estimates[b, order[b]] = mixed[b]  # estimate order[b, j] belongs to target j
    estimates.requires_grad_()
    scores, found = signal.pit(estimates, targets)
    assert torch.equal(found, order)
    for b in range(5):
        best = max(
            itertools.permutations(range(sources)),
            key=lambda p: np.mean([plain_si_sdr(estimates[b, p[j]].detach(), targets[b, j]) for j in range(sources)]),
        )
        assert tuple(found[b].tolist()) == best
        for j in range(sources):
            assert abs(scores[b, j].item() - plain_si_sdr(estimates[b, best[j]].detach(), targets[b, j])) < 1e-4
    scores.mean().backward()
    again = estimates.detach().clone().requires_grad_()
    rows = torch.arange(5)[:, None]
    signal.si_sdr(again[rows, order], targets).mean().backward()
    torch.testing.assert_close(estimates.grad, again.grad)


def test_pit_with_a_silent_target_orders_by_the_others():
    targets = torch.stack([torch.zeros(2000), waves(2000), waves(2000, seed=1)])[None]
    estimates = targets[:, [1, 2, 0]] + 0.1 * waves(1, 3, 2000, seed=2)
    scores, order = signal.pit(estimates.requires_grad_(), targets)
    assert order.tolist() == [[2, 0, 1]] and scores[0, 0] == -80
    scores.sum().backward()
    assert not estimates.grad[0, 2].any() and estimates.grad[0, :2].any()


def test_bad_pit():
    for a, b in (((2, 2, 9), (2, 3, 9)), ((2, 9), (2, 9)), ((1, 7, 9), (1, 7, 9))):
        with pytest.raises(ValueError, match=r"must both be \(B, S, T\) with S of 1 to 6"):
            signal.pit(torch.zeros(a), torch.zeros(b))


# BSS statistics -----------------------------------------------------------------------------------------------------


def test_silence_is_what_si_sdr_takes_for_it():
    sounds = torch.stack([torch.zeros(999), torch.full((999,), 0.37), waves(999) * 1e-12, waves(999) + 0.4])
    assert signal.is_silent(sounds).tolist() == [True, True, False, False]
    assert signal.is_silent(sounds[0, :1]).item() and signal.is_silent(sounds.view(2, 2, 999)).shape == (2, 2)


def shifted(wave, taps):
    """(T + taps - 1, taps): the wave, later by one sample in each column."""
    matrix = np.zeros((len(wave) + taps - 1, taps))
    for k in range(taps):
        matrix[k : k + len(wave), k] = wave
    return matrix


@pytest.mark.parametrize(("samples", "taps"), [(1, 1), (1, 5), (9, 1), (40, 6), (200, 64), (331, 8)])
def test_bss_statistics_are_inner_products_of_shifted_waves(samples, taps):
    """331 samples and 8 taps take more than ten blocks."""
    references, estimates = waves(3, samples), waves(2, samples, seed=1)
    auto, cross = signal.bss_statistics(estimates, references, taps)
    assert auto.dtype == cross.dtype == torch.float64
    assert auto.shape == (3, 3, taps) and cross.shape == (2, 3, taps)
    late = [shifted(wave, taps) for wave in references.double().numpy()]
    for i, j in itertools.product(range(3), repeat=2):
        for k, m in itertools.product(range(taps), repeat=2):
            found = auto[i, j, k - m] if k >= m else auto[j, i, m - k]
            assert abs(float(found) - late[i][:, k] @ late[j][:, m]) < 1e-12
    for e, j in itertools.product(range(2), range(3)):
        true = np.pad(estimates[e].double().numpy(), (0, taps - 1)) @ late[j]
        np.testing.assert_allclose(cross[e, j].numpy(), true, atol=1e-12)


def test_bss_statistics_of_a_batch_are_those_of_each():
    references, estimates = waves(2, 3, 700), waves(2, 4, 700, seed=1)
    batch = signal.bss_statistics(estimates, references, 16)
    for b in range(2):
        one = signal.bss_statistics(estimates[b], references[b], 16)
        torch.testing.assert_close((batch.auto[b], batch.cross[b]), (one.auto, one.cross), rtol=0, atol=1e-13)


def test_bad_bss_statistics():
    for a, b, taps in (((9,), (9,), 4), ((2, 9), (2, 8), 4), ((1, 2, 9), (3, 2, 9), 4), ((2, 9), (2, 9), 0)):
        with pytest.raises(ValueError, match=r"must differ in E and S alone, and taps be at least 1: got \("):
            signal.bss_statistics(torch.zeros(a), torch.zeros(b), taps)
    with pytest.raises(ValueError, match="float with at least one sample"):
        signal.bss_statistics(torch.zeros(2, 0), torch.zeros(2, 0), 4)


def test_si_sdr_is_exact_under_autocast() -> None:
    target = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    estimate = target + 0.01 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    expected = signal.si_sdr(estimate, target)
    with torch.autocast("cpu", torch.bfloat16):
        found, best = signal.si_sdr(estimate, target), signal.pit(estimate[None], target[None])[0][0]
    assert found.dtype == best.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(best, expected)
