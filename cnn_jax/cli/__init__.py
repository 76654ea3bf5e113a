"""The command line: flags -> trials -> plan -> run -> report. Exit status 0 done, 1 failures, 2 bad input, 130 interrupted.

An experiment is a module with a docstring, `DEFAULTS` (values of flags that differ from the general defaults, see
`request.read_defaults`) and `trials(request) -> list[Trial]`; without the function, the trials are the product of the axes.
An optional function `conclude(folder, records, console)` prints its own conclusion in place of the sweep's answer.
"""

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType

from absl import flags as absl_flags

from cnn_jax import plugins
from cnn_jax.cli import commands, experiments, flags, help, output
from cnn_jax.cli import job as jobs
from cnn_jax.errors import UsageError
from cnn_jax.records import store


def launch(argv: Sequence[str]) -> int:
    """Run the command line: the first word names an experiment or a command, the rest are its flags.

    Args:
      argv: the program, as launch.py or cnn-jax, and its arguments.

    Returns:
      The exit status.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        print("error: the current folder no longer exists: change to another one", file=sys.stderr)
        return 2
    plugins.search_current_folder()
    words = list(argv[1:])
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    if name in commands.COMMANDS:
        return guarded(lambda: commands.COMMANDS[name](words))
    command = shlex.join(["python", *argv] if argv[0].endswith(".py") else argv)
    overview = "" if name or not help.is_requested(words) else help.overview(experiments.known(), commands.summaries())
    return guarded(lambda: _sweep(experiments.find(name or "grid"), words, command, overview, is_named=bool(name)))


def main(experiment: str) -> None:
    """Run one experiment with the flags of the process, and exit: `python -m experiments.NAME`."""
    plugins.search_current_folder(run_as_module=True)
    module = sys.modules[experiment]
    name = module.__spec__.name if module.__spec__ else experiment
    sys.exit(guarded(lambda: _sweep(module, sys.argv[1:], shlex.join(["python", "-m", name, *sys.argv[1:]]))))


def guarded(action: Callable[[], int]) -> int:
    """Run a command. A user error becomes one line on stderr and status 2; a folder that cannot be written, status 1."""
    output.prepare()
    # SIGTERM is handled like Ctrl-C.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with output.quiet_libraries():
            return _answering_help(action)
    except UsageError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except SystemExit as error:  # this package does not exit here: an experiment, model or data set of a fork did
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"error: sys.exit({error.code!r}) was called in {where.filename}, line {where.lineno}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: rerun the same command to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # standard output was closed, as by `| head`
        output.discard(sys.stdout)
        return 0
    except OSError as error:
        reason = error if isinstance(error, store.StoreError) else f"{error.filename or 'standard output'}: {error.strerror}"
        print(f"error: {reason}", file=sys.stderr)
        if sys.stdout:
            output.discard(sys.stdout)  # its buffer may hold unwritten text, which would be tried again at exit
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


def _sweep(experiment: ModuleType, words: Sequence[str], command: str, usage: str = "", *, is_named: bool = True) -> int:
    """Run an experiment; `usage` replaces its docstring as the head of its help."""
    values = absl_flags.FLAGS  # the global flags: a fork's experiment may have defined flags of its own
    flags.define_sweep_flags(values)
    if rest := flags.parse(values, ["launch.py", *words], usage or experiment.__doc__ or ""):
        raise UsageError(f"{rest[0]!r}: one experiment at a time; flags begin with --")
    job = jobs.prepare(experiment, values, is_named=is_named)
    console = output.console()
    if values.dry_run:
        output.warn(job.show(console))
        return 0
    from cnn_jax.cli import run

    if job.options.host:
        return run.follow(job, console)
    return run.conclude(run.run(job, console, command), job, console)
