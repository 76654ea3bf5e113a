"""The command line: flags -> trials -> plan -> run -> report. Exit status 0 done, 1 failures, 2 bad input, 130 interrupted.

An experiment is a module with a docstring, `DEFAULTS` (values of flags that differ from the general defaults, see
`request.read_defaults`) and `trials(request) -> list[Trial]`; without the function, the trials are the product of the axes.
"""

import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType

from absl import flags as absl_flags
from absl import logging

from cnn_jax import plugins, sweep
from cnn_jax.cli import about, commands, experiments, flags, help, output
from cnn_jax.cli.request import defaults_of, request_from
from cnn_jax.errors import UsageError
from cnn_jax.recipes import names
from cnn_jax.records import store
from cnn_jax.sweep import plan


def launch(argv: Sequence[str], usage: str) -> int:
    """`launch.py`: the first word names an experiment or a command, the rest are its flags; returns the exit status."""
    try:
        os.getcwd()
    except FileNotFoundError:
        print("error: the current folder does not exist any more: change to one that does", file=sys.stderr)
        return 2
    plugins.search_current_folder()
    words = list(argv[1:])
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    if name in commands.COMMANDS:
        return guarded(lambda: commands.COMMANDS[name](words))
    command, overview = shlex.join(["python", *argv]), ""
    if not name and help.is_requested(words):
        overview = f"{usage.strip()}\n\nexperiments:\n{help.aligned(experiments.known().items())}"
    return guarded(lambda: _sweep(experiments.find(name or "grid"), words, command, overview, is_named=bool(name)))


def main(experiment: str) -> None:
    """`python -m experiments.NAME`: runs one experiment with the flags of the process, and exits."""
    plugins.search_current_folder(run_as_module=True)
    module = sys.modules[experiment]
    name = module.__spec__.name if module.__spec__ else experiment
    sys.exit(guarded(lambda: _sweep(module, sys.argv[1:], shlex.join(["python", "-m", name, *sys.argv[1:]]))))


def guarded(action: Callable[[], int]) -> int:
    """Runs a command. What the user can mend becomes one line on stderr and status 2, a folder that fails one and status 1."""
    logging.set_verbosity(logging.ERROR)  # of absl: the libraries below warn of what we report ourselves
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of palettes and metadata, which do not change what is read
    output.prepare()
    # A polite kill is a Ctrl-C.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _answering_help(action)
    except UsageError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except SystemExit as error:  # nothing of ours exits in an action: an experiment, model or data set of a fork did
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"error: sys.exit({error.code!r}) was called in {where.filename}, line {where.lineno}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: rerun the same command to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as in `| head`
        output.discard(sys.stdout)
        return 0
    except OSError as error:
        reason = error if isinstance(error, store.StoreError) else f"{error.filename or 'standard output'}: {error.strerror}"
        print(f"error: {reason}", file=sys.stderr)
        if sys.stdout:
            output.discard(sys.stdout)  # it may hold what could not be written, and try again at the end
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answering_help(action: Callable[[], int]) -> int:
    try:
        return action()
    except help.HelpRequested as text:
        print(text, flush=True)
        return 0


def _check_training(planned: plan.Plan) -> None:
    """Trace the training components that only JAX can check. Raises UsageError."""
    wanted = dict.fromkeys((trial.train, trial.data) for trial in planned.trials if names.needs_trace(trial.train))
    if not wanted:
        return
    from cnn_jax.training.check import check_components

    for train, config in wanted:
        info = planned.info[config]
        check_components(train, info.input_shape, info.num_classes)


def _sweep(experiment: ModuleType, words: Sequence[str], command: str, usage: str = "", *, is_named: bool = True) -> int:
    """Runs an experiment; `usage` is the head of its help, in place of its docstring."""
    values = absl_flags.FLAGS  # the global ones: a fork's experiment may have defined its own beside ours
    flags.define_sweep_flags(values)
    if rest := flags.parse(values, ["launch.py", *words], usage or experiment.__doc__ or ""):
        raise UsageError(f"{rest[0]!r}: one experiment at a time; flags begin with --")
    recipe = flags.one(values, "recipe", sweep.word)
    name, own = experiments.name_of(experiment), getattr(experiment, "DEFAULTS", {})
    request = request_from(values, defaults_of(name, own, recipe, is_named=is_named))
    out = store.folder(values.out or f"runs/{experiments.name_of(experiment).rpartition('.')[2]}")
    workers = flags.one(values, "workers", sweep.positive_int)
    checkpoint_seconds = flags.one(values, "checkpoint_seconds", sweep.number(0.0), 120.0)
    places = flags.places(values)
    iso = flags.one(values, "iso", sweep.one_of(("params", "macs")))
    resolve = flags.one(values, "resolve", sweep.number(0.0, 100.0, above=True))
    max_seeds = flags.one(values, "max_seeds", sweep.positive_int, 30)
    if resolve is None and values.max_seeds is not None:
        raise UsageError("--max_seeds: is where --resolve stops, which is not given")

    trials = experiments.trials(experiment, request)
    if iso:
        trials = plan.equal_cost(trials, iso)
    planned = plan.preflight(trials)
    sharing = places["devices"] * places["hosts"]
    for batch_size in {trial.train.batch_size for trial in trials}:
        if batch_size % sharing:
            raise UsageError(f"--devices: {sharing} cannot share batches of {batch_size} evenly: use a divisor of --batch_size")
    _check_training(planned)
    store.check(out)
    console = output.console()
    found = planned.warnings() if values.dry_run else []  # before anything is printed: it may raise an error
    if request.note:
        console.print(request.note)
    if values.dry_run:
        plan.show(planned, console, str(out))
        output.warn(found)
        return 0
    from cnn_jax.cli import run

    rule = None if resolve is None else run.Rule(resolve / 100, max_seeds)
    options = run.execution.Options(
        workers=workers, keep_params=values.keep_params, checkpoint_seconds=checkpoint_seconds, **places
    )
    if options.host:
        return run.follow(planned, console, out, options)
    summary = about.describe(planned, experiments.question_of(experiment), rule.resolve if rule else None)
    return run.run(planned, console, out, command, options, rule=rule, tensorboard=values.tensorboard, summary=summary)
