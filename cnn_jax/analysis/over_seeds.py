"""Measures of every trained network of a sweep. Their statistics over seeds are in `lines`."""

import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import threadpoolctl

from cnn_jax import plugins, stats
from cnn_jax.analysis import measures, similarity
from cnn_jax.analysis.measures import Measure
from cnn_jax.analysis.measures.cka import IMAGES, grams
from cnn_jax.analysis.measures.probe import PIXELS
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.padding_card import PaddingCard
from cnn_jax.analysis.shifts import padding_card
from cnn_jax.analysis.trained import open_trial
from cnn_jax.analysis.values import Value
from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError
from cnn_jax.records import store

WORKERS = 2  # threads; each measures networks of one shape
_GRAM_BYTES = 2**30  # limit on the grams of all networks
Progress = Callable[[int, int], None]  # trials measured, total trials


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measured values of the networks of a sweep.

    Attributes:
      records: records of the measured trials.
      values: in order of trial, epoch, measure and layer.
      similarities: between seeds and cells at the last epoch, if the measure cka was requested.
      cards: padding cards by trial, if requested.
      left_out: a sentence for each kind of trial without values.
    """

    records: tuple[stats.Record, ...]
    values: tuple[Value, ...]
    similarities: tuple[similarity.Similarity, ...]
    cards: dict[str, PaddingCard]
    left_out: tuple[str, ...]


def measure(
    dir: str | os.PathLike,
    names: Sequence[str],
    progress: Progress = lambda done, total: None,
    epochs: Sequence[int] | None = None,
    only: Collection[str] | None = None,
    *,
    cards: bool = False,
) -> Measured:
    """Measure every trained network of a sweep.

    Networks that differ only in seeds share their compiled programs; `WORKERS` groups of them are measured at a time.

    Args:
      dir: folder of the sweep.
      names: names of measures, as in `measures.load`.
      progress: called after each network.
      epochs: epochs of snapshots to measure, where a trial has them; empty: all. None: the trained parameters.
      only: ids of the trials to measure; None: all.
      cards: whether to also measure every shift, for padding cards.

    Raises:
      UsageError: no trial has trained parameters or a snapshot of a requested epoch; the data have changed; a measure is
        unknown or failed.
    """
    functions = {name: measures.load(name) for name in dict.fromkeys(names)}
    trials = [record for record in store.read(dir) if only is None or record["trial"] in only]
    done = [record for record in trials if record["status"] == "done" and record["params_sha256"]]
    if not done:
        if any(record["status"] == "done" for record in trials):
            raise UsageError(f"{dir}: trained parameters were not kept: train without --nokeep_params, in another folder")
        lost = f": all {len(trials)} diverged or failed" if trials else ""
        raise UsageError(f"{dir} holds no finished trial{lost}")
    wanted = None if epochs is None else _snapshots(dir, done, epochs)
    groups: dict[str, list[stats.Record]] = {}
    for record in done:
        groups.setdefault(stats.key(record["config"]), []).append(record)
    networks = [(r["trial"], epoch) for r in done for epoch in _epochs(r, wanted)]
    finished: list[tuple[str, int | None, list[Value], similarity.Grams]] = []
    most_grams = _GRAM_BYTES // (4 * IMAGES * IMAGES * 10)  # networks with ten layers
    compared = {record["trial"] for record in done[:most_grams]} if "cka" in functions else set()
    stop, opening = threading.Event(), threading.Lock()
    by_trial: dict[str, PaddingCard] = {}

    def measure_group(records: list[stats.Record]) -> None:
        for trial, epoch in [(r["trial"], epoch) for r in records for epoch in _epochs(r, wanted)]:
            # Headers of .npy files are parsed with `ast`, whose parser is not thread-safe in CPython 3.11.
            with opening:
                network = open_trial(dir, trial, epoch=epoch)
                dataset = network.dataset()
            values: list[Value] = []
            for name, function in functions.items():
                if stop.is_set():
                    return
                values += _values(name, function, network, dataset, values)
            found = grams(network, dataset) if trial in compared and epoch == last[trial] else {}
            layers = {name: gram.astype(np.float32) for name, gram in found.items() if name != PIXELS}
            if cards and epoch == last[trial] and not stop.is_set():
                by_trial[trial] = padding_card(network, dataset)
            finished.append((trial, epoch, values, layers))
            progress(len(finished), len(networks))

    last = dict(networks)
    progress(0, len(networks))
    # NumPy's thread pools, two threads per worker thread, would contend: six times slower on a busy machine.
    with threadpoolctl.threadpool_limits(1, "blas"), concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        tasks = [pool.submit(measure_group, group) for group in groups.values()]
        try:
            for task in concurrent.futures.as_completed(tasks):
                task.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    finished.sort(key=lambda entry: (entry[0], entry[1] or 0))
    return Measured(
        tuple(done),
        tuple(value for _, _, values, _ in finished for value in values),
        tuple(_similarities(done, {trial: layers for trial, _, _, layers in finished if layers})),
        dict(sorted(by_trial.items())),
        tuple(_left_out(trials)),
    )


def _snapshots(dir: str | os.PathLike, records: Sequence[stats.Record], epochs: Sequence[int]) -> list[int]:
    """Return the epochs to measure. Raises UsageError for one that no trial kept."""
    kept = sorted({epoch for record in records for epoch in record["snapshots"]})
    if not kept:
        raise UsageError(f"--epochs: {dir} holds no snapshots: train with --snapshots=0,1,2, in another folder")
    if unknown := sorted(set(epochs) - set(kept)):
        legal = ", ".join(map(str, kept))
        raise UsageError(f"--epochs={unknown[0]}: no trial kept a snapshot of this epoch: must be among {legal}, or all")
    return sorted(epochs) or kept


def _epochs(record: stats.Record, wanted: Sequence[int] | None) -> list[int | None]:
    return [None] if wanted is None else [epoch for epoch in wanted if epoch in record["snapshots"]]


def _values(name: str, function: Measure, network: TrainedNetwork, dataset: Dataset, earlier: Sequence[Value]) -> list[Value]:
    trial = network.trial.id if network.trial else ""
    with plugins.reporting(f"--measures: {name} failed on trial {trial}", function):
        found = function(network, dataset)
    if not isinstance(found, Mapping) or not all(isinstance(values, Mapping) for values in found.values()):
        raise UsageError(f"--measures: {name} returned a {type(found).__name__}: it must return {{name: {{layer: number}}}}")
    if taken := {v.name for v in earlier} & set(found):
        raise UsageError(f"--measures: {name} returned {sorted(taken)[0]!r}, as an earlier measure does: use another name")
    with plugins.reporting(f"--measures: {name} returned a value that is not a number", function):
        return [
            Value(trial, n, layer, float(value), network.epoch)
            for n, values in found.items()
            for layer, value in values.items()
        ]


def _left_out(found: Sequence[stats.Record]) -> list[str]:
    unfinished = sum(record["status"] != "done" for record in found)
    without = sum(record["status"] == "done" and not record["params_sha256"] for record in found)
    sentences = [(unfinished, "diverged or failed"), (without, "did not keep the parameters")]
    return [f"{n} trial{'s' * (n > 1)} left out: {why}" for n, why in sentences if n]


def _similarities(records: Sequence[stats.Record], found: Mapping[str, similarity.Grams]) -> list[similarity.Similarity]:
    out = []
    for group in stats.datasets(records).values():
        cells = {
            cell.label: [found[r["trial"]] for r in cell.done if r["trial"] in found] for cell in stats.design(group).cells
        }
        out += similarity.over_seeds({label: networks for label, networks in cells.items() if networks})
    return out
