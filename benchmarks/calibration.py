"""Calibration of reports on simulated sweeps with known truth: false claims, coverage of intervals, power.

    python -m benchmarks.calibration [--repeats=2000] [--only=WORDS]

The generators violate normal theory in the same ways as real sweeps: images of different difficulty shared by all cells,
binomial predictions, cells with different variances, accuracies near 100 %, factors that only interact, missing runs and cells.
Prints the Markdown table of docs/statistics.md.
"""

import base64
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from absl import app, flags
from scipy import optimize
from scipy import stats as theory

from cnn_jax import stats
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

_REPEATS = flags.DEFINE_integer("repeats", 2000, "sweeps per row", lower_bound=10)
_ONLY = flags.DEFINE_string("only", "", "only the rows whose name contains this")

Levels = tuple[int, int, str]  # filters, kernel_size, padding


@dataclasses.dataclass(frozen=True)
class Generator:
    """A kind of sweep.

    Attributes:
        name: Short description.
        cells: Levels of each cell.
        seeds: Runs of each cell, or a function of the generator's state that draws them.
        logit: Each cell's logit of accuracy on an image of difficulty 0.
        images: Images of the validation set.
        difficulty: Standard deviation of the images' difficulty, in logits, shared by all cells.
        quirk: Standard deviation of the difficulty of an image for one cell.
        run: Standard deviation between runs, in logits, per cell.
        lost: Probability that a run diverged.
        lost_cells: Cells without any finished run, drawn for each sweep.
        null: Factors without effect.
        answers: Whether records contain predictions per image.
    """

    name: str
    cells: tuple[Levels, ...]
    seeds: int | tuple[int, int] = 3
    logit: tuple[float, ...] | float = 3.0
    images: int = 300
    difficulty: float = 2.0
    quirk: float = 0.0
    run: tuple[float, ...] | float = 0.1
    lost: float = 0.0
    lost_cells: int = 0
    null: tuple[str, ...] = ("filters", "kernel_size", "padding")
    answers: bool = True
    random_rates: bool = False


def grid(filters: Sequence[int], kernels: Sequence[int], paddings: Sequence[str]) -> tuple[Levels, ...]:
    """Return a complete crossing."""
    return tuple(itertools.product(filters, kernels, paddings))


G12 = grid((8, 16, 32), (3, 5), ("valid", "same"))
G4 = grid((8, 16), (3,), ("valid", "same"))
G60 = grid((4, 8, 16, 32, 64), (3, 5, 7, 9), ("valid", "same", "full"))
ONE = grid((4, 8, 16, 32, 64, 128), (3,), ("valid",))
PADDINGS = ("valid", "same", "full", "reflect", "symmetric", "replicate", "circular")


def crossover(cells: Sequence[Levels]) -> tuple[float, ...]:
    """Return logits with an interaction of filters and kernel size, without main effects or an effect of padding."""
    return tuple(3 + (0.8 if (f >= 16) == (k == 3) else -0.8) for f, k, _ in cells)


def peak(cells: Sequence[Levels]) -> tuple[float, ...]:
    """Return logits with an interior optimum of kernel size, stronger with many filters, without an effect of padding."""
    return tuple(3 - 0.3 * abs(k - 5) * math.log2(f) / 3 for f, k, _ in cells)


