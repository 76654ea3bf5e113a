"""A network of the benchmark that is not in the zoo, defined as in a fork: --model=benchmarks.models:vgg3."""

from cnn_jax.nn import Conv, Dense, Flatten, Layer, MaxPool, Spec


def vgg3(input_shape: tuple[int, ...], num_classes: int) -> Spec:
    """Build three VGG blocks: two 3x3 convolutions and a max-pool each (32, 64, 128 filters), then a dense layer."""
    layers: list[Layer] = []
    for filters in (32, 64, 128):
        layers += [Conv(filters, 3, padding="same", activation="relu", kernel_init="he_uniform")] * 2 + [MaxPool(2)]
    return (*layers, Flatten(), Dense(num_classes))
