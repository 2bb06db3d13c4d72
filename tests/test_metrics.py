"Our vectorised metrics say what scikit-learn says, and their intervals hold what they promise."

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)

from dlops_mnist.parts.choices import class_costs, conformal_threshold, mean_cost
from dlops_mnist.parts.compare import compare_recipes
from dlops_mnist.parts.figures import plot_mistakes, plot_roc
from dlops_mnist.parts.intervals import calibration_error, confidence_bins, share_interval, weighted_auc
from dlops_mnist.parts.metrics import (
    FEW,
    OVERALL,
    Answers,
    best_guess,
    class_columns,
    confusion_counts,
    log_odds,
    mcnemar,
    metric_table,
    size_note,
    with_interval,
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


def theirs(labels, p, classes):
    "The same metrics by scikit-learn, NaN where undefined."
    names, guess, truth = range(classes), p.argmax(axis=1), np.eye(classes)[labels]
    sides = [k for k in ([1] if classes == 2 else names) if 0 < (labels == k).sum()]
    two_sided = [k for k in sides if (labels == k).sum() < len(labels)]
    per_class = precision_recall_fscore_support(labels, guess, labels=names, zero_division=np.nan)[:3]
    mean = lambda values: np.mean(values) if values else np.nan  # noqa: E731
    overall = {"accuracy": accuracy_score(labels, guess), "loss": log_loss(labels, p, labels=list(names)),
               "roc_auc": mean([roc_auc_score(labels == k, p[:, k]) for k in two_sided]),
               "brier": ((p - truth) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1),
               "average_precision": mean([average_precision_score(labels == k, p[:, k]) for k in sides]),
               "mcc": matthews_corrcoef(labels, guess), "balanced_accuracy": balanced_accuracy_score(labels, guess),
               "macro_f1": mean([f1_score(labels == k, guess == k) for k in names if (labels == k).any()])}
    if classes >= 5: overall["top_2"] = mean([sum(other > row[label] for other in row) < 2 for label, row in zip(labels, p)])
    rows = {f"{metric}/{k}": values[k] for metric, values in zip(("precision", "recall", "f1"), per_class) for k in names}
    return overall | rows


@settings(max_examples=40, deadline=None)
@given(predictions())
def test_agrees_with_scikit_learn(case):
    labels, probabilities, classes = case
    p = class_columns(probabilities)
    table = metric_table(labels, probabilities, [str(k) for k in range(classes)], draws=40)
    assert list(table.index[:7]) == list(OVERALL) and list(table.columns) == ["value", "low", "high"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(labels, p, classes)
    for name, value in expected.items():
        ours = table.loc[name, "value"]
        if np.isnan(ours): continue  # scikit-learn says 0, 1 or NaN by metric and version
        assert ours == pytest.approx(value, rel=1e-6, abs=1e-9), name
    inside = table.dropna()
    assert (inside["low"] <= inside["value"] + 1e-12).all() and (inside["value"] <= inside["high"] + 1e-12).all()
    assert np.isfinite(table.loc["accuracy"]).all()
    assert (confusion_counts(labels, p.argmax(1), classes)
            == confusion_matrix(labels, p.argmax(1), labels=range(classes))).all()


@settings(max_examples=30, deadline=None)
@given(predictions())
def test_weighted_area_agrees_with_scikit_learn(case):
    labels, probabilities, _ = case
    weights = np.random.default_rng(0).exponential(size=(len(labels), 3))
    scores = class_columns(probabilities)[:, 0]
    if not 0 < (labels == 0).sum() < len(labels): return
    expected = [roc_auc_score(labels == 0, scores, sample_weight=w) for w in weights.T]
    np.testing.assert_allclose(weighted_auc(weights, labels == 0, scores), expected, rtol=1e-6)


@pytest.mark.parametrize("images", [30, 80, 360, 10_000])
@pytest.mark.parametrize("share", [0.84, 0.95, 0.99, 0.998])
def test_the_interval_of_a_share_covers_the_truth_about_19_times_in_20(images, share):
    hits = np.arange(images + 1)
    low, high = share_interval(hits, images)
    covered = binom.pmf(hits, images, share)[(low <= share) & (share <= high)].sum()
    assert 0.93 <= covered <= 0.99  # exact: drawing with replacement covers in 0.06 of the cases at 30 images and 0.998


@pytest.mark.parametrize("images, part", [(80, 1 / 2), (360, 1 / 2), (80, 1 / 10), (360, 1 / 10), (360, 1 / 21), (10_000, 1 / 21)])
@pytest.mark.parametrize("share", [0.84, 0.95, 0.99, 0.998])
def test_so_does_that_of_a_recall_of_a_class_with_as_many_images_as_it_happens_to_have(images, part, share):
    sizes = np.arange(max(FEW, binom.ppf(1e-6, images, part)), binom.ppf(1 - 1e-6, images, part) + 1)
    hits = np.arange(sizes[-1] + 1)[:, None]
    low, high = share_interval(hits, np.where(hits <= sizes, sizes, 0))
    covered = (binom.pmf(hits, sizes, share) * ((low <= share) & (share <= high))).sum(axis=0)
    chance = binom.pmf(sizes, images, part)
    assert 0.93 <= (covered * chance).sum() / chance.sum() <= 0.99  # by Jeffreys' interval 0.923 for 40 images or so at 0.998


def test_the_interval_of_a_loss_covers_it_where_mistakes_are_rare():
    rng, inside = np.random.default_rng(1), 0
    for seed in range(150):  # two per cent are wrong, at a loss of 3; the others cost 0.05
        labels = np.arange(40) % 2
        wrong = rng.uniform(size=40) < 0.02
        table = metric_table(labels, np.where(labels == wrong, np.exp(-3), np.exp(-0.05)), ["a", "b"], draws=60, seed=seed,
                             losses=np.where(wrong, 3, 0.05))
        inside += table.loc["loss", "low"] <= 0.02 * 3 + 0.98 * 0.05 <= table.loc["loss", "high"]
    assert inside >= 140  # drawing with replacement covers in about 80, where there is a mistake at all


def test_same_numbers_twice():
    labels, p = np.arange(30) % 2, np.linspace(0, 1, 30)
    assert metric_table(labels, p, ["a", "b"]).equals(metric_table(labels, p, ["a", "b"]))


@pytest.mark.parametrize("hits, images, low, high", [
    (36, 36, 0.9026, 1), (0, 60, 0, 0.0596), (2, 2, 0.158, 1), (0, 2, 0, 0.842), (10_000, 10_000, 0.99963, 1)])
def test_all_right_or_all_wrong_keep_the_exact_limit(hits, images, low, high):
    assert share_interval(hits, images) == pytest.approx([low, high], abs=1e-3)


def test_notes_on_sizes_at_the_edge():
    assert "0.03%" in size_note(10_000, 1.0, *share_interval(10_000, 10_000))
    assert "may still be 45%" in size_note(5, 1.0, *share_interval(5, 5)), "and three in five would be too much"
    assert "All are wrong; the true accuracy may still be 4.9%" in size_note(60, 0.0, *share_interval(0, 60))


def test_few_draws_make_no_narrow_interval():
    labels = np.arange(80) % 2
    p = np.clip(labels + np.random.default_rng(0).normal(0, 0.4, 80), 0.01, 0.99)
    one, many = (metric_table(labels, p, ["a", "b"], draws=draws) for draws in (1, 1000))
    width = (one["high"] - one["low"]) / (many["high"] - many["low"])
    assert width.min() > 0.5


def test_nan_is_no_vote_and_has_no_area():
    answers = np.full(6, np.nan)
    for labels in (np.arange(6) % 2, 1 - np.arange(6) % 2):
        table = metric_table(labels, answers, ["a", "b"])
        assert np.isnan(table.loc["roc_auc", "value"]) and table.loc["accuracy", "value"] == 0
        assert table.loc["recall/a", "value"] == 0 and np.isnan(table.loc["precision/a", "value"])
    assert best_guess([np.nan, 0.2]).tolist() == [-1, 0]
    assert plot_mistakes(np.zeros((1, 4, 4), np.uint8), [0], [np.nan], ["a", "b"]).axes[0].get_title().startswith("a → no answer")


def test_large_logits_are_ranked_by_all_their_digits():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    logits = 40 * (rng.normal(size=400) + 1.5 * labels)
    p = (1 / (1 + np.exp(-logits))).astype(np.float32)
    exact = roc_auc_score(labels, logits)
    assert metric_table(labels, p, ["a", "b"], draws=40, scores=log_odds(logits)).loc["roc_auc", "value"] == pytest.approx(exact)
    assert roc_auc_score(labels, p) != pytest.approx(exact)  # what ties would make of it
    three = 60 * rng.normal(size=(300, 3))
    odds = log_odds(three)
    others = np.stack([np.logaddexp(three[:, (k + 1) % 3], three[:, (k + 2) % 3]) for k in range(3)], axis=1)
    np.testing.assert_allclose(odds, three - others, rtol=1e-6, atol=1e-6)


def test_a_class_that_is_missing_gives_table_and_picture_the_same_area():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    p = rng.dirichlet(np.ones(4), 120) + 0.5 * np.eye(4)[labels]
    value = metric_table(labels, p, list("abcd"), draws=40).loc["roc_auc", "value"]
    areas = [roc_auc_score(labels == k, p[:, k]) for k in range(3)]
    assert value == pytest.approx(np.mean(areas))
    assert f"({value:.3f})" in plot_roc(labels, p, list("abcd")).axes[0].get_legend().get_texts()[-1].get_text()


def test_too_few_images_of_a_class_are_said():
    labels = np.array([0] * 30 + [1] * 3)
    table = metric_table(labels, np.where(labels, 0.8, 0.1), ["a", "b"])
    assert with_interval(table, "roc_auc") == "1.000 (too few images to tell)"
    assert with_interval(table, "recall/b") == "100% (too few images to tell)"
    assert with_interval(table, "recall/a").startswith("100% (88.4") and with_interval(table, "accuracy").startswith("100% (")
    few = metric_table(labels[27:], np.full(6, 0.2), ["a", "b"])  # what was never named has no precision
    assert with_interval(few, "precision/b") == "–" and with_interval(few, "accuracy").startswith("50.0% (")


def test_calibration_error_without_what_chance_adds():
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(100):
        sure = rng.uniform(0.5, 1, 80)
        value, low, high = calibration_error(sure, rng.uniform(size=80) < sure, 300, rng)
        rejected += low > 0
        assert low <= value <= high
    assert rejected <= 12  # one in twenty, give or take
    sure = rng.uniform(0.6, 1, 2000)
    value, low, _ = calibration_error(sure, rng.uniform(size=2000) < sure - 0.1, 300, rng)
    assert low > 0.05 and value == pytest.approx(0.1, abs=0.03)
    images, means, share = confidence_bins(sure, sure > 0.9)
    assert images.sum() == 2000 and (np.diff(means) > 0).all() and share[-1] == 1


def test_a_set_of_classes_holds_the_truth_as_often_as_it_was_asked_to():
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):  # 99 images choose, one is judged: exactly 90 in 100 in the mean, whatever the model says
        labels = rng.integers(0, 4, 100)
        p = rng.dirichlet(np.full(4, 0.3), 100) + 0.2 * np.eye(4)[labels]
        given = p[np.arange(100), labels]
        held.append(given[-1] >= conformal_threshold(given[:-1], 0.9))
    assert 0.9 - 3 * 0.0095 < np.mean(held) < 0.9 + 3 * 0.0095
    assert conformal_threshold(np.arange(1, 100) / 100, 0.9) == 0.1, "the tenth of 99"


def test_the_cheapest_answer_is_the_one_of_least_expected_cost():
    rng = np.random.default_rng(0)
    p, costs = rng.dirichlet(np.ones(4), 200), class_costs({"a": 3, "d": 0.5}, list("abcd"))
    expected = np.stack([(p * np.where(np.arange(4) == k, 0, costs)).sum(axis=1) for k in range(4)], axis=1)
    assert ((p * costs).argmax(axis=1) == expected.argmin(axis=1)).all()
    inside = 0
    for _ in range(200):  # two per cent of 60 images cost 5
        wrong = 5.0 * (rng.uniform(size=60) < 0.02)
        _, low, high = mean_cost(wrong, np.array([5.0, 5.0]), 200)
        inside += low <= 0.1 <= high
    assert inside >= 186


@pytest.mark.parametrize("only_a, only_b, p", [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 1 / 64), (1, 9, 12 / 1024)])
def test_mcnemar_mid_p(only_a, only_b, p):
    right_a = np.array([True] * only_a + [False] * only_b + [True] * 7)
    right_b = np.array([False] * only_a + [True] * only_b + [True] * 7)
    assert mcnemar(right_a, right_b) == (only_a, only_b, pytest.approx(p))


