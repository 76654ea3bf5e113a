"""`export`: a network as a file of a format, run and compared before it is written."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from cnn_jax.errors import UsageError
from cnn_jax.export import formats, jax_export, keras, onnx, safetensors, torch
from cnn_jax.export.exportable import Exportable, Files
from cnn_jax.records.files import replace

TOLERANCE = 1e-4  # of a logit, relative to the largest one where that is above 1
_IMAGES = 4

_FILES: dict[str, Callable[[Exportable], Files]] = {
    format.FORMAT: format.files for format in (onnx, safetensors, keras, torch, jax_export)
}
# Runs what was made; safetensors have no program to run.
_LOGITS: dict[str, Callable[[Files, np.ndarray], np.ndarray | None]] = {
    format.FORMAT: format.logits for format in (onnx, keras, torch, jax_export)
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      paths: of the files; the last is the one that was named.
      difference: between logits of the file and of the network, as `TOLERANCE`; None where nothing ran the file.
    """

    paths: tuple[Path, ...]
    difference: float | None


def export(network: Exportable, path: str | os.PathLike, format: str | None = None) -> Exported:
    """Write a network as a file.

    Args:
      network: what is written.
      path: of the file; its folder is made. PyTorch's weights are written beside it as .pt, jax_export's metadata as .json.
      format: a name of `formats.SUFFIXES`; default by the suffix of `path`.

    Raises:
      UsageError: the format is unknown, a package that it needs is missing, or it cannot express a layer; a file of that name
        exists already; the file computes other logits. Nothing is written then.
      OSError: the folder cannot be written.
    """
    format = formats.format_of(format, path)
    paths = formats.paths(path, format)
    files = _FILES[format](network)
    difference = _difference(network, files, format) if format in _LOGITS else None
    if difference is not None and not difference <= TOLERANCE:
        raise UsageError(
            f"--format={format}: {network.label}: the file computes other logits, by {difference:.2g}: nothing was written; "
            "please report this"
        )
    paths[-1].parent.mkdir(parents=True, exist_ok=True)
    for each, data in zip(paths, files.values(), strict=True):
        replace(each, data)
    return Exported(paths, difference)


def _difference(network: Exportable, files: Files, format: str) -> float | None:
    """Largest difference of logits for images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *network.input_shape), dtype=np.uint8)
    found = _LOGITS[format](files, images)
    if found is None:
        return None
    with jax.default_matmul_precision("highest"):
        expected = network.logits(images)
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
