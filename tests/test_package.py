"""The package as it is installed: no launch.py, and the experiments inside of it. `make package` tries the wheel itself."""

import csv
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cnn_jax
from cnn_jax.records import store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the files where the wheel has them, inside of somebody's repository."""
    repository = tmp_path_factory.mktemp("repository")
    git = ["git", "-C", str(repository), "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of another project"], check=True)
    folder = repository / "site"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "cnn_jax", folder / "cnn_jax", ignore=ignored)
    shutil.copytree(ROOT / "experiments", folder / "cnn_jax" / "experiments", ignore=ignored)
    return folder


def python(*words: str, site: Path, cwd: Path) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_texts_name_the_installed_command(site: Path, tmp_path: Path) -> None:
    for words in ([], ["grid"], ["describe"], ["report"], ["doctor"]):
        done = python("-m", "cnn_jax", *words, "--help", site=site, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "cnn-jax" in done.stdout
        assert "launch.py" not in done.stdout


@pytest.mark.slow
def test_experiments_are_found_and_run(site: Path, npz: str, tmp_path: Path) -> None:
    unknown = python("-m", "cnn_jax", "experiments.padding", site=site, cwd=tmp_path)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)  # there is no such package
    args = [f"--dataset={npz}", "--padding=valid,same", "--filters=2", "--epochs=1", "--seeds=1"]
    done = python("-m", "cnn_jax", "padding", *args, site=site, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with open(tmp_path / "runs" / "padding" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "done"]
    # A package has no commit of its own, whatever repository it lies in.
    assert {row["commit"] for row in rows} == {""}
    assert store.commands(tmp_path / "runs" / "padding")[0]["command"].startswith("cnn-jax padding --dataset=npz:")
    again = python("-m", "cnn_jax.experiments.padding", *args, site=site, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    call = f"cnn_jax.run_sweep('padding', padding=['valid', 'same'], filters=2, epochs=1, seeds=1, dataset={npz!r})"
    called = python("-c", f"import cnn_jax; print({call})", site=site, cwd=tmp_path)
    assert "2 of 2 trials done" in called.stdout, called.stderr
    with open(tmp_path / "runs" / "padding" / "results.csv", newline="") as file:
        assert [row["finished"] for row in csv.DictReader(file)] == [row["finished"] for row in rows]


def test_modules_of_the_current_folder_hide_none_of_pythons(site: Path, tmp_path: Path) -> None:
    for name in ("queue", "json", "random", "absl"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the {name} of the current folder')")
    done = python("-m", "cnn_jax", "--dry_run", site=site, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "36 trials in 12 cells" in done.stdout


def test_one_list_of_requirements_and_one_version() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)
    assert set(project["project"]["dynamic"]) == {"version", "dependencies", "optional-dependencies"}
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["requirements_txt"]
    assert hook["files"] == ["requirements.txt"]
    features = {
        "ray",
        "slurm",
        "imports",
        "tensorboard",
        "export",
    }  # what an optional requirement serves; the other files are for tests and benchmarks
    assert hook["optional-dependencies"] == {name: [f"requirements-{name}.txt"] for name in features}
    places = [text, *(path.read_text() for path in (ROOT / "cnn_jax").rglob("*.py")), (ROOT / "CITATION.cff").read_text()]
    assert sum(place.count(f'"{cnn_jax.__version__}"') for place in places) == 1
    assert cnn_jax.__version__ in (ROOT / "cnn_jax" / "__init__.py").read_text()


@pytest.mark.parametrize(
    "name", ["requirements.txt", *(f"requirements-{name}.txt" for name in ("ray", "slurm", "imports", "export", "tensorboard"))]
)
def test_requirements_are_lower_bounds(name: str) -> None:
    lines = [line.partition("#")[0].partition(";")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    for line in filter(None, lines):
        assert ">=" in line, line
        assert not set(line) & set("=<~!,") - {"="}, line
        assert line.count("=") == 1, line
