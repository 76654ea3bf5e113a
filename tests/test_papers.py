"""Published tables beside ours: the statistics of a row, the choice of its trials, the command."""

import base64
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
import synthetic
from launching import plan

from cnn_jax import data, stats
from cnn_jax.analysis.trained import open_trial
from cnn_jax.papers import PAPERS, Above, OfAll, PerSeed, Published, Row, compare, gavrikov2023, jordan2023, luo2016, spread
from cnn_jax.papers.kayhan2020 import dissimilar
from cnn_jax.papers.paper import Paper, claim, interval, less, measured, verdict
from cnn_jax.recipes.published import RECIPES
from cnn_jax.records import store
from cnn_jax.stats import Estimate
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

ROOT = Path(__file__).resolve().parents[1]


def record(padding: str, accuracy: float, status: str = "done") -> dict:
    model = {"name": "cnn", "padding": padding, "options": []}
    return {
        "status": status, "test_accuracy": accuracy, "test_examples": 1000,
        "history": [{"epoch": 1, "val_accuracy": accuracy / 2}, {"epoch": 2, "val_accuracy": accuracy}],
        "config": {"model": model, "data": {}, "train": {}, "seed": 0},
    }  # fmt: skip


def test_a_difference_has_welchs_interval() -> None:
    values = np.array([0.91, 0.93, 0.94, 0.90])
    p = scipy.stats.ttest_ind_from_stats(values.mean(), values.std(ddof=1), 4, 0.9, 0.02, 10, equal_var=False).pvalue
    found = interval(values, 1e-6, 1 - p, Published(0.9, 0.02, 10))
    assert found.low == pytest.approx(0, abs=1e-9)  # at 1 minus its p-value, an interval ends at zero
    assert found.high == pytest.approx(2 * found.value)


def test_an_exact_number_leaves_the_one_sample_interval() -> None:
    values = np.array([0.91, 0.93, 0.94])
    found = interval(values, 1e-6, 0.95, Published(0.9))
    low, high = scipy.stats.t.interval(0.95, 2, values.mean() - 0.9, scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_seeds_that_agree_to_the_image_still_have_an_interval() -> None:
    found = interval(np.ones(3), 0.001, 0.95)
    assert found.high - found.low == pytest.approx(2 * scipy.stats.t.ppf(0.975, 2) * 0.001 / math.sqrt(6 * 3))
    assert not interval(np.ones(1), 0.001, 0.95).known
    assert math.isnan(interval(np.ones(0), 0.001, 0.95).value)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.01, "agrees"),
        (0.005, 0.02, "agrees"),  # a difference that is known, and too small to matter
        (0.005, 0.05, "differs"),
        (-0.05, -0.03, "differs"),
        (-0.01, 0.05, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate(0.0, low, high, 3), 0.03) == expected


def test_a_row_is_measured_on_its_trials_alone() -> None:
    rows = (
        Row("valid", {"padding": "valid"}, "test_accuracy", Published(0.9)),
        Row("curve", {"padding": "same"}, "val_accuracy@1", Published(0.3)),
        Row("none", {"padding": "full"}, "test_accuracy", Published(0.5)),
    )
    paper = Paper("", "", "", rows, 0.01, 3, {})
    records = [record("valid", 0.9), record("valid", 0.92), record("same", 0.6), record("valid", 0.1, "diverged")]
    valid, curve, none = compare(paper, Path(), records)
    assert (valid.ours.value, valid.ours.n) == (pytest.approx(0.91), 2)
    assert valid.difference.high - valid.difference.low > valid.ours.high - valid.ours.low  # corrected for three rows
    assert (curve.ours.value, curve.verdict) == (0.3, "undecided")
    assert (none.ours.n, none.verdict) == (0, "undecided")
    assert measured("val_accuracy@3", Path(), records[0]) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.2, "agrees"), (-0.2, -0.01, "differs"), (-0.01, 0.2, "undecided"), (math.nan, math.nan, "undecided")],
)
def test_a_claim_is_held_against_its_bound_alone(low: float, high: float, expected: str) -> None:
    assert claim(Estimate(0.0, low, high, 3)) == expected


