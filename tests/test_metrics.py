"Our vectorised metrics say what scikit-learn says, on random inputs and random weights."

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from dlops_mnist.parts.metrics import (
    bootstrap_weights,
    class_columns,
    confusion_counts,
    mcnemar,
    metric_names,
    metric_table,
    weighted_metrics,
)


@st.composite
def predictions(draw):
    "Labels and probabilities of 2 to 6 classes, with ties and with classes that never occur."
    classes, images = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, classes)), images)
    scores = rng.integers(1, draw(st.sampled_from([3, 1000])), (images, classes)).astype(float)
    p = scores / scores.sum(axis=1, keepdims=True)
    return labels, p[:, 1] if classes == 2 else p, classes


def theirs(labels, p, classes, weights):
    "The same metrics by scikit-learn, NaN where undefined; the calibration error by its definition."
    names, guess = range(classes), p.argmax(axis=1)
    per_class = precision_recall_fscore_support(
        labels, guess, labels=names, sample_weight=weights, zero_division=np.nan)[:3]
    sides = [1] if classes == 2 else names
    auc = [roc_auc_score(labels == k, p[:, k], sample_weight=weights)
           if 0 < weights[labels == k].sum() < weights.sum() else np.nan for k in sides]
    sure, right, ece = p.max(axis=1), guess == labels, 0
    for b in range(10):
        inside = (sure > b / 10) & (sure <= (b + 1) / 10)
        ece += abs(np.sum(weights[inside] * (right[inside] - sure[inside]))) / weights.sum()
    return np.array([accuracy_score(labels, guess, sample_weight=weights),
                     log_loss(labels, p, labels=list(names), sample_weight=weights), np.mean(auc), ece,
                     *np.stack(per_class, axis=1).ravel()])


@settings(max_examples=150, deadline=None)
@given(predictions(), st.booleans())
def test_agrees_with_scikit_learn(case, weighted):
    labels, probabilities, classes = case
    p, images = class_columns(probabilities), len(labels)
    drawn = bootstrap_weights(images, 1, np.random.default_rng(images))[0].astype(float)
    weights = drawn if weighted else np.ones(images)
    ours = weighted_metrics(weights[None], labels, p, -np.log(p[np.arange(images), labels]))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(labels, p, classes, weights)
    # F1 of a class that occurs neither in the truth nor among the guesses: scikit-learn says 0 or NaN by version
    absent = np.isnan(ours[6::3])
    expected[6::3][absent] = np.nan
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)
    assert (confusion_counts(labels, p.argmax(1), classes)
            == confusion_matrix(labels, p.argmax(1), labels=range(classes))).all()


@settings(max_examples=30, deadline=None)
@given(predictions())
def test_table_is_complete_and_ordered(case):
    labels, probabilities, classes = case
    names = [f"class {k}" for k in range(classes)]
    table = metric_table(labels, probabilities, names, draws=50)
    assert list(table.index) == metric_names(names) and list(table.columns) == ["value", "low", "high"]
    assert not (table["low"] > table["high"]).any() and np.isfinite(table.loc["accuracy"]).all()


def test_interval_covers_the_truth_about_19_times_in_20():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        labels = rng.integers(0, 2, 200)
        right = rng.uniform(size=200) < 0.85
        table = metric_table(labels, np.where(labels == right, 0.8, 0.2), ["a", "b"], draws=300)
        inside += table.loc["accuracy", "low"] <= 0.85 <= table.loc["accuracy", "high"]
    assert 176 <= inside <= 199


def test_same_numbers_twice():
    labels, p = np.arange(30) % 2, np.linspace(0, 1, 30)
    assert metric_table(labels, p, ["a", "b"]).equals(metric_table(labels, p, ["a", "b"]))


@pytest.mark.parametrize("only_a, only_b, p", [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (1, 9, 22 / 1024)])
def test_mcnemar_exact(only_a, only_b, p):
    right_a = np.array([True] * only_a + [False] * only_b + [True] * 7)
    right_b = np.array([False] * only_a + [True] * only_b + [True] * 7)
    assert mcnemar(right_a, right_b) == (only_a, only_b, pytest.approx(p))
