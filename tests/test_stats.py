"""Statistics: against scipy where scipy has the same, by simulation where a level is promised."""

import base64
import functools
import math
import warnings

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cnn_jax import stats
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial


def covered(intervals, truth=0.0):
    return np.mean([e.low <= truth <= e.high for e in intervals])


@functools.cache
def template(filters, kernel, seed):
    trial = Trial(ModelConfig("cnn", (filters,), (kernel,)), DataConfig(), TrainConfig(epochs=1), seed)
    return synthetic.record(trial, 0.9, images=8)


def light(values_by_cell):
    """Records with these validation accuracies: {(filters, kernel): values}."""
    return [
        template(f, k, seed) | {"val_accuracy": v} for (f, k), values in values_by_cell.items() for seed, v in enumerate(values)
    ]


# ------------------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20])
def test_interval_of_a_mean_covers_at_its_level(n):
    rng = np.random.default_rng(n)
    runs = 0.5 + 0.01 * rng.normal(size=(3000, n))
    assert 0.93 <= covered([stats.accuracy_interval(stats.Means.of([v]), 0) for v in runs], 0.5) <= 0.97


@pytest.mark.parametrize("n", [3, 10])
def test_interval_of_a_mean_covers_skewed_runs(n):
    rng = np.random.default_rng(n)
    runs = 0.5 + 0.01 * (12 - rng.gamma(12, size=(3000, n)))
    assert 0.93 <= covered([stats.accuracy_interval(stats.Means.of([v]), 0) for v in runs], 0.5) <= 0.97


SPREADS = {"equal": np.ones(12), "different": np.linspace(0.6, 1.5, 12), "two kinds": np.repeat([0.3, 1.5], 6)}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("n", [3, 5])
def test_interval_of_a_difference_covers_when_cells_differ_in_spread(spread, n):
    rng = np.random.default_rng(n)
    pairs, halves = [], []
    for _ in range(1200):
        means = stats.Means.of([rng.normal(size=n) * sd for sd in SPREADS[spread]])
        a, b = rng.choice(12, 2, replace=False)
        pairs.append(means.contrast(np.eye(12)[a] - np.eye(12)[b]))
        halves.append(means.contrast(np.repeat([1, -1], 6) / 6))
    assert 0.93 <= covered(pairs) <= 0.975  # fivefold spreads: up to 0.97, and the simulation's own error
    assert 0.925 <= covered(halves) <= 0.97


def claims(records) -> bool:
    """Whether a report on these records claims anything."""
    analysis = stats.analyse(records)
    return any(t.claimed for t in analysis.effects.terms) or len(analysis.ties) < len(analysis.cells) - 1


def null_sweep(rng, runs, sd):
    return [r | {"val_accuracy": 0.95 + sd[r["params"] % 2] * rng.normal()} for r in runs]


