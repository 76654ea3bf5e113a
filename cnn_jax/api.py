"""Sweeps from Python, as in a notebook: `run_sweep` takes the flags of `launch.py`, and runs the same code.

sweep = cnn_jax.run_sweep(filters=[8, 16], kernel_size=[3, 5], dataset="digits", seeds=3)
sweep                # in a notebook: the answer and its main picture
sweep.results        # a DataFrame, a row per trial
sweep.report()       # the whole report
"""

import dataclasses
import inspect
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from cnn_jax import plugins, sweep
from cnn_jax import report as reports
from cnn_jax.aliases import Row, Value
from cnn_jax.cli import experiments, flags, job, output, run
from cnn_jax.cli.request import as_text, option_texts
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.report import answer, notebook, table
from cnn_jax.trial import Trial

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep:
    """The results of a sweep, read from its folder.

    Attributes:
      out: folder of the results.
      trials: those of the sweep; None: all that the folder holds.
    """

    out: str | Path
    trials: tuple[Trial, ...] | None = None

    @property
    def rows(self) -> list[Row]:
        """A dict per recorded trial, with the columns of results.csv."""
        return [table.row(record) for record in self._loaded.records]

    @property
    def results(self) -> "pandas.DataFrame":
        """The rows as a DataFrame. Raises UsageError without pandas."""
        try:
            import pandas
        except ImportError:
            raise UsageError("results needs pandas: install it with pip install pandas, or use rows, a list of dicts") from None
        text = io.StringIO(table.results_csv(self._loaded.records))
        return pandas.read_csv(text, keep_default_na=False, na_values=["", "nan"])

    def best(self, dataset: str | None = None) -> Row:
        """Return the row of the best cell's best run, both chosen by validation accuracy.

        Args:
          dataset: needed where the sweep has several.

        Raises:
          UsageError: no trial is done, or the data set is not one of the sweep.
        """
        found = {part.records[0]["config"]["data"]["dataset"]: a for part, a in self._loaded.parts if a.best is not None}
        if not found:
            raise UsageError(f"{self.out}: no trial is done")
        if dataset is None and len(found) > 1:
            raise UsageError(f"dataset: name one of {', '.join(found)}")
        if dataset is not None and dataset not in found:
            raise UsageError(f"dataset: {dataset!r} is not legal: use one of {', '.join(found)}")
        analysis = found[dataset or next(iter(found))]
        assert analysis.best is not None
        metric = analysis.metric
        return table.row(max(analysis.best.runs(metric), key=lambda record: record[metric]))

    def report(self, height: int = 800) -> notebook.Page:
        """Return the report, which a notebook shows in a frame of `height` pixels; its path is `.path`."""
        return notebook.Page(store.folder(self.out) / "report.html", height)

    def __repr__(self) -> str:
        try:
            loaded = self._loaded
        except UsageError:
            return f"Sweep({str(self.out)!r}): no trial has run"
        done = sum(record["status"] == "done" for record in loaded.records)
        answers = " ".join(answer.headline(analysis) for _, analysis in loaded.parts)
        return f"Sweep({str(self.out)!r}): {done} of {len(loaded.plan)} trials done. {answers}"

    def _repr_html_(self) -> str | None:
        try:
            return notebook.summary(self._loaded)
        except UsageError:
            return None  # a notebook shows the text

    @property
    def _loaded(self) -> reports.Sweep:
        return reports.load([store.folder(self.out)], self.trials)


def run_sweep(experiment: str = "grid", /, **given: object) -> Sweep:
    """Run a sweep, or resume it, and return its results.

    The same as `python launch.py EXPERIMENT --NAME=VALUE ...`: the names are those of the flags, with the same defaults. Trials
    that are recorded in `out` already are not trained again.

    Args:
      experiment: a name of `experiments/`, or package.module.
      **given: flags. A value is text as on the command line, a number, or a list of values to sweep; a tuple in a list is a
        stack of layers, as in `filters=[8, (16, 32)]`. `model` and `dataset` may be functions of an importable module. `option`
        is a dict.

    Raises:
      UsageError: a flag is not legal. Nothing is written then.
      KeyboardInterrupt: the sweep was interrupted; the same call resumes it.
    """
    plugins.search_current_folder()
    with output.quiet_libraries():
        found = experiments.find(experiment)
        values = _flags(given)
        planned = job.prepare(found, values, is_named=experiment != "grid")
        console = output.console()
        if values.dry_run:
            output.warn(planned.show(console))
            return Sweep(planned.out, planned.planned.trials)
        if planned.options.host:
            raise UsageError("--host: run_sweep runs on host 0: use the command line on the others")
        result = run.run(planned, console, _as_written(experiment, given))
        run.draw_conclusions(result, planned, console)
    complaints = run.complaints(result, planned.out)
    if result.outcome.interrupted:
        raise KeyboardInterrupt(*complaints)
    output.warn(complaints)
    return Sweep(planned.out, tuple(result.trials))


def _flags(given: Mapping[str, object]) -> absl_flags.FlagValues:
    """The flags of a sweep with the values that are given; None is not given."""
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    values.mark_as_parsed()
    for name, value in given.items():
        if name not in values:
            raise flags.unknown(name, values)
        if value is None:
            continue
        try:
            values[name].value = _value(values[name], value)
        except ValueError as error:
            raise UsageError(f"--{name}: {str(error).removeprefix(f'--{name}: ')}") from None
    return values


def _value(flag: absl_flags.Flag, value: object) -> Value:
    if flag.boolean:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is not legal: use True or False")
        return value
    if isinstance(flag, absl_flags.MultiFlag):  # as --option
        return option_texts(value)
    return as_text(_plain(value))


def _plain(value: object) -> Value:
    """A value that `as_text` knows, from one that a notebook holds: an array, a range, a path, a function."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, range):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array, or a number of one
        return value.tolist()
    return _name_of(value) if callable(value) else value


def _name_of(function: Callable[..., object]) -> str:
    """package.module:attribute of a function or class, which workers import by this name."""
    module, name = getattr(function, "__module__", "__main__"), getattr(function, "__qualname__", repr(function))
    if module == "__main__" or "<" in name:
        raise ValueError(f"{name} is not in a module that workers can import: write it to a file, as with %%writefile NAME.py")
    return f"{module}:{name}"


def _as_written(experiment: str, given: Mapping[str, object]) -> str:
    """The call, as it is recorded with the results."""
    words = [repr(experiment), *(f"{name}={_plain(value)!r}" for name, value in given.items() if value is not None)]
    return f"cnn_jax.run_sweep({', '.join(words)})"


def _signature() -> inspect.Signature:
    """Every flag as an argument: a notebook completes their names."""
    values = absl_flags.FlagValues()
    flags.define_sweep_flags(values)
    first = inspect.Parameter("experiment", inspect.Parameter.POSITIONAL_ONLY, default="grid", annotation=str)
    names = [name for name in dict.fromkeys([*sweep.AXES, *values]) if name in values]
    rest = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    return inspect.Signature([first, *rest], return_annotation=Sweep)


run_sweep.__signature__ = _signature()  # type: ignore[attr-defined]
