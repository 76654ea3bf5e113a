"""The answer in one screen of a terminal."""

import math

from rich.console import Console
from rich.table import Table

from cnn_jax import stats
from cnn_jax.report import answer, words

ROWS = 14  # with the sentences around it this fills a screen of 24 lines


def show(analysis: stats.Analysis, missing: int, console: Console) -> None:
    """Prints what the sweep says, then a table of its cells, best first; those that cannot be told from the best are bold."""
    design, metric = analysis.design, analysis.metric
    table = Table(box=None, header_style="bold", pad_edge=False)
    for factor in design.factors or ("cell",):
        table.add_column(factor, no_wrap=True)
    shown = ["validation", "sd", "test"] if analysis.validated else ["test", "sd"]
    for column in ("n", *shown, "params", "train s"):
        table.add_column(column, justify="right", no_wrap=True)
    ties = {id(c) for c in (*analysis.cells[:1], *analysis.ties)}
    silent = [c for c in design.cells if not c.values(metric).size]
    ranked = [*analysis.cells, *silent]
    for cell in ranked[:ROWS]:
        values = cell.values(metric)
        lost = cell.count("diverged") + cell.count("failed")
        row = [stats.text(v) for v in cell.levels.values()] or [cell.label]
        row += [f"{len(values)}{f' (-{lost})' if lost else ''}", words.percent(cell.mean(metric))]
        row.append(words.spread(values.std(ddof=1) if len(values) > 1 else math.nan))
        if analysis.validated:
            row.append(words.percent(cell.mean("test_accuracy")))
        seconds = cell.mean("train_seconds")
        row += [f"{cell.fact('params') or 0:,}", f"{seconds:.1f}" if math.isfinite(seconds) else "–"]
        table.add_row(*row, style="bold" if id(cell) in ties and len(ties) < len(analysis.cells) else None)
    console.print(table)
    if len(ranked) > ROWS:
        console.print(
            f"and {words.count(len(ranked) - ROWS, 'cell')} more in results.csv", style="dim", highlight=False, markup=False
        )
    console.print()
    console.print(answer.headline(analysis), style="bold", highlight=False, markup=False)
    for sentence in answer.details(analysis):
        console.print(sentence, highlight=False, markup=False)
    for sentence in answer.cautions(analysis, missing, ()):
        console.print(sentence, style="yellow", highlight=False, markup=False)
