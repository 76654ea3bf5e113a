"""Export of parameters and batch statistics to safetensors, with the trial's settings; read by `open_trial`."""

import os

import numpy as np

from cnn_jax.errors import UsageError
from cnn_jax.export.exportable import Exportable, Files
from cnn_jax.export.requirement import require

FORMAT = "safetensors"


def files(network: Exportable) -> Files:
    """Export arrays by Flax path, such as 'params/conv1/kernel', channels last."""
    sizes = ", ".join(map(str, network.input_shape))
    about = network.about(f"float32 (batch, {sizes}): uint8 images as converted by 'normalization'")
    about |= {"record": network.record_json} if network.record_json else {}
    arrays = {path: np.ascontiguousarray(array) for path, array in network.arrays.items()}
    return {".safetensors": require("safetensors.numpy", FORMAT).save(arrays, about)}


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read arrays by path, and metadata.

    Raises:
      UsageError: the file is missing or damaged.
    """
    library = require("safetensors", FORMAT)
    try:
        with library.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, ValueError, TypeError, library.SafetensorError) as error:
        raise UsageError(f"{os.fspath(path)} is not a readable safetensors file: {error}") from None
