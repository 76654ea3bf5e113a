"""Published tables beside ours: the statistics of a row, the choice of its trials, the command."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from test_fuzz_cli import launch

from cnn_jax.papers import PAPERS, Published, Row, compare
from cnn_jax.papers.kayhan2020 import dissimilar
from cnn_jax.papers.paper import Paper, interval, measured, verdict
from cnn_jax.recipes.published import RECIPES
from cnn_jax.records import store
from cnn_jax.stats import Estimate

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


def test_every_paper_has_a_recipe_a_command_and_rows_that_its_recipe_trains() -> None:
    for name, paper in PAPERS.items():
        assert paper.recipe in RECIPES
        flags = RECIPES[paper.recipe].flags
        for row in paper.rows:
            assert all(str(level) in str(flags[flag]).split(",") for flag, level in row.where.items()), (name, row.label)


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "paper: name one of kayhan2020, keras_mnist, lenet1998"),
        (["kayhan2020", "lenet1998"], "paper: name one of"),
        (["kayhan"], "unknown paper 'kayhan': did you mean kayhan2020? One of kayhan2020"),
        (["kayhan2020", "--sedes=3"], "--sedes: unknown flag"),
        (["kayhan2020", "--padding=samee"], "--padding: 'samee' is not legal"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = launch(["paper", *words])
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
