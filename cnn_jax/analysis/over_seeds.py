"""Measures of every trained network of a sweep, then intervals over seeds and contrasts between the levels of a factor."""

import concurrent.futures
import dataclasses
import math
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import threadpoolctl

from cnn_jax import plugins, stats
from cnn_jax.analysis import measures, similarity
from cnn_jax.analysis.measures import UNTRAINED, Measure
from cnn_jax.analysis.measures.cka import IMAGES, grams
from cnn_jax.analysis.measures.probe import PIXELS
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.trained import open_trial
from cnn_jax.data import Dataset
from cnn_jax.errors import UsageError
from cnn_jax.records import store

WORKERS = 2  # threads, each of which measures networks of one shape
_GRAM_BYTES = 2**30  # of all networks' grams together
Progress = Callable[[int, int], None]  # trials measured, trials in all


@dataclasses.dataclass(frozen=True)
class Value:
    """One number: `name` is the measure's name of it, `layer` a layer or what else it belongs to.

    `epoch`: of a snapshot; None: the parameters that the trial was measured with.
    """

    trial: str
    name: str
    layer: str
    value: float
    epoch: int | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """Values of the networks of a sweep.

    Attributes:
      records: of the trials that were measured.
      values: in order of trial, epoch, measure and layer.
      similarities: between seeds and cells at the last epoch, where the measure cka was asked for.
      left_out: a sentence for each kind of trial without values.
    """

    records: tuple[stats.Record, ...]
    values: tuple[Value, ...]
    similarities: tuple[similarity.Similarity, ...]
    left_out: tuple[str, ...]


def measure(
    dir: str | os.PathLike,
    names: Sequence[str],
    progress: Progress = lambda done, total: None,
    epochs: Sequence[int] | None = None,
    only: Collection[str] | None = None,
) -> Measured:
    """Measure every trained network of a sweep.

    Networks that differ only in seeds share their compiled programs; `WORKERS` groups of them are measured at a time.

    Args:
      dir: folder of the sweep.
      names: measures, as `measures.load` takes them.
      progress: called after each network.
      epochs: of snapshots to measure, of each trial those that it kept; empty: all of them. None: the trained parameters.
      only: ids of the trials that are measured; None: all.

    Raises:
      UsageError: no trial has a trained network to look into, or a snapshot of one of the epochs; the data have changed; a
        measure is unknown or failed.
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
    most_grams = _GRAM_BYTES // (4 * IMAGES * IMAGES * 10)  # of networks of ten layers
    compared = {record["trial"] for record in done[:most_grams]} if "cka" in functions else set()
    stop, opening = threading.Event(), threading.Lock()

    def measure_group(records: list[stats.Record]) -> None:
        for trial, epoch in [(r["trial"], epoch) for r in records for epoch in _epochs(r, wanted)]:
            # Headers of .npy files are parsed by `ast`, whose parser in CPython 3.11 is not safe in two threads at once.
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
            finished.append((trial, epoch, values, layers))
            progress(len(finished), len(networks))

    last = dict(networks)
    progress(0, len(networks))
    # NumPy's own threads, two for each of ours, would wait for each other: on a busy machine six times as long.
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
        tuple(_left_out(trials)),
    )


def _snapshots(dir: str | os.PathLike, records: Sequence[stats.Record], epochs: Sequence[int]) -> list[int]:
    """The epochs to measure. Raises UsageError for one that no trial kept."""
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
        raise UsageError(f"--measures: {name} returned {sorted(taken)[0]!r}, as a measure before it does: use another name")
    with plugins.reporting(f"--measures: {name} returned what is not a number", function):
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


# -------------------------------------------------------------------------------------------------------------- statistics


@dataclasses.dataclass(frozen=True)
class Line:
    """What a sweep says of one number of one layer.

    Attributes:
      name: the measure's name of it.
      layer: layer, or what else it belongs to.
      mean: mean over the cells, with the interval for new seeds.
      gained: mean over the cells of the difference from the network before training; None without such a baseline.
      term: the factor's effect, as the report has it for accuracy; None without a factor, or where levels lack values.
      p: p-value of the factor's effect, corrected for all lines (Holm) and, within the line, for all contrasts and terms.
      epoch: of the snapshots; None: of the trained parameters.
    """

    name: str
    layer: str
    mean: stats.Estimate
    gained: stats.Estimate | None
    term: stats.Term | None
    p: float
    epoch: int | None = None

    @property
    def claimed(self) -> bool:
        """Whether the factor has an effect, at 5 % for all lines together."""
        return self.p <= 1 - stats.LEVEL


def factors(records: Sequence[stats.Record]) -> tuple[str, ...]:
    """Names of the factors of a sweep."""
    return tuple(stats.design(records).factors)


def summarize(records: Sequence[stats.Record], values: Sequence[Value], factor: str | None) -> list[Line]:
    """Intervals over seeds and contrasts between levels of a factor, by the statistics that accuracies get.

    Args:
      records: of one data set.
      values: of their trials, and perhaps of others.
      factor: the factor whose levels are compared; None: none.
    """
    tables: dict[tuple[str, str, int | None], dict[str, float]] = {}
    for v in values:
        if math.isfinite(v.value):
            tables.setdefault((v.name, v.layer, v.epoch), {})[v.trial] = v.value
    lines = []
    for (name, layer, epoch), table in tables.items():
        if name.endswith(UNTRAINED):
            continue
        if not (found := _means(records, table)):
            continue
        whole, cells, means = found
        before = tables.get((name + UNTRAINED, layer, epoch), {})
        gained = _means(records, {trial: value - before[trial] for trial, value in table.items() if trial in before})
        term = None
        if factor is not None and np.ptp(means.mean_K) > 0:
            effects = stats.effects(whole, cells, means)
            term = next((t for t in effects.terms if t.factors == (factor,)), None)
        lines.append(Line(name, layer, _average(means), _average(gained[2]) if gained else None, term, math.nan, epoch))
    corrected = stats.holm(np.array([math.nan if line.term is None else line.term.p for line in lines]))
    return [dataclasses.replace(line, p=float(p)) for line, p in zip(lines, corrected, strict=True)]


_METRIC = "measure"
_ROUNDING = 1e-6


def _means(
    records: Sequence[stats.Record], table: Mapping[str, float]
) -> tuple[stats.Design, list[stats.Cell], stats.Means] | None:
    """Design, cells with values and their means; None without values."""
    if not (own := {record["trial"]: table[record["trial"]] for record in records if record["trial"] in table}):
        return None
    distinct = np.unique(list(own.values()))
    if np.ptp(distinct) <= _ROUNDING * np.abs(distinct).max():  # the same for all by definition, but for rounding
        own, distinct = dict.fromkeys(own, float(distinct[0])), distinct[:1]
    mine = [record | {_METRIC: own.get(record["trial"])} for record in records]
    whole = stats.design(mine)
    cells = [cell for cell in whole.cells if cell.values(_METRIC).size]
    # Widths in pixels and shares of few filters take few values: runs that agree may differ by the rounding to the next.
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0
    return whole, cells, stats.Means.of([cell.values(_METRIC) for cell in cells], step)


def _average(means: stats.Means) -> stats.Estimate:
    return means.contrast(np.ones(len(means.mean_K)) / len(means.mean_K))
