"""`launch.py report FILE`: results of other tools."""

from pathlib import Path

from absl import flags as absl_flags

from cnn_jax import imports
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.records import store

_TEXTS = {
    "metric": "of a FILE: the column on which runs are compared; default guessed",
    "factors": "of a FILE: the columns in which cells differ, as lr,width; default guessed",
    "seed": "of a FILE: the column that distinguishes the runs of a cell; default guessed",
    "study": "of an Optuna storage with several studies: the study",
}
_FLAGS = (*_TEXTS, "lower_is_better")


def define(values: absl_flags.FlagValues) -> None:
    """Define the flags that name the columns of a file."""
    for name, help in _TEXTS.items():
        absl_flags.DEFINE_string(name, None, help, flag_values=values)
    help = "of a FILE: whether the lowest metric is the best; default guessed from its name"
    absl_flags.DEFINE_boolean("lower_is_better", None, help, flag_values=values)


def is_file(words: list[str]) -> bool:
    """Whether one of the arguments names a file of results rather than the folder of a sweep."""
    return any(imports.is_table(store.folder(word)) for word in words)


def refuse(values: absl_flags.FlagValues) -> None:
    """Raise UsageError if a flag is given that only a file of results has."""
    for name in _FLAGS:
        if values[name].value is not None:
            raise UsageError(f"--{name}: only with a file of results: one of {', '.join(imports.SUFFIXES)}")


def report(words: list[str], values: absl_flags.FlagValues) -> int:
    """Write the report on a file into --out, by default runs/imports/ and the file's name."""
    from cnn_jax import report as reports

    if len(words) > 1:
        raise UsageError(f"report: takes one file of results at a time, not {len(words)} names")
    path = store.folder(words[0])
    factors = values.factors
    listed = None if factors is None else tuple(part.strip() for part in factors.split(",") if part.strip())
    if listed == ():
        raise UsageError("--factors: names no column")
    wanted = imports.Wanted(values.metric, listed, values.seed, values.lower_is_better, values.study)
    results = imports.load(path, wanted)
    out = store.folder(values.out) if values.out is not None else Path("runs/imports") / path.stem
    console = Console()
    page = reports.write_imported(results, out, console)
    console.print(f"report: {page}", soft_wrap=True)
    return 0
