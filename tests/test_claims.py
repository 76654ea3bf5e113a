"""What a report claims: each case is a sweep on which an earlier report claimed too much, too little, or the wrong thing."""

import base64
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import console, report, stats
from cnn_jax.report import answer, html
from cnn_jax.report.terminal import show
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

TEMPLATE = synthetic.record(Trial(), 0.9, images=8) | {"test_correct": None, "history": []}


def record(value, *, seed=0, validation=1000, right=None, status="done", **fields):
    """A light record; `fields` are those of ModelConfig, TrainConfig and DataConfig."""
    parts = []
    for part in (ModelConfig, DataConfig, TrainConfig):
        names = {f.name for f in dataclasses.fields(part)}
        parts.append(part(**{name: value for name, value in fields.items() if name in names}))
    trial = Trial(*parts, seed)
    out = TEMPLATE | {"trial": trial.id, "config": json.loads(trial.canonical), "status": status, "val_accuracy": value}
    if status != "done":
        return out | {"val_accuracy": None, "test_accuracy": None}
    out["data"] = out["data"] | {"validation": validation if right is None else len(right)}
    if right is not None:
        out["val_correct"] = base64.b64encode(np.packbits(right)).decode()
    return out


def cells(values, **fixed):
    """Records from {(name, level, ...): values by seed}; keys are tuples of (field, level) pairs."""
    return [record(float(v), seed=s, **dict(levels), **fixed) for levels, vs in values.items() for s, v in enumerate(vs)]


def rate(lr):
    return (("learning_rate", lr),)


def filters_and(padding, filters, kernel=3):
    return (("filters", (filters,)), ("kernel_size", (kernel,)), ("padding", padding))


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------------------------------------------- degenerate sweeps


@pytest.mark.parametrize("values", [(0.96, 0.97, 0.95, 0.96), (0.95, 0.96, 0.96, 0.97), (0.9, 0.9, 0.9, 0.9)])
def test_a1_one_seed_in_four_cells_says_nothing(values):
    grid = [filters_and(p, f) for f in (16, 32) for p in ("valid", "same")]
    analysis = stats.analyse(cells({levels: [v] for levels, v in zip(grid, values, strict=True)}))
    assert "one seed per cell" in answer.headline(analysis).lower()
    assert len(analysis.ties) == 3


def test_a1_runs_that_agree_to_the_image_have_a_variance():
    grid = {filters_and(p, f): [0.95] * 3 for f in (16, 32) for p in ("valid", "same")}
    grid[filters_and("same", 32)] = [0.951] * 3
    analysis = stats.analyse(cells(grid))
    assert (analysis.means.variance_K > 0).all()
    assert all(not t.test or math.isfinite(t.test.omega_squared.high) for t in analysis.effects.terms)
    assert analysis.sd == pytest.approx(0.001 / math.sqrt(12))


@pytest.mark.parametrize("f", [1e2, 1e6, 1e12])
def test_a1_omega_squared_of_any_f(f):
    noise = np.array([-1.0, 0.0, 1.0]) / math.sqrt(f)
    test = stats.Means.of([noise, noise + 1]).test(np.array([[-1.0, 1.0]]))
    assert 0 <= test.omega_squared.low <= test.omega_squared.value <= test.omega_squared.high <= 1


