"""absl flags -> what they ask for. A comma makes a sweep; bad text becomes one line that names the flag and what is legal."""

import dataclasses
import inspect
import numbers
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from cnn_jax import sweep, zoo
from cnn_jax.cli.spelling import did_you_mean
from cnn_jax.config import ModelConfig, Trial, UsageError

SEEDS = "3"
# Every flag is read as text and parsed by us: absl's own parsers say less, and say it on many lines.
SWEEP_FLAGS = {
    "seeds": f"trials per cell, a count; default {SEEDS}",
    "out": "folder of the results; default runs/EXPERIMENT",
    "workers": "worker processes at most; default one per core",
    "devices": "devices that share the batches of one trial; default 1; on CPU they are virtual, a core each",
    "hosts": "machines that share the batches of one trial; the same command is given on each; default 1",
    "host": "which of the hosts this is, from 0; the records are in the folder of host 0",
    "coordinator": "ADDRESS:PORT of host 0, where the hosts meet",
    "executor": "local; ray: a cluster at RAY_ADDRESS; slurm: --workers jobs, as SBATCH_PARTITION etc. say; default local",
    "checkpoint_seconds": "seconds between checkpoints of a long trial; default 120",
    "resolve": "points of accuracy, as 0.5: add seeds where it is open which cells are that close to the best",
    "max_seeds": "seeds per cell that --resolve stops at; default 30",
    "iso": "params or macs: solve the filters so that every cell costs what it costs with the first kernel size and padding",
}
BOOLEANS = {
    "dry_run": (False, "show the plan, train nothing"),
    "keep_params": (True, "keep the trained parameters of every trial"),
    "tensorboard": (False, "also write the curves as TensorBoard event files, in OUT/tensorboard"),
}
OPTION = "NAME=VALUE[,VALUE]: an option that only this model has, as in --option=shortcut=A,projection; may be repeated"


def define(values: flags.FlagValues, texts: Mapping[str, str], booleans: Mapping[str, tuple[bool, str]]) -> None:
    """Defines text flags (name -> help), boolean flags (name -> (default, help)) and --option."""
    for name, help in texts.items():
        flags.DEFINE_string(name, None, help, flag_values=values)
    for name, (default, help) in booleans.items():
        flags.DEFINE_boolean(name, default, help, flag_values=values)
    flags.DEFINE_multi_string("option", [], OPTION, flag_values=values)


def define_sweep_flags(values: flags.FlagValues) -> None:
    """The flags of a sweep: every axis, and how to run it."""
    define(values, {name: axis.help for name, axis in sweep.AXES.items()} | SWEEP_FLAGS, BOOLEANS)


# ------------------------------------------------------------------------------------------------------------------- help

HELP = {"-h", "--help", "-help", "--helpfull", "--helpshort"}
WIDTH = 80  # columns of a help text


class HelpRequested(Exception):
    """The help was asked for; the message is its text."""


def help_text(values: flags.FlagValues) -> str:
    """The defined flags with their help, in groups; those of absl itself are left out."""
    groups: dict[str, list[flags.Flag]] = {}
    axes_title = "axes; a comma makes a sweep" if "seeds" in values else "flags"
    for module, flag in _defined(values):
        is_axis = flag.name in sweep.AXES or flag.name == "option"
        ours = axes_title if is_axis else "flags"
        groups.setdefault(ours if module.startswith("cnn_jax.") else f"flags of {module}", []).append(flag)
    return "\n\n".join(f"{title}:\n{indented(map(_name_and_help, found))}" for title, found in groups.items())


def indented(rows: Iterable[tuple[str, str]]) -> str:
    """Names with their texts, which are wrapped at 80 columns and aligned."""

    def wrapped(name: str, text: str) -> str:
        first, rest = f"  {name:<22} ", " " * 25
        return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

    return "\n".join(wrapped(name, text) for name, text in rows)


def _name_and_help(flag: flags.Flag) -> tuple[str, str]:
    text = (flag.help or "").split("\n")[0].removesuffix(";")  # absl adds a line to the help of --option
    return f"--{'[no]' if flag.boolean and flag.default else ''}{flag.name}", text


