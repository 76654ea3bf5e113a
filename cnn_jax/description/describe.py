"""`describe`: layers of a model with output shape, parameters, MACs, receptive field, padding and memory.

Specs are evaluated with integers by `nn.table`. Only a linen module without a spec is traced, which imports JAX.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnn_jax import zoo
from cnn_jax.errors import UsageError
from cnn_jax.nn import Description, Spec, layer_table
from cnn_jax.nn.padding import plain
from cnn_jax.trial import ModelConfig

if TYPE_CHECKING:
    import flax.linen as nn


def describe(
    model: "str | ModelConfig | Spec | nn.Module", input_shape: Sequence[int] | None = None, num_classes: int | None = None
) -> Description:
    """Describe the layers and totals of a model for one image of shape `input_shape` (*S, C).

    `model` is a name, a ModelConfig, a spec or any linen module. For a model of the zoo, input shape and number of classes
    default to the published ones. A linen module other than `nn.network.CNN` is traced, not run: rows are modules, MACs include
    all matrix products and convolutions (the body of a `while_loop` counts once; products with explicit zeros count), and there
    are no receptive fields. Raises UsageError for an unknown model and for one that does not fit its input.
    """
    if isinstance(model, str):
        model = ModelConfig(model)
    if isinstance(model, list):
        model = tuple(model)
    input_shape = None if input_shape is None else plain(input_shape)
    if isinstance(model, ModelConfig):
        published_shape, published_classes = zoo.PUBLISHED_FOR.get(model.name, (None, None))
        input_shape = published_shape if input_shape is None else tuple(input_shape)
        num_classes = published_classes if num_classes is None else num_classes
        for flag, value in (("input_shape", input_shape), ("num_classes", num_classes)):
            if value is None:
                raise UsageError(
                    f"--{flag}: model {model.name} has no default: pass it, as in --input_shape=28,28,1 --num_classes=10"
                )
        return _describe_config(zoo.resolve(model), input_shape, num_classes)
    if input_shape is None:
        raise UsageError("input_shape: a spec or a module has no default: pass it, as in (28, 28, 1)")
    return _describe_network(model, tuple(input_shape))


@functools.lru_cache(maxsize=4096)
def _describe_config(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int) -> Description:
    network = zoo.spec(config, input_shape, num_classes)
    if not isinstance(network, tuple):
        from cnn_jax.ops.conv import at_most
        from cnn_jax.zoo.build import build

        with at_most("lax"):
            network = build(config, input_shape, num_classes)
    return dataclasses.replace(_describe_network(network, input_shape), model=config.name)


def _describe_network(network: "Spec | nn.Module", input_shape: tuple[int, ...]) -> Description:
    if isinstance(network, tuple):
        return layer_table(network, input_shape)
    from cnn_jax.description.trace import trace
    from cnn_jax.nn.network import CNN

    return layer_table(network.spec, input_shape) if isinstance(network, CNN) else trace(network, input_shape)
