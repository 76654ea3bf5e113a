"""What --help prints, in 80 columns: a usage or a docstring, then the flags with their help, aligned."""

import inspect
import textwrap
from collections.abc import Iterable, Sequence

from absl import flags

from cnn_jax import sweep

WIDTH = 80  # columns
_WORDS = {"-h", "--help", "-help", "--helpfull", "--helpshort"}


class HelpRequested(Exception):
    """--help was given; the message is the text to print."""

    def __init__(self, usage: str, values: flags.FlagValues):
        super().__init__(f"{fitted(usage)}\n\n{flag_table(values)}".strip())


def is_requested(words: Sequence[str]) -> bool:
    return not _WORDS.isdisjoint(words)


def flag_table(values: flags.FlagValues) -> str:
    """The defined flags with their help, in groups; those of absl itself are left out."""
    groups: dict[str, list[flags.Flag]] = {}
    axes_title = "axes; a comma makes a sweep" if "seeds" in values else "flags"
    for module, flag in defined(values):
        is_axis = flag.name in sweep.AXES or flag.name == "option"
        ours = axes_title if is_axis else "flags"
        groups.setdefault(ours if module.startswith("cnn_jax.") else f"flags of {module}", []).append(flag)
    return "\n\n".join(f"{title}:\n{aligned(map(_name_and_help, found))}" for title, found in groups.items())


def aligned(rows: Iterable[tuple[str, str]]) -> str:
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


def defined(values: flags.FlagValues) -> list[tuple[str, flags.Flag]]:
    """Flags with the module that defined each, in order of definition: all but those of absl itself, as --logtostderr."""
    return [
        (module, flag)
        for module, found in values.flags_by_module_dict().items()
        if not module.startswith("absl")
        for flag in found
    ]
