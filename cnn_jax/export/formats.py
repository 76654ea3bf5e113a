"""Names of formats and of their files. No JAX."""

import keyword
import os
from pathlib import Path

from cnn_jax.errors import UsageError

# Suffixes of a format's files in the order in which they are written; the last is that of the file that is named.
SUFFIXES = {
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "keras": (".keras",),
    "torch": (".pt", ".py"),
    "jax_export": (".json", ".jax"),
}


def format_of(format: str | None, path: str | os.PathLike | None) -> str:
    """Return the format, by the suffix of the path where it is not given. Raises UsageError for an unknown one."""
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
    """The default name of a network's file; that of a Python module can be imported."""
    stem = network.replace("-", "_").replace(".", "_") if format == "torch" else network
    return stem + SUFFIXES[format][-1]


def paths(path: str | os.PathLike, format: str) -> tuple[Path, ...]:
    """Return the paths of all files of a format.

    Args:
      path: of the file that is named.

    Raises:
      UsageError: it has another suffix; it is no name of a Python module, for 'torch'; a file exists already.
    """
    path, suffixes = Path(path), SUFFIXES[format]
    if path.suffix != suffixes[-1]:
        raise UsageError(f"--out: {path} must end in {suffixes[-1]}, as files of format {format} do")
    if format == "torch" and (not path.stem.isidentifier() or keyword.iskeyword(path.stem)):
        raise UsageError(f"--out: {path.name} is not the name of a Python module: use letters, digits and '_'")
    found = tuple(path.with_suffix(suffix) for suffix in suffixes)
    for each in found:
        if os.path.lexists(each):
            raise UsageError(f"--out: {each} exists already: delete it, or name another file")
    return found