@st.composite
def sweeps(draw):
    """Records of a sweep of any shape: crossed or not, ties, missing and diverged runs, one image, one class, splits."""
    generator = rng(draw(st.integers(0, 2**32 - 1)))
    levels = {
        "filters": draw(st.lists(st.sampled_from([(4,), (8,), (16, 32), (32,)]), min_size=1, max_size=4, unique=True)),
        "padding": draw(st.lists(st.sampled_from(["valid", "same", "full"]), min_size=1, max_size=3, unique=True)),
        "learning_rate": draw(st.lists(st.floats(1e-4, 1e-1), min_size=1, max_size=12, unique=True)),
        "dataset": draw(st.lists(st.sampled_from(["digits", "mnist"]), min_size=1, max_size=2, unique=True)),
        "split_seed": draw(st.sampled_from([(0,), (0, 1), (0, 1, 2)])),
    }
    kept, images = draw(st.floats(0.2, 1.0)), draw(st.sampled_from([1, 2, 100]))
    style, answers = draw(st.sampled_from(["normal", "tied", "perfect", "wild"])), draw(st.booleans())
    out = []
    for f in levels["filters"]:
        for p in levels["padding"]:
            for lr in levels["learning_rate"]:
                for d in levels["dataset"]:
                    for split in levels["split_seed"]:
                        for seed in range(draw(st.integers(1, 3))):
                            if len(out) == 40 or generator.random() > kept:
                                continue
                            p_right = {"normal": 0.9, "tied": 0.5, "perfect": 1.0, "wild": generator.random()}[style]
                            right = generator.random(images) < p_right
                            status = generator.choice(["done", "diverged", "failed"], p=[0.9, 0.06, 0.04])
                            known = right if answers else None
                            where = {"dataset": d, "split_seed": split, "seed": seed, "status": status}
                            one = record(float(right.mean()), validation=images, right=known, **where, filters=f, padding=p,
                                         learning_rate=lr)  # fmt: skip
                            out.append(one)
    return out


@settings(max_examples=25, deadline=None)
@given(sweeps(), st.sampled_from([None, 0.01]))
def test_no_sweep_ends_without_a_report(records, resolve):
    about = [{"command": "python launch.py", "time": "now", "about": {"resolve": resolve}}] if resolve else []
    sweep = report.Sweep(records, [], about, [])
    page = html.page(sweep)
    assert page.count("<h1>") == max(1, len(stats.datasets(records)))
    out = console.Console(file=io.StringIO())
    for part, analysis in sweep.parts:
        show(analysis, out)
        assert analysis.resolution >= 0
        for cell in analysis.cells:
            e = analysis.interval(cell)
            assert not e.known or 0 <= e.low <= e.value <= e.high <= 1
        for term in analysis.effects.terms:
            e = term.span.simultaneous
            assert term.claimed == (e.known and not e.low <= 0 <= e.high), (term.name, term.p, e)
        assert len(part.records) <= len(records)


# ------------------------------------------------------------------------------------------------ claims: neither more nor less


def test_a3_a_lost_cell_makes_interactions_noise():
    """Filters and kernel size act only together. Without one cell their interaction leaks into the effect of padding."""
    wrong = 0
    for i in range(40):
        generator, grid = rng(i), {}
        for f in (8, 16, 32):
            for k in (3, 5):
                for p in ("valid", "same"):
                    mean = 0.95 + (0.01 if (f >= 16) == (k == 3) else -0.01)
                    grid[filters_and(p, f, k)] = mean + 0.001 * generator.normal(size=10)
        del grid[list(grid)[generator.integers(12)]]
        terms = {t.name: t for t in stats.analyse(cells(grid)).effects.terms}
        wrong += terms["padding"].claimed
    assert wrong == 0


def test_a4_an_unstable_cell_hides_no_clear_difference():
    generator = rng(1)
    stable = {rate(0.001): [1.0] * 5, rate(0.003): [0.968, 0.958, 0.972, 0.962, 0.966]}
    unstable = {rate(0.1): list(generator.uniform(0.4, 1.0, 5)), rate(0.01): [0.97, 0.975, 0.965, 0.968, 0.972]}
    analysis = stats.analyse(cells(stable | unstable))
    (term,) = analysis.effects.terms
    assert term.claimed
    assert {term.span.a, term.span.b} <= {"0.001", "0.003", "0.01"}
    told = {c.cell.levels["learning_rate"] for c in analysis.comparisons if c.distinguishable}
    assert told >= {0.003, 0.01}


