"""Textbook designs: analysis of variance, Tukey's test, blocks, corrections and Wilson's interval against statsmodels."""

import itertools
import json

import numpy as np
import pytest
import synthetic

from cnn_jax import stats
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

pytestmark = pytest.mark.oracle
pd = pytest.importorskip("pandas")
sm = pytest.importorskip("statsmodels.api")
formula = pytest.importorskip("statsmodels.formula.api")
multicomp = pytest.importorskip("statsmodels.stats.multicomp")
multitest = pytest.importorskip("statsmodels.stats.multitest")
proportion = pytest.importorskip("statsmodels.stats.proportion")


def record(value, filters, padding, seed, split=0):
    trial = Trial(
        ModelConfig("cnn", (filters,), (3,), padding=padding), DataConfig(split_seed=split), TrainConfig(epochs=1), seed
    )
    # Of very many images: the variance of rounding to one of them is no part of the textbook.
    images = {"data": {"checksum": "0", "train": 1000, "validation": 10**9, "test": 8}}
    blank = images | {"test_correct": None, "test_accuracy": None, "config": json.loads(trial.canonical), "trial": trial.id}
    return synthetic.record(trial, 0.9, images=8) | blank | {"val_accuracy": float(value)}


def crossing(rng, *, equal_spread=False, seeds=4):
    """Records and a data frame of three widths by two paddings."""
    rows = []
    for f, p in itertools.product((8, 16, 32), ("valid", "same")):
        noise = rng.normal(size=seeds)
        if equal_spread:
            noise = (noise - noise.mean()) / noise.std(ddof=1)
        mean = 0.9 + 0.002 * np.log2(f) + 0.001 * (p == "same")
        rows += [(f, p, s, mean + 0.002 * e) for s, e in enumerate(noise)]
    frame = pd.DataFrame(rows, columns=["filters", "padding", "seed", "y"])
    return [record(y, f, p, s) for f, p, s, y in rows], frame


@pytest.mark.parametrize("seed", range(3))
def test_two_way_analysis_of_variance(seed):
    records, frame = crossing(np.random.default_rng(seed))
    fit = formula.ols("y ~ C(filters, Sum) * C(padding, Sum)", frame).fit()
    table = sm.stats.anova_lm(fit, typ=3)
    terms = {t.name: t for t in stats.analyse(records).effects.terms}
    names = {"filters": "C(filters, Sum)", "padding": "C(padding, Sum)", "filters × padding": "C(filters, Sum):C(padding, Sum)"}
    for ours, theirs in names.items():
        assert terms[ours].test.f == pytest.approx(table.loc[theirs, "F"])
        # Box's degrees of freedom only ever fall below the textbook's, which makes a large F less significant.
        assert terms[ours].test.p == pytest.approx(table.loc[theirs, "PR(>F)"], abs=0.05)
        assert terms[ours].test.f < 1 or terms[ours].test.p >= table.loc[theirs, "PR(>F)"] - 1e-12


def test_effects_of_levels_are_the_fitted_ones():
    records, frame = crossing(np.random.default_rng(5))
    fit = formula.ols("y ~ C(filters) + C(padding)", frame).fit()
    terms = {t.name: t for t in stats.analyse(records).effects.terms}
    for contrast, name in zip(terms["filters"].contrasts, ("C(filters)[T.16]", "C(filters)[T.32]"), strict=True):
        assert contrast.estimate.value == pytest.approx(fit.params[name])


def test_levels_of_equal_spread_are_compared_by_tukeys_test():
    rng = np.random.default_rng(7)
    records, values, groups = [], [], []
    for i, f in enumerate((8, 16, 32, 64)):
        noise = rng.normal(size=5)
        y = 0.9 + 0.0015 * i + 0.001 * (noise - noise.mean()) / noise.std(ddof=1)
        records += [record(v, f, "valid", s) for s, v in enumerate(y)]
        values, groups = [*values, *y], [*groups, *[f] * 5]
    theirs = multicomp.pairwise_tukeyhsd(values, groups)
    (term,) = stats.analyse(records).effects.terms
    # The integral over the least known variance only widens: no claim of ours is bolder than Tukey's.
    assert term.p >= theirs.pvalues.min() - 1e-4
    ends = np.flatnonzero(theirs.groupsunique == 64)[0]
    low, high = theirs.confint[ends - 1]  # 8 against 64
    assert term.contrasts[-1].simultaneous.low <= low + 1e-6
    assert term.contrasts[-1].simultaneous.high >= high - 1e-6
    assert term.contrasts[-1].simultaneous.high - term.contrasts[-1].simultaneous.low <= 1.4 * (high - low)


@pytest.mark.parametrize("groups", [3, 6, 12])
@pytest.mark.parametrize("df", [3, 8, 40])
def test_studentized_range(groups, df):
    critical = stats.range_critical(0.05, df, groups)
    from scipy.stats import studentized_range

    assert critical * np.sqrt(2) == pytest.approx(studentized_range.ppf(0.95, groups, df), rel=2e-3)
    assert stats.range_p(critical, df, groups) == pytest.approx(0.05, abs=1e-4)


def test_randomized_blocks():
    rng = np.random.default_rng(3)
    rows = [
        (f, split, 0.9 + 0.001 * np.log2(f) + 0.02 * split + 0.0005 * rng.normal()) for f in (8, 16, 32) for split in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["filters", "split", "y"])
    table = sm.stats.anova_lm(formula.ols("y ~ C(filters) + C(split)", frame).fit(), typ=2)
    (term,) = stats.analyse([record(y, f, "valid", 0, split) for f, split, y in rows]).effects.terms
    assert term.test.f == pytest.approx(table.loc["C(filters)", "F"])


def test_holm():
    p = np.random.default_rng(0).uniform(0, 0.2, 12)
    assert stats.holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


@pytest.mark.parametrize("right", [90, 99, 100])
def test_interval_of_one_cell_is_wilsons_where_seeds_agree(right):
    """Runs that give the same answers leave the images as the only source of variance."""
    bits = np.arange(100) < right
    means = stats.Means.of([np.full(5, right / 100)], 0.0, stats.Images.of([np.stack([bits] * 5)]))
    means = means.with_spread(1e-12, 100)
    e = stats.accuracy_interval(means, 0)
    low, high = proportion.proportion_confint(right, 100, method="wilson")
    assert (e.low, e.high) == pytest.approx((low, high), abs=0.004)
