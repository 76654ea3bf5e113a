"""Benchmark on a machine with a GPU: one call, under ten minutes, no network.

    python -m benchmarks.gpu            needs JAX and PyTorch, both for the GPU, in one environment
    python -m benchmarks.gpu --smoke    the same with tiny sizes on CPU: a test without meaningful numbers

It prints a Markdown table for each part as it is measured, and writes the same numbers to a JSON file. For a part that fails or
runs out of time, a row states the reason; the exit status is then 1. Without a GPU nothing is run, and the status is 2.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import driver
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import Report
from benchmarks.gpu.settings import Settings

_LOOK = """
import json, jax
device = jax.devices()[0]
print(json.dumps({"platform": device.platform, "device": device.device_kind, "count": len(jax.devices())}))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts. Exit status: 0 complete, 1 incomplete, 2 no GPU or invalid flags."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on CPU")
    parser.add_argument("--parts", default=",".join(names), help="comma-separated parts: " + ",".join(names))
    parser.add_argument("--budget", type=float, default=540.0, help="total seconds for all parts; default: 540")
    parser.add_argument("--json", type=Path, help="file of the results; default: runs/gpu.json, or runs/gpu-smoke.json")
    parser.add_argument("--dataset", default="random", help="for the chapter's network, as in launch.py; default: random")
    parser.add_argument("--colour_dataset", default="random", help="for ResNet-20, likewise")
    parser.add_argument(
        "--exact", action="store_true", help="multiply float32 in float32, in JAX and PyTorch; default: in TF32"
    )
    args = parser.parse_args(argv)
    if unknown := [name for name in args.parts.split(",") if name not in names]:
        parser.error(f"--parts={unknown[0]}: must be of {', '.join(names)}")
    settings = Settings(args.smoke, not args.exact, args.dataset, args.colour_dataset)
    machine = look(settings)
    if not args.smoke and machine.get("platform") != "gpu":
        print(f"error: JAX finds no GPU here ({machine['device']}); --smoke tries everything on CPU", file=sys.stderr)
        sys.exit(2)
    about = {
        "machine": machine,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "torch", "numpy")},
        "settings": {"smoke": args.smoke, "products": settings.products, "budget": args.budget},
        "datasets": {"chapter": args.dataset, "resnet20": args.colour_dataset},
    }
    report = Report(args.json or Path("runs", "gpu-smoke.json" if args.smoke else "gpu.json"), about)
    for line in headline(about):
        report.text(line)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what runs is ended
    try:
        driver.run([part for part in PARTS if part.name in args.parts.split(",")], settings, report, args.budget)
    except KeyboardInterrupt:
        sys.exit(130)
    report.text(f"\nwritten to {report.path}")
    sys.exit(1 if report.lost else 0)


def look(settings: Settings) -> dict[str, Any]:
    """Describe JAX's default device; in a separate process, so that no memory of the device is allocated."""
    command = [sys.executable, "-c", _LOOK]
    done = subprocess.run(command, env={**os.environ, **settings.environment}, capture_output=True, text=True)
    if done.returncode:
        return {"device": (done.stderr.strip().splitlines() or ["JAX does not start"])[-1][:200]}
    return {**json.loads(done.stdout.splitlines()[-1]), "nvidia": nvidia()}


def nvidia() -> str | None:
    """Return name, driver, memory and clock from nvidia-smi; None if not available."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def headline(about: dict[str, Any]) -> list[str]:
    """Describe device, versions and settings, and the validity of the numbers."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    lines = [f"# {about['machine']['device']}: {versions}", "", f"float32 is multiplied in {about['settings']['products']}."]
    if about["settings"]["smoke"]:
        lines.append("A smoke test: tiny sizes on CPU. No number says anything about a GPU.")
    if "random" in about["datasets"].values():
        lines.append("Images are random where no data set is given: speed is real, accuracy is not.")
    return lines


if __name__ == "__main__":
    main()
