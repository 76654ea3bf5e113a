"""Experiments by name: those of `experiments/`, and a fork's by package.module."""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from cnn_jax import plugins, stats
from cnn_jax.cli import commands
from cnn_jax.cli.flags import Request
from cnn_jax.cli.spelling import did_you_mean
from cnn_jax.console import Console
from cnn_jax.errors import UsageError
from cnn_jax.trial import Trial

# Prints conclusions from the folder of a sweep and the records of its trials.
Conclude = Callable[[Path, Sequence[stats.Record], Console], None]

# Package of the project's experiments: in a clone a folder beside cnn_jax, installed a part of it (pyproject.toml).
_INSTALLED = "cnn_jax.experiments"
_OURS = _INSTALLED if Path(__file__).resolve().parents[1].joinpath("experiments").is_dir() else "experiments"


def known() -> dict[str, str]:
    """The experiments that come with the project: name -> first line of its docstring. Imports none of them."""
    folder = importlib.import_module(_OURS).__path__[0]
    found = {}
    for module in pkgutil.iter_modules([folder]):
        source = Path(folder, f"{module.name}.py").read_text(encoding="utf-8")
        found[module.name] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    return found


def find(name: str) -> ModuleType:
    """An experiment by its short name, or a fork's by `package.module`. Raises UsageError if there is none."""
    ours = known()
    if name not in ours and not ("." in name and all(part.isidentifier() for part in name.split("."))):
        meant = did_you_mean(name, [*ours, *commands.COMMANDS])
        listed = f"{', '.join(ours)}, or package.module of your own"
        raise UsageError(f"unknown experiment {name!r}: {meant}{'One' if meant else 'one'} of {listed}")
    module = plugins.load_module(f"{_OURS}.{name}" if name in ours else name, f"experiment {name!r}")
    if not isinstance(getattr(module, "DEFAULTS", None), Mapping) and not callable(getattr(module, "trials", None)):
        raise UsageError(f"experiment {name!r} has neither DEFAULTS nor a function trials(request)")
    return module


def name_of(experiment: ModuleType) -> str:
    """The short name of an experiment of the project; package.module of a fork's."""
    spec = experiment.__spec__  # of a module run with -m, __name__ is __main__
    return (spec.name if spec else experiment.__name__).removeprefix(f"{_OURS}.")


def trials(experiment: ModuleType, request: Request) -> list[Trial]:
    """Trials of an experiment: the list of its function, or the product of the axes without one.

    Raises UsageError if the function raises, or returns anything other than trials.
    """
    if not hasattr(experiment, "trials"):
        return request.product()
    what = f"experiment {name_of(experiment)!r}"
    with plugins.reporting(f"{what} failed", experiment.trials):
        found = list(experiment.trials(request))
    if wrong := [trial for trial in found if not isinstance(trial, Trial)]:
        raise UsageError(f"{what}: trials(request) returned a {type(wrong[0]).__name__} in its list: it must hold Trials alone")
    return found


def conclusion_of(experiment: ModuleType) -> Conclude | None:
    """The function `conclude` of an experiment, which replaces the sweep's answer; None without one.

    Its exceptions become UsageErrors.
    """
    function = getattr(experiment, "conclude", None)
    if function is None:
        return None
    what = f"experiment {name_of(experiment)!r}: conclude"
    if not callable(function):
        raise UsageError(f"{what} is a {type(function).__name__}: it must be a function (folder, records, console)")

    def conclude(folder: Path, records: Sequence[stats.Record], console: Console) -> None:
        with plugins.reporting(f"{what} failed", function):
            function(folder, records, console)

    return conclude


def question_of(experiment: ModuleType) -> str:
    """The first line of an experiment's docstring; empty if it has none."""
    return (experiment.__doc__ or "").strip().partition("\n")[0]
