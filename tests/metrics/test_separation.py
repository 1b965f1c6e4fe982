"""Separation metrics against explicit projections, mir_eval and the packages they call; what silence means."""

import itertools
import math
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_toeplitz

from mm.metrics import separation
from mm.metrics.separation import (
    EXTRAS,
    available,
    follows_face,
    pairwise_si_sdr,
    pesq,
    scores,
    sdr,
    sdr_improvement,
    si_sdr,
    si_sdr_improvement,
    sir_sar,
    snr,
    stoi,
    summarise,
)
from mm.signal import HIGHEST_DB, LOWEST_DB, bss_statistics

RATE = 16000


def noise(*shape, seed=0):
    """Float32 noise of a falling spectrum."""
    white = np.random.default_rng(seed).standard_normal(shape)
    return (0.1 * (white + 0.9 * np.roll(white, 1, -1) + 0.6 * np.roll(white, 2, -1))).astype(np.float32)


def mixed(sources=2, samples=4000, seed=0):
    """Targets (S, T), their mixture (T,), and estimates in which the others bleed."""
    targets = noise(sources, samples, seed=seed)
    mixture = targets.sum(0)
    return targets + 0.2 * mixture + 0.03 * noise(sources, samples, seed=seed + 1), targets, mixture


def talk(seconds=2.0, seed=0, rate=RATE):
    """Noise in syllables, with pauses between."""
    time_s = np.arange(round(seconds * rate)) / rate
    return noise(len(time_s), seed=seed) * np.clip(np.sin(2 * np.pi * 3 * time_s), 0.001, None).astype(np.float32)


def decibel(kept, lost):
    return 10 * math.log10(np.sum(np.square(kept)) / np.sum(np.square(lost)))


# --- The definitions, written out ---


def shifts(wave, taps):
    """(T + taps - 1, taps)"""
    return np.stack([np.pad(wave, (k, taps - 1 - k)) for k in range(taps)], axis=1)


def explicitly(estimates, targets, taps):
    """(3, S) SDR, SIR and SAR by least squares on the matrix of shifted targets."""
    columns = [shifts(target.astype(np.float64), taps) for target in targets]
    rows = []
    for estimate, own in zip(estimates, columns, strict=True):
        whole = np.pad(estimate.astype(np.float64), (0, taps - 1))
        part, every = (a @ np.linalg.lstsq(a, whole, rcond=None)[0] for a in (own, np.concatenate(columns, axis=1)))
        rows.append([decibel(part, whole - part), decibel(part, every - part), decibel(every, whole - every)])
    return np.array(rows).T


