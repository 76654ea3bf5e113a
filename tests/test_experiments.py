"""Every experiment plans, fits its shapes and trains: whoever adds a file to experiments/ is tested here without a word."""

import csv
import importlib
import re
import sys
from pathlib import Path

import pytest
from absl import flags as absl_flags
from launching import ROOT, here

from cnn_jax import zoo
from cnn_jax.cli import experiments, flags
from cnn_jax.cli.flags import Request
from cnn_jax.cli.request import read_defaults, request_from
from cnn_jax.errors import UsageError
from cnn_jax.sweep import plan
from cnn_jax.trial import Trial


@pytest.mark.parametrize("name", experiments.known())
def test_cells_differ_only_in_what_the_experiment_names(name: str) -> None:
    module = experiments.find(name)
    assert module.__doc__
    defaults = read_defaults(name, module.DEFAULTS).axes
    trials = experiments.trials(module, Request({}, defaults, {}, seeds=2))
    assert len({trial.id for trial in trials}) == len(trials)
    named = [trial for trial in trials if trial.model.name in defaults.get("model", [trials[0].model.name])]
    for field in ("filters", "kernel_size", "strides", "padding", "activation"):
        values = {getattr(trial.model, field) for trial in named if field in zoo.options(trial.model.name)}
        assert len(values) == len(defaults.get(field, [None]))
    plan.preflight(trials)


def cells(trials: list[Trial]) -> set[tuple]:
    return {(trial.model.name, trial.model.filters, trial.model.kernel_size, trial.train.epochs) for trial in trials}


def asked(words: list[str], defaults: object) -> flags.Request:
    """What an experiment `mine` with these defaults is asked for by a command line."""
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    flags.parse(values, ["launch.py", *words], "")
    return request_from(values, read_defaults("mine", defaults))


GRID = {"model": "cnn", "filters": "8,16", "kernel_size": "3,5"}


def test_a15_a_named_model_is_trained_as_it_is_named() -> None:
    request = asked(["--model=simple_convnet", "--epochs=1,5", "--dataset=mnist"], GRID)
    assert cells(request.product()) == {("simple_convnet", (32, 64), (3,), 1), ("simple_convnet", (32, 64), (3,), 5)}
    assert request.note == (
        "experiment mine adds --filters=8,16 --kernel_size=3,5 only to --model=cnn; simple_convnet is trained with defaults"
    )
    both = asked(["--model=cnn,mlp", "--epochs=1"], GRID)
    assert cells(both.product()) == {("cnn", (32,), (3,), 1), ("mlp", (32,), (3,), 1)}
    assert both.note.endswith("cnn, mlp are trained with defaults")


def test_a15_the_default_axes_belong_to_the_experiments_own_model() -> None:
    for words in (["--epochs=1"], ["--epochs=1", "--model=cnn"]):
        request = asked(words, GRID)
        assert cells(request.product()) == {("cnn", (f,), (k,), 1) for f in (8, 16) for k in (3, 5)}
        assert request.note == "experiment mine adds --filters=8,16 --kernel_size=3,5"
    given = asked(["--filters=4", "--kernel_size=3"], GRID)
    assert given.note == ""
    assert len(cells(given.product())) == 1
    # An experiment that names no model asks its question of any.
    request = asked(["--model=simple_convnet"], {"padding": "valid,same"})
    assert {trial.model.padding for trial in request.product()} == {"valid", "same"}
    assert (
        "leaves out --padding=valid,same, which lenet5 cannot set" in asked(["--model=lenet5"], {"padding": "valid,same"}).note
    )