def generators() -> Iterator[Generator]:
    """Yield every row of the table."""
    for n in (1, 2, 3, 5, 10, 24):
        yield Generator(f"12 cells, {n} seeds", G12, n, quirk=0.7)
    for cells, seeds in ((G4, 3), (G4, 10), (G60, 2), (G60, 3)):
        yield Generator(f"{len(cells)} cells, {seeds} seeds", cells, seeds, quirk=0.7)
    yield Generator("one factor of 6 levels", ONE, 3, quirk=0.7)
    yield Generator("7 paddings, 5 seeds", grid((8,), (3,), PADDINGS), 5, quirk=0.7)
    yield Generator("no answers stored", G12, 3, answers=False)
    yield Generator("no answers stored, 60 cells", G60, 2, answers=False)
    yield Generator("no image is harder", G12, 3, difficulty=0.0)
    yield Generator("seeds alone differ, 6,000 images", G12, 3, quirk=0.0, images=6000, run=0.2)
    spread = tuple(np.geomspace(0.03, 0.6, 12))
    yield Generator("spreads 1 to 20", G12, 3, run=spread, quirk=0.3)
    yield Generator("spreads 1 to 20, 5 seeds, no answers", G12, 5, run=spread, answers=False)
    yield Generator("spreads 1 to 20, 6,000 images, no answers", G12, 3, run=spread, images=6000, answers=False)
    yield Generator("one unstable cell", G12, 3, run=(0.1,) * 11 + (0.8,), images=2000, quirk=0.3)
    yield Generator("two unstable cells, 5 seeds", G12, 5, run=(0.1,) * 10 + (0.8, 0.8), images=2000, quirk=0.3)
    yield Generator("ceiling 99.5 %", G12, 3, logit=8.5, images=300, quirk=0.7)
    yield Generator("ceiling 99.5 %, 6,000 images", G12, 3, logit=8.5, images=6000, quirk=0.7)
    yield Generator("ceiling 99.9 %, 10 seeds", G12, 10, logit=11.0, images=1000, quirk=0.7)
    only = ("padding",)
    yield Generator("crossover", G12, 3, crossover(G12), quirk=0.5, null=only)
    yield Generator("crossover, 10 seeds", G12, 10, crossover(G12), quirk=0.5, null=only)
    yield Generator("peak inside, 60 cells", G60, 2, peak(G60), quirk=0.5, null=only)
    yield Generator("crossover, a cell lost", G12, 3, crossover(G12), quirk=0.3, lost_cells=1, null=only)
    yield Generator("crossover, a cell lost, 10 seeds", G12, 10, crossover(G12), quirk=0.3, lost_cells=1, null=only)
    yield Generator("crossover, 3 cells lost, no answers", G12, 5, crossover(G12), lost_cells=3, null=only, answers=False)
    yield Generator("a fifth diverged", G12, 3, quirk=0.5, lost=0.2)
    yield Generator("1 to 6 runs per cell", G12, (1, 6), quirk=0.5)
    merged = (*grid((8, 16), (3, 5), ("valid", "same")), *grid((32,), (3,), ("valid", "same")), *grid((64,), (5,), ("same",)))
    yield Generator("two grids merged", merged, 3, crossover(merged), quirk=0.3, null=only)
    yield Generator("two grids merged, 10 seeds, no answers", merged, 10, crossover(merged), null=only, answers=False)
    yield Generator("60 random rates, 1 seed", (), 1, quirk=0.5, random_rates=True, null=("momentum",))
    yield Generator("60 random rates, 3 seeds", (), 3, quirk=0.5, random_rates=True, null=("momentum",))
    yield Generator("60 random rates, 3 seeds, no answers", (), 3, answers=False, random_rates=True, null=("momentum",))


# ------------------------------------------------------------------------------------------------------------- simulation


