"""Ours against PyTorch, Keras and a plain Flax loop: the same sweep on the same images. `make bench`, or

    python -m benchmarks.sweep [--net=chapter|lenet5|vgg|resnet20] [--images=12000] [--rounds=3] [--peers=pytorch,keras,flax]

Everyone trains on the same split, and judges each trial once on the validation and once on the test images. A time is that of
a whole process, from its start to its end, imports and compiling included: ours is `launch.py` as a user calls it, with the
images prepared and the compilation cache empty; the peers are the scripts in `peers/`. They run in turns, A B C D A B C D, so
that a machine that slows down slows all of them, and ratios are taken within a turn. Everyone has all cores.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import data, description
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
    "resnet20": Net("resnet20", "cifar10", 4, fixed={"filters": "16-32-64", "kernel_size": "3", "padding": "same"}),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One process from start to end; `memory` in bytes, None where there is no /proc.

    `compile_seconds` (of the peers: until a trial's first step has ended) and `train_seconds` are summed over its workers; the
    rest of `seconds` is imports, images, evaluation and reports.
    """

    seconds: float
    memory: int | None
    compile_seconds: float
    train_seconds: float
    test_accuracy: tuple[float, ...]  # of each trial


@dataclasses.dataclass(frozen=True)
class Contender:
    """A command to be timed: `ready` is called before the clock starts, `read` gets its output and tells what it did.

    `read` returns (compile seconds, train seconds, test accuracy of each trial).
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    read: Callable[[str], tuple[float, float, Sequence[float]]]
    ready: Callable[[], None] = lambda: None


# ------------------------------------------------------------------------------------------------------------ contenders


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

    def read(output: str) -> tuple[float, float, list[float]]:
        found = json.loads(output.splitlines()[-1])
        return found["compile_seconds"], found["train_seconds"], [trial["test_accuracy"] for trial in found["trials"]]

    script = ROOT / "benchmarks" / "peers" / f"{name}_loop.py"
    return Contender(name, [python, str(script), str(file), *flags(sweep)], environment, read)


def ours(folder: Path, sweep: Mapping[str, Any], environment: Mapping[str, str]) -> Contender:
    """`launch.py grid`, its cache a fresh copy of `folder`/prepared in every run: images, but no program."""
    cache, out = folder / "cache", folder / "out"

    def ready() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(folder / "prepared", cache)

    def read(_: str) -> tuple[float, float, list[float]]:
        records = store.read(out)
        compiling, training = (math.fsum(r[f"{what}_seconds"] for r in records) for what in ("compile", "train"))
        return compiling, training, [r["test_accuracy"] for r in records]

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


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is raced: a net of `NETS`, images, the axes and seeds of the sweep, which peers, everyone's environment, and further
    flags by peer."""

    net: str
    config: DataConfig
    axes: Mapping[str, str]
    seeds: int
    peers: Sequence[str]
    environment: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def line_up(folder: Path, entry: Entry) -> tuple[list[Contender], data.DatasetInfo]:
    """The contenders, ours first, with their images in `folder`, and what is known of the images. Raises UsageError."""
    net, config, file = NETS[entry.net], entry.config, folder / "images.npz"
    info = export(config, folder / "prepared", file).info
    swept = {**entry.axes, "seeds": entry.seeds, "epochs": 1, "batch_size": 128}
    told = {"model": net.model, "dataset": config.dataset, "validation_fraction": config.validation_fraction, **net.fixed}
    if config.train_examples:
        told["train_examples"] = config.train_examples
    others = swept | {"validation": info.validation_examples} | ({} if net.axes else {"net": entry.net})
    peers = [peer(name, file, {**others, **entry.options.get(name, {})}, entry.environment) for name in entry.peers]
    return [ours(folder, swept | told, entry.environment), *peers], info


# ---------------------------------------------------------------------------------------------------------------- timing


def inherited() -> dict[str, str]:
    """This process's environment, but for a cache of programs: with one, a second round would be a different race."""
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def time_run(contender: Contender) -> Run:
    """Runs it once. Raises RuntimeError with the end of its errors if it fails."""
    contender.ready()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            contender.command,
            env={**inherited(), **contender.environment},
            cwd=ROOT,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        with peak_memory(process.pid) as peak:
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                raise
        seconds = time.perf_counter() - began
        output.seek(0), errors.seek(0)
        if status:
            raise RuntimeError(f"{contender.name} failed with status {status}: {errors.read()[-2000:]}")
        compiling, training, accuracies = contender.read(output.read())
    return Run(seconds, max(peak) or None, compiling, training, tuple(accuracies))


@contextlib.contextmanager
def peak_memory(session: int, interval: float = 2.0) -> Iterator[list[int]]:
    """Samples the resident bytes of all processes of a session, pages that several share counted once (Linux's PSS)."""
    samples, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(interval):
            samples.append(sum(map(_proportional_set, _members(session))))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _members(session: int) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "PID (NAME) STATE PARENT GROUP SESSION ...", and the name may hold anything
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                yield process