@pytest.mark.parametrize(
    ("defaults", "axes", "options"),
    [
        ({"kernel_size": 3}, {"kernel_size": [(3,)]}, {}),
        ({"kernel_size": [3, 5], "seeds": 2}, {"kernel_size": [(3,), (5,)]}, {}),
        ({"filters": [(16, 32), 8], "learning_rate": 1e-5}, {"filters": [(16, 32), (8,)], "learning_rate": [1e-5]}, {}),
        ({"option": "width=2,3"}, {}, {"width": [2, 3]}),
        ({"option": ["width=2,3", "shortcut=A"]}, {}, {"width": [2, 3], "shortcut": ["A"]}),
        ({"option": {"width": [2, 3]}}, {}, {"width": [2, 3]}),
    ],
)
def test_b3_defaults_may_be_text_numbers_and_lists(defaults: object, axes: dict, options: dict) -> None:
    found = read_defaults("mine", defaults)
    assert (found.axes, found.options) == (axes, options)


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"filtres": "8"}, "unknown name 'filtres': did you mean filters? One of model, filters, "),
        ({"kernal_size": 3}, "unknown name 'kernal_size': did you mean kernel_size?"),
        ({"out": "x"}, "unknown name 'out': one of"),
        ({3: 3}, "unknown name 3: one of"),
        ({"kernel_size": 0}, "--kernel_size: '0' is not legal: use integers of at least 1"),
        ({"kernel_size": None}, "kernel_size: None is not legal: use text, a number, or a list of them"),
        ({"kernel_size": [3, {}]}, "kernel_size: {} is not legal"),
        ({"filters": True}, "filters: True is not legal"),
        ({"padding": "sam"}, "--padding: 'sam' is not legal: use one of valid, same"),
        ({"seeds": "1,2"}, "--seeds: takes one value, not '1,2'"),
        ({"seeds": "many"}, "--seeds: 'many' is not legal"),
        ({"iso": "time"}, "--iso: 'time' is not legal: use one of params, macs"),
        ({"option": "width"}, "--option: 'width' is not legal: use NAME=VALUE[,VALUE]"),
        ({"option": ["width=2", "width=3"]}, "--option: width is given twice"),
        ({"option": {"width": object}}, "is not legal: use text, a number, or a list of them"),
        (["filters"], "is a list: it must be a dict from flags to values"),
    ],
)
def test_b3_defaults_are_checked_as_flags_are(defaults: object, words: str) -> None:
    with pytest.raises(UsageError, match="^experiment 'mine': DEFAULTS.*" + re.escape(words)) as error:
        read_defaults("mine", defaults)
    assert "\n" not in str(error.value)


def test_b3_settings_and_options_are_defaults_too() -> None:
    defaults = {"seeds": 2, "iso": "params", "resolve": 0.5, "option": "shortcut=A,projection"}
    request = asked(["--model=resnet20,lenet5", "--dataset=mnist"], defaults)
    assert request.seeds == 2
    assert request.note == "experiment mine adds --seeds=2 --iso=params --resolve=0.5 --option=shortcut=A,projection"
    # The option is skipped for the model that does not have it, and given to the command line it takes the default's place.
    assert [(trial.model.name, dict(trial.model.options)) for trial in request.product() if trial.seed == 0] == [
        ("resnet20", {"shortcut": "A"}), ("resnet20", {"shortcut": "projection"}), ("lenet5", {})
    ]  # fmt: skip
    given = asked(["--model=resnet20", "--option=shortcut=A", "--seeds=1"], defaults)
    assert len(given.product()) == 1


def test_b3_a_default_iso_reaches_the_plan(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "question.py").write_text('"""?"""\nDEFAULTS = {"kernel_size": [3, 5], "iso": "params"}\n')
    done = here("mine.question", "--dry_run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "iso params@32" in done.stdout
    (tmp_path / "mine" / "empty.py").write_text('"""?"""\n')
    done = here("mine.empty", "--dry_run", cwd=tmp_path)
    assert done.returncode == 2
    assert "'mine.empty' has neither DEFAULTS nor a function trials(request)" in done.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    raise RuntimeError('no')", "failed: RuntimeError: no (question_{n}.py:4)"),
        ("    return None", "failed: TypeError: 'NoneType' object is not iterable (question_{n}.py:3)"),
        ("    return [3]", "trials(request) returned a int in its list: it must hold Trials alone"),
        ("    return []", "the sweep is empty"),
        ("    import sys; sys.exit(0)", "failed: SystemExit: 0 (question_{n}.py:4)"),
    ],
)
def test_b2_an_experiment_that_raises_is_one_line(
    body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"question_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f'"""?"""\nDEFAULTS = {{}}\ndef trials(request):\n{body}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    module = importlib.import_module(name)
    with pytest.raises(UsageError, match=re.escape(words.format(n=name.removeprefix("question_")))) as error:
        plan.preflight(experiments.trials(module, asked([], {})))
    assert "\n" not in str(error.value)


# Every padding mode is trained; of the others two cells, unless all are asked for.
QUICK = [(name, "all" if name == "padding" else "random:2") for name in experiments.known()]
WHOLE = [pytest.param(name, "all", marks=pytest.mark.slow) for name in experiments.known() if name != "padding"]


@pytest.mark.parametrize(("name", "cells"), [*QUICK, *WHOLE])
def test_it_trains(name: str, cells: str, npz: str, tmp_path: Path) -> None:
    """Two steps of the first seed of cells, from the command line to the table."""
    words = [name, f"--dataset={npz}", "--train_examples=40", "--batch_size=18", "--epochs=1", "--seeds=1", f"--search={cells}"]
    done = here(*words, f"--out={tmp_path}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "results.csv", newline="") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"done"}
