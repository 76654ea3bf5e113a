"""AlexNet."""

from cnn_jax.nn import Conv, Dense, Dropout, Flatten, MaxPool, Spec
from cnn_jax.zoo.shapes import Shape


def alexnet(input_shape: Shape, num_classes: int, *, activation: str = "relu") -> Spec:
    """AlexNet in one tower (Krizhevsky 2014, arXiv 1404.5997), with the sizes of torchvision.

    torchvision averages to 6x6 before the dense layers; this has no effect at 224x224 and is omitted.
    """

    def conv(filters: int, kernel_size: int, padding: int, strides: int = 1) -> Conv:
        return Conv(filters, kernel_size, strides, padding=padding, activation=activation, kernel_init="he_normal")

    def dense(units: int) -> Dense:
        return Dense(units, activation=activation, kernel_init="he_normal")

    pool = MaxPool(3, strides=2)
    features = (
        conv(64, 11, 2, strides=4),
        pool,
        conv(192, 5, 2),
        pool,
        conv(384, 3, 1),
        conv(256, 3, 1),
        conv(256, 3, 1),
        pool,
    )
    return (*features, Flatten(), Dropout(0.5), dense(4096), Dropout(0.5), dense(4096), Dense(num_classes))
