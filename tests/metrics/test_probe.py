"""The linear probe: perfect where classes are apart, chance where vectors say nothing."""

import numpy as np
import pytest

from mm.metrics.probe import probe_accuracy

CLASSES = ("red", "green", "blue", "white")


def some(n: int, seed: int, apart: float) -> tuple[np.ndarray, list[str]]:
    """Vectors around a corner of their own for each class."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, len(CLASSES), n)
    vectors = apart * np.eye(12)[numbers] + generator.normal(0, 1, (n, 12))  # (n, 12)
    return vectors.astype(np.float32), [CLASSES[number] for number in numbers]


def test_classes_apart_and_classes_that_vectors_do_not_tell() -> None:
    assert probe_accuracy(*some(200, 0, 8.0), *some(400, 1, 8.0)) > 0.99
    assert 0.2 < probe_accuracy(*some(200, 0, 0.0), *some(400, 1, 0.0)) < 0.31
    assert 0.5 < probe_accuracy(*some(200, 0, 2.0), *some(400, 1, 2.0)) < 0.95


def test_it_is_the_optimum_of_its_loss() -> None:
    """Against plain gradient descent on the penalised cross-entropy of standardised vectors."""
    train, classes = some(60, 2, 2.0)
    test, wanted = some(300, 3, 2.0)
    mean, deviation = train.mean(0), train.std(0)
    x, xt = (train - mean) / deviation, (test - mean) / deviation
    names = sorted(CLASSES)
    y = np.eye(4)[[names.index(name) for name in classes]]  # (60, 4)
    weights, bias = np.zeros((12, 4)), np.zeros(4)
    for _ in range(4000):
        logits = x @ weights + bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        wrong = shares / shares.sum(1, keepdims=True) - y  # (60, 4)
        weights -= 0.01 * (x.T @ wrong + weights)
        bias -= 0.01 * wrong.sum(0)
    slow = np.mean([names[k] == name for k, name in zip((xt @ weights + bias).argmax(1), wanted, strict=True)])
    assert probe_accuracy(train, classes, test, wanted) == pytest.approx(slow, abs=0.01)


def test_units_of_the_numbers_do_not_matter() -> None:
    train, classes = some(100, 4, 2.0)
    test, wanted = some(200, 5, 2.0)
    scale, shift = np.logspace(-3, 3, 12), np.linspace(-9, 9, 12)
    found = probe_accuracy(train * scale + shift, classes, test * scale + shift, wanted)
    assert found == pytest.approx(probe_accuracy(train, classes, test, wanted), abs=0.01)


def test_a_class_that_was_never_met_is_never_right() -> None:
    train, classes = some(100, 6, 8.0)
    test, wanted = some(100, 7, 8.0)
    known = [name != "red" for name in classes]
    found = probe_accuracy(train[known], [n for n in classes if n != "red"], test, wanted)
    assert found == pytest.approx(np.mean([name != "red" for name in wanted]), abs=0.02)


def test_one_vector_of_each_class_is_enough() -> None:
    train = 8 * np.eye(24)
    names = [f"class {number}" for number in range(24)]
    test = train + np.random.default_rng(9).normal(0, 1, (24, 24))
    assert probe_accuracy(train, names, test, names) == 1


def test_what_is_rejected() -> None:
    vectors, classes = some(10, 8, 1.0)
    with pytest.raises(ValueError, match="got 10 vectors and 9 classes to fit, 10 and 10 to test"):
        probe_accuracy(vectors, classes[:9], vectors, classes)
    with pytest.raises(ValueError, match="to fit, 0 and 0 to test"):
        probe_accuracy(vectors, classes, vectors[:0], [])
    with pytest.raises(ValueError, match="a probe needs two classes or more: got 1"):
        probe_accuracy(vectors, ["red"] * 10, vectors, classes)
