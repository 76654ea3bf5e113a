"""ResNets, for ImageNet and for CIFAR."""

from typing import Literal

from cnn_jax.errors import UsageError
from cnn_jax.nn import PADDINGS, Activation, BatchNorm, Conv, Dense, GlobalAvgPool, Layer, MaxPool, PadChannels, Residual, Spec
from cnn_jax.trial import Stack
from cnn_jax.zoo.shapes import SamePadding, Shape


def _conv_norm(filters: int, kernel_size: int, padding: str, strides: int = 1) -> Spec:
    """Pad by (k - 1) / 2 on both sides at any stride: TensorFlow's 'same' would misalign a strided path and its shortcut."""
    mode = PADDINGS[padding][1]
    half = kernel_size // 2
    conv = Conv(filters, kernel_size, strides, padding=half, padding_mode=mode, use_bias=False, kernel_init="he_normal")
    return (conv, BatchNorm())


def _stages(filters: Stack, blocks: Stack, kernel_size: int, padding: str, activation: str, shortcut: str) -> Spec:
    """Build basic residual blocks: stages after the first start with stride 2; blocks that change the shape have a shortcut."""
    layers: list[Layer] = []
    before = filters[0]
    for stage, (f, repeats) in enumerate(zip(filters, blocks, strict=True)):
        for i in range(repeats):
            strides = 2 if stage and not i else 1
            path: Spec = ()
            if strides > 1 or f != before:
                path = (PadChannels(f, strides),) if shortcut == "A" else _conv_norm(f, 1, padding, strides)
            first, second = _conv_norm(f, kernel_size, padding, strides), _conv_norm(f, kernel_size, padding)
            layers.append(Residual((*first, Activation(activation), *second), path, activation=activation))
            before = f
    return tuple(layers)


def resnet18(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, int, int, int] = (64, 128, 256, 512),
    padding: SamePadding = "same",
    activation: str = "relu",
) -> Spec:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385, table 1) as in torchvision, with projections; `filters` per stage."""
    stem = (*_conv_norm(filters[0], 7, padding, strides=2), Activation(activation), MaxPool(3, strides=2, padding=1))
    stages = _stages(filters, (2, 2, 2, 2), 3, padding, activation, "projection")
    return (*stem, *stages, GlobalAvgPool(), Dense(num_classes))


def cifar_resnet(
    depth: int,
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, int, int] = (16, 32, 64),
    kernel_size: tuple[int] = (3,),
    padding: SamePadding = "same",
    activation: str = "relu",
    shortcut: Literal["A", "projection"] = "A",
) -> Spec:
    """ResNet of `depth` = 6 n + 2 weight layers for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2); `filters` per stage.

    Shortcut "A" takes every second position and pads channels with zeros, as published; "projection" is a 1x1 convolution.
    """
    if kernel_size[0] % 2 == 0:
        raise UsageError(
            f"--kernel_size: model resnet{depth} adds shortcuts, which needs an odd kernel: {kernel_size[0]} is even"
        )
    stem = (*_conv_norm(filters[0], kernel_size[0], padding), Activation(activation))
    stages = _stages(filters, ((depth - 2) // 6,) * 3, kernel_size[0], padding, activation, shortcut)
    return (*stem, *stages, GlobalAvgPool(), Dense(num_classes))
