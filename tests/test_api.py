"""`cnn_jax.run_sweep`: the flags of `launch.py`, its checks and its results, from Python."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from absl import flags as absl_flags
from launching import here, plan

import cnn_jax
from cnn_jax import api
from cnn_jax.cli import flags
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

ROOT = Path(__file__).resolve().parents[1]
TINY = {"filters": [2, 4], "kernel_size": 3, "padding": "same", "epochs": 1, "seeds": 1, "workers": 1}
ARGUMENTS = TINY | {"filters": "2,4"}  # as flags


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_a_sweep_from_python_is_the_one_of_the_command_line(npz: str, home: Path) -> None:
    sweep = cnn_jax.run_sweep("filters", **TINY, dataset=npz)
    done = here("filters", *(f"--{name}={value}" for name, value in ARGUMENTS.items()), f"--dataset={npz}", "--out=other")
    assert (done.returncode, done.stderr) == (0, "")
    other = api.Sweep("other")
    assert len(sweep.rows) == 2
    for mine, theirs in zip(sweep.rows, other.rows, strict=True):
        same = ("trial", "status", "val_accuracy", "test_accuracy", "train_loss", "params", "macs", "receptive_field")
        assert {name: mine[name] for name in same} == {name: theirs[name] for name in same}
    assert sweep.out == store.folder("runs/filters")
    assert (home / "runs/filters/report.html").read_text().count("<svg") == (home / "other/report.html").read_text().count(
        "<svg"
    )
    command = store.commands(sweep.out)[0]["command"]
    assert command == (
        "cnn_jax.run_sweep('filters', filters=[2, 4], kernel_size=3, padding='same', epochs=1, seeds=1, workers=1, "
        f"dataset={npz!r})"
    )
    # The same call trains nothing.
    again = cnn_jax.run_sweep("filters", **TINY, dataset=npz)
    assert [row["finished"] for row in again.rows] == [row["finished"] for row in sweep.rows]


BAD: dict[str, Any] = {
    "--fitlers=8": {"fitlers": 8},
    "--padding=sam": {"padding": "sam"},
    "--filters=0": {"filters": 0},
    "--kernel_size=3,0": {"kernel_size": [3, 0]},
    "--epochs=1.5": {"epochs": 1.5},
    "--seeds=1,2": {"seeds": [1, 2]},
    "--learning_rate=nan": {"learning_rate": float("nan")},
    "--model=lenet6": {"model": "lenet6"},
    "--dataset=no_such_set": {"dataset": "no_such_set"},
    "--option=depth=3": {"option": {"depth": 3}},
    "--option=depth": {"option": "depth"},
    "--iso=time": {"iso": "time"},
    "--max_seeds=3": {"max_seeds": 3},
    "--kernel_size=9 --padding=valid": {"kernel_size": 9, "padding": "valid"},
    "--devices=3": {"devices": 3},
    "--out=/dev/null/x": {"out": "/dev/null/x"},
    "--workers=no": {"workers": "no"},
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_the_line_of_the_command_line(line: str, home: Path) -> None:
    done = plan(line.split())
    status, err = done.returncode, done.stderr
    assert status == 2
    with pytest.raises(UsageError) as error:
        cnn_jax.run_sweep(**BAD[line])
    assert f"error: {' '.join(str(error.value).split())}\n" == err
    assert list(home.iterdir()) == []  # nothing was written


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep_params": 1}, "--keep_params: 1 is not legal: use True or False"),
        ({"filters": object}, "--filters: 'builtins:object' is not legal"),
        ({"filters": {8}}, "--filters: {8} is not legal: use text, a number, or a list of them"),
        ({"model": lambda shape, classes: ()}, "is not in a module that workers can import: write it to a file"),
        ({"host": 1, "hosts": 2, "coordinator": "a:1", "batch_size": 32}, "--host: run_sweep runs on host 0"),
    ],
)
def test_what_only_python_can_get_wrong(given: dict[str, Any], words: str, home: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as error:
        cnn_jax.run_sweep(**given)
    assert "\n" not in str(error.value)
    assert error.value._render_traceback_() == [f"UsageError: {error.value}"]
    assert list(home.iterdir()) == []


def test_values_may_be_what_a_notebook_holds(home: Path) -> None:
    def planned(**given: Any) -> list[Trial]:
        found = cnn_jax.run_sweep(**given, dry_run=True)
        assert found.trials is not None
        return list(found.trials)

    trials = planned(filters=np.array([8, 16]), kernel_size=range(3, 5), padding="same", seeds=np.int64(2))
    assert {(t.model.filters, t.model.kernel_size) for t in trials} == {((f,), (k,)) for f in (8, 16) for k in (3, 4)}
    assert len(trials) == 8
    assert {t.model.filters for t in planned(filters=[8, (8, 16)], kernel_size=3, padding="same")} == {(8,), (8, 16)}
    assert {t.train.learning_rate for t in planned(learning_rate=[1e-3, 1e-5])} == {1e-3, 1e-5}
    options = {dict(t.model.options)["shortcut"] for t in planned(model="resnet20", option={"shortcut": ["A", "projection"]})}
    assert options == {"A", "projection"}
    assert list(home.iterdir()) == []
    assert cnn_jax.run_sweep(dry_run=True, out=Path("here"), filters=None).out == store.folder("here")


def test_a_function_of_a_module_is_named(home: Path) -> None:
    (home / "nets_of_a_fork.py").write_text(
        "from cnn_jax.nn import Conv, Dense, GlobalAvgPool\n"
        "def one(input_shape, num_classes, *, filters: int = 8):\n"
        "    return Conv(filters, 3, activation='relu'), GlobalAvgPool(), Dense(num_classes)\n"
    )
    sys.path.append(str(home))
    module = __import__("nets_of_a_fork")
    sweep = cnn_jax.run_sweep(model=module.one, filters=[2, 4], dry_run=True)
    assert sweep.trials is not None
    assert {t.model.name for t in sweep.trials} == {"nets_of_a_fork:one"}


def test_every_flag_is_an_argument() -> None:
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    assert set(inspect.signature(cnn_jax.run_sweep).parameters) == {"experiment", *values}


# ---------------------------------------------------------------------------------------------------------------- results


def trial(filters: int, seed: int, dataset: str = "digits") -> Trial:
    return Trial(ModelConfig("cnn", (filters,), (3,), (1,), "same", "relu"), DataConfig(dataset), TrainConfig(epochs=5), seed)


def test_best_is_the_best_run_of_the_best_cell(tmp_path: Path) -> None:
    # The best single run is one of the worse cell.
    accuracies = {(8, 0): 0.97, (8, 1): 0.80, (16, 0): 0.95, (16, 1): 0.96}
    records = [synthetic.record(trial(f, s), accuracy) for (f, s), accuracy in accuracies.items()]
    sweep = api.Sweep(synthetic.folder(tmp_path / "one", records))
    assert (sweep.best()["filters"], sweep.best()["seed"]) == (16, 1)
    assert sweep.best()["trial"] == trial(16, 1).id
    with pytest.raises(UsageError, match="dataset: 'mnist' is not legal: use one of digits"):
        sweep.best("mnist")
    both = [*records, *(synthetic.record(trial(4, s, "mnist"), 0.5) for s in range(2))]
    sweep = api.Sweep(synthetic.folder(tmp_path / "two", both))
    with pytest.raises(UsageError, match="dataset: name one of digits, mnist"):
        sweep.best()
    assert sweep.best("mnist")["filters"] == 4


def test_a_notebook_shows_the_answer_and_its_picture(tmp_path: Path) -> None:
    sweep = api.Sweep(synthetic.folder(tmp_path, synthetic.sweep()))
    markup, text = sweep._repr_html_(), repr(sweep)
    assert markup is not None
    headline = "Validation accuracy depends on filters"
    assert headline in markup
    assert headline in text
    assert "36 of 36 trials done" in text
    assert markup.count("<svg") == 3  # a panel per factor
    assert "<script" not in markup
    assert markup.startswith("<style>")
    assert sweep.report().path == tmp_path / "report.html"
    assert os.fspath(sweep.report()) == str(tmp_path / "report.html")


def test_results_are_a_data_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    records = [synthetic.record(trial(8, 0, "null"), 0.9), synthetic.record(trial(16, 0, "null"), 0.5, status="diverged")]
    sweep = api.Sweep(synthetic.folder(tmp_path, records))
    frame = sweep.results.sort_values("filters", ignore_index=True)
    assert list(frame.columns[:4]) == ["trial", "status", "dataset", "model"]
    assert list(frame.filters) == [8, 16]
    assert frame.dataset.tolist() == ["null", "null"]  # and not a missing value
    assert pandas.isna(frame.val_accuracy[1])
    assert frame.val_accuracy[0] == records[0]["val_accuracy"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="results needs pandas: install it with pip install pandas, or use rows"):
        _ = sweep.results


def test_a_folder_without_results_has_no_answer(tmp_path: Path) -> None:
    sweep = api.Sweep(tmp_path)
    assert repr(sweep) == f"Sweep('{tmp_path}'): no trial has run"
    assert sweep._repr_html_() is None
    with pytest.raises(UsageError, match="holds no sweep"):
        sweep.best()


# ----------------------------------------------------------------------------------------------------------- interruption


@pytest.mark.slow
def test_an_interrupted_call_is_resumed_by_the_same_call(npz: str, tmp_path: Path) -> None:
    code = f"""
