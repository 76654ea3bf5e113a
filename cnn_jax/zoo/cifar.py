"""All-convolutional networks for CIFAR: Network in Network, All-CNN-C, ConvMixer."""

from cnn_jax.errors import UsageError
from cnn_jax.nn import PADDINGS, AvgPool, BatchNorm, Conv, Dense, DepthwiseConv, Dropout, GlobalAvgPool, MaxPool, Residual, Spec
from cnn_jax.zoo.shapes import SamePadding, Shape


def nin(input_shape: Shape, num_classes: int, *, padding: str = "same", activation: str = "relu") -> Spec:
    """Network in Network for CIFAR-10 (Lin, Chen and Yan 2014, arXiv 1312.4400), sizes of the authors' Caffe model.

    Its logits are means of activations, so with the canonical relu they are never negative.
    """
    amount, mode = PADDINGS[padding]

    def conv(filters: int, kernel_size: int = 1) -> Conv:
        return Conv(filters, kernel_size, padding=amount, padding_mode=mode, activation=activation, kernel_init="he_normal")

    first = (conv(192, 5), conv(160), conv(96), MaxPool(3, strides=2, padding="same"), Dropout(0.5))
    second = (conv(192, 5), conv(192), conv(192), AvgPool(3, strides=2, padding="same"), Dropout(0.5))
    return (*first, *second, conv(192, 3), conv(192), conv(num_classes), GlobalAvgPool())


def all_cnn_c(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, int] = (96, 192),
    padding: str = "same",
    activation: str = "relu",
) -> Spec:
    """All-CNN-C (Springenberg et al. 2015, arXiv 1412.6806, tables 1 and 2): strides instead of pooling.

    The last 3x3 convolution is unpadded, as in the paper, whatever the `padding` of the others.
    """
    amount, mode = PADDINGS[padding]
    narrow, wide = filters

    def conv(f: int, strides: int = 1) -> Conv:
        return Conv(f, 3, strides, padding=amount, padding_mode=mode, activation=activation, kernel_init="he_normal")

    def head(f: int, kernel_size: int) -> Conv:
        return Conv(f, kernel_size, activation=activation, kernel_init="he_normal")

    first = (Dropout(0.2), conv(narrow), conv(narrow), conv(narrow, strides=2), Dropout(0.5))
    second = (conv(wide), conv(wide), conv(wide, strides=2), Dropout(0.5))
    return (*first, *second, head(wide, 3), head(wide, 1), head(num_classes, 1), GlobalAvgPool())


def convmixer(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int] = (256,),
    kernel_size: tuple[int] = (5,),
    padding: SamePadding = "same",
    activation: str = "gelu",
    depth: int = 8,
    patch_size: int = 2,
) -> Spec:
    """ConvMixer-256/8 for CIFAR-10 (Trockman and Kolter 2022, arXiv 2201.09792, code github.com/locuslab/convmixer-cifar10)."""
    if depth < 1:
        raise UsageError(f"--option=depth: {depth} is not legal for model convmixer: use an integer of at least 1")
    f = filters[0]
    amount, mode = PADDINGS[padding]
    mix = (DepthwiseConv(kernel_size[0], padding=amount, padding_mode=mode, activation=activation), BatchNorm())
    block = (Residual(mix, activation="linear"), Conv(f, 1, activation=activation), BatchNorm())
    stem = (Conv(f, patch_size, patch_size, activation=activation), BatchNorm())
    return (*stem, *block * depth, GlobalAvgPool(), Dense(num_classes))
