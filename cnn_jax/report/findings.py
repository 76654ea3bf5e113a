"""A sentence under each picture on what it shows in this sweep."""

import math
from collections.abc import Callable

import numpy as np

from cnn_jax import stats
from cnn_jax.report import words
from cnn_jax.report.plots.images import HEATMAP


def of(name: str, analysis: stats.Analysis) -> str:
    """The finding of the figure of that name; '' if there is none."""
    found = _FINDINGS.get(name)
    return found(analysis, words.units(analysis)) if found and analysis.cells else ""


def _by_factor(analysis: stats.Analysis, units: words.Units) -> str:
    parts = []
    for term in analysis.effects.terms:
        if len(term.factors) == 1:
            means = sorted(term.levels, key=lambda level: -analysis.measured.sign * level[1].value)
            (best, high), (worst, low) = means[0], means[-1]
            parts.append(f"{term.name} {best} has {units.value(high.value)} and {worst} {units.value(low.value)}")
    if parts:
        return f"Best and worst levels here, on average: {'; '.join(parts)}."
    values = [float(v) for c in analysis.cells for v in c.values(analysis.metric)]
    return f"Runs here lie between {units.value(min(values))} and {units.value(max(values))}."


def _interactions(analysis: stats.Analysis, units: words.Units) -> str:
    pairs = [term for term in analysis.effects.terms if len(term.factors) == 2]
    claimed = [term.name for term in pairs if term.claimed]
    if claimed:
        return f"Not parallel beyond the noise here: {words.join(claimed)}."
    if pairs:
        return "No lines here depart from parallel by more than the noise explains."
    return "Whether lines are parallel is not tested here: that needs all combinations of levels, with several runs of each."


def _against_best(analysis: stats.Analysis, units: words.Units) -> str:
    worse, others = sum(c.distinguishable for c in analysis.comparisons), len(analysis.comparisons)
    last = max(analysis.comparisons, key=lambda c: c.difference.value)
    far = f"the last, {last.cell.label}, is {units.spread(abs(last.difference.value))}{units.points} worse on average"
    return f"{worse} of the {others} other cells {'is' if worse == 1 else 'are'} distinguished from the best here; {far}."


def _noise_floor(analysis: stats.Analysis, units: words.Units) -> str:
    now, run = analysis.seeds, "seed" if analysis.measured.of_images else "run"
    at = [
        f"{words.count(n, run)} {units.spread(analysis.detectable(n))}{units.points}" for n in sorted({now, 3, 10, 30}) if n > 1
    ]
    return f"Smallest difference found here: {', '.join(at)}."


def _cost(analysis: stats.Analysis, units: words.Units) -> str:
    best = analysis.best
    known = [c for c in (best, *analysis.ties) if c is not None and c.fact("params")]
    if best is None or not known or not best.fact("params"):
        return ""
    cheapest = min(known, key=lambda c: c.fact("params"))
    if cheapest is best:
        return (
            f"The best cell, {best.label}, has {best.fact('params'):,} parameters; none of those not distinguished from it "
            "has fewer."
        )
    share = cheapest.fact("params") / best.fact("params")
    return (
        f"The cell with the fewest parameters that cannot be distinguished from the best is {cheapest.label}: "
        f"{cheapest.fact('params'):,}, {share:.2g} times those of {best.label}."
    )


def _curves(analysis: stats.Analysis, units: words.Units) -> str:
    last = [r["history"][-1] for c in analysis.cells for r in c.done if r["history"]]
    gaps = [
        h["train_accuracy"] - h["val_accuracy"] for h in last if None not in (h.get("train_accuracy"), h.get("val_accuracy"))
    ]
    if not gaps:
        return ""
    gap = float(np.mean(gaps))
    side = "above" if gap >= 0 else "below"
    return (
        f"In the last epoch, training accuracy is {100 * abs(gap):.2f} points {side} validation accuracy, on average over runs."
    )


def _parallel(analysis: stats.Analysis, units: words.Units) -> str:
    runs = [(float(v), c.label) for c in analysis.cells for v in c.values(analysis.metric)]
    best, worst = (f(runs, key=lambda run: analysis.measured.sign * run[0]) for f in (max, min))
    return f"The best run here has {units.value(best[0])} ({best[1]}), the worst {units.value(worst[0])} ({worst[1]})."


def _disagreement(analysis: stats.Analysis, units: words.Units) -> str:
    shown, rate = stats.rates(analysis.cells[:HEATMAP])
    counts = np.array([len(stats.correct_SN(c)) for c in shown])
    if len(shown) < 2 or not (counts > 1).any():
        return ""
    own = (2 * rate * (1 - rate)).mean(axis=1)[counts > 1] * (counts / np.maximum(counts - 1, 1))[counts > 1]
    mean_N, cells = rate.mean(axis=0), len(shown)
    # Of all pairs of cells: products of sums less the squares of each cell with itself.
    products = (cells * mean_N) * (cells * (1 - mean_N)) - (rate * (1 - rate)).sum(axis=0)
    between = float(2 * products.mean() / (cells * (cells - 1)))
    if not math.isfinite(between):
        return ""
    return (
        f"Here two seeds of one cell disagree on {words.percent(float(own.mean()))} of the images, and runs of two cells on "
        f"{words.percent(between)}, on average."
    )


_FINDINGS: dict[str, Callable[[stats.Analysis, words.Units], str]] = {
    "accuracy_by_factor": _by_factor,
    "interactions": _interactions,
    "against_best": _against_best,
    "noise_floor": _noise_floor,
    "cost": _cost,
    "learning_curves": _curves,
    "parallel": _parallel,
    "disagreement": _disagreement,
}
