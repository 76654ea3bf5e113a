"""Text of --help in 80 columns: a usage or docstring, then the flags with their help, aligned.

For a sweep, --help lists the common flags, to fit on a screen, and --helpfull all of them in groups.
"""

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from cnn_jax import sweep
from cnn_jax.program import PROGRAM, named

WIDTH = 80  # columns
NAMES = 22  # columns of the names of flags
NARROW = 16  # the same for common flags
_WORDS = {"-h", "--help", "-help", "--helpfull", "--helpshort"}
COMMON = (
    "dataset", "model", "filters", "kernel_size", "padding", "learning_rate", "batch_size", "epochs", "seeds", "out", "dry_run",
)  # fmt: skip
_PARTS = {"model": "model", "data": "data", "train": "training"}
_SWEEP = ("seeds", "resolve", "max_seeds", "iso")
_MACHINES = ("executor", "workers", "devices", "hosts", "host", "coordinator")


class HelpRequested(Exception):
    """--help was given; the message is the text to print, made from `usage` and `values`."""

    def __init__(self, usage: str, values: flags.FlagValues, full: bool = True):
        """full: whether all flags of a sweep are listed, or only the common ones."""
        self.usage, self.values = usage, values
        table = flag_table(values) if full or "seeds" not in values else common_table(values)
        super().__init__(f"{fitted(named(usage))}\n\n{table}".strip())


def is_requested(words: Sequence[str]) -> bool:
    return not _WORDS.isdisjoint(words)


def overview(experiments: Mapping[str, str], commands: Mapping[str, str]) -> str:
    """The head of the help of the whole program: its usage, its experiments and its commands, each with a sentence."""
    usage = {f"{PROGRAM} [EXPERIMENT] [--flags]": "a sweep; default: grid", f"{PROGRAM} COMMAND ...": "see COMMAND --help"}
    forks = {"package.module": "an experiment of your own"}
    questions = {name: _first_sentence(text) for name, text in experiments.items()}
    return "\n\n".join(
        f"{title}:\n{aligned(rows.items(), width)}"
        for title, rows, width in (
            ("usage", usage, max(map(len, usage)) + 1),
            ("experiments", questions | forks, NARROW),
            ("commands", commands, NARROW),
        )
    )


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?!]) ", text, maxsplit=1)[0]


def common_table(values: flags.FlagValues) -> str:
    """The common flags of a sweep, and those of a fork's experiment, with their help."""
    found = defined(values)
    common = [flag for name in COMMON for _, flag in found if flag.name == name]
    own = [flag for module, flag in found if not module.startswith("cnn_jax.")]
    title = "common flags; a comma makes a sweep, as in --filters=8,16"
    return f"{title}:\n{aligned(map(name_and_help, [*own, *common]), NARROW)}\n\n--helpfull lists all {len(found)} flags"


def flag_table(values: flags.FlagValues) -> str:
    """The defined flags with their help, in groups; those of absl itself are left out."""
    return "\n\n".join(f"{title}:\n{aligned(map(name_and_help, found))}" for title, found in grouped(values).items())


def grouped(values: flags.FlagValues) -> dict[str, list[flags.Flag]]:
    """The defined flags by the title of their group."""
    groups: dict[str, list[flags.Flag]] = {}
    for module, flag in defined(values):
        title = _group(flag.name) if "seeds" in values else "flags"
        groups.setdefault(title if module.startswith("cnn_jax.") else f"flags of {module}", []).append(flag)
    return groups


def _group(name: str) -> str:
    """The title of the group that a flag of a sweep is listed in."""
    if name in sweep.AXES or name == "option":
        part = sweep.AXES[name].part if name in sweep.AXES else "model"
        return f"{_PARTS.get(part, part)}; a comma makes a sweep"
    return "sweep" if name in _SWEEP else "machines" if name in _MACHINES else "run"


def aligned(rows: Iterable[tuple[str, str]], width: int = NAMES) -> str:
    """Names, in `width` columns, with their texts, which are wrapped at 80 columns and aligned."""

    def wrapped(name: str, text: str) -> str:
        first, rest = f"  {name:<{width}} ", " " * (width + 3)
        return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

    return "\n".join(wrapped(name, text) for name, text in rows)


def name_and_help(flag: flags.Flag) -> tuple[str, str]:
    """A flag as typed, without a value, and its help."""
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


def defined(values: flags.FlagValues) -> list[tuple[str, flags.Flag]]:
    """Flags with the module that defines each, in order of definition, without those of absl itself, such as --logtostderr."""
    return [
        (module, flag)
        for module, found in values.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in found
    ]
