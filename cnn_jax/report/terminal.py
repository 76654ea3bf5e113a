"""The answer in one screen of a terminal."""

import numpy as np
from rich.console import Console
from rich.table import Table

from cnn_jax import stats
from cnn_jax.report import words

ROWS = 20


def show(analysis: stats.Analysis, missing: int, console: Console) -> None:
    """Prints the table of cells, best first, and what it says."""
    design, metric = analysis.design, analysis.metric
    table = Table(box=None, header_style="bold", pad_edge=False)
    for factor in design.factors or ("model",):
        table.add_column(factor)
    for column in ("n", words.METRICS[metric], "sd", "test accuracy", "params"):
        table.add_column(column, justify="right")
    ranked = sorted(design.cells, key=lambda c: -np.nan_to_num(c.mean(metric), nan=-1.0))
    for cell in ranked[:ROWS]:
        values = cell.values(metric)
        names = [stats.text(v) for v in cell.levels.values()] or [cell.label]
        sd = words.spread(values.std(ddof=1)) if len(values) > 1 else "–"
        numbers = (str(len(values)), words.percent(cell.mean(metric)), sd, words.percent(cell.mean("test_accuracy")))
        table.add_row(*names, *numbers, f"{cell.fact('params') or 0:,}")
    console.print(table)
    if len(ranked) > ROWS:
        console.print(f"... and {words.count(len(ranked) - ROWS, 'cell')} more: see results.csv")
    if missing:
        console.print(f"{words.count(missing, 'planned trial')} not run yet")