def test_the_doubt_about_recipes_is_divided_between_training_and_images():
    rng, seeds, images, wrong, said = np.random.default_rng(0), 5, 400, 0, []
    for _ in range(150):  # equally good; each run is better or worse by 0.02, each image is easier for one of the two by up to 0.3
        tilt = rng.uniform(-0.3, 0.3, images)
        tilted = np.stack([tilt, -tilt])[:, None] / 2
        right = rng.uniform(size=(2, seeds, images)) < 0.6 + tilted + 0.02 * rng.normal(size=(2, seeds, 1))
        text = compare_recipes(*([Answers(np.ones(images, int), np.where(run, 0.9, 0.1), "ab") for run in runs] for runs in right))
        wrong += "better recipe" in text
        said.append([float(number) for number in re.findall("±([0-9]+[.][0-9])", text)])
    training, test = np.mean(said, axis=0)
    one = 0.24 - 0.3**2 / 12  # variance of right or wrong of one run on one image, tilted by half on each side
    assert training == pytest.approx(100 * 2.776 * np.sqrt(2 / seeds * (0.02**2 + one / images)), rel=0.15)
    assert test == pytest.approx(100 * 1.96 * np.sqrt(0.3**2 / 3 / images), rel=0.2)
    assert wrong <= 12  # seven or eight of 150
