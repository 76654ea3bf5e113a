"""M3, M5 and M7: simple networks with a published record on MNIST."""

from cnn_jax.nn import PADDINGS, Activation, BatchNorm, Conv, Dense, Flatten, Layer, Spec
from cnn_jax.zoo.shapes import Shape


def mnist_m(
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, ...],
    kernel_size: tuple[int],
    padding: str = "valid",
    activation: str = "relu",
) -> Spec:
    """M3, M5 and M7 of An, Lee, Park, Yang and So 2020 (arXiv 2008.10400, code github.com/ansh941/MnistSimpleCNN).

    Convolutions without pooling and a dense layer, each with batch normalisation. The authors' scaling of the images to [-1, 1]
    is not part of the model.
    """
    amount, mode = PADDINGS[padding]
    layers: list[Layer] = []
    for f in filters:
        conv = Conv(f, kernel_size[0], padding=amount, padding_mode=mode, use_bias=False)
        layers += [conv, BatchNorm(), Activation(activation)]
    return (*layers, Flatten(), Dense(num_classes, use_bias=False), BatchNorm())
