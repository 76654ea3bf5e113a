"""Who is raced in a sweep, ours and the peers, as commands; the networks, and the images that all of them get."""

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
PEERS = {"pytorch": "torch", "keras": "tensorflow", "flax": "flax"}  # peers/NAME_loop.py, and the package that it needs
CPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@dataclasses.dataclass(frozen=True)
class Net:
    """A network to be swept: its name for `launch.py`, the axes that both sides sweep, those only ours must be told."""

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
    """What is trained, one per trial."""
    texts = {**axes, **net.fixed, "model": net.model}
    return [trial.model for trial in product({name: parse_values(name, text) for name, text in texts.items()}, seeds)]


def training_flops(shape: Description) -> int:
    """Floating-point operations to train on one image: two per MAC, for the outputs, the gradients of the weights and, but for
    the first layer, the gradients of the inputs."""
    first = next(layer.macs for layer in shape.layers if layer.macs)
    return 2 * (3 * shape.macs - first)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a contender tells of itself.

    `compile_seconds` (of the peers: until a trial's first step has ended) and `train_seconds` are summed over its workers.
    """

    compile_seconds: float
    train_seconds: float
    test_accuracy: tuple[float, ...]  # of each trial
    device_memory: int | None = None  # bytes of an accelerator's memory, at most
    products: str | None = None  # what an accelerator multiplies in, as read back from the library


@dataclasses.dataclass(frozen=True)
class Contender:
    """A command to be timed: `ready` is called before the clock starts, `read` gets its output."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    read: Callable[[str], Found]
    ready: Callable[[], None] = lambda: None


def interpreter(peer: str) -> str | None:
    """The Python that has a peer's package: this one, or that of .venv-bench; None if there is none."""
    for python in (sys.executable, str(ROOT / ".venv-bench" / "bin" / "python")):
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({PEERS[peer]!r}) is None)"
        if Path(python).exists() and subprocess.run([python, "-c", code]).returncode == 0:
            return python
    return None


def flags(values: Mapping[str, Any]) -> list[str]:
    """{'seeds': 3, 'compile': True} -> ['--seeds=3', '--compile']."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]


def peer(name: str, file: Path, sweep: Mapping[str, Any], environment: Mapping[str, str]) -> Contender:
    """One of `peers/`, on the images in `file`. Raises UsageError if its package is not installed."""
    python = interpreter(name)
    if python is None:
        raise UsageError(f"--peers: {name} needs the package {PEERS[name]}: `make bench` installs requirements-bench.txt")

    def read(output: str) -> Found:
        found = json.loads(output.splitlines()[-1])
        return Found(test_accuracy=tuple(trial["test_accuracy"] for trial in found.pop("trials")), **found)

    script = ROOT / "benchmarks" / "peers" / f"{name}_loop.py"
    return Contender(name, [python, str(script), str(file), *flags(sweep)], environment, read)


def ours(folder: Path, sweep: Mapping[str, Any], environment: Mapping[str, str]) -> Contender:
    """`launch.py grid`, its cache a fresh copy of `folder`/prepared in every run: images, but no program."""
    cache, out = folder / "cache", folder / "out"

    def ready() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(folder / "prepared", cache)

    def read(_: str) -> Found:
        records = store.read(out)
        compiling = math.fsum(r["compile_seconds"] for r in records)
        training = math.fsum({r["train_seconds"] for r in records})  # trials that trained side by side share a number
        return Found(compiling, training, tuple(r["test_accuracy"] for r in records), products=records[0]["precision"])

    command = [sys.executable, "launch.py", "grid", *flags(sweep), f"--out={out}"]
    return Contender("ours", command, {**environment, "CNN_JAX_CACHE": str(cache)}, read, ready)


def export(config: DataConfig, cache: Path, file: Path) -> data.Dataset:
    """Prepares the images in `cache` and writes them to `file` as in keras.datasets, the validation images last."""
    data.prepare(config, cache_dir=cache)
    images = data.load(config, cache_dir=cache)
    x, y = ((getattr(images, f"train_{what}"), getattr(images, f"validation_{what}")) for what in ("images", "labels"))
    test = {"x_test": images.test_images, "y_test": images.test_labels}
    np.savez(file, x_train=np.concatenate(x), y_train=np.concatenate(y), **test)  # type: ignore[arg-type]
    return images


def settings(net: Net, config: DataConfig, info: data.DatasetInfo, swept: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Flags of one sweep, an epoch in batches of 128 unless `swept` says otherwise: for ours, and for the peers."""
    swept = {"epochs": 1, "batch_size": 128, **swept}
    told = {"model": net.model, "dataset": config.dataset, "validation_fraction": config.validation_fraction, **net.fixed}
    if config.train_examples:
        told["train_examples"] = config.train_examples
    named = {} if net.axes else {"net": next(name for name, each in NETS.items() if each is net)}
    return swept | told, swept | {"validation": info.validation_examples} | named
