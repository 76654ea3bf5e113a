"""The notebooks: stored without outputs and without logic; run top to bottom by `make notebooks`."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [ROOT / "colab.ipynb", ROOT / "notebooks" / "fork.ipynb"]
# What the cell with the tag `parameters` says, in a test: two steps of every network.
TINY = {"epochs": 1, "batch_size": 512}
# In place of Colab's own module: a Drive that is mounted is a folder.
DRIVE = "import os\n\ndef mount(path):\n    os.makedirs(os.environ['DRIVE'], exist_ok=True)\n    print('Mounted at', path)\n"


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_all_notebooks_are_tested() -> None:
    """But for copies in hidden folders and in the site that `make docs` builds."""
    parts = {path: path.relative_to(ROOT).parts for path in ROOT.rglob("*.ipynb")}
    found = {path for path, names in parts.items() if names[0] != "site" and not any(name.startswith(".") for name in names)}
    assert found == set(NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    for cell in cells(path):
        assert (cell["outputs"], cell["execution_count"]) == ([], None), source(cell)
    stored = json.loads(path.read_text())
    assert path.read_text() == json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_calls_and_no_logic(path: Path) -> None:
    for cell in cells(path):
        text = source(cell)
        if text.startswith(("%%bash", "%%writefile")):
            continue
        tree = ast.parse("\n".join(line for line in text.split("\n") if not line.startswith(("!", "%"))))
        for node in tree.body:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr), ast.unparse(node)
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Lambda | ast.ListComp | ast.DictComp | ast.GeneratorExp | ast.IfExp | ast.BinOp)


# In place of Python: `pip list` prints the file `after` once `pip install` has run, and `before` until then.
PIP = """#!/bin/sh
case "$*" in
  *install*) echo "$*" > installed; test ! -e refused ;;
  *list*) if test -e installed; then cat after; else cat before; fi ;;
esac
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ("flax==0.11.2\njax==0.7.2\njaxlib==0.7.2", "absl-py==1.4.0\nflax==0.11.2\njax==0.7.2\njaxlib==0.7.2", 0),
        ("absl-py==1.4.0", "absl-py==2.0\njax==0.7.2", 0),  # no JAX before: a new environment
        ("jax==0.7.2\njaxlib==0.7.2", "jax==0.7.2\njaxlib==0.9.0", 1),
        ("jax==0.7.2\nlibtpu==0.0.20", "jax==0.7.2", 1),
        ("jax==0.7.2", "jax==0.7.20", 1),
    ],
)
def test_an_installation_that_touches_jax_fails(path: Path, before: str, after: str, status: int, tmp_path: Path) -> None:
    (script,) = [source(cell) for cell in cells(path) if "pip install" in source(cell)]
    assert script.startswith('%%bash -s "$SOURCE"\n')
    (tmp_path / "python").write_text(PIP)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "before").write_text(before + "\n")
    (tmp_path / "after").write_text(after + "\n")
    command = ["bash", "-c", script.partition("\n")[2], "bash", "a folder"]
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert ("changed the version above" in done.stderr) == bool(status)
    assert (tmp_path / "installed").read_text() == "-m pip install -q -c versions-before.txt a folder\n"
    # What pip refuses ends there.
    (tmp_path / "installed").unlink()
    (tmp_path / "refused").touch()
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True).returncode != 0


# -------------------------------------------------------------------------------------------------------------------- run


def executed(path: Path, home: Path, **parameters: Any) -> list[Any]:
    """The code cells of a notebook after a run in `home`, with parameters in place of its own."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    (own,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    names = [node.targets[0].id for node in ast.parse(own.source).body]  # type: ignore[attr-defined]
    assert set(parameters) == set(names)
    own.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    colab = home / "colab" / "google" / "colab"
    colab.mkdir(parents=True, exist_ok=True)
    (colab / "__init__.py").touch()
    (colab / "drive.py").write_text(DRIVE)
    before = dict(os.environ)
    os.environ |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(home / "colab"),
        "DRIVE": str(home / "drive"), "CNN_JAX_CACHE": str(home / "cache"),
    }  # fmt: skip
    try:
        NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(home)}}).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [cell for cell in book.cells if cell.cell_type == "code"]


def texts(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def markup(cell: Any) -> str:
    return "".join(output.data.get("text/html", "") for output in cell.outputs if "data" in output)


def of(cells: list[Any], beginning: str) -> list[Any]:
    return [cell for cell in cells if beginning in cell.source]


@pytest.mark.slow
@pytest.mark.notebook
def test_colab_runs_top_to_bottom_and_resumes_on_drive(tmp_path: Path) -> None:
    parameters = {"SOURCE": str(ROOT), "DRIVE": str(tmp_path / "drive"), "FLAGS": TINY}
    found = executed(ROOT / "colab.ipynb", tmp_path, **parameters)
    (install,) = of(found, "%%bash")
    assert "unchanged by the installation" in texts(install)
    assert re.search(r"^jax==\d", texts(install), re.MULTILINE)
    (doctor,) = of(found, "cnn-jax doctor")
    assert re.search(r"^devices    cpu", texts(doctor), re.MULTILINE)
    (grid,) = of(found, 'out="runs/grid"')
    # What the experiment adds, one line of progress, whatever it has replaced, and the answer.
    note, progress, answer = grid.outputs
    assert note.data["text/plain"].startswith("experiment grid adds --filters=8,16,32 ")
    assert progress.data["text/plain"].startswith("36/36 trials · ")
    assert "36 of 36 trials done" in answer.data["text/plain"]
    assert answer.data["text/html"].count("<svg") == 3
    assert "36 rows" in of(found, "sweep.results")[0].outputs[0].data["text/plain"]
    assert "'status': 'done'" in of(found, "sweep.best()")[0].outputs[0].data["text/plain"]
    pages = of(found, "sweep.report()")
    assert len(pages) == 2
    for page in pages:
        assert markup(page).startswith("<iframe srcdoc=")
    assert "54,410" in texts(of(found, "cnn-jax describe")[0])
    assert "<svg" in markup(of(found, 'iso="params"')[0])

    def finished() -> list[str]:
        with open(tmp_path / "drive" / "results.csv", newline="") as file:
            return [row["finished"] for row in csv.DictReader(file)]

    first = finished()
    assert len(first) == 35
    # The session is gone with its kernel and its disk; Drive has all but the last record, as of a trial that was cut off.
    (records,) = [p for p in (tmp_path / "drive" / "records").iterdir() if p.stat().st_size][:1]
    kept = records.read_bytes().splitlines(keepends=True)[:-1]
    records.write_bytes(b"".join(kept))
    executed(ROOT / "colab.ipynb", tmp_path, **parameters)
    second = finished()
    assert len(second) == 35
    assert len(set(second) - set(first)) <= 1


@pytest.mark.slow
@pytest.mark.notebook
def test_a_fork_author_needs_no_edit_of_ours(tmp_path: Path) -> None:
    found = executed(ROOT / "notebooks" / "fork.ipynb", tmp_path, SOURCE=str(ROOT), FLAGS=TINY)
    assert "unchanged by the installation" in texts(of(found, "%%bash")[0])
    assert "two_convs" in texts(of(found, "cnn-jax describe")[0])
    for beginning, trials in (("model=nets.two_convs", 12), ('"padding", dataset=bars', 9), ('"mylab.strides"', 20)):
        (cell,) = of(found, beginning)
        assert f"{trials} of {trials} trials done" in cell.outputs[-1].data["text/plain"]
        assert "<svg" in markup(cell)
    assert markup(of(found, "sweep.report()")[0]).startswith("<iframe srcdoc=")
