"""Planning, describing and reporting import no JAX. `make check` holds the direction of imports (pyproject.toml)."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_JAX = (
    "analysis.cell", "analysis.measures", "analysis.records", "chapter", "chapter.page", "cli", "console", "data",
    "description", "errors", "execution", "execution.outcome", "export.formats", "imports", "lowering", "nn",
    "nn.initializers", "ops.native", "plugins", "records.store", "report", "report.inside_files", "stats", "sweep.plan",
    "trial", "zoo",
)  # fmt: skip


def test_planning_and_reporting_import_no_jax() -> None:
    code = f"""
import importlib, sys
for name in {WITHOUT_JAX}:
    importlib.import_module("cnn_jax." + name)
    loaded = {{"jax", "flax", "tensorflow_datasets"}} & set(sys.modules)
    assert not loaded, f"cnn_jax.{{name}} imports {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dry_run_of_ten_thousand_trials_imports_neither_jax_nor_what_is_slow_of_scipy() -> None:
    """The sweep that issue and README speak of: 20 x 5 x 5 x 20 x ... = 10,000 trials."""
    filters = ",".join(str(f) for f in range(1, 41))
    argv = [
        "launch.py",
        "grid",
        f"--filters={filters}",
        "--kernel_size=1,2,3,4,5",
        "--padding=valid,same,full,reflect,circular",
    ]
    loaded = "bool({'jax', 'scipy.stats'} & set(sys.modules))"
    code = f"import sys; from cnn_jax import cli; sys.exit(cli.launch(sys.argv[1:]) or {loaded})"
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
