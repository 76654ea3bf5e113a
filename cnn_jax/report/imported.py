"""The report on results of other tools: the same statistics and pictures, for one number per run."""

import dataclasses
import functools
from pathlib import Path

import cnn_jax
from cnn_jax import imports, stats
from cnn_jax.aliases import Row
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.report import page_tables, svg, words
from cnn_jax.report.sweep import Sweep
from cnn_jax.report.table import to_csv

KEY = "value"  # of the metric in a record


@dataclasses.dataclass(frozen=True)
class Imported(Sweep):
    """A sweep whose runs were read from a file."""

    results: imports.Results = None  # type: ignore[assignment]

    @classmethod
    def of(cls, results: imports.Results) -> "Imported":
        """From the runs of a file."""
        return cls([_record(results, run) for run in results.runs], [], [], [], list(results.notes), results=results)

    @functools.cached_property
    def parts(self) -> list[tuple[Sweep, stats.Analysis]]:
        """The only part."""
        results = self.results
        groups: dict[tuple[imports.runs.Level, ...], list[stats.Record]] = {}
        for run, record in zip(results.runs, self.records, strict=True):
            groups.setdefault(tuple(run.levels.values()), []).append(record)
        names = list(results.runs[0].levels)
        design = stats.crossing(
            [({**dict(zip(names, levels, strict=True)), **results.fixed}, group) for levels, group in groups.items()]
        )
        measured = stats.Metric(KEY, results.metric, results.share, results.lower_is_better, of_images=False)
        return [(self, stats.analyse_numbers(design, measured, results.resolution))]

    def setup(self, analysis: stats.Analysis) -> str:
        """The columns that were read, those that were guessed, and the factors."""
        results = self.results
        rows = [("file", f"{results.path.name}, {results.tool}")]
        rows += [("varied", _varied(analysis.design))]
        rows += [("fixed", ", ".join(f"{name} {stats.text(value)}" for name, value in results.fixed.items()))]
        rows += [("metric", f"{results.metric}, {'lower' if results.lower_is_better else 'higher'} is better")]
        items = "".join(f"<div><dt>{svg.escape(k)}</dt><dd>{svg.escape(v)}</dd></div>" for k, v in rows if v)
        said = "".join(svg.tag("li", svg.escape(sentence)) for sentence in results.said)
        note = svg.tag("p", "How the columns of the file were read:", class_="note")
        return f'<h2>What was read</h2><dl class="settings">{items}</dl>{note}<ul class="details">{said}</ul>'

    def table_of_trials(self) -> str:
        """Every run with its factors and its value."""
        rows = [row(self.results, run) for run in self.results.runs]
        return page_tables.trials(rows, tuple(rows[0]), self.results.path.name)

    def provenance(self) -> list[tuple[str, str]]:
        """The file and its checksum: the program that trained the runs is unknown."""
        return [
            ("file", str(self.results.path)),
            ("SHA-256", self.results.sha256),
            ("report", f"cnn_jax {cnn_jax.__version__}"),
        ]


def row(results: imports.Results, run: imports.Run) -> Row:
    """A run as a row of results.csv; accuracies are fractions of 1."""
    levels = {name: stats.text(level) for name, level in run.levels.items()}
    return {
        "trial": run.name,
        "status": run.status,
        **levels,
        "seed": run.seed,
        results.metric: run.value,
        "reason": run.reason,
    }


def write(results: imports.Results, out: Path) -> Path:
    """Write out/report.html and out/results.csv, and return the former's path.

    Raises:
        UsageError: `out` is the folder of a sweep, whose report would be replaced.
    """
    from cnn_jax.report import html

    if (out / "sweep.json").exists() or (out / "records").exists():
        raise UsageError(f"--out: {out} holds a sweep: name another folder")
    page = html.page(Imported.of(results))
    out.mkdir(parents=True, exist_ok=True)
    store.replace(out / "results.csv", to_csv([row(results, run) for run in results.runs]).encode(errors="backslashreplace"))
    store.replace(out / "report.html", page.encode(errors="backslashreplace"))
    return out / "report.html"


def _record(results: imports.Results, run: imports.Run) -> stats.Record:
    """A run as a record for statistics and pictures."""
    config = {"seed": run.seed, "data": {"dataset": results.path.name, "split_seed": 0}, "model": {"name": "all runs"}}
    return {
        "trial": run.name, "config": config, "status": run.status, "reason": run.reason, KEY: run.value, "history": (),
        "test_examples": None, "data": None,
    }  # fmt: skip


def _varied(design: stats.Design) -> str:
    parts = []
    for name, levels in design.factors.items():
        shown = ", ".join(map(stats.text, levels[:12]))
        parts.append(f"{name} {shown}{f' and {len(levels) - 12} more' if len(levels) > 12 else ''}")
    parts += [f"{name} (with {factor})" for name, factor in design.aliases.items()]
    counts = [len(cell.records) for cell in design.cells]
    low, high = min(counts), max(counts)
    parts.append(f"{words.count(high, 'run')} per cell" if low == high else f"{low} to {high} runs per cell")
    return "; ".join(parts)
