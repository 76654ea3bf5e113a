"""Two sweeps cell by cell: two folders, or one sweep under two versions of the code."""

import json

import numpy as np
from rich.console import Console

from cnn_jax import stats
from cnn_jax.console import Column, Row, print_table
from cnn_jax.errors import UsageError
from cnn_jax.report import words
from cnn_jax.report.joined import same_results

COLUMNS = (
    Column("cell", left=True), Column("A"), Column("B"), Column("B - A"), Column("95 % interval"), Column("p"),
    Column("P(B>A)", optional=True), Column("n of A", optional=True), Column("n of B", optional=True),
)  # fmt: skip


def show(a: list[stats.Record], b: list[stats.Record], console: Console) -> None:
    """Print every cell that both hold with b minus a: the difference with its interval, P(B > A) and a corrected p.

    Runs of one seed are not paired: between two versions of the code they may be unrelated. A trial with the same results in
    both is one run, not two independent ones: it counts in a alone.

    Raises:
      UsageError: no cell has finished runs in both.
    """
    metric = stats.compared_on([*a, *b])
    in_a = {r["trial"]: r for r in a if r["status"] == "done"}
    copies = {r["trial"] for r in b if r["status"] == "done" and r["trial"] in in_a and same_results(in_a[r["trial"]], r)}
    if copies:
        sentence = f"{words.count(len(copies), 'trial')} with the same results in both: counted in A alone."
        console.print(sentence, highlight=False, markup=False)
    b = [r for r in b if r["trial"] not in copies]
    cells_a, cells_b = ({_key(c): c for c in stats.design(records).cells} for records in (a, b))
    shared = [k for k in cells_a if k in cells_b and cells_a[k].values(metric).size and cells_b[k].values(metric).size]
    if not shared and copies:
        console.print("No cell has other runs in both: no difference to report.", highlight=False, style="bold")
        return
    if not shared:
        raise UsageError(
            "compare: the two sweeps have no cell with finished runs in common: name two sweeps of the same networks"
        )
    labels = {_key(c): c.label for c in stats.design([r for k in shared for r in cells_a[k].records]).cells}
    differences = []
    for key in shared:
        values = [cells_a[key].values(metric), cells_b[key].values(metric)]
        means = stats.Means.of(values, max(stats.one_image(r, metric) for r in cells_a[key].done + cells_b[key].done))
        differences.append((key, values, means.contrast(np.array([-1.0, 1.0]))))
    p = stats.holm(np.array([d.p for _, _, d in differences]))
    rows = []
    for (key, (x, y), d), corrected in zip(differences, p, strict=True):
        span = f"{words.points(d.low)} to {words.points(d.high)}" if d.known else "–"
        better = f"{stats.probability_better(y, x):.2f}"
        cells = [labels[key], words.percent(x.mean()), words.percent(y.mean()), words.points(d.value), span]
        cells += [words.p_value(corrected), better, str(len(x)), str(len(y))]
        rows.append(Row(cells, "bold" if corrected <= 1 - stats.LEVEL else ""))
    print_table(console, COLUMNS, rows)
    changed = int((p <= 1 - stats.LEVEL).sum())
    noun = stats.ACCURACIES[metric].noun
    only = len(cells_a) + len(cells_b) - 2 * len(shared)
    sentence = f"{changed} of {words.count(len(shared), 'shared cell')} differ in {noun} (corrected for all of them)"
    console.print(sentence + (f"; {words.count(only, 'cell')} not in both." if only else "."), highlight=False, style="bold")
    console.print(_mean_difference([cells_a[k] for k in shared], [cells_b[k] for k in shared], metric), highlight=False)


def _mean_difference(a: list[stats.Cell], b: list[stats.Cell], metric: str) -> str:
    """The sentence about b minus a, averaged over the shared cells with equal weights."""
    step = max(stats.one_image(r, metric) for cell in (*a, *b) for r in cell.done)
    means = stats.Means.of([cell.values(metric) for cell in (*a, *b)], step)
    e = means.contrast(np.repeat([-1 / len(a), 1 / len(b)], len(a)))
    span = f"95 % interval {words.points(e.low)} to {words.points(e.high)}" if e.known else "no interval: one run per cell"
    return f"Mean difference over {words.count(len(a), 'shared cell')}, B - A: {words.points(e.value)} points ({span})."


def _key(cell: stats.Cell) -> str:
    return json.dumps(cell.config, sort_keys=True)
