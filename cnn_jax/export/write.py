"""`export`: write a network in a format, after running the exported program and comparing its logits."""

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

TOLERANCE = 1e-4  # of a logit, relative to the largest one if above 1
_IMAGES = 4

_FILES: dict[str, Callable[[Exportable], Files]] = {
    format.FORMAT: format.files for format in (onnx, safetensors, keras, torch, jax_export)
}
# Functions that run the exported program; safetensors has none.
_LOGITS: dict[str, Callable[[Files, np.ndarray], np.ndarray | None]] = {
    format.FORMAT: format.logits for format in (onnx, keras, torch, jax_export)
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
      paths: paths of the files; the last one was given by the user.
      difference: between logits of file and network, relative as in `TOLERANCE`; None if the file was not run.
    """

    paths: tuple[Path, ...]
    difference: float | None


def export(network: Exportable, path: str | os.PathLike, format: str | None = None) -> Exported:
    """Export a network to a file.

    Args:
      network: the network.
      path: path of the file; its folder is created. PyTorch's weights are written to .pt, jax_export's metadata to .json.
      format: a name of `formats.SUFFIXES`; default by the suffix of `path`.

    Raises:
      UsageError: the format is unknown, a required package is missing, or a layer is not supported; the file exists; the
        exported logits differ. Nothing is written then.
      OSError: the folder cannot be written.
    """
    format = formats.format_of(format, path)
    paths = formats.paths(path, format)
    files = _FILES[format](network)
    difference = _difference(network, files, format) if format in _LOGITS else None
    if difference is not None and not difference <= TOLERANCE:
        raise UsageError(
            f"--format={format}: {network.label}: the exported logits differ by {difference:.2g}: nothing was written; "
            "please report this"
        )
    paths[-1].parent.mkdir(parents=True, exist_ok=True)
    for each, data in zip(paths, files.values(), strict=True):
        replace(each, data)
    return Exported(paths, difference)


def _difference(network: Exportable, files: Files, format: str) -> float | None:
    """Compute the largest difference of logits for noise images."""
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *network.input_shape), dtype=np.uint8)
    found = _LOGITS[format](files, images)
    if found is None:
        return None
    with jax.default_matmul_precision("highest"):
        expected = network.logits(images)
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