def test_a4_an_unstable_best_cell_excludes_nothing_but_others_do():
    values = {rate(0.1): [0.6, 1.0, 1.0, 1.0, 1.0], rate(0.001): [0.91, 0.911, 0.909, 0.91, 0.912],
              rate(0.01): [0.85, 0.851, 0.849, 0.85, 0.852]}  # fmt: skip
    comparisons = {c.cell.levels["learning_rate"]: c for c in stats.analyse(cells(values)).comparisons}
    assert not comparisons[0.001].distinguishable
    assert comparisons[0.01].distinguishable
    assert comparisons[0.01].against.levels["learning_rate"] == 0.001


def crossover(generator):
    return {
        filters_and(p, f): 0.95 + (0.01 if (f == 8) == (p == "valid") else -0.01) + 0.001 * generator.normal(size=5)
        for f in (8, 32)
        for p in ("valid", "same")
    }


def test_a5_a_crossover_is_no_absence_of_effects():
    headline = answer.headline(stats.analyse(cells(crossover(rng()))))
    assert headline.startswith("Validation accuracy depends on filters and padding together (8 to 32 at same against")
    assert "No effect" not in headline
    assert "no effect" not in headline


def test_a5_an_effect_with_its_optimum_inside():
    values = {(("kernel_size", (k,)),): 0.95 - 0.005 * abs(k - 4) + 0.0005 * rng(k).normal(size=5) for k in (1, 3, 5, 7)}
    (term,) = stats.analyse(cells(values)).effects.terms
    assert term.claimed
    assert not term.span.estimate.low <= 0 <= term.span.estimate.high
    headline = answer.headline(stats.analyse(cells(values)))
    assert "3x3 beats" in headline or "5x5 beats" in headline


def test_a5_a_main_effect_with_an_interaction_is_an_average():
    grid = {
        filters_and(p, f): 0.9
        + (0.05 if f == 32 else 0)
        + (0.02 if f == 32 and p == "same" else 0)
        + 0.001 * rng(f).normal(size=5)
        for f in (8, 32)
        for p in ("valid", "same")
    }
    analysis = stats.analyse(cells(grid))
    assert "on average" in answer.headline(analysis)
    assert any(s.startswith("The effect of filters depends on padding") for s in answer.details(analysis))


# ------------------------------------------------------------------------------------------------------- images and intervals


def shared_images(generator, accuracies, seeds, images=400, quirk=1.0):
    """Records of cells of these expected accuracies whose images are hard for all, and each for its own reasons."""
    difficulty, out = 2.5 * generator.normal(size=images), []
    for i, logit in enumerate(accuracies):
        own = logit - difficulty + quirk * generator.normal(size=images)
        for seed in range(seeds):
            right = generator.random(images) < 1 / (1 + np.exp(-own))
            out.append(record(float(right.mean()), seed=seed, right=right, filters=(8 * 2**i,), kernel_size=(3,)))
    return out


def test_a6_intervals_do_not_shrink_below_what_new_images_change():
    widths = {}
    for seeds in (3, 24):
        analysis = stats.analyse(shared_images(rng(), (3.0, 3.0), seeds))
        assert analysis.population == "new seeds and new images"
        difference = analysis.comparisons[0].difference
        widths[seeds] = difference.high - difference.low
    # 1.0 logit of quirks changes the difference on new images by about 1.6 points, whatever the number of seeds.
    assert widths[24] > 2 * 1.96 * 0.008


def test_a6_the_variance_of_images_is_that_of_new_draws():
    """Among draws of images and seeds, the spread of a difference is what its interval says."""
    values, variances = [], []
    for i in range(300):
        means = stats.analyse(shared_images(rng(i), (3.0, 2.5), 3)).means
        w = np.array([1.0, -1.0]) * (1 if means.mean_K[0] > 0 else -1)
        found = means.contrasts(w[None])
        values.append(abs(float(found.value[0])))
        variances.append(float(found.variance[0]))
    assert np.mean(variances) == pytest.approx(np.var(values), rel=0.25)


