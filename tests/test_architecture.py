"""The picture of imports: data flows one way, and planning needs no JAX."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Who may import whom, inside the project. A module that is not named here fails the test: draw it in first.
ALLOWED = {
    "schema": set(),
    "config": {"schema"},
    "console": set(),
    "plugins": {"config"},
    "record": {"config", "schema"},
    "geometry": {"config"},
    "store": {"config", "record", "schema"},
    "zoo": {"config", "geometry", "plugins"},
    "summary": {"config", "geometry", "zoo"},
    "isocost": {"config", "geometry", "summary", "zoo"},
    "sweep": {"config", "zoo"},
    "private": {"config"},
    "data": {"config", "plugins", "private"},
    "native": {"private"},
    "convolution": {"native"},
    "layers": {"config", "geometry", "convolution"},
    "models": {"config", "geometry", "layers", "plugins", "zoo"},
    "train": {"config", "convolution", "models", "data", "summary", "zoo"},
    "plan": {"config", "geometry", "console", "data", "store", "summary", "sweep", "isocost"},
    "runner": {"config", "console", "data", "native", "plugins", "private", "store", "summary", "sweep", "train"},
    "stats": {"config"},
    "report": {"config", "console", "stats", "store"},
    "cli": {
        "config",
        "console",
        "data",
        "geometry",
        "plugins",
        "stats",
        "sweep",
        "zoo",
        "plan",
        "runner",
        "report",
        "store",
        "summary",
    },
}
NO_JAX = {
    "config",
    "console",
    "plugins",
    "geometry",
    "store",
    "zoo",
    "summary",
    "isocost",
    "sweep",
    "data",
    "plan",
    "stats",
    "report",
    "cli",
    "native",
    "private",
    "record",
    "schema",
    "runner",
}


def files() -> dict[str, list[Path]]:
    """Source files by module: a folder is one module."""
    found: dict[str, list[Path]] = {}
    for path in (ROOT / "cnn_jax").rglob("*.py"):
        name = path.relative_to(ROOT / "cnn_jax").parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """Modules of cnn_jax that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnn_jax"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cnn_jax.")}
    return found


def test_every_module_is_in_the_picture() -> None:
    assert set(files()) == set(ALLOWED)


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_point_one_way(module: str) -> None:
    seen = {name for path in files().get(module, []) for name in imported(path)} - {module}
    lazily = {"summary": {"models", "convolution"}}.get(module, set())  # a fork's linen module is described by tracing it
    assert seen <= ALLOWED[module] | lazily


@pytest.mark.parametrize("module", sorted(NO_JAX))
def test_planning_and_reporting_import_no_jax(module: str) -> None:
    code = f"import sys, cnn_jax.{module}; sys.exit('jax' in sys.modules or 'tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_dry_run_of_ten_thousand_trials_imports_no_jax() -> None:
    """The sweep that issue and README speak of: 20 x 5 x 5 x 20 x ... = 10,000 trials."""
    filters = ",".join(str(f) for f in range(1, 41))
    argv = [
        "launch.py",
        "grid",
        f"--filters={filters}",
        "--kernel_size=1,2,3,4,5",
        "--padding=valid,same,full,reflect,circular",
    ]
    code = "import sys; from cnn_jax import cli; sys.exit(cli.launch(sys.argv[1:], '') or 'jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv, "--seeds=10", "--dry_run", "--out=/nonexistent-is-not-made"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "10,000 trials" in done.stdout
    assert not Path("/nonexistent-is-not-made").exists()
