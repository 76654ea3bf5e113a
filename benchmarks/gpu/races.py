"""Sweeps of cnn_jax and the peers: whole processes from start to end, as in `benchmarks.sweep`, on the GPU.

cnn_jax runs as `launch.py`. A peer trains trials sequentially, so its seconds per step do not depend on the number of seeds:
where cnn_jax trains 256, a peer trains fewer. Cold: no compiled programs. Warm: with those of the cold run.
"""

import dataclasses
import importlib.util
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import NETS, PEERS, Contender, export, models, ours, peer, settings, training_flops
from benchmarks.gpu import roofline
from benchmarks.gpu.report import Row, reason_of
from benchmarks.gpu.settings import BATCH, Request
from benchmarks.timing import Run, time_run
from cnn_jax.data import DatasetInfo
from cnn_jax.description import describe
from cnn_jax.trial import DataConfig

RESERVED = 8.0  # seconds for each following contender, in case one hangs
ONE_CELL = {"filters": "32", "kernel_size": "3", "padding": "valid"}
# Script and flags of each peer, in order of compile time.
LOOPS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "PyTorch, CUDA graph": ("pytorch", {"graph": True}),
    "PyTorch, eager": ("pytorch", {}),
    "Flax loop": ("flax", {}),
    "PyTorch, torch.compile": ("pytorch", {"compile": "reduce-overhead"}),
}


@dataclasses.dataclass(frozen=True)
class Race:
    """A sweep: a net of `NETS`, its axes, epochs, and seeds per cell for cnn_jax and the peers."""

    net: str
    axes: Mapping[str, str]
    seeds: int
    peer_seeds: int
    epochs: int = 1
    warm: bool = False  # with the programs of the previous race
    compiled: bool = False  # whether a smoke test includes torch.compile

    @property
    def suffix(self) -> str:
        return f", {'warm' if self.warm else 'cold'}"


def chapter(request: Request) -> Iterator[Row]:
    """Run the chapter's sweep, all trials with all contenders."""
    sizes = request.settings.sizes
    yield from run(request, [Race("chapter", sizes.axes, sizes.seeds, sizes.seeds, compiled=True)])


def seeds(request: Request) -> Iterator[Row]:
    """Run many seeds of one cell: an epoch cold, then more epochs warm."""
    sizes = request.settings.sizes
    cold, warm = sizes.many_peers
    first = Race("chapter", ONE_CELL, sizes.many, cold)
    yield from run(request, [first, dataclasses.replace(first, peer_seeds=warm, epochs=sizes.epochs, warm=True)])


def resnet20(request: Request) -> Iterator[Row]:
    """Run an epoch of ResNet-20."""
    mine, others = request.settings.sizes.deep
    yield from run(request, [Race("resnet20", {}, mine, others)])


def run(request: Request, races: Sequence[Race]) -> Iterator[Row]:
    """Yield the rows of races with one network and the same images: cnn_jax in all races, then each peer."""
    folder = Path(request.folder)
    config = DataConfig(_dataset(request, races[0].net), train_examples=request.settings.sizes.train_examples)
    info = export(config, folder / "prepared", folder / "images.npz").info
    names = ["ours", *LOOPS]
    entries = [(name, race) for name in names for race in races]
    for number, (name, race) in enumerate(entries):
        what = name + race.suffix * (len(races) > 1)
        if reason := _absent(request, name, race):
            yield dataclasses.replace(reason, what=what)
            continue
        limit = limit_of(request.left, len(entries) - 1 - number)
        if limit < 1:
            yield Row(what=what, status="no time", note="the part's share of the budget is used up")
            continue
        contender = _contender(request, name, race, config, info)
        try:
            yield row_of(request, what, race, info, time_run(contender, limit))
        except Exception as error:
            yield Row(what=what, status="failed", note=reason_of(str(error)) or type(error).__name__)


def limit_of(left: float, following: int) -> float:
    """Return the time limit of a contender: the remaining time minus a reserve for the following ones, at least half."""
    return left - min(RESERVED * following, left / 2)