def test_a6_without_answers_an_interval_speaks_of_these_images():
    records = [r | {"val_correct": None} for r in shared_images(rng(), (3.0, 3.0), 3)]
    assert stats.analyse(records).population == "new seeds on these images"


def test_a7_the_resolution_is_that_of_the_claims():
    """A cell that lies this far below the best of twelve is claimed to be worse with probability 0.8."""
    spread, grid = 0.003, [filters_and(p, f, k) for f in (8, 16, 32) for k in (3, 5) for p in ("valid", "same")]
    null = stats.analyse(cells({levels: 0.95 + spread * rng(i).normal(size=3) for i, levels in enumerate(grid)}))
    shift = null.smallest * spread / null.sd
    told = 0
    for i in range(60):
        generator = rng(100 + i)
        means = np.full(12, 0.95 - shift)
        means[0] = 0.95
        values = {levels: m + spread * generator.normal(size=3) for levels, m in zip(grid, means, strict=True)}
        comparisons = {c.cell.label: c.distinguishable for c in stats.analyse(cells(values)).comparisons}
        told += comparisons.get("filters=32 kernel_size=5 padding=same", False)
    assert 0.6 <= told / 60 <= 0.97


def test_a8_equal_parameters_are_named_and_solved_widths_are_no_factor():
    records = []
    for seed in range(5):
        for kernel, filters, macs, mean in ((3, 32, 1000, 0.96), (5, 31, 2400, 0.963)):
            one = record(mean + 0.0003 * rng(seed + kernel).normal(), seed=seed, filters=(filters,), kernel_size=(kernel,),
                         iso="params@32")  # fmt: skip
            records.append(one | {"macs": macs, "params": 54000 + filters})
    analysis = stats.analyse(records)
    assert list(analysis.design.factors) == ["kernel_size"]
    headline = answer.headline(analysis)
    assert headline.startswith("5x5 beats 3x3 by 0.")
    assert "at equal parameters; it has 2.4 times the MACs" in headline


def test_a9_one_interval_per_quantity():
    records = synthetic.sweep(seeds=12)
    analysis = stats.analyse(records)
    e = analysis.interval(analysis.best)
    page = html.page(report.Sweep(records, [], [], []))
    assert f"{100 * e.low:.2f} to {100 * e.high:.2f}" in page
    assert max(float(x) for x in re.findall(r"to (\d+\.\d\d)\)", page)) <= 100


def test_a9_effects_that_were_not_found_have_intervals_that_hold_zero():
    for i in range(20):
        analysis = stats.analyse(synthetic.sweep(seeds=3, effect=0.0, rng_seed=i))
        for term in analysis.effects.terms:
            e = term.span.simultaneous
            assert term.claimed == (not e.low <= 0 <= e.high)
    headline = answer.headline(analysis)
    assert headline.startswith("No effect of")
    assert " to +" in headline


# -------------------------------------------------------------------------------------------- designs: seeds, splits, data sets


def test_a10_a_report_states_what_the_sequence_decided():
    generator = rng(3)
    values = {rate(0.001): 0.95 + 0.002 * generator.normal(size=30), rate(0.01): 0.949 + 0.002 * generator.normal(size=30),
              rate(0.1): 0.90 + 0.002 * generator.normal(size=8)}  # fmt: skip
    analysis = stats.analyse(cells(values), resolve=0.01)
    verdicts = {d.cell.levels["learning_rate"]: d.verdict for d in analysis.decisions}
    assert verdicts[0.1] == "worse"
    assert "close" in verdicts.values()
    headline = answer.headline(analysis)
    assert "1 cell is worse" in headline
    assert "cannot be told" not in headline + " ".join(answer.details(analysis))