def fitted(text: str) -> str:
    """A docstring in lines of at most 80 columns; indented lines keep their indent."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.split("\n")
        if any(line.startswith(" ") for line in lines):
            paragraphs.append("\n".join(_wrapped_line(line) for line in lines))
        else:
            paragraphs.append(textwrap.fill(" ".join(lines), WIDTH, break_on_hyphens=False))
    return "\n\n".join(paragraphs)


def _wrapped_line(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, WIDTH, subsequent_indent=f"{indent}    ", break_on_hyphens=False) if len(line) > WIDTH else line


def _defined(values: flags.FlagValues) -> list[tuple[str, flags.Flag]]:
    """Flags with the module that defined each, in order of definition: all but those of absl itself, as --logtostderr."""
    return [
        (module, flag)
        for module, found in values.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in found
    ]


# ---------------------------------------------------------------------------------------------------------------- reading


def parse(values: flags.FlagValues, argv: Sequence[str], usage: str) -> list[str]:
    """Parses `argv` (argv[0] is the program) and returns what are no flags.

    Raises UsageError in one line, and HelpRequested with `usage` and the flags where the help is asked for.
    """
    if HELP & set(argv):
        raise HelpRequested(f"{fitted(usage)}\n\n{help_text(values)}".strip())
    try:
        return values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        known = [flag.name for _, flag in _defined(values)]
        meant = did_you_mean(error.flagname, known, "--")
        listed = ", ".join(f"--{name}" for name in known)
        raise UsageError(f"--{error.flagname}: unknown flag: {meant}{'One' if meant else 'one'} of {listed}") from None
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from None


def one(values: flags.FlagValues, flag: str, parser: Callable[[str], Any], default: Any = None) -> Any:
    """The single value of a flag, or the default where it is not given."""
    text = values[flag].value
    if text is None:
        return default
    parsed = sweep.parse_list(flag, text, parser)
    if len(parsed) > 1:
        raise UsageError(f"--{flag}: takes one value, not {text!r}")
    return parsed[0]


def axes(values: flags.FlagValues, names: Sequence[str] = tuple(sweep.AXES)) -> dict[str, list[Any]]:
    """The values of the axes whose flags are given."""
    given = {name: values[name].value for name in names}
    return {name: sweep.parse_values(name, text) for name, text in given.items() if text is not None}


def options(texts: Iterable[str]) -> dict[str, list[Any]]:
    """The values of the models' own options, from texts NAME=VALUE[,VALUE]. Raises UsageError for a name given twice."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        if not name.isidentifier() or not equals:
            raise UsageError(f"--option: {text!r} is not legal: use NAME=VALUE[,VALUE]")
        if name in found:
            raise UsageError(f"--option: {name} is given twice: use one --option={name}=VALUE,VALUE for several values")
        found[name] = sweep.parse_list("option", listed, sweep.scalar)
    return found


def places(values: flags.FlagValues) -> dict[str, Any]:
    """Where trials are trained: arguments of `runner.run`. Raises UsageError for what does not go together."""

    def number(text: str) -> int:
        return 0 if text == "0" else sweep.positive_int(text)

    def address(text: str) -> str:
        name, _, port = text.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("ADDRESS:PORT, as 127.0.0.1:9911")
        return text

    found = {
        "devices": one(values, "devices", sweep.positive_int, 1),
        "hosts": one(values, "hosts", sweep.positive_int, 1),
        "host": one(values, "host", number, 0),
        "coordinator": one(values, "coordinator", address, ""),
        "executor": one(values, "executor", sweep.one_of(("local", "ray", "slurm")), "local"),
    }
    if found["host"] >= found["hosts"]:
        raise UsageError(f"--host: {found['host']} is not legal: use 0 to {found['hosts'] - 1}, one less than --hosts")
    if (found["hosts"] > 1) != bool(found["coordinator"]):
        raise UsageError("--coordinator: use ADDRESS:PORT of host 0 with --hosts of 2 or more, and only there")
    if found["hosts"] > 1 and found["executor"] != "local":
        raise UsageError("--hosts: not with --executor, which finds the machines itself")
    return found


@dataclasses.dataclass(frozen=True)
class Request:
    """What the flags of a sweep ask for.

    Attributes:
      axes: values of the axes whose flags are given, by name of `sweep.AXES`.
      defaults: the experiment's own values of other axes. An axis that a model does not have is skipped here, and refused in
        `axes`.
      options: values of the models' own options that are given.
      seeds: trials per cell.
      default_options: the experiment's own values of other options, for the models that have them.
      note: a line that says what the experiment adds to the flags; '' where that is nothing.
    """

    axes: dict[str, list[Any]]
    defaults: dict[str, list[Any]]
    options: dict[str, list[Any]]
    seeds: int
    default_options: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    note: str = ""

    def product(self) -> list[Trial]:
        """Every combination: what an experiment's `trials` returns if it has nothing better to do."""
        return sweep.product(self.axes, self.seeds, self.options, self.defaults, self.default_options)


def request(values: flags.FlagValues, defaults: "Defaults") -> Request:
    """Reads the flags; what is not given is the experiment's default.

    A model that is named on the command line is trained as it is named: where the experiment's defaults name another model,
    its axes and options of models are left out.
    """
    given, given_options = axes(values), options(values["option"].value or ())
    own = defaults.axes.get("model", [ModelConfig().name])
    models = given.get("model", own)
    added: list[str] = []
    left_out: list[str] = []
    for name in defaults.texts:
        if name in given or name in given_options or (name in _SETTINGS and values[name].value is not None):
            continue
        is_for_another = "model" in defaults.axes and models != own and _is_of_models(name)
        (left_out if is_for_another else added).append(name)
    for name in _SETTINGS:
        if name in added:
            values[name].value = defaults.texts[name]
    return Request(
        given,
        {name: found for name, found in defaults.axes.items() if name in added},
        given_options,
        one(values, "seeds", _SETTINGS["seeds"], int(SEEDS)),
        {name: found for name, found in defaults.options.items() if name in added},
        _note(defaults, added, left_out, models),
    )