def test_a_row_may_be_measured_on_the_trials_of_a_seed_or_on_all() -> None:
    def gap(folder: Path, group: Sequence[dict]) -> float | None:
        found = {r["config"]["model"]["padding"]: r["test_accuracy"] for r in group}
        return found["same"] - found["valid"] if len(found) == 2 else None

    def largest(folder: Path, found: Sequence[dict], level: float) -> Estimate:
        top = max(r["test_accuracy"] for r in found)
        return Estimate(top, top - level / 100, top + level / 100, len(found))

    def of(seed: int, padding: str, accuracy: float) -> dict:
        one = record(padding, accuracy)
        return one | {"config": one["config"] | {"seed": seed}}

    rows = (
        Row("gap", {}, PerSeed(gap), Above(0.02)),
        Row("below", {}, PerSeed(gap), Above(0.5)),
        Row("largest", {"padding": "same"}, OfAll(largest), Published(0.9), margin=0.2),
    )
    found = [(0, "valid", 0.8), (0, "same", 0.85), (1, "valid", 0.7), (1, "same", 0.75), (2, "same", 0.99), (3, "valid", 0.1)]
    records = [of(*values) for values in [*found, (4, "valid", 0.6), (4, "same", 0.652)]]
    first, below, last = compare(Paper("", "", "", rows, 0.001, 3, {}), Path(), records)
    assert (first.ours.value, first.ours.n) == (pytest.approx((0.05 + 0.05 + 0.052) / 3), 3)  # seeds 2 and 3 lack a half
    assert (first.difference.value, first.verdict) == (pytest.approx(first.ours.value - 0.02), "agrees")
    assert below.verdict == "differs"
    assert (last.ours.value, last.ours.n, last.verdict) == (0.99, 4, "agrees")
    corrected = 1 - 0.05 / 3
    assert last.difference.high - last.difference.low == pytest.approx(2 * corrected / 100)


def test_a_published_spread_widens_the_interval_of_a_number_of_all() -> None:
    exact = less(Estimate(2.0, 1.0, 4.0, 5), Published(0.5), 0.95)
    assert (exact.value, exact.low, exact.high) == (1.5, 0.5, 3.5)
    half = scipy.stats.t.ppf(0.975, 9) * 3 / math.sqrt(10)
    spread_of_both = less(Estimate(2.0, 1.0, 4.0, 5), Published(0.5, 3.0, 10), 0.95)
    assert spread_of_both.low == pytest.approx(1.5 - math.hypot(1.0, half))
    assert spread_of_both.high == pytest.approx(1.5 + math.hypot(2.0, half))


# ------------------------------------------------------------------------------------------------------- seeds: known answers


def test_a_standard_deviation_has_its_chi_squared_interval() -> None:
    found = spread.interval_of_sd(2.0, 9, 10, 0.95)
    low, high = (2.0 * math.sqrt(9 / scipy.stats.chi2.ppf(p, 9)) for p in (0.975, 0.025))
    assert (found.value, found.low, found.high) == (2.0, pytest.approx(low), pytest.approx(high))


def test_a_range_is_held_against_that_of_normal_values() -> None:
    normal = np.random.default_rng(3).normal(size=40)
    found = spread.range_of_normal(normal, 0.95)
    assert found.low < 1 < found.high
    outlier = spread.range_of_normal(np.append(normal, 20.0), 0.95)
    assert outlier.low > 1
    assert not spread.range_of_normal(np.ones(5), 0.95).known


def runs(count: int, images: int, luck: float, epochs: int = 1) -> list[dict]:
    """Runs whose errors are independent given the run; `luck`: standard deviation of its rate of right answers."""
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.3, 0.7, images)
    out = []
    for seed in range(count):
        right = rng.random(images) < rate + luck * rng.choice([-1, 1])
        bits = base64.b64encode(np.packbits(right).tobytes()).decode()
        trial = Trial(train=TrainConfig(epochs=epochs), seed=seed)
        out.append(synthetic.record(trial, 0.5, images=images) | {"test_correct": bits, "test_accuracy": float(right.mean())})
    return out


def test_independent_errors_have_a_ratio_of_one_and_no_variance_of_the_distribution() -> None:
    excess, share = jordan2023.excess(runs(60, 4000, 0.0), 0.95), jordan2023.of_distribution(runs(60, 4000, 0.0), 0.95)
    assert excess.low < 1 < excess.high
    assert share.low == 0
    assert share.value < 0.3


def test_luck_of_a_run_is_variance_of_the_distribution() -> None:
    found = runs(60, 4000, 0.02)
    rate = np.random.default_rng(0).uniform(0.3, 0.7, 4000)
    independent = (rate * (1 - rate)).sum() / 4000**2
    excess, share = jordan2023.excess(found, 0.95), jordan2023.of_distribution(found, 0.95)
    assert excess.low < math.sqrt(1 + 0.02**2 / independent) < excess.high
    assert share.low < 0.02**2 / (0.02**2 + independent) < share.high
    assert share.low > 0.5


def test_the_shortest_and_the_longest_training_are_compared() -> None:
    records = [*runs(30, 2000, 0.05, epochs=1), *runs(30, 2000, 0.0, epochs=8)]
    short, long, short_share, long_share = compare(PAPERS["jordan2023"], Path(), records)
    assert short.verdict == "agrees"
    assert short.ours.low > 2
    assert long.ours.low < 1 < long.ours.high
    assert (short_share.ours.value > 0.8, long_share.ours.low) == (True, 0)
    assert [found.ours.n for found in (short, long)] == [30, 30]