def false_claims(repeats, seeds, sd, **design):
    rng = np.random.default_rng(seeds)
    runs = [r | {"test_correct": None, "params": i // seeds} for i, r in enumerate(synthetic.sweep(seeds=seeds, **design))]
    return np.mean([claims(null_sweep(rng, runs, sd)) for _ in range(repeats)])


@pytest.mark.slow
def test_no_effect_is_rarely_claimed():
    # 150 reports, 5 % each: more than 14 would happen once in a hundred times at that level.
    assert false_claims(150, 3, (0.004, 0.004)) <= 14 / 150


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("sd", [(0.004, 0.004), (0.002, 0.006)])
def test_no_effect_is_claimed_at_most_as_often_as_promised(seeds, sd):
    assert false_claims(2000, seeds, sd) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.slow
def test_no_effect_is_rarely_claimed_in_one_factor_of_two_levels():
    assert false_claims(2000, 3, (0.004, 0.004), filters=(8,), kernels=(3,)) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


def test_an_effect_is_found_where_it_is_and_not_elsewhere():
    analysis = stats.analyse(synthetic.sweep(seeds=4, sd=0.003, effect=0.01, rng_seed=1))
    terms = {t.name: t for t in analysis.effects.terms}
    assert terms["filters"].p < 1e-4
    assert terms["filters"].span.estimate.low < 0.02 < terms["filters"].span.estimate.high
    assert (terms["filters"].span.a, terms["filters"].span.b) == ("8", "32")
    assert terms["padding"].p > 0.05
    assert not analysis.effects.caveat


# ------------------------------------------------------------------------------------------------------ against known answers


def test_main_effect_of_one_factor_is_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    groups = {(f, 3): 0.9 + 0.01 * rng.normal(size=4) for f in (8, 16, 32)}
    (term,) = stats.analyse(light(groups)).effects.terms
    f, p = scipy_stats.f_oneway(*groups.values())
    assert term.test.f == pytest.approx(f)
    # Box's degrees of freedom only ever fall below the textbook's (2, 9): the p-value is no smaller.
    assert term.test.df[0] <= 2 + 1e-9
    assert p <= term.test.p + 1e-12


def test_balanced_two_by_two_is_the_textbook():
    rng = np.random.default_rng(1)
    y = {(f, k): 0.9 + 0.01 * rng.normal(size=5) for f in (8, 16) for k in (3, 5)}
    terms = {t.name: t for t in stats.analyse(light(y)).effects.terms}
    mean = {cell: v.mean() for cell, v in y.items()}
    within = np.mean([v.var(ddof=1) for v in y.values()])
    step = (mean[16, 3] + mean[16, 5] - mean[8, 3] - mean[8, 5]) / 2
    corner = mean[16, 5] - mean[8, 5] - mean[16, 3] + mean[8, 3]
    assert terms["filters"].span.estimate.value == pytest.approx(step)
    assert terms["filters"].test.f == pytest.approx(step**2 / (within / 5))
    assert terms["filters × kernel_size"].span.estimate.value == pytest.approx(corner)
    assert terms["filters × kernel_size"].test.f == pytest.approx(corner**2 / (4 * within / 5))


def test_cells_of_equal_spread_have_the_textbooks_degrees_of_freedom():
    noise = np.array([-0.02, 0.0, 0.01, 0.01])
    means = stats.Means.of([noise + m for m in (0.9, 0.92, 0.95)])
    e = means.contrast(np.array([-1.0, 0.5, 0.5]))
    se = math.sqrt(noise.var(ddof=1) / 4 * 1.5)
    assert e.df == pytest.approx(9)
    assert e.high - e.value == pytest.approx(scipy_stats.t.ppf(0.975, 9) * se)
    test = means.test(np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]))
    assert test.df == pytest.approx((2, 9))
    assert (test.f, test.p) == pytest.approx(tuple(scipy_stats.f_oneway(*(noise + m for m in (0.9, 0.92, 0.95)))))


def test_two_cells_are_compared_by_welch_at_no_more_than_his_degrees_of_freedom():
    rng = np.random.default_rng(2)
    a, b = 0.9 + 0.002 * rng.normal(size=4), 0.91 + 0.02 * rng.normal(size=9)
    (comparison,) = stats.analyse(light({(8, 3): a, (16, 3): b})).comparisons
    best, other = (b, a) if b.mean() > a.mean() else (a, b)
    expected = scipy_stats.ttest_ind(best, other, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    e = comparison.difference
    assert e.value == pytest.approx(best.mean() - other.mean())
    assert e.low <= low + 1e-12
    assert high - 1e-12 <= e.high
    assert e.high - e.low == pytest.approx(high - low, rel=0.02)
    assert comparison.p >= expected.pvalue - 1e-12


def test_omega_squared_by_hand():
    # Two groups of three, means 0 and 1, variance 0.25 each: F = 1^2 / (0.25 * 2 / 3) = 6, omega^2 = (6 - 1) / (6 - 1 + 6).
    means = stats.Means.of([np.array([-0.5, 0, 0.5]), np.array([0.5, 1, 1.5])])
    test = means.test(np.array([[-1.0, 1.0]]))
    assert test.f == pytest.approx(6)
    assert test.omega_squared.value == pytest.approx(5 / 11)
    # Its interval holds the noncentralities under which F = 6 is the 97.5 % and the 2.5 % quantile.
    for bound, q in ((test.omega_squared.low, 0.975), (test.omega_squared.high, 0.025)):
        if bound > 0:
            assert scipy_stats.ncf.cdf(6, 1, 4, 6 * bound / (1 - bound)) == pytest.approx(q, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(p):
    adjusted = stats.holm(np.array(p))
    order = np.argsort(p, kind="stable")
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, p[i] * (len(p) - rank))
        assert adjusted[i] == pytest.approx(min(1, running))


def test_holm_leaves_unknown_p_values_out():
    np.testing.assert_allclose(stats.holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])