# --------------------------------------------------------------------------------------------- defaults of an experiment

# Besides axes and options, what an experiment may set. Where and how it runs is for the command line alone.
_SETTINGS: dict[str, Callable[[str], Any]] = {
    "seeds": sweep.positive_int,
    "iso": sweep.one_of(("params", "macs")),
    "resolve": sweep.number(0.0, 100.0, above=True),
    "max_seeds": sweep.positive_int,
}


@dataclasses.dataclass(frozen=True)
class Defaults:
    """DEFAULTS of an experiment, checked: its values by axis and by option, and its texts by axis, option and setting."""

    experiment: str
    axes: dict[str, list[Any]]
    options: dict[str, list[Any]]
    texts: dict[str, str]

    def flag(self, name: str) -> str:
        """As it would be given on the command line."""
        return f"--option={name}={self.texts[name]}" if name in self.options else f"--{name}={self.texts[name]}"


def read_defaults(experiment: str, defaults: object) -> Defaults:
    """Checks the DEFAULTS of an experiment as flags are checked.

    Args:
      experiment: its name, for messages.
      defaults: values by flag. A value is the flag's text, a number, or a list of values; a tuple in a list is a stack of
        layers. `option` is text or a list of texts NAME=VALUE[,VALUE], or a dict from names to values.

    Raises:
      UsageError: for an unknown name or an illegal value.
    """
    what = f"experiment {experiment!r}: DEFAULTS"
    if not isinstance(defaults, Mapping):
        raise UsageError(f"{what} is a {type(defaults).__name__}: it must be a dict from flags to values")
    found = Defaults(experiment, {}, {}, {})
    try:
        for name, value in defaults.items():
            _read_default(found, name, value)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{what}: {error}") from None
    return found


def _read_default(found: Defaults, name: object, value: object) -> None:
    legal = [*sweep.AXES, "option", *_SETTINGS]
    if name == "option":
        if isinstance(value, Mapping):
            texts = [f"{key}={_as_text(each)}" for key, each in value.items()]
        else:
            texts = [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
        found.options.update(options(texts))
        found.texts.update((key, text) for key, _, text in (each.partition("=") for each in texts))
        return
    if name not in legal:
        meant = did_you_mean(str(name), legal)
        raise UsageError(f"unknown name {name!r}: {meant}{'One' if meant else 'one'} of {', '.join(legal)}")
    name = str(name)
    try:
        found.texts[name] = _as_text(value)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if name in sweep.AXES:
        found.axes[name] = sweep.parse_values(name, found.texts[name])
    elif len(sweep.parse_list(name, found.texts[name], _SETTINGS[name])) > 1:
        raise UsageError(f"--{name}: takes one value, not {found.texts[name]!r}")


def _as_text(value: object) -> str:
    """A value of DEFAULTS as the text of its flag. Raises ValueError."""

    def scalar(value: object) -> str:
        if isinstance(value, tuple) and value:
            return "-".join(map(scalar, value))
        if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
            raise ValueError(f"{value!r} is not legal: use text, a number, or a list of them")
        return str(value)

    return ",".join(map(scalar, value)) if isinstance(value, list) else scalar(value)


def _is_of_models(name: str) -> bool:
    return sweep.AXES[name].part == "model" if name in sweep.AXES else name not in _SETTINGS


def _note(defaults: Defaults, added: Sequence[str], left_out: Sequence[str], models: Sequence[str]) -> str:
    """What an experiment adds to the flags that are given, and what it leaves out."""
    settable = {"model"}.union(*(zoo.options(model) for model in models))
    skipped = [name for name in added if _is_of_models(name) and name not in settable]
    shown = [name for name in added if name not in skipped and not (name == "model" and list(models) == [ModelConfig().name])]
    parts = []
    if shown:
        parts.append(f"adds {' '.join(map(defaults.flag, shown))}")
    if skipped:
        parts.append(f"leaves out {' '.join(map(defaults.flag, skipped))}, which {', '.join(models)} cannot set")
    if left_out:
        own, verb = ",".join(defaults.axes["model"]), "is" if len(models) == 1 else "are"
        flags_left_out = " ".join(map(defaults.flag, left_out))
        parts.append(f"adds {flags_left_out} only to --model={own}; {', '.join(models)} {verb} trained as named")
    return f"experiment {defaults.experiment} {'; '.join(parts)}" if parts else ""
