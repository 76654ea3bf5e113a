"""Finding experiments by name: ours in `experiments/`, a fork's by package.module."""

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from cnn_jax.config import UsageError


def known() -> dict[str, str]:
    """The experiments that come with the project: name -> first line of its docstring. Imports none of them."""
    import experiments as package

    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        source = Path(package.__path__[0], f"{module.name}.py").read_text()
        found[module.name] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    return found


def find(name: str) -> ModuleType:
    """An experiment by its short name, or a fork's by `package.module`. Raises UsageError if there is none."""
    ours = known()
    if name not in ours and not ("." in name and all(part.isidentifier() for part in name.split("."))):
        raise UsageError(f"{name!r} is no experiment: one of {', '.join(ours)}, or package.module of your own")
    path = f"experiments.{name}" if name in ours else name
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and path.startswith(error.name):
            raise UsageError(f"{name!r} is no experiment: there is no module {error.name}") from None
        raise UsageError(f"experiment {name!r} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"experiment {name!r} cannot be imported: {type(error).__name__}: {error}".split("\n")[0]) from None
    if not callable(getattr(module, "trials", None)):
        raise UsageError(f"experiment {name!r} has no function trials(request)")
    return module


def name_of(experiment: ModuleType) -> str:
    spec = experiment.__spec__  # of a module run with -m, __name__ is __main__
    return (spec.name if spec else experiment.__name__).rpartition(".")[2]


def question_of(experiment: ModuleType) -> str:
    """The first line of an experiment's docstring; empty if it has none."""
    return (experiment.__doc__ or "").strip().partition("\n")[0]