@pytest.mark.parametrize(("sources", "samples", "taps"), [(2, 300, 1), (2, 300, 7), (3, 500, 16), (4, 90, 20)])
def test_ratios_equal_an_explicit_projection(sources, samples, taps):
    estimates, targets, _ = mixed(sources, samples)
    expected = explicitly(estimates, targets, taps)
    np.testing.assert_allclose(sdr(estimates, targets, taps), expected[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(sir_sar(estimates, targets, taps), expected[1:], rtol=0, atol=1e-8)


@pytest.mark.parametrize("sources", [2, 3])
def test_ratios_equal_mir_eval(sources):
    mir_eval = pytest.importorskip("mir_eval.separation")
    for seed in range(4 - sources):
        estimates, targets, _ = mixed(sources, 3 * RATE, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the module leaves mir_eval in 0.9
            *expected, _ = mir_eval.bss_eval_sources(targets, estimates, compute_permutation=False)
        found = np.stack([sdr(estimates, targets), *sir_sar(estimates, targets)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_of_one_tap_sdr_is_si_sdr_with_the_means():
    estimates, targets, _ = mixed()
    centred = [
        waves.astype(np.float64) - waves.mean(-1, keepdims=True, dtype=np.float64) for waves in (estimates, targets)
    ]
    np.testing.assert_allclose(sdr(*centred, taps=1), si_sdr(estimates, targets), rtol=0, atol=1e-8)


def test_snr_is_the_plain_ratio():
    estimates, targets, _ = mixed()
    expected = [decibel(t, t - e) for e, t in zip(estimates.astype(float), targets.astype(float), strict=True)]
    np.testing.assert_allclose(snr(estimates, targets), expected, rtol=0, atol=1e-10)
    assert snr(targets, targets).tolist() == [HIGHEST_DB] * 2


def predictable(samples=6000):
    """A sound without its higher half that fades in and out: its future follows from its past but for rounding."""
    time = np.arange(samples)
    partials = np.random.default_rng(0).uniform((0.01, 0, 0.2), (0.45, 7, 1), (40, 3))
    wave = sum(size * np.sin(math.pi * pitch * time + phase) for pitch, phase, size in partials)
    return (0.01 * wave * np.hanning(samples) ** 2).astype(np.float32)


def test_a_predictable_target_is_not_lost_to_rounding():
    """Levinson's recursion alone answers with garbage; the projection leaves what the noise leaves."""
    target, taps = predictable(), 256
    estimate = target + 0.1 * target.std() * noise(len(target)) / noise(len(target)).std()
    auto, cross = bss_statistics(torch.from_numpy(estimate[None]), torch.from_numpy(target[None]), taps)
    filter = solve_toeplitz(auto[0, 0].numpy(), cross[0, 0].numpy())
    kept = np.convolve(target.astype(np.float64), filter)
    assert decibel(kept, np.pad(estimate, (0, taps - 1)) - kept) < 10
    other = noise(len(target), seed=5)
    both = np.stack([estimate, other + 0.1 * estimate]), np.stack([target, other])
    expected = explicitly(*both, taps)
    np.testing.assert_allclose(sdr(*both, taps), expected[0], rtol=0, atol=0.05)
    np.testing.assert_allclose(sir_sar(*both, taps), expected[1:], rtol=0, atol=0.05)


def test_one_voice_twice_has_the_projection_of_one():
    """The system of all targets is singular then."""
    _, targets, _ = mixed(2, 800)
    twice = targets[[0, 0, 1]]
    estimates = twice + 0.1 * noise(3, 800, seed=3)
    sir, sar = sir_sar(estimates, twice, 16)
    once = [sir_sar(estimates[rows], targets, 16) for rows in ([0, 2], [1, 2])]
    np.testing.assert_allclose(sir, [once[0][0][0], once[1][0][0], once[0][0][1]], rtol=0, atol=1e-3)
    np.testing.assert_allclose(sar, [once[0][1][0], once[1][1][0], once[0][1][1]], rtol=0, atol=1e-3)


# --- What does not change them, and what does ---


def test_threads_do_not_matter():
    estimates, targets, mixture = mixed(2, RATE)
    expected = scores(estimates, targets, mixture, RATE, ("SIR", "SAR"))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = scores(estimates, targets, mixture, RATE, ("SIR", "SAR"))
    finally:
        torch.set_num_threads(before)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-9)


def test_permuting_the_voices_permutes_the_numbers():
    estimates, targets, mixture = mixed(3)
    expected = scores(estimates, targets, mixture, RATE, ("SIR", "SAR"))
    for order in ((2, 0, 1), (1, 0, 2)):
        found = scores(estimates[list(order)], targets[list(order)], mixture, RATE, ("SIR", "SAR"))
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values[list(order)], rtol=0, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(loud=st.floats(1e-4, 1e4), quiet=st.floats(1e-4, 1e4), seed=st.integers(0, 99))
def test_levels_matter_to_snr_alone(loud, quiet, seed):
    estimates, targets, _ = mixed(2, 600, seed=seed)
    estimates, targets = estimates.astype(np.float64), targets.astype(np.float64)
    levels = np.array([[loud], [quiet]])
    for metric in (si_sdr, partial(sdr, taps=16), partial(sir_sar, taps=16)):
        np.testing.assert_allclose(metric(levels * estimates, targets), metric(estimates, targets), rtol=0, atol=1e-6)
        np.testing.assert_allclose(metric(estimates, levels * targets), metric(estimates, targets), rtol=0, atol=1e-6)
    np.testing.assert_allclose(snr(levels * estimates, levels * targets), snr(estimates, targets), rtol=0, atol=1e-9)
    if not 0.5 < loud < 2:
        assert abs(snr(loud * estimates, targets) - snr(estimates, targets)).min() > 0.1


def test_a_delay_or_a_filter_costs_si_sdr_all_and_sdr_little():
    target = noise(3 * RATE)
    late = np.pad(target, (5, 0))[: len(target)]
    assert 38 < sdr(late, target) < 50 and si_sdr(late, target) < -15
    dull = np.convolve(target, np.diff(np.hanning(11)))[: len(target)]
    assert sdr(dull, target) > 38 and si_sdr(dull, target) < 0


def test_a_batch_is_its_waves_one_by_one():
    estimates, targets, _ = mixed(6, 500)
    for metric in (si_sdr, snr, sdr):
        whole = metric(estimates.reshape(3, 2, 500), targets.reshape(3, 2, 500))
        each = [float(metric(e, t)) for e, t in zip(estimates, targets, strict=True)]
        np.testing.assert_allclose(whole.ravel(), each, rtol=0, atol=1e-9)
        assert whole.shape == (3, 2) and whole.dtype == np.float64


def test_tensors_and_arrays_are_the_same():
    estimates, targets, mixture = mixed(2, 500)
    expected = scores(estimates, targets, mixture, RATE, ())
    targets.setflags(write=False)
    given_ = torch.from_numpy(estimates).requires_grad_()
    found = scores(given_, targets, torch.from_numpy(mixture).double(), RATE, [])
    assert list(found) == list(expected) == ["SI-SDR", "SI-SDRi", "SNR", "SDR", "SDRi"]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-9)
    assert np.isfinite(si_sdr(given_.bfloat16(), targets)).all()


# --- Of one mixture ---


def test_improvements_are_differences_to_the_mixture():
    estimates, targets, mixture = mixed(3)
    taken = np.broadcast_to(mixture, targets.shape)
    gains = si_sdr(estimates, targets) - si_sdr(taken, targets), sdr(estimates, targets) - sdr(taken, targets)
    np.testing.assert_allclose(si_sdr_improvement(estimates, targets, mixture), gains[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sdr_improvement(estimates, targets, mixture), gains[1], rtol=0, atol=1e-9)
    batch = [np.stack([waves, 2 * waves]) for waves in (estimates, targets, mixture)]
    np.testing.assert_allclose(sdr_improvement(*batch), [gains[1]] * 2, rtol=0, atol=1e-8)
    np.testing.assert_allclose(si_sdr_improvement(taken, targets, mixture), 0, atol=1e-12)


def test_scores_are_the_single_metrics():
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    targets = np.stack([talk(seed=1), np.roll(talk(seed=2), 2000)])
    mixture = targets.sum(0)
    estimates = targets + 0.2 * mixture
    assert available(RATE) == EXTRAS
    found = scores(estimates, targets, mixture, RATE)
    sir, sar = sir_sar(estimates, targets)
    assert list(found) == ["SI-SDR", "SI-SDRi", "SNR", "SDR", "SDRi", *EXTRAS]
    for name, expected in (
        ("SI-SDR", si_sdr(estimates, targets)),
        ("SI-SDRi", si_sdr_improvement(estimates, targets, mixture)),
        ("SNR", snr(estimates, targets)),
        ("SDR", sdr(estimates, targets)),
        ("SDRi", sdr_improvement(estimates, targets, mixture)),
        ("SIR", sir),
        ("SAR", sar),
        ("STOI", stoi(estimates, targets, RATE)),
        ("PESQ", pesq(estimates, targets, RATE)),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-9, err_msg=name)
    assert list(scores(estimates, targets, mixture, RATE, ["SAR"]))[5:] == ["SAR"]


# --- Packages ---


def test_stoi_is_that_of_pystoi_with_the_target_first():
    package = pytest.importorskip("pystoi")
    target = talk()
    estimate = target + 0.5 * noise(len(target), seed=1)
    expected, reverse = package.stoi(target, estimate, RATE), package.stoi(estimate, target, RATE)
    assert stoi(estimate, target, RATE) == pytest.approx(expected, abs=1e-6) and abs(expected - reverse) > 0.01


@pytest.mark.parametrize(("rate", "mode"), [(16000, "wb"), (8000, "nb")])
def test_pesq_is_that_of_pesq_with_the_target_first(rate, mode):
    package = pytest.importorskip("pesq")
    target = talk(rate=rate)
    estimate = target + 0.1 * noise(len(target), seed=1)
    expected, reverse = package.pesq(rate, target, estimate, mode), package.pesq(rate, estimate, target, mode)
    assert pesq(estimate, target, rate) == pytest.approx(expected, abs=1e-3) and abs(expected - reverse) > 0.01


def test_what_holds_no_speech_is_skipped():
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    clicks = talk() * (np.arange(2 * RATE) % RATE < RATE // 20)  # 50 ms each second are no utterance
    assert math.isnan(stoi(talk(), clicks, RATE)) and math.isnan(pesq(talk(), clicks, RATE))
    short = talk()[1000:1100]
    assert math.isnan(stoi(short, short, RATE)) and math.isnan(pesq(short, short, RATE))


@pytest.mark.parametrize(("metric", "name", "package"), [(stoi, "STOI", "pystoi"), (pesq, "PESQ", "pesq")])
def test_a_missing_package_is_named(metric, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what Python takes for not installed
    estimates, targets, mixture = mixed()
    with pytest.raises(ValueError, match=rf"{name} needs the package {package}.*pip install 'mm\[metrics\]'"):
        metric(estimates, targets, RATE)
    assert name not in available(RATE)
    with pytest.raises(ValueError, match=f"{name} needs the package"):
        scores(estimates, targets, mixture, RATE, [name])


def test_pesq_has_two_rates():
    assert "PESQ" not in available(22050)
    with pytest.raises(ValueError, match="PESQ is defined at 8000 and 16000 Hz: got 22050"):
        pesq(talk(), talk(), 22050)


# --- Silence ---


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silent_targets_are_skipped_and_silent_estimates_fail(level):
    """0.25: a constant is silence too."""
    estimates, targets, _ = mixed(4)
    targets[1] = estimates[2] = level
    targets[3] = estimates[3] = level
    mixture = targets.sum(0)
    found = scores(estimates, targets, mixture, RATE, ("SIR", "SAR"))
    for name in ("SI-SDR", "SNR", "SDR", "SIR", "SAR"):
        assert np.isnan(found[name]).tolist() == [False, True, False, True], name
        assert found[name][2] == LOWEST_DB and found[name][0] > 0, name
    for name in ("SI-SDRi", "SDRi"):
        assert np.isnan(found[name]).tolist() == [False, True, False, True] and found[name][2] < -60
    rest = [0, 2]
    heard = scores(estimates[rest], targets[rest], mixture, RATE, ("SIR", "SAR"))
    for name, values in heard.items():
        np.testing.assert_allclose(found[name][rest], values, rtol=0, atol=1e-8, err_msg=name)


def test_silence_is_not_sent_to_the_packages():
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    targets = np.stack([talk(), 0 * talk(), talk(seed=1)])
    estimates = np.stack([0 * talk(), talk(), targets[2]])
    assert np.array_equal(stoi(estimates, targets, RATE)[:2], [separation.LOWEST_STOI, math.nan], equal_nan=True)
    assert np.array_equal(pesq(estimates, targets, RATE)[:2], [separation.LOWEST_PESQ, math.nan], equal_nan=True)
    assert stoi(estimates, targets, RATE)[2] > 0.99 and pesq(estimates, targets, RATE)[2] > 4.5


def test_nothing_interferes_with_the_only_voice():
    estimates, targets, _ = mixed(3)
    targets[1:] = 0
    sir, sar = sir_sar(estimates, targets)
    assert np.isnan(sir).all() and np.isnan(sar[1:]).all()
    assert sar[0] == pytest.approx(float(sdr(estimates[0], targets[0])), abs=1e-8)
    alone = sir_sar(estimates[:1], targets[:1])
    assert np.isnan(alone[0]).all() and alone[1][0] == pytest.approx(sar[0], abs=1e-8)


def test_all_silent_is_all_skipped():
    estimates, targets, mixture = mixed()
    found = scores(estimates, 0 * targets, mixture, RATE)
    assert all(np.isnan(values).all() for values in found.values())
    means, skipped = summarise([found, found])
    assert all(math.isnan(mean) for mean in means.values()) and set(skipped.values()) == {4}


def test_ratios_stay_within_their_bounds():
    target = noise(2000).astype(np.float64)
    other = noise(2000, seed=1).astype(np.float64)
    other -= other.mean() + (target - target.mean()) * np.dot(other, target - target.mean()) / target.var() / 2000
    for metric in (si_sdr, sdr):
        assert metric(target, target) == HIGHEST_DB
    assert si_sdr(other, target) == LOWEST_DB
    both = np.stack([target, other])
    sir, sar = sir_sar(both, both)
    assert (sir == HIGHEST_DB).all() and (sar == HIGHEST_DB).all()


# --- Means ---


def test_the_mean_leaves_out_and_counts_what_was_skipped():
    rows = [
        {"SDR": np.array([1.0, math.nan]), "PESQ": np.array([math.nan, math.nan])},
        {"SDR": np.array([4.0, 7.0, math.nan]), "PESQ": np.array([2.0, math.nan, 3.0])},
    ]
    means, skipped = summarise(iter(rows))
    assert means == {"SDR": 4.0, "PESQ": 2.5} and skipped == {"SDR": 2, "PESQ": 3}


@pytest.mark.parametrize("rows", [[], [{"SDR": np.ones(2)}, {"SDR": np.ones(2), "SNR": np.ones(2)}]])
def test_a_mean_of_nothing_or_of_different_metrics_is_refused(rows):
    with pytest.raises(ValueError, match="a mean needs mixtures that all have the same metrics: got"):
        summarise(rows)


# --- Faces ---


def test_pairs_are_all_against_all():
    estimates, targets, _ = mixed(3, 700)
    found = pairwise_si_sdr(estimates[:2], targets)
    assert found.shape == (2, 3)
    for e, s in itertools.product(range(2), range(3)):
        assert found[e, s] == pytest.approx(float(si_sdr(estimates[e], targets[s])), abs=1e-9)
    batch = pairwise_si_sdr(np.stack([estimates[:2]] * 2), np.stack([targets, targets[::-1]]))
    np.testing.assert_allclose(batch, [found, found[:, ::-1]], rtol=0, atol=1e-9)


def test_outputs_follow_faces():
    near = np.array([[9.0, 1.0, 0.0], [2.0, 8.0, 3.0], [5.0, 4.0, 1.0]])
    assert follows_face(near, np.array([0, 1, 0])) == 1
    assert follows_face(near, np.array([0, 1, 2])) == pytest.approx(2 / 3)
    assert follows_face(np.stack([near, near]), np.array([[0, 1, 0], [1, 2, 1]])) == 0.5
    swapped = np.array([[-4.0, 6.0], [5.0, -3.0]])
    assert follows_face(swapped, np.array([1, 0])) == 1 and follows_face(swapped, np.array([0, 1])) == 0


def test_ties_and_silence_among_faces():
    assert follows_face(np.full((3, 4), LOWEST_DB), np.array([0, 1, 2])) == 0.25  # chance
    silent = np.array([[3.0, math.nan], [4.0, math.nan]])
    assert follows_face(silent, np.array([0, 1])) == 1  # the second output's own target is silent
    assert math.isnan(follows_face(np.full((2, 2), math.nan), np.array([0, 1])))


@pytest.mark.parametrize(
    ("pairwise", "faces", "message"),
    [
        (
            np.zeros((2, 2)),
            np.array([0, 1, 1]),
            r"each of \(2,\) outputs must have one face, an integer: got int64 \(3,\)",
        ),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "got float64"),
        (np.zeros(2), np.array(0), r"for SI-SDR of \(2,\)"),
        (np.zeros((2, 2)), np.array([0, 2]), r"faces must be numbers of targets, 0 to 1: got \[0 2\]"),
        (np.zeros((2, 2)), np.array([0, -1]), r"got \[-1  0\]"),
    ],
)
def test_bad_faces(pairwise, faces, message):
    with pytest.raises(ValueError, match=message):
        follows_face(pairwise, faces)


# --- Bad input ---


@pytest.mark.parametrize(
    "metric", [si_sdr, snr, sdr, sir_sar, lambda e, s: stoi(e, s, RATE), lambda e, s: pesq(e, s, RATE)]
)
def test_bad_waves(metric):
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    good, broken = noise(2, 50), noise(2, 50)
    broken[1, 7] = math.nan
    for e, s, message in (
        (good, good[:, 1:], r"estimates and targets must pair up: got \(2, 50\) and \(2, 49\)"),
        (good[:1], good, r"must pair up: got \(1, 50\) and \(2, 50\)"),
        (broken, good, "estimates must be finite: got NaN or infinity, which must not pass for silence"),
        (good, broken, "targets must be finite"),
        (good.astype(np.int16), good, r"estimates must be float waves .* got torch.int16 \(2, 50\)"),
        (good[:, :0], good[:, :0], r"at least one sample: got torch.float32 \(2, 0\)"),
        (np.float32(1), np.float32(1), r"estimates must be float waves \(..., T\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(e, s)


def test_bad_mixtures():
    estimates, targets, mixture = mixed()
    for function in (si_sdr_improvement, sdr_improvement, lambda e, s, m: scores(e, s, m, RATE)):
        with pytest.raises(
            ValueError, match=r"a mixture \(..., T\) must go with targets .*: got \(3999,\) and \(2, 4000\)"
        ):
            function(estimates, targets, mixture[1:])
        with pytest.raises(ValueError, match=r"got \(2, 4000\) and \(2, 4000\)"):
            function(estimates, targets, targets)
        with pytest.raises(ValueError, match="the mixture must be finite"):
            function(estimates, targets, np.full_like(mixture, math.inf))
    with pytest.raises(ValueError, match=r"must be \(S, T\), of one mixture: got \(1, 2, 4000\)"):
        scores(estimates[None], targets[None], mixture[None], RATE)
    with pytest.raises(ValueError, match=r"must be \(S, T\), of one mixture: got \(4000,\)"):
        sir_sar(mixture, mixture)
    with pytest.raises(ValueError, match=r"unknown extra metric 'PESK'. Choose from: SIR, SAR, STOI, PESQ. .*'PESQ'"):
        scores(estimates, targets, mixture, RATE, ["PESK"])
    with pytest.raises(ValueError, match=r"must differ in S alone: got \(2, 4000\) and \(2, 3999\)"):
        pairwise_si_sdr(estimates, targets[:, 1:])
    with pytest.raises(ValueError, match="taps be at least 1"):
        sdr(estimates, targets, 0)