def test_picards_rows_are_the_spread_and_the_range() -> None:
    records = runs(25, 2000, 0.0)
    accuracies = np.array([r["test_accuracy"] for r in records])
    sd, ranged = compare(PAPERS["picard2021"], Path(), records)
    assert sd.ours.value == pytest.approx(accuracies.std(ddof=1))
    assert sd.difference.value == pytest.approx(accuracies.std(ddof=1) - 0.0023)
    assert ranged.ours.low < 1 < ranged.ours.high


# ---------------------------------------------------------------------------------------------------- networks: known answers


def test_the_exponent_of_a_power_law_is_its_power() -> None:
    assert luo2016.exponent({n: math.sqrt(n * 8 / 12) for n in range(1, 13)}) == pytest.approx(
        0.5
    )  # the n-fold box of 3 pixels
    assert luo2016.exponent({n: 2 * n + 1.0 for n in (4, 8)}) == pytest.approx(math.log(17 / 9) / math.log(2))
    assert math.isnan(luo2016.exponent({1: 1.0, 2: 2.0}))


def test_luos_and_alains_rows_read_the_measures_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {f"conv{n}": 2.0 * n for n in range(1, 5)} | {"dense1": 9.0}
    before = {f"conv{n}": math.sqrt(n) for n in range(1, 5)}
    layers = ("pixels", "conv1", "pool1", "conv2", "pool2", "dense1")
    probes = dict(zip(layers, (0.80, 0.90, 0.89, 0.95, 0.97, 0.98), strict=True))
    measured_values = {
        "effective_field": {"field_std": widths, "field_std_untrained": before},
        "probe": {"probe": probes, "probe_untrained": {"pool2": 0.93}},
    }

    def values(folder: Path, trial: str, measure: str) -> dict:
        shift = 0.001 * int(trial)
        return {name: {k: v + shift for k, v in table.items()} for name, table in measured_values[measure].items()}

    monkeypatch.setattr("cnn_jax.papers.networks.values", values)
    records = [record("same", 0.9) | {"trial": str(seed)} for seed in range(3)]
    random, trained, growth = compare(PAPERS["luo2016"], Path(), records)
    assert random.ours.value == pytest.approx(0.5, abs=0.01)
    assert random.verdict == "agrees"
    assert (trained.ours.value, trained.verdict) == (pytest.approx(1.0, abs=0.01), "differs")
    assert (growth.ours.value, growth.verdict) == (pytest.approx(4.0, abs=0.01), "agrees")
    found = {row.row.label: row for row in compare(PAPERS["alain2016"], Path(), records)}
    assert found["trained, pixels to conv1"].ours.value == pytest.approx(0.1)
    assert found["trained, conv1 to pool1"].verdict == "differs"
    assert found["trained, conv1 to pool1"].ours.value == pytest.approx(-0.01)
    assert found["untrained, pixels to pool2"].ours.value == pytest.approx(0.13)
    assert found["trained, pixels to dense1"].verdict == "agrees"


def frozen(seed: int, size: int, freeze: str, accuracy: float) -> dict:
    options = (("optimizer.freeze", freeze),)
    trial = Trial(ModelConfig(kernel_size=(size,)), train=TrainConfig(options=options), seed=seed)
    return synthetic.record(trial, 0.5) | {"test_accuracy": accuracy, "config": json.loads(trial.canonical)}


def test_gavrikovs_gaps_are_learned_less_frozen_of_the_same_seed() -> None:
    losses = {3: 0.01, 9: 0.05}
    records = [
        frozen(seed, size, freeze, 0.9 + 0.001 * seed * size - (losses[size] if freeze == "spatial" else 0))
        for seed in range(3)
        for size in losses
        for freeze in ("none", "spatial")
    ]
    assert gavrikov2023.gaps(records[:4]) == {3: pytest.approx(0.01), 9: pytest.approx(0.05)}
    assert gavrikov2023.gaps(records[:3]) == {3: pytest.approx(0.01)}
    small, large, growth = compare(PAPERS["gavrikov2023"], Path(), records)
    assert [row.ours.value for row in (small, large, growth)] == pytest.approx([0.01, 0.05, 0.04])
    assert growth.verdict == "agrees"
    alone = list(compare(PAPERS["gavrikov2023"], Path(), [r for r in records if r["config"]["model"]["kernel_size"] == [3]]))
    assert (alone[2].ours.n, alone[2].verdict) == (0, "undecided")


# ------------------------------------------------------------------------------------------------------------------- papers