@functools.cache
def template(levels: tuple, seed: int, images: int) -> dict:
    """Create a record without results."""
    if len(levels) == 3:
        filters, kernel, padding = levels
        trial = Trial(ModelConfig("cnn", (filters,), (kernel,), (1,), padding, "relu"), DataConfig(), TrainConfig(), seed)
    else:
        rate, momentum = levels
        train = TrainConfig("sgd", rate, momentum=momentum)
        trial = Trial(ModelConfig("cnn", (8,), (3,), (1,), "valid", "relu"), DataConfig(), train, seed)
    empty = {"test_accuracy": None, "test_correct": None, "test_examples": images, "reason": None, "receptive_field": 3}
    data = {"checksum": "0", "train": 1000, "validation": images, "test": images}
    cost = {"params": 1000, "macs": 1000, "train_seconds": 1.0, "compile_seconds": 1.0, "history": []}
    return {"trial": trial.id, "config": dataclasses.asdict(trial), "status": "done", "data": data} | empty | cost


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A simulated sweep: records, and the true accuracy of each cell on these images and on all images."""

    records: list[dict]
    here: dict[tuple, float]
    everywhere: dict[tuple, float]


def draw(g: Generator, rng: np.random.Generator) -> Drawn:
    """Draw a sweep."""
    cells: tuple[tuple, ...] = g.cells
    logit = np.broadcast_to(g.logit, len(cells))
    if g.random_rates:
        cells = tuple(zip((10 ** rng.uniform(-4, -1, 60)).tolist(), rng.uniform(0, 0.99, 60).tolist(), strict=True))
        logit = np.array([3 - 0.5 * (math.log10(rate) + 2) ** 2 + 0.3 * rng.normal() for rate, _ in cells])
    run = np.broadcast_to(g.run, len(cells))
    spread = [math.hypot(g.difficulty, g.quirk, sd) for sd in run]
    logit = np.array([equal(float(value), min(spread), sd) for value, sd in zip(logit, spread, strict=True)])
    difficulty_N = g.difficulty * rng.normal(size=g.images)
    absent = set(rng.choice(len(cells), g.lost_cells, replace=False).tolist())
    records, here, everywhere = [], {}, {}
    for k, levels in enumerate(cells):
        shift_N = logit[k] - difficulty_N + g.quirk * rng.normal(size=g.images)
        # Expectation over runs of the accuracy on these images, and on all images.
        here[levels] = float(_over_runs(shift_N, run[k]).mean())
        everywhere[levels] = expected(float(logit[k]), spread[k])
        seeds = g.seeds if isinstance(g.seeds, int) else int(rng.integers(g.seeds[0], g.seeds[1] + 1))
        for seed in range(seeds):
            record = dict(template(levels, seed, g.images))
            if k in absent or rng.random() < g.lost:
                records.append(record | {"status": "diverged", "val_accuracy": None})
                continue
            right_N = rng.random(g.images) < _sigmoid(shift_N + run[k] * rng.normal())
            record["val_accuracy"] = float(right_N.mean())
            if g.answers:
                record["val_correct"] = base64.b64encode(np.packbits(right_N)).decode()
            records.append(record)
    return Drawn(records, here, everywhere)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)


@functools.cache
def expected(logit: float, sd: float) -> float:
    """Compute the mean of the logistic function over a normal distribution."""
    return float(_sigmoid(logit + sd * _NODES) @ _WEIGHTS / _WEIGHTS.sum())


@functools.cache
def equal(logit: float, sd: float, other: float) -> float:
    """Return the logit for deviation `other` with the expectation of `logit` with `sd`, so that instability keeps the mean."""
    target = expected(logit, sd)
    return float(optimize.brentq(lambda x: expected(x, other) - target, logit - 9, logit + 9)) if other != sd else logit


def _over_runs(shift_N: np.ndarray, sd: float) -> np.ndarray:
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    return _sigmoid(shift_N[:, None] + sd * nodes) @ weights / weights.sum()


# ------------------------------------------------------------------------------------------------------------ evaluation


def levels_of(cell: stats.Cell) -> tuple:
    """Return the levels of a cell as in its generator."""
    c = cell.config
    if c["train"]["optimizer"] == "sgd":
        return c["train"]["learning_rate"], c["train"]["momentum"]
    return c["model"]["filters"][0], c["model"]["kernel_size"][0], c["model"]["padding"]


def measure(g: Generator, drawn: Drawn, rng: np.random.Generator) -> dict[str, float]:
    """Evaluate one report: shares of correct statements; nan if there are none."""
    a = stats.analyse(drawn.records)
    truth = drawn.everywhere if g.answers else drawn.here
    wrong = any(t.claimed for t in a.effects.terms if set(t.factors) & set(g.null))
    best = max((truth[levels_of(c)] for c in a.cells), default=0.0)
    everything = len(g.null) == 3
    if everything:
        wrong = wrong or len(a.ties) < len(a.cells) - 1
    else:
        kept = {levels_of(c) for c in (*a.cells[:1], *a.ties)}
        wrong = wrong or all(truth[levels] < best for levels in kept)
    out = {"false": float(wrong)}
    out |= {f"{name} here": math.nan for name in ("cells", "pairs", "effects")} | {"joint": math.nan}
    for name, means, value in (("", a.means, truth), (" here", a.means.on_these_images, drawn.here)):
        t_K = np.array([value[levels_of(c)] for c in a.cells])
        cells = [stats.accuracy_interval(means, i) for i in range(len(a.cells))]
        out["cells" + name] = _share([(e, v) for e, v in zip(cells, t_K, strict=True)])
        i, j = (rng.choice(len(a.cells), 2, replace=False)) if len(a.cells) > 1 else (0, 0)
        w = np.eye(len(a.cells))[i] - np.eye(len(a.cells))[j]
        out["pairs" + name] = _share([(means.contrast(w), t_K[i] - t_K[j])])
        if g.random_rates or not a.effects.terms or g.lost_cells or g.name.startswith("two grids"):
            out["effects" + name] = math.nan
            continue
        found = []
        joint = []
        effects = a.effects if not name else stats.effects(a.design, a.cells, means, a.resolution)
        for term in effects.terms:
            if len(term.factors) == 1:
                column = np.array([stats.text(c.levels[term.name]) for c in a.cells])
                for contrast in term.contrasts:
                    true = t_K[column == contrast.b].mean() - t_K[column == contrast.a].mean()
                    found.append((contrast.estimate, true))
                true = t_K[column == term.span.b].mean() - t_K[column == term.span.a].mean()
                joint.append((term.span.simultaneous, true))
        out["effects" + name] = _share(found)
        if not name:
            out["joint"] = float(_share(joint) == 1.0) if joint and joint[0][0].known else math.nan
    return out


def _share(intervals: Sequence[tuple[stats.Estimate, float]]) -> float:
    known = [(e, v) for e, v in intervals if e.known]
    return float(np.mean([e.low <= v <= e.high for e, v in known])) if known else math.nan


COLUMNS = ("false", "cells", "pairs", "effects", "joint", "cells here", "pairs here", "effects here")


def row(g: Generator, repeats: int) -> dict[str, float]:
    """Average over many sweeps."""
    rng = np.random.default_rng(len(g.name))
    results = [measure(g, draw(g, rng), rng) for _ in range(repeats)]
    with np.errstate(all="ignore"):
        table = {name: np.array([r[name] for r in results]) for name in COLUMNS}
        return {name: float(np.nanmean(v)) if np.isfinite(v).any() else math.nan for name, v in table.items()}


# ------------------------------------------------------------------------------------------------------------------ power


def power(repeats: int, seeds: int, unstable: float, spread: float = 0.004) -> dict[str, float]:
    """Estimate the power to distinguish two stable cells: in a t test, with two further equal cells, and with an unstable one.

    Their difference is detected in 99 % of cases by a t test at 5 %. `unstable` is the standard deviation of an unstable cell.
    """
    critical = theory.t.ppf(0.975, 2 * seeds - 2)
    shift = optimize.brentq(lambda d: theory.nct.sf(critical, 2 * seeds - 2, d) - 0.99, 0, 50)
    rng, found = np.random.default_rng(seeds), {"t test": 0, "4 cells": 0, "one unstable": 0}
    mean = np.array([0.95, 0.95 + spread * math.sqrt(2 / seeds) * shift, 0.95, 0.95])
    rates = [(rate, 0.9) for rate in (0.0001, 0.001, 0.01, 0.1)]
    for _ in range(repeats):
        noise = rng.normal(size=(4, seeds))
        for name, sd in (("4 cells", spread), ("one unstable", unstable)):
            value = mean[:, None] + noise * np.array([spread, spread, spread, sd])[:, None]
            records = [
                template(rates[k], seed, 10000) | {"val_accuracy": float(value[k, seed])}
                for k in range(4)
                for seed in range(seeds)
            ]
            found[name] += stats.analyse(records).effects.terms[0].claimed
        found["t test"] += theory.ttest_ind(*(mean[:2, None] + noise[:2] * spread)).pvalue <= 0.05
    return {name: count / repeats for name, count in found.items()}


def main(argv: Sequence[str]) -> None:
    del argv
    print("| sweep | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for g in generators():
        if _ONLY.value in g.name:
            found = row(g, _REPEATS.value)
            print(
                f"| {g.name} | " + " | ".join("" if math.isnan(v) else f"{100 * v:.1f}" for v in found.values()) + " |",
                flush=True,
            )
    if _ONLY.value in "power":
        print("\n| power | t test alone | 4 cells | one of them unstable |\n|---|---|---|---|")
        for seeds in (3, 5, 10):
            found = power(_REPEATS.value, seeds, 0.08)
            print(f"| {seeds} seeds | " + " | ".join(f"{100 * v:.1f}" for v in found.values()) + " |", flush=True)


if __name__ == "__main__":
    app.run(main)
