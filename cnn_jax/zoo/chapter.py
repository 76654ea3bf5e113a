"""The network of the chapter "Convolution Layers & CNNs", with and without parameters, and what it is compared with."""

import math

from cnn_jax.nn import PADDINGS, Conv, Dense, Dropout, Flatten, Layer, MaxPool, Spec, layer_table
from cnn_jax.trial import Stack
from cnn_jax.zoo.shapes import Shape


def cnn(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, ...] = (32,),
    kernel_size: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    padding: str = "valid",
    activation: str = "relu",
) -> Spec:
    """The chapter's network with its knobs: per entry of `filters` a convolution and a 2x2 max-pool, then a dense layer."""
    return (*_blocks(filters, kernel_size, strides, padding, activation), Flatten(), Dense(num_classes))


def chapter(input_shape: Shape, num_classes: int) -> Spec:
    """The network of the chapter "Convolution Layers & CNNs" as printed there: `cnn` with nothing to set."""
    return cnn(input_shape, num_classes)


def mlp(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, ...] = (32,),
    kernel_size: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    padding: str = "valid",
    activation: str = "relu",
) -> Spec:
    """A dense network with one hidden layer, as wide as makes its parameters nearest to those of `cnn` with the same options.

    So --model=cnn,mlp tests the chapter's claim that convolution does more with the same number of parameters.
    """
    matched = cnn(
        input_shape,
        num_classes,
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        padding=padding,
        activation=activation,
    )
    target = layer_table(matched, tuple(input_shape)).params
    per_unit = math.prod(input_shape) + 1 + num_classes
    hidden = max(1, round((target - num_classes) / per_unit))
    return (Flatten(), Dense(hidden, activation=activation, kernel_init="he_uniform"), Dense(num_classes))


def simple_convnet(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, ...] = (32, 64),
    kernel_size: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    padding: str = "valid",
    activation: str = "relu",
) -> Spec:
    """Keras's "Simple MNIST convnet" (F. Chollet, keras.io/examples/vision/mnist_convnet)."""
    blocks = _blocks(filters, kernel_size, strides, padding, activation)
    return (*blocks, Flatten(), Dropout(0.5), Dense(num_classes))


def _blocks(filters: Stack, kernel_size: Stack, strides: Stack, padding: str, activation: str) -> Spec:
    amount, mode = PADDINGS[padding]
    layers: list[Layer] = []
    for f, k, s in zip(filters, _stretch(kernel_size, filters), _stretch(strides, filters), strict=True):
        # Initial values of He et al. 2015, made for rectifiers: Keras's Glorot values start a first layer of 9 inputs and
        # 32 filters so small that an epoch of MNIST ends a point of accuracy lower.
        conv = Conv(f, k, s, padding=amount, padding_mode=mode, activation=activation, kernel_init="he_uniform")
        layers += [conv, MaxPool(2)]
    return tuple(layers)


def _stretch(stack: Stack, filters: Stack) -> Stack:
    return stack * len(filters) if len(stack) == 1 else stack
