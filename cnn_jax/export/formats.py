"""Names of formats and of their files. No JAX."""

import keyword
import os
from pathlib import Path

from cnn_jax.errors import UsageError

# Suffixes of a format's files in the order of writing; the last one is that of the path given by the user.
SUFFIXES = {
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "keras": (".keras",),
    "torch": (".pt", ".py"),
    "jax_export": (".json", ".jax"),
}


def format_of(format: str | None, path: str | os.PathLike | None) -> str:
    """Return the format, by default from the suffix of the path. Raises UsageError for an unknown format."""
    listed = ", ".join(SUFFIXES)
    if format is not None:
        if format not in SUFFIXES:
            raise UsageError(f"--format: unknown format {format!r}: must be one of {listed}")
        return format
    suffix = Path(path).suffix if path is not None else ""
    found = [name for name, suffixes in SUFFIXES.items() if suffixes[-1] == suffix]
    if not found:
        raise UsageError(f"--format: must be one of {listed}")
    return found[0]


def file_name(network: str, format: str) -> str:
    """Return the default file name of a network; for a Python module, it is importable."""
    stem = network.replace("-", "_").replace(".", "_") if format == "torch" else network
    return stem + SUFFIXES[format][-1]


def paths(path: str | os.PathLike, format: str) -> tuple[Path, ...]:
    """Return the paths of all files of a format.

    Args:
      path: path given by the user.

    Raises:
      UsageError: the suffix is wrong; for 'torch', the name is not that of a Python module; a file exists.
    """
    path, suffixes = Path(path), SUFFIXES[format]
    if path.suffix != suffixes[-1]:
        raise UsageError(f"--out: {path} must end in {suffixes[-1]} for format {format}")
    if format == "torch" and (not path.stem.isidentifier() or keyword.iskeyword(path.stem)):
        raise UsageError(f"--out: {path.name} is not the name of a Python module: use letters, digits and '_'")
    found = tuple(path.with_suffix(suffix) for suffix in suffixes)
    for each in found:
        if os.path.lexists(each):
            raise UsageError(f"--out: {each} exists: delete it, or use another name")
    return found
