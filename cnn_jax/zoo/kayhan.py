"""Network of Kayhan and van Gemert's test for absolute location."""

from cnn_jax.nn import PADDINGS, Conv, Dense, GlobalMaxPool, Spec
from cnn_jax.zoo.shapes import Shape

_STRIDES = (1, 2, 2, 2)


def kayhan(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, int, int, int] = (32, 32, 64, 64),
    kernel_size: tuple[int] = (3,),
    padding: str = "same",
    activation: str = "relu",
) -> Spec:
    """Network of Kayhan and van Gemert 2020 (CVPR, section 3, arXiv 2003.07064).

    No biases, global max pooling, PyTorch's default initialization of kernels.

    'same' padding is (k - 1) / 2 on both sides at any stride, as in their program. At stride 2, TensorFlow pads even sizes only
    at the end, and a network then encodes location less (see docs/papers.md).
    """
    amount, mode = PADDINGS[padding]
    size = kernel_size[0]
    pads = size // 2 if amount == "same" else amount
    convolutions = (
        Conv(f, size, s, padding=pads, padding_mode=mode, activation=activation, use_bias=False, kernel_init="pytorch_uniform")
        for f, s in zip(filters, _STRIDES, strict=True)
    )
    return (*convolutions, GlobalMaxPool(), Dense(num_classes, kernel_init="pytorch_uniform"))
