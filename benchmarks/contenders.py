"""Contenders of a sweep benchmark, cnn_jax and the peers, as commands; networks and images used by all."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import data
from cnn_jax.errors import UsageError
from cnn_jax.nn import Description
from cnn_jax.records import store
from cnn_jax.sweep import parse_values, product
from cnn_jax.trial import DataConfig, ModelConfig

ROOT = Path(__file__).resolve().parents[1]
PEERS = {"pytorch": "torch", "keras": "tensorflow", "flax": "flax"}  # peers/NAME_loop.py, and the required package
CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@dataclasses.dataclass(frozen=True)
class Net:
    """A network: its name for `launch.py`, the swept axes, and flags only for cnn_jax."""

    model: str
    dataset: str
    seeds: int
    axes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peers: tuple[str, ...] = ("pytorch",)


NETS = {
    "chapter": Net(
        "cnn", "mnist", 3, {"filters": "8,16,32", "kernel_size": "3,5", "padding": "same,valid"}, peers=tuple(PEERS)
    ),
    "lenet5": Net("lenet5_dense", "mnist", 4),
    "vgg": Net("benchmarks.models:vgg3", "cifar10", 4),
    "resnet20": Net(
        "resnet20",
        "cifar10",
        4,
        fixed={"filters": "16-32-64", "kernel_size": "3", "padding": "same"},
        peers=("pytorch", "flax"),
    ),
}


def models(net: Net, axes: Mapping[str, str], seeds: int) -> list[ModelConfig]:
    """Return the trained models, one per trial."""
    texts = {**axes, **net.fixed, "model": net.model}
    return [trial.model for trial in product({name: parse_values(name, text) for name, text in texts.items()}, seeds)]


def training_flops(shape: Description) -> int:
    """Count floating-point operations for training on one image: two per MAC.

    They include outputs, gradients of weights and, except for the first layer, gradients of inputs.
    """
    first = next(layer.macs for layer in shape.layers if layer.macs)
    return 2 * (3 * shape.macs - first)


@dataclasses.dataclass(frozen=True)
class Found:
    """Measurements reported by a contender.

    `compile_seconds` (for peers: until the end of a trial's first step) and `train_seconds` are summed over its workers.
    """

    compile_seconds: float
    train_seconds: float
    test_accuracy: tuple[float, ...]  # of each trial
    device_memory: int | None = None  # peak bytes of an accelerator's memory
    products: str | None = None  # precision of products on an accelerator, as reported by the library


@dataclasses.dataclass(frozen=True)
class Contender:
    """A command to time: `ready` is called before the clock starts, `read` parses its output."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    read: Callable[[str], Found]
    ready: Callable[[], None] = lambda: None


def interpreter(peer: str) -> str | None:
    """Return the Python with a peer's package: this one, or that of .venv-bench; None if not installed."""
    for python in (sys.executable, str(ROOT / ".venv-bench" / "bin" / "python")):
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({PEERS[peer]!r}) is None)"
        if Path(python).exists() and subprocess.run([python, "-c", code]).returncode == 0:
            return python
    return None


def flags(values: Mapping[str, Any]) -> list[str]:
    """Format flags: {'seeds': 3, 'compile': True} -> ['--seeds=3', '--compile']."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]


def peer(name: str, file: Path, sweep: Mapping[str, Any], environment: Mapping[str, str]) -> Contender:
    """Return a contender from `peers/`, for the images in `file`. Raises UsageError if its package is not installed."""
    python = interpreter(name)
    if python is None:
        raise UsageError(f"--peers: {name} needs the package {PEERS[name]}: `make bench` installs requirements-bench.txt")

    def read(output: str) -> Found:
        found = json.loads(output.splitlines()[-1])
        return Found(test_accuracy=tuple(trial["test_accuracy"] for trial in found.pop("trials")), **found)

    script = ROOT / "benchmarks" / "peers" / f"{name}_loop.py"
    return Contender(name, [python, str(script), str(file), *flags(sweep)], environment, read)


def ours(folder: Path, sweep: Mapping[str, Any], environment: Mapping[str, str]) -> Contender:
    """Return `launch.py grid` as a contender; every run starts with a copy of `folder`/prepared: images, but no programs."""
    cache, out = folder / "cache", folder / "out"

    def ready() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(folder / "prepared", cache)

    def read(_: str) -> Found:
        records = store.read(out)
        compiling = math.fsum(r["compile_seconds"] for r in records)
        training = math.fsum({r["train_seconds"] for r in records})  # trials trained as lanes share a number
        return Found(compiling, training, tuple(r["test_accuracy"] for r in records), products=records[0]["precision"])

    command = [sys.executable, "launch.py", "grid", *flags(sweep), f"--out={out}"]
    return Contender("ours", command, {**environment, "CNN_JAX_CACHE": str(cache)}, read, ready)


def export(config: DataConfig, cache: Path, file: Path) -> data.Dataset:
    """Prepare the images in `cache` and write them to `file` as in keras.datasets, validation images last."""
    data.prepare(config, cache_dir=cache)
    images = data.load(config, cache_dir=cache)
    x, y = ((getattr(images, f"train_{what}"), getattr(images, f"validation_{what}")) for what in ("images", "labels"))
    test = {"x_test": images.test_images, "y_test": images.test_labels}
    np.savez(file, x_train=np.concatenate(x), y_train=np.concatenate(y), **test)  # type: ignore[arg-type]
    return images


def settings(net: Net, config: DataConfig, info: data.DatasetInfo, swept: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the flags of a sweep for cnn_jax and for the peers; by default one epoch with batches of 128."""
    swept = {"epochs": 1, "batch_size": 128, **swept}
    told = {"model": net.model, "dataset": config.dataset, "validation_fraction": config.validation_fraction, **net.fixed}
    if config.train_examples:
        told["train_examples"] = config.train_examples
    named = {} if net.axes else {"net": next(name for name, each in NETS.items() if each is net)}
    return swept | told, swept | {"validation": info.validation_examples} | named
