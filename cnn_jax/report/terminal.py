"""The answer in one screen of a terminal."""

import math

from rich.console import Console

from cnn_jax import stats
from cnn_jax.console import Column, Row, print_table
from cnn_jax.report import answer, words
from cnn_jax.report.plots.figure import clip

ROWS = 14  # with the sentences around it this fills a screen of 24 lines


def show(analysis: stats.Analysis, console: Console) -> None:
    """Print the answer of the sweep, then its cells, best first; those not distinguished from the best are bold."""
    design, metric = analysis.design, analysis.metric
    ties = {id(c) for c in (*analysis.cells[:1], *analysis.ties)}
    silent = [c for c in design.cells if not c.values(metric).size]
    ranked = [*analysis.cells, *silent]
    marked = ties if len(ties) < len(analysis.cells) else set()
    rows = [Row(_cells(cell, analysis), "bold" if id(cell) in marked else "") for cell in ranked[:ROWS]]
    print_table(console, _columns(analysis), rows)
    if len(ranked) > ROWS:
        console.print(
            f"and {words.count(len(ranked) - ROWS, 'cell')} more in results.csv", style="dim", highlight=False, markup=False
        )
    console.print()
    console.print(answer.headline(analysis), style="bold", highlight=False, markup=False)
    held_fixed = answer.held_fixed(analysis) if analysis.cells else ""
    for sentence in (*answer.details(analysis), *filter(None, [held_fixed])):
        console.print(sentence, highlight=False, markup=False)
    for sentence in answer.cautions(analysis):
        console.print(sentence, style="yellow", highlight=False, markup=False)


def _columns(analysis: stats.Analysis) -> list[Column]:
    factors = [Column(factor, left=True) for factor in analysis.design.factors or ("cell",)]
    if not analysis.measured.of_images:
        return [*factors, Column(clip(analysis.measured.noun, 24)), *(Column(name, optional=True) for name in ("sd", "n"))]
    accuracies = [Column("validation"), Column("test")] if analysis.validated else [Column("test")]
    return [*factors, *accuracies, *(Column(name, optional=True) for name in ("sd", "n", "params", "train s"))]


def _cells(cell: stats.Cell, analysis: stats.Analysis) -> list[str]:
    """A row of the table; unknown values are empty."""
    values = cell.values(analysis.metric)
    metrics = [analysis.metric, "test_accuracy"] if analysis.validated else [analysis.metric]
    lost = len(cell.records) - len(cell.done)
    units = words.units(analysis)
    params, seconds = cell.fact("params"), cell.mean("train_seconds")
    found = [
        *([stats.text(level) for level in cell.levels.values()] or [cell.label]),
        *(units.value(cell.mean(metric)) for metric in metrics),
        units.spread(values.std(ddof=1) if len(values) > 1 else math.nan),
        f"{len(values)}{f' (-{lost})' if lost else ''}",
    ]
    if not analysis.measured.of_images:
        return found
    return [
        *found,
        "" if params is None else f"{params:,}",
        f"{seconds:.1f}" if math.isfinite(seconds) else "",
    ]
