"""A checked and planned sweep, shared by `launch.py` and `cnn_jax.run_sweep`. Writes nothing."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import flags as absl_flags

from cnn_jax import data, execution, search, sweep, zoo
from cnn_jax.cli import experiments, flags
from cnn_jax.cli.request import defaults_of, request_from
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.recipes import names
from cnn_jax.records import store
from cnn_jax.report import tensorboard
from cnn_jax.sweep import plan
from cnn_jax.trial import Trial


@dataclasses.dataclass(frozen=True)
class Job:
    """A sweep that is ready to run.

    Attributes:
      planned: its trials, with their descriptions.
      out: folder of the results.
      options: how trials are executed.
      question: the experiment's question.
      note: what the experiment adds to the flags; '' if nothing.
      strategy: asked for further trials when all have ended.
      resolve: the difference for which seeds are added, a fraction of 1; None: no seeds are added.
      max_seeds: most seeds per cell with `resolve`.
      tensorboard: whether event files are written too.
      conclude: prints the experiment's conclusion; None: the sweep's answer is printed.
    """

    planned: plan.Plan
    out: Path
    options: execution.Options
    question: str
    strategy: search.Strategy
    note: str = ""
    resolve: float | None = None
    max_seeds: int = 30
    tensorboard: bool = False
    conclude: experiments.Conclude | None = None

    def show(self, console: Console) -> list[str]:
        """Print the plan, and return the warnings about its data."""
        found = self.planned.warnings()  # before anything is printed: it may raise an error
        if self.note:
            console.print(self.note)
        plan.show(self.planned, console, str(self.out))
        return found

    def extended(self, planned: plan.Plan, added: Sequence[Trial]) -> plan.Plan:
        """Plan further trials, whose data are prepared. Raises UsageError as `prepare` does."""
        whole = _planned([*planned.trials, *added], self.options)
        for config in whole.info.keys() - planned.info.keys():
            data.prepare(config)
        return whole


def prepare(experiment: ModuleType, values: absl_flags.FlagValues, *, is_named: bool) -> Job:
    """Check the flags of a sweep and plan it.

    Args:
      experiment: see `cnn_jax.cli`.
      values: flags of `flags.define_sweep_flags`, with the texts that are given.
      is_named: whether the experiment is named, and not the default.

    Raises:
      UsageError: a flag is not legal, a network cannot be built, or the folder of the results cannot be used.
    """
    name = experiments.name_of(experiment)
    defaults, recipe = getattr(experiment, "DEFAULTS", {}), flags.one(values, "recipe", sweep.word)
    request = request_from(values, defaults_of(name, defaults, recipe, is_named=is_named))
    out = store.folder(values.out or f"runs/{name.rpartition('.')[2]}")
    places = flags.places(values)
    options = execution.Options(
        workers=flags.one(values, "workers", sweep.positive_int),
        keep_params=values.keep_params,
        snapshots=_snapshots(values),
        checkpoint_seconds=flags.one(values, "checkpoint_seconds", sweep.number(0.0), 120.0),
        **places,
    )
    iso = flags.one(values, "iso", sweep.one_of(("params", "macs")))
    resolve = flags.one(values, "resolve", sweep.number(0.0, 100.0, above=True))
    max_seeds = flags.one(values, "max_seeds", sweep.positive_int, 30)
    if resolve is None and values.max_seeds is not None:
        raise UsageError("--max_seeds: only with --resolve")

    if values.tensorboard:
        tensorboard.check_available()

    trials = experiments.trials(experiment, request)
    if iso:
        trials = plan.equal_cost(trials, iso)
    strategy = search.load(flags.one(values, "search", sweep.word, "all"), trials)
    planned = _planned(search.ask(strategy, (), ()), options)
    conclude = experiments.conclusion_of(experiment)
    if conclude and not options.keep_params:
        raise UsageError(f"--nokeep_params: experiment {name!r} needs the trained networks")
    store.check(out)
    question = experiments.question_of(experiment)
    fraction = None if resolve is None else resolve / 100
    return Job(
        planned, out, options, question, strategy, request.note, fraction, max_seeds, values.tensorboard, conclude
    )  # fmt: skip


def _planned(trials: Sequence[Trial], options: execution.Options) -> plan.Plan:
    planned = plan.preflight(trials)
    sharing = options.devices * options.batch_hosts
    for batch_size in {trial.train.batch_size for trial in trials}:
        if batch_size % sharing:
            raise UsageError(f"--devices: {sharing} cannot share batches of {batch_size} evenly: use a divisor of --batch_size")
    _check_snapshots(planned, options.snapshots)
    _check_training(planned)
    _check_precision(planned)
    return planned


def _snapshots(values: absl_flags.FlagValues) -> tuple[int, ...]:
    if values.snapshots is None:
        return ()
    if not values.keep_params:
        raise UsageError("--snapshots: not with --nokeep_params: snapshots are parameters")
    return tuple(sorted(sweep.parse_list("snapshots", values.snapshots, sweep.non_negative_int)))


def _check_snapshots(planned: plan.Plan, snapshots: Sequence[int]) -> None:
    most = max(trial.train.epochs for trial in planned.trials)
    if snapshots and snapshots[-1] > most:
        raise UsageError(f"--snapshots={snapshots[-1]}: must be between 0 and {most}, the epochs of the training")
    size = 4 * max(shape.params for shape in planned.shapes.values())
    if size * len(snapshots) > store.MAX_ARRAYS:
        raise UsageError(
            f"--snapshots: {len(snapshots)} epochs of {size / 1e9:.2g} GB each: must be {store.MAX_ARRAYS // size} at most, "
            f"which is {store.MAX_ARRAYS / 1e9:.2g} GB"
        )


def _check_training(planned: plan.Plan) -> None:
    """Trace the training components that only JAX can check. Raises UsageError."""
    wanted = dict.fromkeys((trial.train, trial.data) for trial in planned.trials if names.needs_trace(trial.train))
    if not wanted:
        return
    from cnn_jax.training.check import check_components

    for train, config in wanted:
        info = planned.info[config]
        check_components(train, info.input_shape, info.num_classes)


def _check_precision(planned: plan.Plan) -> None:
    """Build the networks of a fork in another compute type. Raises UsageError for those that do not support it."""
    wanted = dict.fromkeys((t.model, t.data, t.train.precision) for t in planned.trials if t.train.precision != "float32")
    for model, config, precision in wanted:
        info = planned.info[config]
        if not isinstance(zoo.spec(model, info.input_shape, info.num_classes), tuple):
            from cnn_jax.zoo.build import build

            build(model, info.input_shape, info.num_classes, precision)
