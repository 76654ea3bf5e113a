"""Parsing of absl flags. A comma makes a sweep; errors are one line with the flag and its legal values."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import flags

from cnn_jax import sweep
from cnn_jax.aliases import Value
from cnn_jax.cli.help import HelpRequested, defined, is_requested
from cnn_jax.cli.spelling import did_you_mean
from cnn_jax.errors import UsageError
from cnn_jax.recipes.published import RECIPES
from cnn_jax.trial import Trial

SEEDS = "3"
# Flags are defined as text and parsed here: the messages of absl's parsers are less specific and take several lines.
SWEEP_FLAGS = {
    "seeds": f"trials per cell, a count; default {SEEDS}",
    "recipe": f"published settings: {', '.join(RECIPES)}, or package.module:attribute; flags override them",
    "out": "folder of the results; default runs/EXPERIMENT",
    "workers": "worker processes at most; default one per core",
    "devices": "devices that share the batches of one trial; default 1; on CPU they are virtual, a core each",
    "hosts": "machines that share the trials, or with --coordinator the batches; the same command on each; default 1",
    "host": "number of this host, from 0; host 0 writes the report",
    "coordinator": "ADDRESS:PORT of host 0, to which hosts connect that share the batches of each trial",
    "executor": "local; ray: a cluster at RAY_ADDRESS; slurm: --workers jobs, set by SBATCH_PARTITION etc.; default local",
    "snapshots": "further epochs whose parameters are kept, as 0,1,2,4 or 0..8; 0 is before training",
    "checkpoint_seconds": "seconds between checkpoints of a long trial; default 120",
    "search": "all; random:N: N of the cells, drawn; or package.module:attribute, a search strategy; default all",
    "resolve": "points of accuracy, as 0.5: add seeds until every cell is known to be worse than the best or that close to it",
    "max_seeds": "most seeds per cell with --resolve; default 30",
    "iso": "params or macs: solve the filters so that every cell costs as much as with the first kernel size and padding",
}
BOOLEANS = {
    "dry_run": (False, "show the plan, train nothing"),
    "keep_params": (True, "keep the trained parameters of every trial"),
    "tensorboard": (False, "also write the curves as TensorBoard event files, in OUT/tensorboard"),
}
OPTION = (
    "NAME=VALUE[,VALUE]: an option of the model, as in --option=shortcut=A,projection; KIND.NAME=VALUE: one of the "
    "optimizer, schedule, augment or loss, as in --option=optimizer.b1=0.95; may be repeated"
)


def define(values: flags.FlagValues, texts: Mapping[str, str], booleans: Mapping[str, tuple[bool, str]]) -> None:
    """Define text flags (name -> help), boolean flags (name -> (default, help)) and --option."""
    for name, help in texts.items():
        flags.DEFINE_string(name, None, help, flag_values=values)
    for name, (default, help) in booleans.items():
        flags.DEFINE_boolean(name, default, help, flag_values=values)
    flags.DEFINE_multi_string("option", [], OPTION, flag_values=values)


def define_sweep_flags(values: flags.FlagValues) -> None:
    """The flags of a sweep: every axis, and how to run it."""
    define(values, {name: axis.help for name, axis in sweep.AXES.items()} | SWEEP_FLAGS, BOOLEANS)


def parse(values: flags.FlagValues, argv: Sequence[str], usage: str) -> list[str]:
    """Parse `argv` (argv[0] is the program) and return the arguments that are not flags.

    Raises UsageError in one line, and HelpRequested with `usage` and the flags if help is requested.
    """
    if is_requested(argv):
        raise HelpRequested(usage, values, full="--helpfull" in argv)
    try:
        return values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise unknown(error.flagname, values) from None
    except UnicodeDecodeError:
        raise UsageError("--flagfile: the file is not text: use a file with a flag per line, encoded as UTF-8") from None
    except (flags.Error, ValueError) as error:  # absl raises ValueError for `--noNAME=VALUE`
        raise UsageError(" ".join(str(error).split())) from None


def unknown(name: str, values: flags.FlagValues) -> UsageError:
    """The error for an undefined flag."""
    known = [flag.name for _, flag in defined(values)]
    meant = did_you_mean(name, known, "--")
    return UsageError(
        f"--{name}: unknown flag: {meant}{'One' if meant else 'one'} of {', '.join(f'--{each}' for each in known)}"
    )


def one(values: flags.FlagValues, flag: str, parser: Callable[[str], Value], default: Value = None) -> Value:
    """The single value of a flag, or the default where it is not given."""
    text = values[flag].value
    if text is None:
        return default
    parsed = sweep.parse_list(flag, text, parser)
    if len(parsed) > 1:
        raise UsageError(f"--{flag}: takes one value, not {text!r}")
    return parsed[0]


def axes(values: flags.FlagValues, names: Sequence[str] = tuple(sweep.AXES)) -> dict[str, list[Value]]:
    """The values of the axes whose flags are given."""
    given = {name: values[name].value for name in names}
    return {name: sweep.parse_values(name, text) for name, text in given.items() if text is not None}


def options(texts: Iterable[str]) -> dict[str, list[Value]]:
    """The values of options of models, from texts NAME=VALUE[,VALUE]. Raises UsageError for a name given twice."""
    found: dict[str, list[Value]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        if not all(map(str.isidentifier, name.split("."))) or not equals:
            raise UsageError(f"--option: {text!r} is not legal: use NAME=VALUE[,VALUE]")
        if name in found:
            raise UsageError(f"--option: {name} is given twice: use one --option={name}=VALUE,VALUE for several values")
        found[name] = sweep.parse_list("option", listed, sweep.scalar)
    return found


def places(values: flags.FlagValues) -> dict[str, Value]:
    """Fields of `execution.Options` on where trials are trained. Raises UsageError for flags that exclude each other."""

    def address(text: str) -> str:
        name, _, port = text.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("ADDRESS:PORT, as 127.0.0.1:9911")
        return text

    found = {
        "devices": one(values, "devices", sweep.positive_int, 1),
        "hosts": one(values, "hosts", sweep.positive_int, 1),
        "host": one(values, "host", sweep.non_negative_int, 0),
        "coordinator": one(values, "coordinator", address, ""),
        "executor": one(values, "executor", sweep.one_of(("local", "ray", "slurm")), "local"),
    }
    if found["host"] >= found["hosts"]:
        raise UsageError(f"--host: must be between 0 and {found['hosts'] - 1}, one less than --hosts, not {found['host']}")
    if found["hosts"] == 1 and found["coordinator"]:
        raise UsageError("--coordinator: needs --hosts of 2 or more")
    if found["hosts"] > 1 and found["executor"] != "local":
        raise UsageError("--hosts: not with --executor, which allocates machines itself")
    return found


@dataclasses.dataclass(frozen=True)
class Request:
    """Values of the flags of a sweep.

    Attributes:
      axes: values of the axes with flags given, by name of `sweep.AXES`.
      defaults: the experiment's own values of other axes. An axis that a model does not have is skipped here, but an error in
        `axes`.
      options: values of the options of models that are given.
      seeds: trials per cell.
      default_options: the experiment's own values of other options, for the models that have them.
      note: a line on what the experiment adds to the flags; '' if nothing.
    """

    axes: dict[str, list[Value]]
    defaults: dict[str, list[Value]]
    options: dict[str, list[Value]]
    seeds: int
    default_options: dict[str, list[Value]] = dataclasses.field(default_factory=dict)
    note: str = ""

    def product(self) -> list[Trial]:
        """Every combination of the axes: the trials of an experiment without a function `trials`."""
        return sweep.product(self.axes, self.seeds, self.options, self.defaults, self.default_options)
