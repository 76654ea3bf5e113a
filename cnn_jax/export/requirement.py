"""Packages that a format needs, imported when it is asked for."""

import importlib
from types import ModuleType

from cnn_jax.errors import UsageError


def require(package: str, format: str) -> ModuleType:
    """Import a package. Raises UsageError with the command that installs it if it is missing or cannot be imported."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = package.partition(".")[0]
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        raise UsageError(
            f"--format={format}: {missing} {why}: pip install {missing}, or all formats with pip install 'cnn_jax[export]'"
        ) from None
