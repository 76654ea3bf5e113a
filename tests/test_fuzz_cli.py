"""Command lines drawn at random, legal, nearly legal and nonsense: exit status 0 or 2, one line of error, never a traceback."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnn_jax import cli, sweep
from cnn_jax.cli.flags import SWEEP_FLAGS
from cnn_jax.nn import ACTIVATIONS, PADDINGS
from cnn_jax.trial import OPTIMIZERS
from cnn_jax.zoo import MODELS

LEGAL = {
    "model": list(MODELS),
    "filters": ["1", "8", "16-32", "4-4-4"],
    "kernel_size": ["1", "3", "5", "3-5"],
    "strides": ["1", "2", "3", "1-2"],
    "padding": list(PADDINGS),
    "activation": list(ACTIVATIONS),
    "dataset": ["digits", "red_green", "red_green:dissimilar", "red_green:published"],
    "validation_fraction": ["0", "0.1", "0.5"],
    "split_seed": ["0", "7"],
    "train_examples": ["100", "1438"],
    "image_size": ["8", "12"],
    "normalize": ["none", "per_channel", "standardize"],
    "optimizer": list(OPTIMIZERS),
    "learning_rate": ["1e-3", "0.5"],
    "weight_decay": ["0", "1e-4"],
    "momentum": ["0", "0.9"],
    "batch_size": ["1", "32", "5000"],
    "epochs": ["1", "60"],
    "seeds": ["1", "3"],
    "workers": ["1", "64"],
    "checkpoint_seconds": ["0", "60"],
    "snapshots": ["0", "0,1", "7", "0..4"],
    "iso": ["params", "macs"],
    "option": ["shortcut=A", "depth=2,3", "rate=0.1"],
    "devices": ["1", "2"],
    "executor": ["local", "ray", "slurm"],
}
ODD = [
    "", "0", "-1", "nan", "inf", "1e999", "1.5", "x", ",", ",,", "1,", "-", "3-", "--", "=", "a=b", "a=", "999999999", "1" * 30,
    "é", "😀", "../..", "/", "npz:", "npz:/", "folder:", "folder:/dev/null", "no.mod:x", "os:getcwd", "%s", "{}", "[1]", "None",
    "\\", "'", " ", "\n",
]  # fmt: skip
NAMES = st.sampled_from([*sweep.AXES, *SWEEP_FLAGS, "option"])
NOISE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@st.composite
def flag(draw: st.DrawFn) -> str:
    name = draw(NAMES)
    legal = st.sampled_from(LEGAL.get(name, ["1"]))
    value = draw(
        st.one_of(legal, legal, legal, st.lists(legal, min_size=2, max_size=3).map(",".join), st.sampled_from(ODD), NOISE)
    )
    return f"--{name}={value}"


SWITCHES = st.sampled_from(
    ["--keep_params", "--nokeep_params", "--dry_run=maybe", "--nosuch", "--", "-x", "--help", "--tensorboard"]
)
EXPERIMENTS = st.sampled_from(
    ["grid", "filters", "kernel_size", "padding", "describe", "report", "compare", "export", "gird", "os", "os.path"]
)


@st.composite
def command_line(draw: st.DrawFn) -> list[str]:
    words = [draw(EXPERIMENTS)] if draw(st.booleans()) else []
    words += draw(st.lists(st.one_of(flag(), flag(), flag(), SWITCHES), max_size=6))
    if draw(st.integers(0, 9)) == 0:
        words.append(draw(NOISE))
    return words


def launch(words: list[str]) -> tuple[int, str, str]:
    """The command line in this process, with flags of its own; planned, not run."""
    before, path = flags.FLAGS, list(sys.path)
    flags.FLAGS = flags.FlagValues()
    first = words[:1] if words and not words[0].startswith("-") else []
    whole = first in (["describe"], ["report"], ["compare"], ["doctor"], ["inspect"], ["measure"], ["card"], ["export"])
    planned = words if whole else [*first, "--dry_run", *words[len(first) :]]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.launch(["launch.py", *planned])
    finally:
        flags.FLAGS, sys.path[:] = before, path
    return status, out.getvalue(), err.getvalue()


def hold(words: list[str], folder: Path) -> None:
    status, out, err = launch(words)
    assert status in (0, 2), (words, out, err)
    assert (err.count("\n") == 1) == (status == 2), (words, err)
    assert "Traceback" not in out + err
    assert list(folder.iterdir()) == [], words  # nothing was written


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


ANYHOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=ANYHOW, database=None)
@given(words=command_line())
def test_thirty_command_lines(words: list[str], folder: Path) -> None:
    hold(words, folder)


@pytest.mark.slow
@pytest.mark.chaos
@settings(max_examples=int(os.environ.get("CHAOS_LINES", "500")), deadline=None, suppress_health_check=ANYHOW)
@given(words=command_line())
def test_many_command_lines(words: list[str], folder: Path) -> None:
    hold(words, folder)
