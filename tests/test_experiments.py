"""Every experiment plans, fits its shapes and trains: whoever adds a file to experiments/ is tested here without a word."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax import plan
from cnn_jax.cli import experiments, flags
from cnn_jax.cli.flags import Request

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", experiments.known())
def test_cells_differ_only_in_what_the_experiment_names(name: str) -> None:
    module = experiments.find(name)
    assert module.__doc__
    defaults = flags.read_defaults(name, module.DEFAULTS).axes
    trials = module.trials(Request({}, defaults, {}, seeds=2))
    assert len({trial.id for trial in trials}) == len(trials)
    for field in ("filters", "kernel_size", "strides", "padding", "activation"):
        values = {getattr(trial.model, field) for trial in trials}
        assert len(values) == len(defaults.get(field, [None]))
    plan.preflight(trials)


@pytest.mark.parametrize("name", experiments.known())
def test_it_trains(name: str, npz: str, tmp_path: Path) -> None:
    """Two steps of every cell's first seed, from the command line to the table."""
    args = [name, f"--dataset={npz}", "--train_examples=40", "--batch_size=18", "--epochs=1", "--seeds=1", f"--out={tmp_path}"]
    done = subprocess.run([sys.executable, "launch.py", *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "results.csv", newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"done"}
