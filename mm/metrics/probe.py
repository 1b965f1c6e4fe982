"""The linear probe: how well a linear classifier over frozen vectors tells classes apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

MOST_STEPS = 2000  # of the fit, which takes some hundred


def probe_accuracy(
    train: np.ndarray, train_classes: Sequence[str], test: np.ndarray, test_classes: Sequence[str]
) -> float:
    """Accuracy of multinomial logistic regression on vectors that it was not fitted on.

    As SoundNet is judged (Aytar et al. 2016, section 3.3, there with a linear support vector machine); scikit-learn's,
    with its own regularisation (C = 1), over numbers brought to mean 0 and deviation 1 on the training vectors.

    Args:
        train: (n, D) vectors that it is fitted on.
        train_classes: n names.
        test: (m, D) other vectors.
        test_classes: m names; one that is none of `train_classes` is never right.

    Raises:
        ValueError: vectors and classes do not pair up, or there is but one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train) != len(train_classes) or len(test) != len(test_classes) or not len(test):
        raise ValueError(
            f"each vector needs its class, and there must be some to test on: got {len(train)} vectors and "
            f"{len(train_classes)} classes to fit, {len(test)} and {len(test_classes)} to test."
        )
    if len(set(train_classes)) < 2:
        raise ValueError(
            f"a probe needs two classes or more: got {len(set(train_classes))}. Fit it on more, or other, vectors."
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_STEPS))
    with warnings.catch_warnings():  # one or two vectors of a class are no mistake here
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        probe.fit(train, list(train_classes))
    return float(np.mean(probe.predict(test) == np.array(test_classes)))
