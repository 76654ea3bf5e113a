"""The command line as a user meets it: plans, sweeps, resumes, and one clear line for what cannot be."""

import base64
import contextlib
import csv
import dataclasses
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic
from launching import ROOT, begin, here, launch, until
from PIL import Image

from cnn_jax import sweep
from cnn_jax.cli import flags, help
from cnn_jax.records import store
from cnn_jax.trial import Trial

ONE_CELL = ["--filters=2", "--kernel_size=3", "--padding=valid", "--epochs=1", "--workers=1"]


PNG = base64.b64decode(  # 8x8, grey
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAE0lEQVR4nGNkYIYARgkog4UsBgAyBwFrbbGeFwAAAABJRU5ErkJggg=="
)


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


BAD_FLAGS = {
    "--padding=sam": ["--padding", "valid, same, full, reflect, symmetric, replicate, circular"],
    "--padding=": ["--padding", "valid"],
    "--dataset=no_such_set": ["--dataset", "digits"],
    "--model=lenet6": ["--model", "lenet5", "package.module:attribute"],
    "--activation=rulu": ["--activation", "relu", "gelu"],
    "--optimizer=adamx": ["--optimizer", "adamw"],
    "--filters=0": ["--filters", "at least 1"],
    "--filters=8,-1": ["--filters", "at least 1"],
    "--filters=16-": ["--filters", "16-32"],
    "--kernel_size=three": ["--kernel_size", "at least 1"],
    "--strides=0": ["--strides", "at least 1"],
    "--seeds=0": ["--seeds", "at least 1"],
    "--seeds=1,2": ["--seeds", "one value"],
    "--epochs=1.5": ["--epochs", "at least 1"],
    "--batch_size=0": ["--batch_size", "at least 1"],
    "--learning_rate=-1": ["--learning_rate", "above 0"],
    "--learning_rate=nan": ["--learning_rate", "above 0"],
    "--learning_rate=1e-50": ["--learning_rate", "above 0", "1.2e-38 to 3.4e+38"],
    "--normalize=mean": ["--normalize", "none, per_channel, standardize"],
    "--image_size=9999": ["--image_size=9999", "between 1 and 4096"],
    "--validation_fraction=1": ["--validation_fraction", "below 1"],
    "--workers=no": ["--workers", "at least 1"],
    "--kernel_size=9": ["conv1", "9x9", "8x8", "--padding=same"],
    "--model=mlp,lenet5 --filters=8": ["--filters", "lenet5"],
    "--option=depth": ["--option", "NAME=VALUE"],
    "--option=depth=3": ["--option", "depth"],
    "--iso=time": ["--iso", "params, macs"],
    "--fitlers=8": ["--fitlers", "did you mean --filters?"],
    "--lr=1": ["--lr: unknown flag: did you mean --learning_rate?", "--filters, --kernel_size"],
    "--filter=8": ["--filter: unknown flag: did you mean --filters?"],
    "--zzz": ["--zzz: unknown flag: one of --model"],
    "describe --shape=1": ["--shape: unknown flag: did you mean --input_shape? One of --model"],
    "report --lr=1": ["--lr: unknown flag: one of --out"],
    "repot": ["did you mean report?"],
    "--option=crop=0 --option=crop=1": ["--option: crop is given twice", "--option=crop=VALUE,VALUE"],
    "--dry_run=perhaps": ["dry_run"],
    "--train_examples=5000": ["--train_examples"],
    "paddding": ["paddding", "padding", "package.module"],
    "no.such.experiment": ["no.such.experiment"],
    "grid padding": ["padding"],
    "--dataset=npz:/no/such/file.npz": ["--dataset", "/no/such/file.npz"],
    "--dataset=folder:/no/such/folder": ["--dataset", "/no/such/folder"],
    "--out=/dev/null/x": ["--out", "/dev/null"],
    "report": ["report", "folder"],
    "report /no/such/folder": ["/no/such/folder"],
    "describe --model=lenet6": ["--model", "lenet5"],
    "describe --input_shape=28": ["--input_shape", "28,28,1"],
    "compare one": ["two folders"],
    "--out=/proc/nope": ["--out", "/proc/nope"],  # C9
    "report /tmp --out=/proc/nope": ["--out", "/proc/nope"],
    "--nodry_run=true": ["--nodry_run", "does not take an argument"],  # C6
    f"--flagfile={sys.executable}": ["--flagfile", "not text"],
    "--out=~no_such_user/x": ["--out", "~no_such_user"],  # C3
    "report ~no_such_user/x": ["~no_such_user"],
}


