"""Export to `jax.export`: StableHLO with parameters, for any batch size, for CPU, GPU and TPU."""

import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cnn_jax import plugins
from cnn_jax.export.exportable import Exportable, Files
from cnn_jax.export.requirement import require
from cnn_jax.ops.conv import at_most

FORMAT = "jax_export"
PLATFORMS = ("cpu", "cuda", "tpu")


def files(network: Exportable) -> Files:
    """Export a function from uint8 images (batch, H, W, C) to logits (batch, K), and its metadata as JSON."""
    require("flatbuffers", FORMAT)
    variables = jax.tree.map(jnp.asarray, dict(network.variables))

    def logits(image: jax.Array) -> jax.Array:
        out, _ = network.model.apply(variables, network.normalization(image), train=False)
        return out.astype(jnp.float32)

    batch = jax.export.symbolic_shape("batch", constraints=["batch >= 1"])
    image = jax.ShapeDtypeStruct((*batch, *network.input_shape), np.uint8)
    fails = f"--format={FORMAT}: {network.label} cannot be traced for any batch size"
    with at_most("lax"), plugins.reporting(fails, type(network.model).__call__):  # calls of C code work on CPU only
        exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(image)
    about = network.about(network.input_text(*network.input_shape)) | {"platforms": ", ".join(PLATFORMS)}
    return {".json": json.dumps(about, indent=1).encode(), ".jax": bytes(exported.serialize())}


def logits(files: Files, images: np.ndarray) -> np.ndarray:
    """Run the program on uint8 images (N, H, W, C)."""
    return np.asarray(jax.export.deserialize(bytearray(files[".jax"])).call(images))