import cnn_jax
sweep = cnn_jax.run_sweep("filters", filters=[2, 4], padding="same", epochs=EPOCHS, batch_size=8, seeds=2, workers=1,
                          dataset={npz!r}, out="out")
print(sweep)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    long = [sys.executable, "-c", code.replace("EPOCHS", "100")]
    process = subprocess.Popen(long, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/records/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "KeyboardInterrupt: interrupted with" in err
    assert "of 4 trials done: rerun the same command to resume" in err
    done = subprocess.run(long, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert "4 of 4 trials done" in done.stdout, done.stderr


def test_progress_in_a_notebook_is_one_line_that_is_replaced(npz: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    class Handle:
        updates: list[dict[str, str]] = []  # noqa: RUF012

        def update(self, data: dict[str, str], raw: bool) -> None:
            self.updates.append(data)

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(data)
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    displays = types.ModuleType("IPython.display")
    displays.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    cnn_jax.run_sweep("filters", **TINY, dataset=npz)
    assert [data["text/plain"] for data in shown] == ["reading the data"]
    texts = [data["text/plain"] for data in Handle.updates]
    assert texts[:2] == ["the data are ready", "0/2 trials"]
    assert texts[-1].startswith("2/2 trials · ")
    assert 'value="1.000"' in Handle.updates[-1]["text/html"]
