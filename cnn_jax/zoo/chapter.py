"""The network of the chapter "Convolution Layers & CNNs", with and without options, and its dense baseline."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.nn import (
    PADDINGS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    Layer,
    LayerNorm,
    MaxPool,
    SeparableConv,
    Spec,
    layer_table,
)  # fmt: skip
from cnn_jax.trial import Stack
from cnn_jax.zoo.shapes import ADDED, KernelInit, Shape


def cnn(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, ...] = (32,),
    kernel_size: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
    padding: str = "valid",
    activation: str = "relu",
    pool: Annotated[Literal["max", "avg", "stride", "none"], ADDED] = "max",
    norm: Annotated[Literal["none", "batch", "group", "layer"], ADDED] = "none",
    dropout: Annotated[float, ADDED] = 0.0,
    dilation: Annotated[int, ADDED] = 1,
    groups: Annotated[int, ADDED] = 1,
    separable: Annotated[bool, ADDED] = False,
    use_bias: Annotated[bool, ADDED] = True,
    kernel_init: Annotated[KernelInit, ADDED] = "he_uniform",
    head: Annotated[Literal["flatten", "gap", "gmp"], ADDED] = "flatten",
    blocks_per_pool: Annotated[int, ADDED] = 1,
) -> Spec:
    """Build the chapter's network with options: a convolution and a 2x2 max-pool per entry of `filters`, then a dense layer.

    Args:
      input_shape: (*S, C).
      num_classes: logits per image.
      filters: filters of each convolution; the number of entries is the depth.
      kernel_size: one for all convolutions, or one for each.
      strides: likewise.
      padding: a name of `PADDINGS`.
      activation: activation of the convolutions.
      pool: 2x2 pooling after a group of convolutions; 'stride' doubles the strides of the group's last one instead.
      norm: normalization between convolution and activation, instead of the bias; 'group' has 8 groups, or fewer where 8 does
        not divide the filters.
      dropout: rate before the last dense layer.
      dilation: dilation of the kernels.
      groups: groups of channels, from the second convolution on.
      separable: depthwise separable convolutions, from the second on.
      use_bias: whether convolutions have a bias.
      kernel_init: initializer of the convolutions' kernels.
      head: reduction before the last dense layer: flatten, global average pooling or global max pooling.
      blocks_per_pool: convolutions per group.
    """
    for name, value in (("dilation", dilation), ("groups", groups), ("blocks_per_pool", blocks_per_pool)):
        if value < 1:
            raise UsageError(f"--option={name}: {value} is not legal: use an integer of at least 1")
    if not 0 <= dropout < 1:
        raise UsageError(f"--option=dropout: {dropout} is not legal: use a number of at least 0 and below 1")
    amount, mode = PADDINGS[padding]
    layers: list[Layer] = []
    for i, (f, k, s) in enumerate(
        zip(filters, _stretch(kernel_size, filters), _stretch(strides, filters), strict=True), start=1
    ):
        ends = i % blocks_per_pool == 0
        common: dict[str, Value] = {
            "strides": 2 * s if ends and pool == "stride" else s,
            "padding": amount,
            "padding_mode": mode,
            "dilation": dilation,
            "activation": activation if norm == "none" else "linear",
            "use_bias": use_bias and norm == "none",
            "kernel_init": kernel_init,
        }
        if separable and i > 1:
            layers.append(SeparableConv(f, k, **common))
        else:
            layers.append(Conv(f, k, groups=groups if i > 1 else 1, **common))
        if norm != "none":
            layers += [_NORMS[norm](f), Activation(activation)]
        if ends and pool in _POOLS:
            layers.append(_POOLS[pool](2))
    return (*layers, _HEADS[head](), *([Dropout(dropout)] if dropout else []), Dense(num_classes))


_NORMS: dict[str, Callable[[int], Layer]] = {
    "batch": lambda filters: BatchNorm(),
    "group": lambda filters: GroupNorm(math.gcd(8, filters)),
    "layer": lambda filters: LayerNorm(),
}
_POOLS: dict[str, Callable[[int], Layer]] = {"max": MaxPool, "avg": AvgPool}
_HEADS: dict[str, Callable[[], Layer]] = {"flatten": Flatten, "gap": GlobalAvgPool, "gmp": GlobalMaxPool}


def chapter(input_shape: Shape, num_classes: int) -> Spec:
    """The network of the chapter "Convolution Layers & CNNs" as printed: `cnn` without options."""
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
    """Build a dense network with one hidden layer, with about the same parameters as `cnn` with the same options.

    --model=cnn,mlp tests the chapter's claim that convolution is more accurate with the same number of parameters.
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


def _stretch(stack: Stack, filters: Stack) -> Stack:
    return stack * len(filters) if len(stack) == 1 else stack
