"""Initial values of a network, drawn without compilation."""

import functools
import zlib
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cnn_jax.aliases import PyTree
from cnn_jax.nn.network import CNN
from cnn_jax.nn.spec import flat, named


def initial_variables(model: nn.Module, input_shape: Sequence[int], seed: int) -> dict[str, PyTree]:
    """Draw the variables of `model.init` as NumPy arrays, a function of network and seed only.

    Each parameter of a CNN is drawn by NumPy from its own stream (Philox keyed by the seed and the CRC-32 of the parameter's
    path), by the initializer of its layer. For other linen modules, and for parameters without a NumPy initializer, `init` is
    compiled.

    Args:
      model: a `CNN` or any linen module.
      input_shape: (*S, C) of an image.
      seed: seed of the trial.
    """
    if not isinstance(model, CNN):
        return _compiled(model, tuple(input_shape), seed)
    shapes = _variable_shapes(model, tuple(input_shape))
    layer_of = {layer.name: layer for layer in flat(named(model.spec))}
    by_module: dict[tuple[str, ...], np.ndarray] = {}

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        _, layer, *parameter = keys = [key.key for key in path]
        draw = layer_of[layer].initializer(parameter[0], len(input_shape) - 1) if len(parameter) == 1 else None
        if draw is None:
            if not by_module:
                by_module.update(flatten_dict(_compiled(model, tuple(input_shape), seed)))
            return by_module[tuple(keys)]
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, zlib.crc32("/".join(keys).encode())], np.uint64)))
        return draw(rng, leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _compiled(model: nn.Module, input_shape: tuple[int, ...], seed: int) -> dict[str, PyTree]:
    x = np.zeros((1, *input_shape), np.float32)
    return jax.device_get(jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), x))


@functools.lru_cache(maxsize=64)  # the trials of a bucket differ only in their seeds
def _variable_shapes(model: CNN, input_shape: tuple[int, ...]) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, *input_shape), np.float32)))