def test_a10_a_report_reads_the_difference_to_resolve_from_the_folder():
    entry = {"command": "c", "time": "t", "about": {"resolve": 0.01}}
    sweep = report.Sweep(synthetic.sweep(seeds=8), [], [entry], [])
    assert sweep.resolve == 0.01
    assert sweep.parts[0][1].decisions
    for bad in ("x", -1, 7, None):
        assert report.Sweep([], [], [entry | {"about": {"resolve": bad}}], []).resolve is None


def test_a11_splits_are_blocks():
    records = []
    for split, shift in ((0, 0.0), (1, 0.03), (2, -0.03)):
        for f, mean in (((8,), 0.94), ((32,), 0.95)):
            for seed in range(3):
                value = mean + shift + 0.0005 * rng(100 * split + 10 * seed + f[0]).normal()
                records.append(record(value, seed=seed, filters=f, split_seed=split))
    analysis = stats.analyse(records)
    assert list(analysis.design.factors) == ["filters"]
    assert [len(c.values("val_accuracy")) for c in analysis.cells] == [9, 9]
    (term,) = analysis.effects.terms
    # Splits differ by three points and cells by one, in every split alike.
    assert term.claimed
    assert term.span.estimate.value == pytest.approx(0.01, abs=0.001)
    assert analysis.population == "new seeds and new validation splits"
    assert "split" not in analysis.best.label


def test_a11_each_data_set_has_a_best_cell_and_its_own_images():
    records = [
        record(mean + 0.001 * rng(seed).normal(), seed=seed, dataset=d, filters=(f,), validation=v)
        for d, f, mean, v in (
            ("digits", 8, 0.9, 144),
            ("digits", 32, 0.95, 144),
            ("mnist", 8, 0.97, 6000),
            ("mnist", 32, 0.96, 6000),
        )
        for seed in range(3)
    ]
    sweep = report.Sweep(records, [], [], [])
    found = {part.records[0]["config"]["data"]["dataset"]: analysis for part, analysis in sweep.parts}
    assert {name: a.best.label for name, a in found.items()} == {"digits": "filters=32", "mnist": "filters=8"}
    assert {name: a.resolution for name, a in found.items()} == {"digits": 1 / 144, "mnist": 1 / 6000}
    page = html.page(sweep)
    assert page.count("<h1>") == 2
    assert "depends on dataset" not in page


def test_a13_ranges_of_seeds_are_given_as_ranges():
    values = {rate(0.001): 0.95 + 0.001 * rng(1).normal(size=28), rate(0.01): 0.9 + 0.001 * rng(2).normal(size=6)}
    records = cells(values)
    analysis = stats.analyse(records)
    assert analysis.runs == (6, 28)
    assert "6 to 28" in html.page(report.Sweep(records, [], [], []))
    assert any("cells have 6 to 28 runs" in s for s in answer.cautions(analysis))


def test_a13_a_complete_crossing_with_one_seed_is_complete():
    analysis = stats.analyse(synthetic.sweep(seeds=1))
    assert "combination" not in analysis.effects.caveat
    assert "each cell has a single run" in analysis.effects.caveat


def test_a13_twelve_levels_of_a_grid_are_not_binned():
    values = {(("filters", (f,)),): 0.9 + 0.004 * f + 0.001 * rng(f).normal(size=3) for f in range(1, 13)}
    (term,) = stats.analyse(cells(values)).effects.terms
    assert [name for name, _ in term.levels] == [str(f) for f in range(1, 13)]


def test_a13_the_set_of_best_cells_holds_the_best_and_is_small():
    kept, sizes = 0, []
    for i in range(60):
        generator = rng(i)
        truth = np.linspace(0.95, 0.956, 12)
        values = {rate(10.0 ** -(k + 1)): m + 0.001 * generator.normal(size=3) for k, m in enumerate(truth)}
        analysis = stats.analyse(cells(values))
        found = {c.levels["learning_rate"] for c in (*analysis.cells[:1], *analysis.ties)}
        kept += 10.0**-12 in found
        sizes.append(len(found))
    assert kept >= 57
    assert np.mean(sizes) < 9
