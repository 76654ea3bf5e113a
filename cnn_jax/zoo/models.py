"""Named models, and the input shapes they were published for.

A model is a function (input_shape, num_classes, *, options) -> spec. Options named `filters`, `kernel_size`, `strides`,
`padding` or `activation` are the flags of a sweep, the others are the model's own. Annotations define the legal values:
`tuple[int, ...]` is a stack of any length, `tuple[int, int]` one of two values, a `Literal` lists all. `tests/test_zoo.py` has
the expected value of every number.
"""

import functools
from collections.abc import Callable

from cnn_jax.nn import Spec
from cnn_jax.zoo.alexnet import alexnet
from cnn_jax.zoo.chapter import chapter, cnn, mlp
from cnn_jax.zoo.cifar import all_cnn_c, convmixer, nin
from cnn_jax.zoo.kayhan import kayhan
from cnn_jax.zoo.lenet import lenet5, lenet5_dense
from cnn_jax.zoo.mnist import mnist_m
from cnn_jax.zoo.resnet import cifar_resnet, resnet18
from cnn_jax.zoo.shapes import Shape
from cnn_jax.zoo.vgg import STAGES, vgg

MODELS: dict[str, Callable[..., Spec]] = {
    "cnn": cnn,
    "chapter": chapter,
    "mlp": mlp,
    # Keras's "Simple MNIST convnet" (F. Chollet, keras.io/examples/vision/mnist_convnet).
    "simple_convnet": functools.partial(cnn, filters=(32, 64), dropout=0.5),
    "kayhan": kayhan,
    "lenet5": lenet5,
    "lenet5_dense": lenet5_dense,
    "mnist_m3": functools.partial(mnist_m, filters=tuple(range(32, 177, 16)), kernel_size=(3,)),
    "mnist_m5": functools.partial(mnist_m, filters=(32, 64, 96, 128, 160), kernel_size=(5,)),
    "mnist_m7": functools.partial(mnist_m, filters=(48, 96, 144, 192), kernel_size=(7,)),
    "alexnet": alexnet,
    **{f"vgg{depth}": functools.partial(vgg, depth) for depth in STAGES},
    "resnet18": resnet18,
    **{f"resnet{depth}": functools.partial(cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)},
    "nin": nin,
    "all_cnn_c": all_cnn_c,
    "convmixer": convmixer,
}

_MNIST, _CIFAR, _IMAGENET = ((28, 28, 1), 10), ((32, 32, 3), 10), ((224, 224, 3), 1000)
# Published input shape and number of classes of each model.
PUBLISHED_FOR: dict[str, tuple[Shape, int]] = {
    **dict.fromkeys(MODELS, _MNIST),
    "kayhan": ((32, 32, 3), 2),
    **dict.fromkeys(("alexnet", "vgg11", "vgg13", "vgg16", "resnet18"), _IMAGENET),
    **dict.fromkeys(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "nin", "all_cnn_c", "convmixer"), _CIFAR),
}