def test_probability_better_counts_ties_half():
    assert stats.probability_better(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == (0.5 + 1 + 1 + 1) / 4


# ------------------------------------------------------------------------------------------------------------ planning


def test_power_and_seeds_agree_with_the_tables():
    # Cohen (1988), table 2.4.1: d = 0.8 needs 26 per group, d = 0.5 needs 64, at 80 % and two-sided 5 %.
    assert stats.seeds_to_resolve(1.0, 0.8) == 26
    assert stats.seeds_to_resolve(1.0, 0.5) == 64
    critical = scipy_stats.t.ppf(0.975, 126)
    assert stats.smallest_difference(math.sqrt(2 / 64), 126, critical) == pytest.approx(0.5, abs=0.01)
    assert stats.seeds_to_resolve(1.0, 0.5, comparisons=66) > 64


@pytest.mark.parametrize(
    ("k", "expected"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi)), (10, 1.53875)]
)
def test_expected_best_of_k(k, expected):
    assert stats.expected_best(k) == pytest.approx(expected, abs=1e-5)


def test_confidence_sequence_covers_at_all_times_together():
    rng = np.random.default_rng(4)
    wrong = 0
    for runs in rng.normal(size=(400, 100)):
        wrong += any(not (e := stats.confidence_sequence(runs[:n], 0.05)).low <= 0 <= e.high for n in range(2, 101))
    assert wrong / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_confidence_sequence_inverts_the_bayes_factor():
    x = np.random.default_rng(5).normal(0.5, size=12)
    e, n = stats.confidence_sequence(x, 0.05), 12
    t = (x.mean() - e.low) / (x.std(ddof=1) / math.sqrt(n))
    g, v = 1 + 10 * n, n - 1
    bayes_factor = ((1 + t**2 / v) / (1 + t**2 / (v * g))) ** (n / 2) / math.sqrt(g)
    assert bayes_factor == pytest.approx(1 / 0.05)


def resolve(rng, truth, sd, resolve_by, most=120):
    """Adds a seed to every open cell until none is; returns the seeds spent per cell and the cells at the end."""
    runs = {f: list(rng.normal(m, sd, size=3)) for f, m in truth.items()}
    while max(map(len, runs.values())) < most:
        records = light({(f, 3): v for f, v in runs.items()})
        cells = stats.open_cells(records, resolve_by)
        if not cells:
            break
        for cell in cells:
            runs[cell.config["model"]["filters"][0]].append(rng.normal(truth[cell.config["model"]["filters"][0]], sd))
    return {f: len(v) for f, v in runs.items()}


def test_seeds_go_where_the_answer_is_open():
    spent = resolve(np.random.default_rng(6), {8: 0.90, 16: 0.949, 32: 0.95}, 0.002, 0.004)
    assert spent[8] < spent[16] == spent[32] < 60


def test_open_cells_end_and_name_the_leader_first():
    rng = np.random.default_rng(7)
    few = light({(8, 3): rng.normal(0.94, 0.01, 4), (16, 3): rng.normal(0.95, 0.01, 4)})
    assert [c.label for c in stats.open_cells(few, 0.002)] == ["filters=16", "filters=8"]
    many = light({(8, 3): rng.normal(0.93, 0.01, 30), (16, 3): rng.normal(0.95, 0.01, 30)})
    assert stats.open_cells(many, 0.002) == []
    assert stats.open_cells(few[:4], 0.002) == []


def test_decisions_are_corrected_for_all_pairs_of_cells():
    """Two cells at a difference that is just decided alone are open among ten others."""
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 0.004, (2, 12))
    pair = {(8, 3): 0.95 + noise[0], (16, 3): 0.957 + noise[1]}
    assert stats.open_cells(light(pair), 0.001) == []
    crowd = pair | {(f, 5): 0.5 + rng.normal(0, 0.004, 12) for f in range(1, 11)}
    assert [c.levels["filters"] for c in stats.open_cells(light(crowd), 0.001)] == [16, 8]


def test_expected_seeds_is_where_a_typical_sequence_closes():
    n = stats.expected_seeds(0.004, 0.004, 3)
    spent = [max(resolve(np.random.default_rng(i), {8: 0.9, 16: 0.95, 32: 0.95}, 0.004, 0.004).values()) for i in range(8)]
    assert 0.6 * n <= np.median(spent) <= 1.5 * n


# ----------------------------------------------------------------------------------------------------------- cells and images


def test_factors_are_what_varies_and_aliases_are_not_factors():
    trials = [
        Trial(ModelConfig("cnn", (f,), (3,), padding=p), DataConfig(d), TrainConfig(epochs=60 if d == "digits" else 5), s)
        for d in ("digits", "mnist")
        for f in (32, 8)
        for p in ("same", "valid")
        for s in (0, 1)
    ]
    design = stats.design([synthetic.record(t, 0.9, images=8) for t in trials])
    assert design.factors == {"filters": (8, 32), "padding": ("valid", "same"), "dataset": ("digits", "mnist")}
    assert design.aliases == {"epochs": "dataset"}
    assert [len(c.records) for c in design.cells] == [2] * 8


