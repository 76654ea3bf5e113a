"""Code of a fork by package.module or package.module:attribute: search path, import, and reports of its errors. No JAX.

An exception of such code becomes a UsageError of one line that ends with the fork's file and line.
"""

import contextlib
import functools
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from cnn_jax.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
_MOST_TEXT = 300  # characters of an exception's message that are shown


# ------------------------------------------------------------------------------------------------------------ search path


def search_current_folder(*, run_as_module: bool = False) -> None:
    """Append the current folder to `sys.path`: a json.py or an experiments/ in it must not hide a module of that name.

    Args:
      run_as_module: whether this process was started by `python -m`, which puts the current folder first; the folder of this
        package then goes between the standard library and the installed packages.
    """
    if run_as_module and not sys.flags.safe_path:
        sys.path.pop(0)
        if str(_PACKAGE.parent) not in sys.path:
            sys.path.insert(_first_installed(), str(_PACKAGE.parent))
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


def _first_installed() -> int:
    return next((i for i, folder in enumerate(sys.path) if folder.endswith("-packages")), len(sys.path))


# ----------------------------------------------------------------------------------------------------------------- import


def load_module(name: str, what: str) -> ModuleType:
    """Import a module.

    Args:
      name: package.module.
      what: how a message names it, as in "--model: mylab.nets:two_convs".

    Raises:
      UsageError: if it does not exist or raises while it is imported.
    """
    search_current_folder()
    with reporting(f"{what} cannot be imported"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name.startswith(error.name or " ") and (hidden := _hidden(name)):
                raise UsageError(f"{what} cannot be imported: {describe_error(error)}; {hidden}") from None
            raise


def load_attribute(name: str, what: str) -> object:
    """Import `package.module:attribute`; the attribute may be dotted. Raises UsageError as `load_module` does."""
    module_name, _, attribute = name.partition(":")
    module = load_module(module_name, what)
    with reporting(f"{what} cannot be imported"):
        try:
            return functools.reduce(getattr, attribute.split("."), module)
        except AttributeError as error:
            if hidden := _hidden(module_name):
                raise UsageError(f"{what} cannot be imported: {describe_error(error)}; {hidden}") from None
            raise


def _hidden(name: str) -> str:
    """Sentence on a module that shadows one of the current folder; '' if none does."""
    package = name.partition(".")[0]
    mine = [path for path in (Path(package), Path(f"{package}.py")) if package and path.exists()]
    loaded = sys.modules.get(package)
    if not mine or loaded is None:
        return ""
    found = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), None)
    if found and Path(found).is_relative_to(Path.cwd()):
        return ""
    return f"{package!r} is {found or 'a module of Python itself'}: give your {mine[0]} another name"


# ----------------------------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def reporting(what: str, function: Callable[..., object] | None = None) -> Iterator[None]:
    """Turn an exception of a fork's code into a UsageError "WHAT: TYPE: MESSAGE (FILE:LINE)"; a UsageError passes.

    Args:
      what: the culprit and what failed.
      function: the fork's function; where it is defined is shown if the exception was raised outside of the fork's code.
    """
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what}: {describe_error(error, function)}") from error


def describe_error(error: BaseException, function: Callable[..., object] | None = None) -> str:
    """'TYPE: MESSAGE (FILE:LINE)', in one line."""
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if len(message) > _MOST_TEXT:
        message = message[:_MOST_TEXT] + "..."
    place = _place(error) or _definition(function)
    return f"{type(error).__name__}: {message}".removesuffix(": ") + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    """FILE:LINE of the innermost frame in a fork's code; of a syntax error, where that is."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [f"{_shown(file)}:{line}" for file, line in frames if _is_forks(file)]
    return own[-1] if own else ""


def _definition(function: Callable[..., object] | None) -> str:
    function = getattr(function, "func", function)  # of a functools.partial
    code = getattr(inspect.unwrap(function), "__code__", None) if function else None
    return f"{_shown(code.co_filename)}:{code.co_firstlineno}" if code and _is_forks(code.co_filename) else ""


@functools.cache
def _libraries() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {f"{_PACKAGE}{os.sep}"})


def _is_forks(file: str) -> bool:
    return not file.startswith("<") and not file.startswith(_libraries()) and "-packages" + os.sep not in file


def _shown(file: str) -> str:
    """A path as the user would type it: relative below the current folder."""
    with contextlib.suppress(ValueError, OSError):
        return str(Path(file).relative_to(Path.cwd()))
    return file
