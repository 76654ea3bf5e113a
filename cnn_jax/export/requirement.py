"""Packages required by a format, imported on use."""

import importlib
from types import ModuleType

from cnn_jax.errors import UsageError


def require(package: str, format: str) -> ModuleType:
    """Import a package. Raises UsageError with the install command if it is missing or fails to import."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = package.partition(".")[0]
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        raise UsageError(
            f"--format={format}: {missing} {why}: pip install {missing}, or all formats with pip install 'cnn_jax[export]'"
        ) from None
