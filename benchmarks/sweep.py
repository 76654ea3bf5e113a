"""cnn_jax compared with PyTorch, Keras and a plain Flax loop: the same sweep on the same images. `make bench`, or

    python -m benchmarks.sweep [--net=chapter|lenet5|vgg|resnet20] [--images=12000] [--rounds=3] [--peers=pytorch,keras,flax]
                               [--precision=bfloat16]

All contenders train on the same split, and evaluate each trial once on the validation and once on the test images. Times are
those of whole processes, from start to end, including imports and compilation: cnn_jax is `launch.py` as called by a user, with
prepared images and an empty compilation cache; the peers are the scripts in `peers/`. They run in turns, A B C D A B C D, so
that load on the machine affects all of them, and ratios are taken within a turn. All use all cores; PyTorch does so in one
process and in a process per core, one after the other.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import CPU, NETS, Contender, export, models, ours, peer, settings, training_flops
from benchmarks.timing import Run, time_run
from cnn_jax import data, description
from cnn_jax.errors import UsageError
from cnn_jax.trial import PRECISIONS, DataConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """Configuration of a benchmark: a net of `NETS`, images, axes and seeds of the sweep, peers, and environment."""

    net: str
    config: DataConfig
    axes: Mapping[str, str]
    seeds: int
    peers: Sequence[str]
    environment: Mapping[str, str]
    precision: str = "float32"


def line_up(folder: Path, entry: Entry) -> tuple[list[Contender], data.DatasetInfo]:
    """Prepare the contenders, cnn_jax first, with images in `folder`; also return their description. Raises UsageError."""
    net, config, file = NETS[entry.net], entry.config, folder / "images.npz"
    info = export(config, folder / "prepared", file).info
    own, others = settings(net, config, info, {**entry.axes, "seeds": entry.seeds})
    if entry.precision == "bfloat16":
        own, others = own | {"precision": "bfloat16"}, others | {"autocast": True}
    peers = [peer(name, file, others, entry.environment) for name in entry.peers]
    per_core = [
        dataclasses.replace(one, name="pytorch per core", command=[*one.command, "--per_core"])
        for one in peers
        if one.name == "pytorch" and shutil.which("taskset")
    ]
    return [ours(folder, own, entry.environment), *peers, *per_core], info


def processor() -> str:
    """Name the processor and the widest of the vector extensions that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    told = {name.strip(): value.strip() for name, value in told.items()}
    flags = told.get("flags", "").split()
    extensions = {"AMX": "amx_bf16", "AVX-512": "avx512f", "AVX2": "avx2"}
    names = [name for name, flag in extensions.items() if flag in flags]
    return ", ".join([told.get("model name", platform.machine()), *names])


def compare(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Run]]:
    """Run all contenders `rounds` times, in turns; print a line to stderr per run."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for turn in range(1, rounds + 1):
        for contender in contenders:
            run = time_run(contender)
            runs[contender.name].append(run)
            print(f"round {turn} of {rounds}: {contender.name} {run.seconds:.1f} s", file=sys.stderr, flush=True)
    return runs


# ------------------------------------------------------------------------------------------------------- machine's limit


_barrier: Any = None  # in the processes of `core_limit`


def core_limit(size: int = 2048, seconds: float = 2.0) -> tuple[float, int]:
    """Measure FLOP/s per core of float32 matrix products, with a pinned JAX process on every core; also return their number."""
    cores: list[Any] = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * (os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(cores), initializer=_meet, initargs=(context.Barrier(len(cores)),)) as pool:
        return statistics.fmean(pool.starmap(_products, [(core, size, seconds) for core in cores], chunksize=1)), len(cores)


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _products(core: int | None, size: int, seconds: float) -> float:
    if core is not None:
        os.sched_setaffinity(0, {core})  # before JAX counts the available cores
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
    """Format a Markdown table: a row per contender, cnn_jax first, with medians over the rounds.

    images: training images over all trials; flops: operations over all trials; limit: FLOP/s of the machine, which adds a
    column with its utilization. The ratio is the median over rounds of a time divided by that of the first contender in the
    same round.
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its table; invalid input is reported in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="chapter")
    parser.add_argument("--dataset", help="as in launch.py; default: mnist or cifar10 of TFDS, by the net")
    parser.add_argument("--images", type=int, help="training images, including validation; default: all")
    parser.add_argument("--validation_fraction", type=float, default=0.1, help="held-out share of the training images")
    parser.add_argument("--filters", help="an axis of the chapter's net, as the next two")
    parser.add_argument("--kernel_size")
    parser.add_argument("--padding")
    parser.add_argument("--seeds", type=int, help="trials per cell")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", help="pytorch, keras, flax; default: all that support the net")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="bfloat16: only against PyTorch's autocast")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    args = parser.parse_args(argv)
    try:
        race(args)
    except (UsageError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def race(args: argparse.Namespace) -> None:
    """Run the benchmark with parsed flags."""
    net = NETS[args.net]
    given = {name: value for name in ("filters", "kernel_size", "padding") if (value := getattr(args, name))}
    names = args.peers.split(",") if args.peers else net.peers if args.precision == "float32" else ("pytorch",)
    if unknown := [f"--{name}" for name in given if name not in net.axes] + [
        f"--peers={n}" for n in names if n not in net.peers
    ]:
        raise UsageError(f"{unknown[0]}: not for --net={args.net}: must be one of {', '.join([*net.axes, *net.peers])}")
    if args.precision != "float32" and set(names) != {"pytorch"}:
        raise UsageError(f"--peers={','.join(names)}: in {args.precision} must be pytorch")
    axes, seeds = {**net.axes, **given}, args.seeds or net.seeds
    config = DataConfig(args.dataset or net.dataset, args.validation_fraction, train_examples=args.images)
    entry = Entry(args.net, config, axes, seeds, names, CPU, args.precision)
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
    print(f"{args.precision}, on {processor()}")
    print(
        f"limit: {limit / 1e9:.0f} GFLOP/s in matrix products on each of {cores} cores; to train takes {flops / 1e9:,.0f} GFLOP"
    )
    print("compile and training seconds are summed over a contender's processes\n")
    print(table(runs, len(trained) * info.train_examples, flops, limit * cores))
    if args.json:
        found = {"processor": processor(), "limit": limit, "cores": cores, "flops": flops, "images": info.train_examples}
        measured = {name: [dataclasses.asdict(run) for run in mine] for name, mine in runs.items()}
        arguments = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"arguments": arguments, **found, "runs": measured}, indent=1))


if __name__ == "__main__":
    main()
