"""VGG."""

from cnn_jax.nn import PADDINGS, Conv, Dense, Dropout, Flatten, Layer, MaxPool, Spec
from cnn_jax.zoo.shapes import Shape

# Convolutions per stage: columns A, B and D of table 1.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


def vgg(
    depth: int,
    input_shape: Shape,
    num_classes: int,
    *,
    filters: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512),
    kernel_size: tuple[int] = (3,),
    padding: str = "same",
    activation: str = "relu",
    hidden: int = 4096,
) -> Spec:
    """VGG of `depth` weight layers (Simonyan and Zisserman 2015, arXiv 1409.1556, table 1); `filters` per stage."""
    amount, mode = PADDINGS[padding]
    layers: list[Layer] = []
    for f, repeats in zip(filters, STAGES[depth], strict=True):
        conv = Conv(f, kernel_size[0], padding=amount, padding_mode=mode, activation=activation, kernel_init="he_normal")
        layers += [conv] * repeats + [MaxPool(2)]
    dense = Dense(hidden, activation=activation, kernel_init="he_normal")
    return (*layers, Flatten(), dense, Dropout(0.5), dense, Dropout(0.5), Dense(num_classes))
