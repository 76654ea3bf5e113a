"""Grad-CAM: image regions that support a class (Selvaraju et al. 2017). N images, *S spatial axes, C channels, K classes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.aliases import Array, PyTree
from cnn_jax.analysis.edits import apply_edited, apply_shifted
from cnn_jax.analysis.network import Apply, TrainedNetwork, Variables
from cnn_jax.analysis.patches import ReceptiveField
from cnn_jax.errors import UsageError
from cnn_jax.nn import Field
from cnn_jax.nn.network import CNN


def default_layer(network: TrainedNetwork) -> str | None:
    """Return the last layer whose output has more than one spatial position; None if there is none."""
    spatial = [name for name, shape in network.feature_shapes.items() if len(shape) > 1 and np.prod(shape[:-1]) > 1]
    return spatial[-1] if spatial else None


def grad_cam(network: TrainedNetwork, x_NSC: Array, classes_N: Array, layer: str | None = None) -> np.ndarray:
    """Compute Grad-CAM maps at the resolution of the images.

    The map is relu(sum over channels of weight times output), where a channel's weight is the mean over positions of the
    gradient of the logit. Values are interpolated linearly between positions, each at the centre of its receptive field.

    Args:
      network: the network.
      x_NSC: inputs of the network, floats.
      classes_N: class per image.
      layer: name of a layer with spatial axes; default `default_layer`.

    Returns:
      Non-negative maps (N, *S).

    Raises:
      UsageError: the layer does not exist or has no spatial axes; in a linen module, the logits do not depend on its output.
    """
    name = default_layer(network) if layer is None else network.layer(layer)
    if name is None or len(network.feature_shapes[name]) < 2:
        legal = ", ".join(n for n, shape in network.feature_shapes.items() if len(shape) > 1) or "none of this model"
        raise UsageError(f"--layer={name}: it has no spatial axes: for Grad-CAM it must be one of {legal}")
    forward = _spec_forward(network.model) if isinstance(network.model, CNN) else _module_forward(network.apply)
    maps_NS = class_activation(forward, name, network.feature_shapes[name], network.variables, x_NSC, classes_N)
    return resize(np.asarray(maps_NS), network.input_shape[:-1], ReceptiveField.of(network, name).last)


# (variables, x_NSC, layer, shift of the layer's output) -> logits_NK, output of the layer
Forward = Callable[[PyTree, jax.Array, str, jax.Array], tuple[jax.Array, jax.Array]]


@functools.lru_cache(maxsize=64)
def _spec_forward(model: CNN) -> Forward:
    def forward(variables: Variables, x_NSC: jax.Array, layer: str, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_NK, features = apply_edited(model, variables, x_NSC, lambda name, y: y + shift if name == layer else y)
        return logits_NK, features[layer]

    return forward


@functools.lru_cache(maxsize=64)
def _module_forward(apply: Apply) -> Forward:
    return functools.partial(apply_shifted, apply)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def class_activation(
    forward: Forward, layer: str, shape: tuple[int, ...], variables: Variables, x_NSC: jax.Array, classes_N: jax.Array
) -> jax.Array:
    """Compute Grad-CAM maps (N, *S') at the resolution of the layer, whose output for one image has shape `shape`."""
    x, classes = jnp.asarray(x_NSC), jnp.asarray(classes_N)

    def score(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_NK, output = forward(variables, x, layer, shift)
        return jnp.take_along_axis(logits_NK, classes[:, None], axis=1).sum(), output

    slope, output = jax.grad(score, has_aux=True)(jnp.zeros((len(x), *shape), x.dtype))
    weights = slope.mean(axis=tuple(range(1, slope.ndim - 1)), keepdims=True)
    return jax.nn.relu((weights * output).sum(-1))


def resize(maps_NS: np.ndarray, image: tuple[int, ...], field: tuple[Field, ...] | None) -> np.ndarray:
    """Interpolate maps (N, *S') linearly to the pixels of an image; beyond the outermost positions, use the nearest one.

    Args:
      maps_NS: a value per position.
      image: size of the image per spatial axis.
      field: receptive fields of the positions per axis; None: evenly spaced positions.
    """
    out = np.asarray(maps_NS, np.float32)
    for axis, size in enumerate(image, 1):
        n = out.shape[axis]
        if field is None:
            places = (np.arange(size) + 0.5) * n / size - 0.5
        else:
            places = (np.arange(size) - field[axis - 1].twice_centre / 2) / field[axis - 1].jump
        places = places.clip(0, n - 1)
        low = np.floor(places).astype(int)
        share = (places - low).reshape(-1, *(1,) * (out.ndim - axis - 1)).astype(np.float32)
        high = np.minimum(low + 1, n - 1)
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    return out