def _proportional_set(process: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def compare(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Run]]:
    """Runs all of them `rounds` times, in turns; a line to stderr for each run."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for turn in range(1, rounds + 1):
        for contender in contenders:
            run = time_run(contender)
            runs[contender.name].append(run)
            print(f"round {turn} of {rounds}: {contender.name} {run.seconds:.1f} s", file=sys.stderr, flush=True)
    return runs


# ------------------------------------------------------------------------------------------------------- machine's limit


def training_flops(shape: Description) -> int:
    """Floating-point operations to train on one image: two per MAC, for the outputs, the gradients of the weights and, but for
    the first layer, the gradients of the inputs."""
    first = next(layer.macs for layer in shape.layers if layer.macs)
    return 2 * (3 * shape.macs - first)


_barrier: Any = None  # in the processes of `core_limit`


def core_limit(size: int = 2048, seconds: float = 2.0) -> tuple[float, int]:
    """FLOP/s of float32 matrix products on a core, all of them at work at once, a pinned JAX process each; how many cores."""
    cores: list[Any] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * (os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(cores), initializer=_meet, initargs=(context.Barrier(len(cores)),)) as pool:
        return statistics.fmean(pool.starmap(_products, [(core, size, seconds) for core in cores], chunksize=1)), len(cores)


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _products(core: int | None, size: int, seconds: float) -> float:
    if core is not None:
        os.sched_setaffinity(0, {core})  # before JAX counts the cores that it may use
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    _barrier.wait()
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        product(a, a).block_until_ready()
        count += 1
    return 2 * size**3 * count / elapsed


# ---------------------------------------------------------------------------------------------------------------- tables


def table(runs: Mapping[str, Sequence[Run]], images: int, flops: float | None = None, limit: float | None = None) -> str:
    """Markdown: a row per contender, ours first, medians over the rounds.

    images: trained by all trials together; flops: of all trials together; limit: FLOP/s of the machine, and a column then says
    which share of it was reached. The ratio is the median over rounds of a time divided by the first one's in the same round.
    """
    header = ["", "trials", "seconds", "images/s", "compile s", "training s", "memory MB", "test accuracy", "sd", "time / ours"]
    rows = [header + ["of the limit"] * bool(limit)]
    for name, mine in runs.items():
        seconds = statistics.median(run.seconds for run in mine)
        memory = [run.memory for run in mine if run.memory]
        accuracies = mine[0].test_accuracy
        ratios = [run.seconds / first.seconds for run, first in zip(mine, next(iter(runs.values())), strict=True)]
        cells = [
            name,
            str(len(accuracies)),
            f"{seconds:.1f}",
            f"{images / seconds:,.0f}",
            f"{statistics.median(run.compile_seconds for run in mine):.1f}",
            f"{statistics.median(run.train_seconds for run in mine):.1f}",
            f"{statistics.median(memory) / 1e6:,.0f}" if memory else "",
            f"{statistics.fmean(accuracies):.4f}",
            f"{statistics.stdev(accuracies):.4f}" if len(accuracies) > 1 else "",
            f"{statistics.median(ratios):.2f}",
        ]
        rows.append(cells + ([f"{flops / seconds / limit:.1%}"] if flops and limit else []))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def models(net: Net, axes: Mapping[str, str], seeds: int) -> list[ModelConfig]:
    """What is trained, one per trial."""
    texts = {**axes, **net.fixed, "model": net.model}
    return [trial.model for trial in product({name: parse_values(name, text) for name, text in texts.items()}, seeds)]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the race and prints its table; bad input ends it in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="chapter")
    parser.add_argument("--dataset", help="as for launch.py; default: mnist or cifar10 of TFDS, by the net")
    parser.add_argument("--images", type=int, help="training images, validation included; default: all")
    parser.add_argument("--validation_fraction", type=float, default=0.1, help="share of them that is held out")
    parser.add_argument("--filters", help="an axis of the chapter's net; so are the next two")
    parser.add_argument("--kernel_size")
    parser.add_argument("--padding")
    parser.add_argument("--seeds", type=int, help="trials per cell")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", help="of pytorch, keras and flax; default: all that have the net")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    args = parser.parse_args(argv)
    try:
        race(args)
    except (UsageError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def race(args: argparse.Namespace) -> None:
    """What `main` does once the flags are read."""
    net = NETS[args.net]
    given = {name: value for name in ("filters", "kernel_size", "padding") if (value := getattr(args, name))}
    names = args.peers.split(",") if args.peers else net.peers
    if unknown := [f"--{name}" for name in given if name not in net.axes] + [
        f"--peers={n}" for n in names if n not in net.peers
    ]:
        raise UsageError(f"{unknown[0]}: not for --net={args.net}: must be one of {', '.join([*net.axes, *net.peers])}")
    axes, seeds = {**net.axes, **given}, args.seeds or net.seeds
    config = DataConfig(args.dataset or net.dataset, args.validation_fraction, train_examples=args.images)
    entry = Entry(args.net, config, axes, seeds, names, CPU)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        contenders, info = line_up(Path(folder), entry)
        limit, cores = core_limit()
        runs = compare(contenders, args.rounds)
    trained = models(net, axes, seeds)
    flops = info.train_examples * sum(
        training_flops(description.describe(m, info.input_shape, info.num_classes)) for m in trained
    )
    rounds = f"{args.rounds} round{'s' * (args.rounds > 1)}"
    print(f"{args.net}: {len(trained)} trials on {config.dataset}, one epoch of {info.train_examples:,} images, {rounds}")
    print(
        f"limit: {limit / 1e9:.0f} GFLOP/s in matrix products on each of {cores} cores; to train takes {flops / 1e9:,.0f} GFLOP"
    )
    print("compile and training seconds are summed over a contender's processes\n")
    print(table(runs, len(trained) * info.train_examples, flops, limit * cores))
    if args.json:
        found = {"limit": limit, "cores": cores, "flops": flops, "images": info.train_examples}
        measured = {name: [dataclasses.asdict(run) for run in mine] for name, mine in runs.items()}
        arguments = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"arguments": arguments, **found, "runs": measured}, indent=1))


if __name__ == "__main__":
    main()