@pytest.mark.parametrize("line", BAD_FLAGS)
def test_bad_input_gets_one_line_and_writes_nothing(line: str, tmp_path: Path) -> None:
    done = here(*line.split(), cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    for word in BAD_FLAGS[line]:
        assert word in done.stderr
    assert "--logtostderr" not in done.stderr  # C7: of absl, and no flag of a sweep
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 nothing")
    np.savez(tmp_path / "keys.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.zeros(4, int))
    (tmp_path / "empty").mkdir()
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "torn" / part / label).mkdir(parents=True)
            (tmp_path / "torn" / part / label / "1.png").write_bytes(PNG if part == "train" else PNG[:-20])
    for index, value in enumerate(["npz:torn.npz", "npz:keys.npz", "folder:empty", "folder:torn"]):
        done = here(f"--dataset={value}", "--out=out", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert value.split(":")[1] in done.stderr
        assert not (tmp_path / "out").exists(), index


def test_help_names_every_experiment_and_flag() -> None:
    done = here("--help")
    assert done.returncode == 0
    for word in ("grid", "filters", "kernel_size", "padding", "--learning_rate", "--dry_run", "describe", "compare"):
        assert word in done.stdout


HELPS = {
    (): ["experiments:", "--learning_rate", "--helpfull lists all"],
    ("grid",): ["Filters, kernel sizes and padding", "--learning_rate"],
    ("-m", "experiments.padding"): ["What does the padding mode do", "--learning_rate"],
    ("-m", "cnn_jax"): ["experiments:", "--learning_rate", "python launch.py COMMAND"],
    ("describe",): ["Print the layers", "--input_shape"],
    ("report",): ["Rebuild the report", "--out"],
    ("compare",): ["Print two sweeps"],
}


@pytest.mark.parametrize("words", HELPS)
def test_c7_every_command_has_a_help_of_80_columns(words: tuple[str, ...]) -> None:
    done = launch("--help", launcher=words) if "-m" in words else here(*words, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in HELPS[words]:
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "--logtostderr" not in done.stdout
    columns = {len(line) - len(line.lstrip()) for line in done.stdout.splitlines() if line.startswith(" " * 10)}
    assert columns <= {19, 25}  # of wrapped help, of common flags and of all
    assert len(done.stdout.splitlines()) <= 50  # a screen


def test_helpfull_lists_every_flag_once_in_groups() -> None:
    done = here("--helpfull")
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted({*sweep.AXES, *flags.SWEEP_FLAGS, *flags.BOOLEANS, "option"})
    titles = re.findall(r"^(\w+)[;:]", done.stdout, re.MULTILINE)
    assert titles == ["usage", "experiments", "commands", "model", "data", "training", "sweep", "run", "machines"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert set(help.COMMON) <= set(listed)


@pytest.mark.parametrize("experiment", ["grid", "filters", "kernel_size", "padding"])
def test_experiments_plan_as_scripts_and_by_name(experiment: str) -> None:
    by_name = here(experiment, "--dry_run", "--padding=same", cwd=ROOT)
    script = launch("--dry_run", "--padding=same", launcher=("-m", f"experiments.{experiment}"))
    assert by_name.returncode == script.returncode == 0, script.stderr
    assert by_name.stdout == script.stdout
    assert "trials in" in by_name.stdout


def test_an_experiment_a_model_and_a_dataset_of_a_fork(tmp_path: Path) -> None:
    (tmp_path / "forked.py").write_text(
        '''"""A fork's own."""
import numpy as np
from cnn_jax.nn import Conv, Dense, Flatten

DEFAULTS = {"seeds": "2", "epochs": "1", "batch_size": "8"}


def trials(request):
    return request.product()


def net(input_shape, num_classes, *, width=2):
    return (Conv(width, 3, activation="relu", strides=2), Flatten(), Dense(num_classes))


def noise():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 6, 6, 1), dtype=np.uint8)
    return x[:30], np.arange(30) % 2, x[30:], np.arange(10) % 2
'''
    )
    done = launch("forked", cwd=tmp_path)
    assert done.returncode == 2  # a name without a dot could hide a typo
    (tmp_path / "fork").mkdir()
    (tmp_path / "forked.py").rename(tmp_path / "fork" / "all.py")
    args = ["fork.all", "--model=fork.all:net", "--dataset=fork.all:noise", "--option=width=2,3", "--out=out"]
    done = launch(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(tmp_path / "out")] == ["done"] * 4


def test_a_sweep_leaves_a_table_a_page_and_parameters(npz: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = [
        f"--dataset={npz}",
        "--filters=2,2-3",
        "--padding=same",
        "--kernel_size=3",
        "--epochs=2",
        "--seeds=2",
        f"--out={out}",
    ]
    first = launch(*args)
    assert first.returncode == 0, first.stderr
    table = rows(out)
    assert len(table) == 4
    for row in table:
        assert row["status"] == "done"
        assert 0 <= float(row["test_accuracy"]) <= 1
        assert int(row["params"]) > 0
        images = next(r["data"]["train"] for r in store.read(out) if r["trial"] == row["trial"])
        assert float(row["images_per_second"]) * float(row["train_seconds"]) == pytest.approx(2 * images)  # two epochs
    assert {row["filters"] for row in table} == {"2", "2-3"}
    page = (out / "report.html").read_text()
    assert "Filters, kernel sizes and padding, all combinations: what matters" in page  # D1: the experiment's question
    assert page.count('<img src="data:image/png;base64,') >= 2  # and its images
    assert "http-equiv" not in page.lower() or "refresh" not in page.lower()
    params = store.load_params(out, table[0]["trial"])
    assert sum(v.size for k, v in params.items() if k.startswith("params/")) == int(table[0]["params"])
    # The same command again trains nothing, and says the same.
    files = sorted((out / "records").iterdir())
    again = launch(*args)
    assert again.returncode == 0
    assert sorted((out / "records").iterdir()) == files
    assert rows(out) == table
    # More seeds: only the new ones are trained.
    more = launch(*[a.replace("--seeds=2", "--seeds=3") for a in args], "--nokeep_params")
    assert more.returncode == 0
    assert [row for row in rows(out) if row["seed"] != "2"] == table
    assert len(rows(out)) == 6
    assert not list((out / "trials").glob("*seed2*"))


@pytest.mark.slow
def test_b5_normalization_is_an_axis_of_the_sweep(npz: str, tmp_path: Path) -> None:
    """A column of the table and a factor; its statistics are in the record; finished trials without it stay finished."""
    args = [f"--dataset={npz}", *ONE_CELL, "--seeds=2", f"--out={tmp_path}/o"]
    assert launch(*args).returncode == 0
    before = rows(tmp_path / "o")
    assert {row["normalize"] for row in before} == {"none"}
    for _ in range(2):
        done = launch(*args, "--normalize=none,per_channel,standardize", "--image_size=8")
        assert done.returncode == 0, done.stderr
    done = launch(*args, "--normalize=none,per_channel,standardize")
    assert (done.returncode, done.stderr) == (0, "")
    assert "normalize" in done.stdout
    table = rows(tmp_path / "o")
    assert len(table) == 2 * 3 * 2
    assert [row for row in table if (row["normalize"], row["image_size"]) == ("none", "")] == before
    for record in store.read(tmp_path / "o"):
        kind, found = record["config"]["data"].get("normalize", "none"), record["data"].get("normalization")
        assert (found or {"kind": "none"})["kind"] == kind
        assert kind != "per_channel" or (len(found["mean"]), len(found["std"])) == (1, 1)
    assert len({row["test_loss"] for row in table if row["image_size"] == ""}) == 6


def test_b5_suspicious_data_is_told_once_planned_or_trained(npz: str, tmp_path: Path) -> None:
    with np.load(npz.removeprefix("npz:")) as file:
        arrays = dict(file)
    np.savez(tmp_path / "one.npz", **arrays | {k: arrays[k] + 1 for k in ("y_train", "y_test")})
    args = ["--dataset=npz:one.npz", *ONE_CELL, "--split_seed=0,1", "--seeds=1", "--out=out"]
    for more in (["--dry_run"], []):
        done = here(*args, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("warning: --dataset=npz:one.npz: no training image has label 0")
    first = np.moveaxis(np.repeat(arrays["x_train"][..., None], 3, -1), -1, 1)
    np.savez(tmp_path / "first.npz", **arrays | {"x_train": first, "x_test": first[:77]})
    done = here("--dataset=npz:first.npz", "--filters=2", "--kernel_size=5", "--out=new", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "channels-first" in done.stderr
    assert not (tmp_path / "new").exists()


def test_b1_parts_of_unlike_scale_are_refused_by_a_dry_run(npz: str, tmp_path: Path) -> None:
    with np.load(npz.removeprefix("npz:")) as file:
        arrays = dict(file)
    np.savez(tmp_path / "mixed.npz", **arrays | {"x_train": arrays["x_train"] / 255})
    for more in (["--dry_run"], []):
        done = here("--dataset=npz:mixed.npz", "--out=out", *more, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stdout.count("\n") == (0 if more else 1)  # what the experiment adds; nothing of the plan
        assert "x_train has values from 0 to " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["dataset", "dataset function", "model", "model function", "experiment", "trials"])
def test_b7_a_fork_that_exits_is_an_error(place: str, tmp_path: Path) -> None:
    code = {
        "dataset": "import sys; sys.exit(0)",
        "model": "import sys; sys.exit(0)",
        "experiment": "import sys; sys.exit(0)",
        "dataset function": "import sys\ndef images(): sys.exit(0)",
        "model function": "import sys\ndef net(input_shape, num_classes): sys.exit(0)",
        "trials": "import sys\nDEFAULTS = {}\ndef trials(request): sys.exit(0)",
    }[place]
    package = f"mine_{place.replace(' ', '_')}"  # a name of its own: this process keeps what it has imported
    (tmp_path / package).mkdir()
    (tmp_path / package / "code.py").write_text(code)
    flags = {"dataset": [f"--dataset={package}.code:images"], "model": [f"--model={package}.code:net"]}
    done = here(*flags.get(place.split()[0], [f"{package}.code"]), "--out=out", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert "mine" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_numbers_are_the_same_alone_and_among_others_and_every_time(npz: str, tmp_path: Path) -> None:
    alone = [f"--dataset={npz}", "--filters=3", "--kernel_size=3", "--padding=same", "--epochs=2", "--workers=1"]
    among = [*alone[:1], "--filters=2,3", "--kernel_size=3", "--padding=same,reflect", "--epochs=2"]
    assert launch(*alone, "--seeds=1", f"--out={tmp_path}/a").returncode == 0
    assert launch(*alone, "--seeds=1", f"--out={tmp_path}/b").returncode == 0
    assert launch(*among, "--seeds=2", f"--out={tmp_path}/c").returncode == 0
    (a,), (b,) = store.read(tmp_path / "a"), store.read(tmp_path / "b")
    (c,) = [record for record in store.read(tmp_path / "c") if record["trial"] == a["trial"]]
    for other in (b, c):
        for name in ("history", "test_loss", "test_accuracy", "test_correct", "train_loss"):
            assert a[name] == other[name]
    for name, value in store.load_params(tmp_path / "a", a["trial"]).items():
        np.testing.assert_array_equal(value, store.load_params(tmp_path / "c", a["trial"])[name])


def test_divergence_is_recorded_and_the_rest_goes_on(npz: str, tmp_path: Path) -> None:
    args = [f"--dataset={npz}", *ONE_CELL, "--learning_rate=1e-3,1e30", "--optimizer=sgd", "--seeds=1", f"--out={tmp_path}/o"]
    for _ in range(2):
        done = launch(*args)
        assert done.returncode == 1
        assert "diverged: loss not finite at step" in done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(row["status"] for row in rows(tmp_path / "o")) == ["diverged", "done"]


def test_a_failing_trial_stays_its_own_trouble(npz: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text(
        "import os, jax.numpy as jnp, flax.linen as nn\n"
        "class Bad(nn.Module):\n    num_classes: int\n    how: int = 0\n"
        "    @nn.compact\n    def __call__(self, x, train=False):\n"
        "        if len(x) > 3 and train and self.how == 1: raise RuntimeError('no <b>luck</b>')\n"  # the check has 3
        "        if len(x) > 3 and train and self.how == 2: os._exit(9)\n"
        "        return nn.Dense(self.num_classes)(x.reshape(len(x), -1)), {}\n"
    )
    args = [f"--dataset={npz}", "--model=mine.nets:Bad", "--option=how=0,1,2", "--seeds=1", "--epochs=1", "--out=o"]
    done = launch(*args, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "failed: RuntimeError: no <b>luck</b> (mine/nets.py:7)" in done.stderr
    assert "o/logs" in done.stderr
    assert "died 2 times" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(row["status"] for row in rows(tmp_path / "o")) == ["done", "failed", "failed"]
    assert "<b>luck" not in (tmp_path / "o" / "report.html").read_text()


def test_b2_a_model_that_breaks_the_contract_is_one_line_and_writes_nothing(npz: str, tmp_path: Path) -> None:
    (tmp_path / "contract").mkdir()
    (tmp_path / "contract" / "nets.py").write_text(
        "import flax.linen as nn\n"
        "from cnn_jax.nn import Dense, Flatten\n"
        "def seven(input_shape, num_classes):\n    return (Flatten(), Dense(7))\n"
        "def raises(input_shape, num_classes):\n    return undefined\n"
        "class Integers(nn.Module):\n    num_classes: int\n    @nn.compact\n    def __call__(self, x, train=False):\n"
        "        return nn.Dense(self.num_classes)(x.reshape(len(x), -1)).astype(int), {}\n"
    )
    told = {
        "seven": "error: --model: contract.nets:seven gives outputs of shape (7,) per image, not (3,), a logit per class\n",
        "raises": "error: --model: contract.nets:raises failed: NameError: name 'undefined' is not defined "
        "(contract/nets.py:6)\n",
        "Integers": "error: --model: contract.nets:Integers: a call with train=True must return logits that are floats of "
        "shape (3, 3), not int32 of shape (3, 3)\n",
    }
    for name, line in told.items():
        done = here(f"--dataset={npz}", f"--model=contract.nets:{name}", "--out=o", cwd=tmp_path)
        assert (done.returncode, done.stderr, done.stdout) == (2, line, "")
        assert not (tmp_path / "o").exists()


def test_c5_modules_of_the_current_folder_hide_none_of_pythons_or_ours(npz: str, tmp_path: Path) -> None:
    for name in ("types", "queue", "json", "random", "signal", "jax"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the {name} of the current folder')")
    for package in ("experiments", "cnn_jax", "mine"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "mine" / "nets.py").write_text(
        "import flax.linen as nn\n"
        "class Net(nn.Module):\n    num_classes: int\n    @nn.compact\n    def __call__(self, x, train=False):\n"
        "        return nn.Dense(self.num_classes)(x.reshape(len(x), -1)), {}\n"
    )
    args = [f"--dataset={npz}", "--model=mine.nets:Net", "--seeds=1", "--epochs=1", "--out=o"]
    done = launch(*args, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in rows(tmp_path / "o")] == ["done"]
    for name in ("queue:Net", "experiments.nets:Net"):
        done = here(f"--model={name}", "--dry_run", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "give your " + name.split(":")[0].split(".")[0] in done.stderr


def test_c5_nor_do_modules_beside_launch_py(npz: str, tmp_path: Path) -> None:
    """Whoever works in the folder of the project may have a queue.py there."""
    for name in ("cnn_jax", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", tmp_path)
    for name in ("types", "queue", "json", "random", "signal"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the {name} of the current folder')")
    done = launch(f"--dataset={npz}", *ONE_CELL, "--seeds=1", "--out=o", cwd=tmp_path, launcher=("launch.py",))
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in rows(tmp_path / "o")] == ["done"]


LONG = ["--filters=4", "--kernel_size=3,5", "--padding=same", "--epochs=200", "--batch_size=8", "--seeds=2"]


def test_killed_and_interrupted_sweeps_end_as_undisturbed_ones(npz: str, tmp_path: Path) -> None:
    """kill -9 of the parent, kill -9 of a worker, Ctrl-C; then the same command: the records of an undisturbed run."""
    out, calm = tmp_path / "out", tmp_path / "calm"
    args = [f"--dataset={npz}", *LONG, "--checkpoint_seconds=0", f"--out={out}"]
    assert launch(*args[:-1], f"--out={calm}").returncode == 0

    process = begin(*args, new_session=True)
    until(lambda: list(out.glob("trials/*/checkpoint-*")))
    process.kill()
    process.communicate()

    process = begin(*args, new_session=True)
    until(lambda: _workers(process.pid))
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been faster than we
        assert process.returncode == 130, err
        assert "same command" in err

    assert launch(*args).returncode == 0
    left, right = store.read(out), store.read(calm)
    assert [r["trial"] for r in left] == [r["trial"] for r in right]
    for a, b in zip(left, right, strict=True):
        for name in ("status", "history", "test_loss", "test_correct"):
            assert a[name] == b[name]
    assert not list(out.glob("trials/*/checkpoint-*"))


def _workers(pid: int) -> list[int]:
    """Its children that are workers: git, asked for the version, is gone in a moment."""
    done = subprocess.run(["pgrep", "-P", str(pid), "-f", "cnn_jax.execution.worker"], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def test_sweeps_are_merged_into_a_report_of_all(tmp_path: Path) -> None:
    for k, filters in enumerate(((8,), (16, 32))):
        synthetic.folder(tmp_path / str(k), synthetic.sweep(filters=filters))
    done = here("report", str(tmp_path / "0"), str(tmp_path / "1"), f"--out={tmp_path}/all")
    assert done.returncode == 0, done.stderr
    assert {row["filters"] for row in rows(tmp_path / "all")} == {"8", "16", "32"}
    assert str(tmp_path / "all" / "report.html") in done.stdout


@pytest.mark.parametrize("where", ["a file", "below a file", "its table is a folder", "its header is a folder", "no scheme"])
def test_a_report_that_cannot_be_is_one_line(where: str, tmp_path: Path) -> None:
    sweep = synthetic.folder(tmp_path / "sweep", synthetic.sweep(seeds=1))
    (tmp_path / "file").touch()
    words = [str(sweep)]
    if where == "its table is a folder":
        (sweep / "results.csv").mkdir()
    elif where == "its header is a folder":
        (sweep / "sweep.json").unlink()
        (sweep / "sweep.json").mkdir()
    else:
        places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x", "no scheme": "none://x"}
        words += [str(sweep), f"--out={places[where]}"]
    # An error of the file system closes standard output, which has to be that of a process.
    done = (launch if where == "its table is a folder" else here)("report", *words)
    assert done.returncode == (1 if where == "its table is a folder" else 2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("how", ["reader goes", "full", "closed"])
def test_a_sweep_goes_on_when_nobody_can_read_what_it_says(how: str, npz: str, tmp_path: Path) -> None:
    args = [sys.executable, str(ROOT / "launch.py"), f"--dataset={npz}", *ONE_CELL, f"--out={tmp_path}/o"]
    if how == "reader goes":
        process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()  # type: ignore[union-attr]
        process.stdout = None
    else:
        shell = f"exec {shlex.join(args)} {'>/dev/full' if how == 'full' else '>&-'}"
        process = subprocess.Popen(shell, shell=True, cwd=ROOT, stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, b"")
    assert len(rows(tmp_path / "o")) == 3


@pytest.mark.parametrize("words", [["describe", "--model=lenet5"], ["--help"]])
def test_what_cannot_be_printed_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        args = [sys.executable, str(ROOT / "launch.py"), *words]
        done = subprocess.run(args, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


@pytest.mark.slow
def test_second_launch_into_a_folder_says_who_holds_it(npz: str, tmp_path: Path) -> None:
    args = [f"--dataset={npz}", *LONG, "--epochs=9999", f"--out={tmp_path}/o"]
    process = begin(*args, new_session=True)
    until(lambda: list((tmp_path / "o").glob("logs/*")))
    second = launch(*args)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert second.returncode == 2
    assert f"process {process.pid}" in second.stderr


def test_resolve_adds_seeds_where_the_answer_is_open(npz: str, tmp_path: Path) -> None:
    """Two cells that are alike stay open, and get seeds up to the most; it is an answer, and asking again adds none."""
    args = [f"--dataset={npz}", "--filters=2,3", "--kernel_size=3", "--padding=same", "--epochs=1", "--seeds=2"]
    args += ["--resolve=0.001", "--max_seeds=5", f"--out={tmp_path}/o"]
    for again in (False, True):
        done = launch(*args)
        assert done.returncode == 0, done.stderr
        assert again or "more trials for undecided cells" in done.stdout
        table = rows(tmp_path / "o")
        assert sorted((row["filters"], int(row["seed"])) for row in table) == [(f, seed) for f in "23" for seed in range(5)]


# ------------------------------------------------------------------------------------------------ terminal and surroundings


def many_factors(path: Path, shift: float = 0.0) -> Path:
    """A sweep whose table is wider than 80 columns."""
    records = []
    for record in synthetic.sweep(seeds=2):
        for activation in ("relu", "gelu"):
            for rate in (0.001, 0.0003):
                config = Trial.from_json(json.dumps(record["config"]))
                trial = dataclasses.replace(
                    config,
                    model=dataclasses.replace(config.model, activation=activation),
                    train=dataclasses.replace(config.train, learning_rate=rate),
                )
                records.append(synthetic.record(trial, record["val_accuracy"] + shift, images=100))
    return synthetic.folder(path, records)


def test_c1_nothing_is_cut_in_a_pipe_nor_at_40_columns(tmp_path: Path) -> None:
    a, b = many_factors(tmp_path / "a"), many_factors(tmp_path / "b", -0.02)
    for words in (["report", str(a)], ["compare", str(a), str(b)], ["--dry_run", "--epochs=1,2", "--optimizer=adam,sgd"]):
        piped = here(*words, env={"COLUMNS": "40"})
        assert piped.returncode == 0, piped.stderr
        narrow = in_terminal(40, *words)
        for text in (piped.stdout, narrow):
            assert "…" not in text
            assert "..." not in text
        numbers = re.findall(r"\d\d\.\d\d %", piped.stdout)
        assert sorted(re.findall(r"\d\d\.\d\d %", narrow.replace("\n", " "))) == sorted(numbers)
        assert len(numbers) == 0 if words[0] == "--dry_run" else len(numbers) >= 2 * 14
        assert max(map(len, narrow.splitlines())) <= 40 or words[0] == "report"  # the path of the page is one line


def in_terminal(columns: int, *args: str) -> str:
    """What a command shows in a terminal so wide."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "JPY_PARENT_PID")}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *args], cwd=ROOT, env=environment | {"TERM": "xterm"},
        stdin=its, stdout=its, stderr=its,
    ):  # fmt: skip
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # its end
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "")


@pytest.mark.slow
def test_c2_c3_c6_paths_of_any_name(npz: str, tmp_path: Path) -> None:
    """Brackets, a home folder, bytes that are not UTF-8, no home at all, an encoding without dashes."""
    (tmp_path / "sitecustomize.py").write_text("import pwd\ndef none(uid): raise KeyError(uid)\npwd.getpwuid = none\n")
    nobody = {"PYTHONPATH": str(tmp_path), "HOME": None, "CNN_JAX_CACHE": None, "XDG_CACHE_HOME": None, "TMPDIR": str(tmp_path)}
    name = os.fsdecode(b"[v1] [/b] \xff")
    out = f"{tmp_path}/{name}"
    done = launch(f"--dataset={npz}", *ONE_CELL, "--seeds=1", f"--out={out}", env=nobody | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "[v1] [/b] \\udcff/report.html" in done.stdout
    assert (tmp_path / f"cnn_jax-{os.getuid()}").is_dir()  # the cache
    home = {"HOME": str(tmp_path), "PYTHONIOENCODING": "latin-1"}
    again = launch("report", f"~/{name}", "--out=~/else[/b]", env=home)
    assert again.returncode == 0, again.stderr
    assert f"report: {tmp_path}/else[/b]/report.html" in again.stdout
    dry = launch("--dry_run", "--out=~/x[/b]", env=home)
    assert f"results go to {tmp_path}/x[/b]\n" in dry.stdout
    both = launch("compare", "~/else[/b]", f"./~/{name}", cwd=tmp_path, env=home)
    assert both.stderr == f"error: {tmp_path}/else[/b] holds no sweep: name the folder of a sweep, its --out\n"


def test_c6_a_deleted_current_folder_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "launch.py"), "--dry_run"]
    shell = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.join(words)}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "current folder" in done.stderr


def test_c6_a_report_of_a_folder_that_is_not_written_to(tmp_path: Path) -> None:
    sweep = synthetic.folder(tmp_path / "sweep", synthetic.sweep(seeds=1))
    before = {path: path.stat().st_mtime_ns for path in (sweep, *sweep.rglob("*"))}
    done = here("report", str(sweep), f"--out={tmp_path}/else")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (sweep, *sweep.rglob("*"))} == before
    assert len(rows(tmp_path / "else")) == 12


@pytest.mark.parametrize("words", [["report", "foreign"], ["compare", "foreign", "foreign"], ["--out=foreign", *ONE_CELL]])
def test_c9_the_folder_of_another_program_is_left_alone(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "foreign" / "records").mkdir(parents=True)
    (tmp_path / "foreign" / "records" / "calls.jsonl").write_text('{"call": 1}\n')
    done = here(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "foreign holds no sweep" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["foreign", "records", "calls.jsonl"]


@pytest.mark.slow
def test_c9_a_reader_may_stop_reading_a_report(tmp_path: Path) -> None:
    sweep = many_factors(tmp_path / "sweep")
    command = shlex.join([sys.executable, str(ROOT / "launch.py"), "report", str(sweep)])
    done = subprocess.run(["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_c9_settings_of_jax_do_not_change_the_numbers(npz: str, tmp_path: Path) -> None:
    args = [f"--dataset={npz}", *ONE_CELL, "--seeds=1"]
    settings = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_RANDOM_SEED_OFFSET": "3"}
    for name, environment in (("a", dict.fromkeys(settings)), ("b", settings)):
        done = launch(*args, f"--out={tmp_path / name}", env=environment)
        assert done.returncode == 0, done.stderr
        assert ("note: JAX_ENABLE_X64=1, " in done.stdout) == (name == "b")
    (a,), (b,) = store.read(tmp_path / "a"), store.read(tmp_path / "b")
    for field in ("train_loss", "val_loss", "test_loss", "history", "params_sha256"):
        assert a[field] == b[field]


@pytest.mark.slow
def test_c9_warnings_of_libraries_stay_off_the_terminal(tmp_path: Path) -> None:
    """Pillow warns of a palette whose transparency is given in bytes."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for number in range(12):
                image = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).convert("P")
                image.info["transparency"] = bytes(range(255, -1, -1))
                image.save(tmp_path / "data" / part / label / f"{number}.png")
    done = launch(f"--dataset=folder:{tmp_path}/data", *ONE_CELL, "--seeds=1", "--batch_size=4", f"--out={tmp_path}/o")
    assert (done.returncode, done.stderr) == (0, "")


def test_e4_describe_warns_of_misaligned_branches():
    """A patch embedding and a depthwise kernel of even size: half a stride apart, and trained all the same."""
    words = ["describe", "--model=convmixer", "--kernel_size=8"]
    told = here(*words)
    assert told.returncode == 0
    assert "Warning: residual1: its branches are misaligned" in told.stdout
    (warning, *_) = json.loads(here(*words, "--json").stdout)["warnings"]
    assert warning.startswith("residual1: ")
    planned = here("--model=convmixer", "--kernel_size=8", "--dataset=red_green", "--dry_run")
    assert "misaligned" not in planned.stderr