def test_failures_stay_in_their_cell():
    records = synthetic.sweep(filters=(8, 16), kernels=(3,), paddings=("valid",))
    records[0] |= {"status": "diverged", "val_accuracy": None, "test_accuracy": None, "test_correct": None}
    analysis = stats.analyse(records)
    assert analysis.count("diverged") == 1
    assert sorted(c.count("done") for c in analysis.cells) == [2, 3]
    assert "cells have 2 to 3 runs" in analysis.effects.caveat


def test_random_search_is_approximate_and_finds_its_trend():
    rng = np.random.default_rng(8)
    records = []
    for i in range(60):
        rate = float(10 ** rng.uniform(-4, -1))
        trial = Trial(ModelConfig("cnn", (8,)), DataConfig(), TrainConfig(learning_rate=rate, epochs=1), i)
        records.append(synthetic.record(trial, 0.9 + 0.02 * math.log10(rate) + 0.003 * rng.normal(), images=8))
    analysis = stats.analyse(records)
    assert "grouped into ranges" in analysis.effects.caveat
    (term,) = analysis.effects.terms
    assert len(term.levels) == 4
    assert term.p < 1e-4
    assert analysis.ties == analysis.cells[1:]  # one run each: no cell can be told from the best


@pytest.mark.parametrize("records", [[], synthetic.sweep(seeds=1), synthetic.sweep(seeds=1)[:1], synthetic.sweep(seeds=3)[:3]])
def test_too_little_to_say(records):
    analysis = stats.analyse(records)
    assert all(not t.p <= 0.05 or len(records) == 12 for t in analysis.effects.terms)
    assert len(analysis.ties) == max(0, len(analysis.cells) - 1)


def test_identical_runs_are_no_evidence_of_a_single_image():
    """Three seeds that agree to the image have a spread of zero, and everything would differ from everything."""
    records = light({(8, 3): [0.95] * 3, (16, 3): [0.95 + 1 / 140] * 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (comparison,) = stats.analyse(records).comparisons
    assert comparison.difference.low < comparison.difference.value - 0.5 / 140


def test_runs_that_agree_to_the_image_still_have_an_interval():
    analysis = stats.analyse(light({(8, 3): [0.95] * 3, (16, 3): [0.9, 0.91, 0.92]}))
    e = analysis.interval(analysis.cells[0])
    # Rounding to one of 140 images has a standard deviation of 1 / (140 sqrt(12)); t with 2 degrees of freedom is 4.30.
    assert e.high - e.value == pytest.approx(4.3027 / (140 * math.sqrt(12)) / math.sqrt(3), rel=1e-4)


def test_an_accuracy_is_not_above_one():
    analysis = stats.analyse(light({(8, 3): [0.96, 1.0, 1.0]}))
    assert analysis.interval(analysis.cells[0]).high == 1.0


def test_selection_on_the_test_set_is_admitted():
    assert stats.analyse(synthetic.sweep()).validated
    assert not stats.analyse(synthetic.sweep(validation_fraction=0.0)).validated


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_bitmap_round_trip(images, seed):
    r = synthetic.record(Trial(), 0.7, images=images, hardness=seed)
    bits = stats.correctness(r)
    assert bits.shape == (images,)
    assert bits.mean() == pytest.approx(r["test_accuracy"])


def test_noise_of_independent_images_is_the_binomial():
    rng = np.random.default_rng(9)
    records = []
    for seed in range(200):
        correct = rng.random(400) < 0.9
        r = synthetic.record(Trial(seed=seed), 0.9, images=400)
        records.append(r | {"test_correct": base64.b64encode(np.packbits(correct)).decode(), "test_accuracy": correct.mean()})
    noise = stats.noise(stats.design(records).cells)
    assert noise.flips == pytest.approx(2 * 0.9 * 0.1, rel=0.02)
    assert noise.independent_sd == pytest.approx(math.sqrt(0.09 / 400), rel=0.02)
    assert noise.sd == pytest.approx(noise.independent_sd, rel=0.15)


def test_flipped_images_clearest_first():
    a, b = np.array([1.0, 0.2, 0.6, 1.0, 0.5]), np.array([0.4, 0.9, 0.4, 0.9, 0.0])
    assert stats.flipped(a, b).tolist() == [1, 0, 2]