def _dataset(request: Request, net: str) -> str:
    """Return the value of --dataset for launch.py; random images are written to a file."""
    chosen = request.settings.colour_dataset if net == "resnet20" else request.settings.dataset
    if chosen != "random":
        return chosen
    shape = (32, 32, 3) if net == "resnet20" else (28, 28, 1)
    return f"npz:{random_file(Path(request.folder, 'random.npz'), shape, request.settings.sizes.images)}"


def _absent(request: Request, name: str, race: Race) -> Row | None:
    """Return a row with the reason why a peer does not run; None if it does."""
    if name == "ours":
        return None
    script, flags = LOOPS[name]
    if importlib.util.find_spec(PEERS[script]) is None:
        return Row(what=name, status="failed", note=f"{PEERS[script]} is not installed in this environment")
    if request.settings.smoke and "graph" in flags:
        return Row(what=name, status="skipped", note="needs a GPU")
    if request.settings.smoke and "compile" in flags and not race.compiled:
        return Row(what=name, status="skipped", note="once in a smoke test, in the chapter's sweep")
    return None


def flags_of(request: Request, name: str, race: Race, config: DataConfig, info: DatasetInfo) -> dict[str, Any]:
    """Return the flags of a contender for a race."""
    seeds = race.seeds if name == "ours" else race.peer_seeds
    swept = {**race.axes, "seeds": seeds, "epochs": race.epochs, "batch_size": BATCH}
    mine, others = settings(NETS[race.net], config, info, swept)
    if name == "ours":
        return mine
    script, flags = LOOPS[name]
    if script != "pytorch":
        return others
    told = {**others, **flags}
    if request.settings.tf32:
        told["tf32"] = True
    if not request.settings.smoke:
        told["device"] = "cuda"
    elif "compile" in told:
        told["compile"] = "aot_eager"  # compiling for CPU would take half a minute, without relevance for a GPU
    return told


def _contender(request: Request, name: str, race: Race, config: DataConfig, info: DatasetInfo) -> Contender:
    folder, told = Path(request.folder), flags_of(request, name, race, config, info)
    if name == "ours":
        mine = ours(folder, told, {})
        return dataclasses.replace(mine, ready=_emptied(folder / "out")) if race.warm else mine
    script, _ = LOOPS[name]
    programs = folder / f"{script}_programs"
    environment = {
        "TORCHINDUCTOR_CACHE_DIR": str(programs),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    ready = (lambda: None) if race.warm else _emptied(programs)
    return dataclasses.replace(peer(script, folder / "images.npz", told, environment), name=name, ready=ready)


def _emptied(folder: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def random_file(path: Path, shape: tuple[int, int, int], counts: tuple[int, int]) -> Path:
    """Write random images with random labels, as in keras.datasets."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in zip(("train", "test"), counts, strict=True):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 10, count)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def row_of(request: Request, what: str, race: Race, info: DatasetInfo, run: Run) -> Row:
    """Compute the row of a run of `race`."""
    trials = len(run.test_accuracy)
    passes = trials * race.epochs
    images = passes * info.train_examples
    flops = images * statistics.fmean(
        training_flops(describe(model, info.input_shape, info.num_classes)) for model in models(NETS[race.net], race.axes, 1)
    )
    products = request.settings.products
    return Row(
        what=what,
        precision=run.products or products,
        trials=trials,
        epochs=race.epochs,
        seconds=run.seconds,
        compile_seconds=run.compile_seconds,
        train_seconds=run.train_seconds,
        images_per_second=images / run.seconds,
        trial_microseconds=run.train_seconds / passes / math.ceil(info.train_examples / BATCH) * 1e6,
        tflops=flops / run.train_seconds / 1e12,
        roofline=roofline.share(run.train_seconds, flops, products, None, request.ceilings),
        device_megabytes=run.device_memory / 1e6 if run.device_memory else None,
        accuracy=statistics.fmean(run.test_accuracy),
    )