def test_every_paper_has_a_recipe_a_command_and_rows_that_its_recipe_trains() -> None:
    for name, paper in PAPERS.items():
        assert paper.recipe in RECIPES
        flags = RECIPES[paper.recipe].flags
        for row in paper.rows:
            assert all(str(level) in str(flags[flag]).split(",") for flag, level in row.where.items()), (name, row.label)


@pytest.mark.slow
def test_a_papers_sweep_ends_in_its_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = [f"--out={out}", "--seeds=1", "--epochs=1", "--padding=valid,same", "--workers=1", "--filters=4-4-4-4"]
    command = [sys.executable, str(ROOT / "launch.py"), "paper", "kayhan2020", *args]
    command += ["--train_examples=400", "--validation_fraction=0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout
    text = " ".join(printed.split())
    assert "valid, dissimilar 0.20 ± 0.10" in text
    assert "undecided" in text
    records = store.read(out)
    assert len(records) == 2
    for one in records:  # the same network on the other images: their own accuracy, not that of the record
        value = dissimilar(out, one)
        assert 0 <= value <= 1
        shown = [line for line in printed.splitlines() if line.startswith(f"{one['config']['model']['padding']}, dissimilar")]
        assert f"{100 * value:.2f}" in shown[0]
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.stdout.split(records[0]["trial"])[-1].splitlines()[-8:] == printed.splitlines()[-8:]
    assert len(store.read(out)) == 2


@pytest.mark.slow
def test_a_sweep_of_frozen_and_learned_kernels_ends_in_its_table(npz: str, tmp_path: Path) -> None:
    args = [
        f"--out={tmp_path}",
        f"--dataset={npz}",
        "--seeds=2",
        "--epochs=1",
        "--kernel_size=3,5",
        "--filters=4",
        "--workers=1",
    ]
    command = [sys.executable, str(ROOT / "launch.py"), "paper", "gavrikov2023", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert "largest minus smallest kernel" in done.stdout
    assert "above 0" in done.stdout
    for one in store.read(tmp_path):
        network = open_trial(tmp_path, one["trial"])
        before = network.randomized(one["config"]["seed"]).variables["params"]
        same = {
            name: np.array_equal(values["kernel"], before[name]["kernel"])
            for name, values in network.variables["params"].items()
            if "kernel" in values
        }
        assert same == {"conv1": stats.flat(one["config"])["optimizer.freeze"] == "spatial", "conv2": False, "dense1": False}


@pytest.fixture(scope="module")
def tiny(npz: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions, trained for one and for two epochs, two seeds each, in this process."""
    from cnn_jax.execution.messages import Assignment, WorkerConfig
    from cnn_jax.execution.trainer import Trainer

    out = tmp_path_factory.mktemp("papers") / "out"
    model = ModelConfig(filters=(3, 4), kernel_size=(3,), padding="same")
    trials = [Trial(model, DataConfig(npz), TrainConfig(epochs=epochs), seed) for epochs in (1, 2) for seed in (0, 1)]
    store.begin(out, "test", "now", trials)
    worker = Trainer(WorkerConfig(str(out), True, 1e9, {"command": "test", "versions": {}}), jax.devices()[:1])
    worker.keep = lambda _, one, arrays: worker.writer.finish(one, *arrays)
    for trial in trials:
        worker.run(Assignment(0, (trial.canonical,), 1, data.load(trial.data).checksum))
    return out


@pytest.mark.parametrize("name", ["luo2016", "alain2016", "jordan2023", "picard2021"])
def test_every_row_of_a_paper_is_measured_on_a_sweep(name: str, tiny: Path) -> None:
    records = store.read(tiny)
    assert [r["status"] for r in records] == ["done"] * 4
    found = list(compare(PAPERS[name], tiny, records))
    assert [row.row.label for row in found] == [row.label for row in PAPERS[name].rows]
    for row in found:
        if name == "luo2016" and "exponent" in row.row.label:
            continue  # of two convolutions: no slope from the second layer on
        if "range" in row.row.label and len({r["test_accuracy"] for r in records}) == 1:
            continue  # on images this easy, all seeds may be equal
        assert math.isfinite(row.ours.value), row.row.label
        assert row.ours.n in (2, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "paper: name one of alain2016, gavrikov2023, jordan2023, kayhan2020, keras_mnist, lenet1998, luo2016, picard2021"),
        (["kayhan2020", "lenet1998"], "paper: name one of"),
        (["kayhan"], "unknown paper 'kayhan': did you mean kayhan2020? One of alain2016"),
        (["kayhan2020", "--sedes=3"], "--sedes: unknown flag"),
        (["kayhan2020", "--padding=samee"], "--padding: 'samee' is not legal"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = plan(["paper", *words])
    status, err = done.returncode, done.stderr
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
