"""The models that have a name: short functions (input_shape, num_classes, *, options) -> spec. No JAX.

The options are keyword arguments; those called `filters`, `kernel_size`, `strides`, `padding` or `activation` are the flags of
a sweep, the others are the model's own. The annotation says what is legal: `tuple[int, ...]` is a stack of any length,
`tuple[int, int]` one of two values, a `Literal` lists all. What every number should be is in `tests/test_zoo.py`.

A fork brings its own model as package.module:attribute. The attribute is a function like those here that returns a spec or a
linen module, a linen module class (its fields are the options; those called input_shape and num_classes are filled), or a
finished spec or module.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cnn_jax import plugins
from cnn_jax.config import (
    ACTIVATIONS,
    PADDINGS,
    RBF,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    DepthwiseConv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool,
    ModelConfig,
    PadChannels,
    Residual,
    Spec,
    Stack,
    Subsample,
    UsageError,
    format_stack,
)
from cnn_jax.geometry import layer_table

Shape = tuple[int, ...]
# The paddings that keep an image's size, so that a shortcut can be added.
SamePadding = Literal["same", "reflect", "symmetric", "replicate", "circular"]

# ---------------------------------------------------------------------------------------------------------- small networks


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


# Which maps of S2 each map of C3 sees: table I of LeCun et al. 1998, by column.
_C3 = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5),
    (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# The classes' codes, 0 to 9, on 12 rows of 7. The paper's figure 3 has other drawings of the same size.
_DIGITS = """
    ..###.. ...#... .#####. .#####. .....#. ####### ..####. ####### .#####. .#####.
    .#...#. ..##... #.....# #.....# ....##. #...... .#..... ......# #.....# #.....#
    #.....# .#.#... ......# ......# ...#.#. #...... #...... .....#. #.....# #.....#
    #.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#
    #.....# ...#... .....#. ......# .#...#. ######. #...... ....#.. .#...#. #.....#
    #.....# ...#... ....#.. ..####. #....#. ......# ######. ....#.. ..###.. .######
    #.....# ...#... ...#... ......# #....#. ......# #.....# ...#... .#...#. ......#
    #.....# ...#... ..#.... ......# ####### ......# #.....# ...#... #.....# ......#
    #.....# ...#... .#..... ......# .....#. ......# #.....# ..#.... #.....# ......#
    #.....# ...#... #...... ......# .....#. ......# #.....# ..#.... #.....# .....#.
    .#...#. ...#... #...... #.....# .....#. #.....# #.....# .#..... #.....# ....#..
    ..###.. .#####. ####### .#####. .....#. .#####. .#####. .#..... .#####. .###...
"""
_CODES = tuple(
    tuple(1 if pixel == "#" else -1 for row in digit for pixel in row)
    for digit in zip(*(line.split() for line in _DIGITS.split("\n") if line.strip()), strict=True)
)


def lenet5(input_shape: Shape, num_classes: int) -> Spec:
    """LeNet-5 as published (LeCun, Bottou, Bengio and Haffner 1998, section II.B): exactly 60,000 trained parameters.

    C3 sees S2 by the paper's sparse table, subsampling is trained, and the outputs are distances to fixed 7x12 drawings of
    the digits, so there can be at most 10 classes. Images smaller than 32x32 are centred on zeros, as the paper does with
    28x28. Its layers keep their names.
    """
    if num_classes > len(_CODES):
        raise UsageError(
            f"--model: lenet5 has output codes for {len(_CODES)} classes, the data have {num_classes}: use lenet5_dense"
        )
    squash = "scaled_tanh"
    return (
        Conv(6, 5, padding=_centred(input_shape), activation=squash, name="C1"),
        Subsample(2, activation=squash, name="S2"),
        Conv(16, 5, activation=squash, connections=_C3, name="C3"),
        Subsample(2, activation=squash, name="S4"),
        Conv(120, 5, activation=squash, name="C5"),
        Flatten(),
        Dense(84, activation=squash, name="F6"),
        RBF(_CODES[:num_classes], name="output"),
    )


def lenet5_dense(input_shape: Shape, num_classes: int, *, activation: str = "tanh") -> Spec:
    """LeNet-5 as it is mostly taught (Zhang et al., Dive into Deep Learning, section 7.6): C3 sees all, average pooling."""
    return (
        Conv(6, 5, padding=_centred(input_shape), activation=activation),
        AvgPool(2),
        Conv(16, 5, activation=activation),
        AvgPool(2),
        Flatten(),
        Dense(120, activation=activation),
        Dense(84, activation=activation),
        Dense(num_classes),
    )


def _centred(input_shape: Shape) -> tuple[tuple[int, int], ...]:
    missing = [max(32 - n, 0) for n in input_shape[:-1]]
    return tuple((m // 2, m - m // 2) for m in missing)


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

    Convolutions without pooling, each with batch normalisation, and a dense layer with one too. The authors' own scaling of
    the images to [-1, 1] is left to the data.
    """
    amount, mode = PADDINGS[padding]
    layers: list[Layer] = []
    for f in filters:
        conv = Conv(f, kernel_size[0], padding=amount, padding_mode=mode, use_bias=False)
        layers += [conv, BatchNorm(), Activation(activation)]
    return (*layers, Flatten(), Dense(num_classes, use_bias=False), BatchNorm())


# ---------------------------------------------------------------------------------------------------------- large networks
# He et al. 2015 initialisation where the networks are deep and not normalised, or were published with it.


def alexnet(input_shape: Shape, num_classes: int, *, activation: str = "relu") -> Spec:
    """AlexNet in one tower (Krizhevsky 2014, arXiv 1404.5997), with the sizes of torchvision.

    torchvision averages to 6x6 before the dense layers; at 224x224 that does nothing, and here it is left out.
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


# Convolutions per stage: columns A, B and D of table 1.
_VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


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
    for f, repeats in zip(filters, _VGG_STAGES[depth], strict=True):
        conv = Conv(f, kernel_size[0], padding=amount, padding_mode=mode, activation=activation, kernel_init="he_normal")
        layers += [conv] * repeats + [MaxPool(2)]
    dense = Dense(hidden, activation=activation, kernel_init="he_normal")
    return (*layers, Flatten(), dense, Dropout(0.5), dense, Dropout(0.5), Dense(num_classes))


def _conv_norm(filters: int, kernel_size: int, padding: str, strides: int = 1) -> Spec:
    """Padded by (k - 1) / 2 on both sides at any stride: TensorFlow's 'same' would shift a strided path off its shortcut."""
    mode = PADDINGS[padding][1]
    half = kernel_size // 2
    conv = Conv(filters, kernel_size, strides, padding=half, padding_mode=mode, use_bias=False, kernel_init="he_normal")
    return (conv, BatchNorm())


def _stages(filters: Stack, blocks: Stack, kernel_size: int, padding: str, activation: str, shortcut: str) -> Spec:
    """Basic residual blocks: all stages but the first start at stride 2, and a block that changes the shape has a shortcut."""
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

    The last 3x3 convolution is unpadded, as in the paper, whatever `padding` says of the others.
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


# ------------------------------------------------------------------------------------------------------------------ tables

MODELS: dict[str, Callable[..., Spec]] = {
    "cnn": cnn,
    "chapter": chapter,
    "mlp": mlp,
    "simple_convnet": simple_convnet,
    "lenet5": lenet5,
    "lenet5_dense": lenet5_dense,
    "mnist_m3": functools.partial(mnist_m, filters=tuple(range(32, 177, 16)), kernel_size=(3,)),
    "mnist_m5": functools.partial(mnist_m, filters=(32, 64, 96, 128, 160), kernel_size=(5,)),
    "mnist_m7": functools.partial(mnist_m, filters=(48, 96, 144, 192), kernel_size=(7,)),
    "alexnet": alexnet,
    **{f"vgg{depth}": functools.partial(vgg, depth) for depth in _VGG_STAGES},
    "resnet18": resnet18,
    **{f"resnet{depth}": functools.partial(cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)},
    "nin": nin,
    "all_cnn_c": all_cnn_c,
    "convmixer": convmixer,
}

_MNIST, _CIFAR, _IMAGENET = ((28, 28, 1), 10), ((32, 32, 3), 10), ((224, 224, 3), 1000)
# The input shape and the number of classes that each model was published for.
NATIVE: dict[str, tuple[Shape, int]] = {
    **dict.fromkeys(MODELS, _MNIST),
    **dict.fromkeys(("alexnet", "vgg11", "vgg13", "vgg16", "resnet18"), _IMAGENET),
    **dict.fromkeys(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "nin", "all_cnn_c", "convmixer"), _CIFAR),
}


# ------------------------------------------------------------------------------------------------- from a config to a spec

FLAGS = ("filters", "kernel_size", "strides", "padding", "activation")
_STACKS = FLAGS[:3]
_LEGAL = {"padding": tuple(PADDINGS), "activation": ACTIVATIONS}


@functools.lru_cache(maxsize=4096)
def resolve(config: ModelConfig) -> ModelConfig:
    """The same model with every option that it has and `config` leaves open filled in by the model's default.

    A stack of equal kernel sizes or strides becomes one value, so equal networks have equal configs. Raises UsageError for an
    unknown model, an option that the model does not have, an illegal value, and stacks whose lengths disagree.
    """
    parameters = _parameters(config.name)
    flags = {flag: value for flag in FLAGS if (value := getattr(config, flag)) is not None}
    own = dict(config.options)
    for name in own:
        if name in FLAGS:
            raise UsageError(f"--option={name}: {name} has a flag of its own: use --{name}")
    for name in (*flags, *own):
        if name not in parameters:
            has = f"it has {', '.join(parameters)}" if parameters else "it has no options"
            raise UsageError(f"{_flag(name)}: model {config.name} has no {name} to set: {has}")
    values = {
        name: _checked(config.name, name, parameters[name].annotation, value)
        for name, value in (options(config.name) | flags | own).items()
    }
    for name in _STACKS[1:]:
        if len(values.get(name, ())) > 1 and "filters" in values and len(values[name]) != len(values["filters"]):
            raise UsageError(
                f"--{name}: {format_stack(values[name])} has {len(values[name])} values for the {len(values['filters'])} of "
                f"--filters={format_stack(values['filters'])}: give one value, or as many"
            )
    rest = tuple(sorted((name, value) for name, value in values.items() if name not in FLAGS))
    filled: dict[str, Any] = {flag: values.get(flag) for flag in FLAGS}
    return dataclasses.replace(config, options=rest, **filled)


@functools.lru_cache(maxsize=4096)
def spec(config: ModelConfig, input_shape: Shape, num_classes: int) -> Any:
    """The network that `config` means for images of shape `input_shape` (*S, C): a spec, or a fork's linen module.

    Raises UsageError as `resolve` does, where a model refuses this input or raises, and for a spec that does not end in a
    logit per class. What a linen module returns is checked by `models.build`, which traces it.
    """
    model, config = _load(config.name), resolve(config)
    what = f"--model: {config.name}"
    with _reporting(config.name, "failed", model):
        network = model if _is_network(model) else _make(model, config, tuple(input_shape), num_classes)
    if not _is_network(network):
        raise UsageError(f"{what} returned a {type(network).__name__}: it must be a tuple of layer specs or a linen module")
    if isinstance(network, tuple):
        with _reporting(config.name, "has an illegal layer", model):
            table = layer_table(network, tuple(input_shape))
        if table.output_shape != (num_classes,):
            raise UsageError(
                f"{what} gives outputs of shape {table.output_shape} per image, not ({num_classes},), a logit per class"
            )
        if not table.params:
            raise UsageError(f"{what} has no parameters to train")
    return network


def _make(model: Callable[..., Any], config: ModelConfig, input_shape: Shape, num_classes: int) -> Any:
    """Calls a function or a linen class with the settings of a resolved config."""
    arguments = {flag: value for flag in FLAGS if (value := getattr(config, flag)) is not None} | dict(config.options)
    for name, parameter in _parameters(config.name).items():
        if name in _STACKS and name in arguments and parameter.annotation is int:
            arguments[name] = arguments[name][0]
    if not inspect.isclass(model):
        return model(input_shape, num_classes, **arguments)
    given = {"input_shape": input_shape, "num_classes": num_classes}
    fields = inspect.signature(model).parameters
    return model(**{name: value for name, value in given.items() if name in fields}, **arguments)


def _reporting(name: str, what: str, model: Any) -> contextlib.AbstractContextManager[None]:
    """Reports exceptions of a fork's model in one line; an exception of ours is a fault of ours, with its traceback."""
    function = model if callable(model) else None
    return plugins.reporting(f"--model: {name} {what}", function) if ":" in name else contextlib.nullcontext()


@functools.cache
def _load(name: str) -> Any:
    if name in MODELS:
        return MODELS[name]
    if ":" not in name:
        raise UsageError(f"--model: unknown model {name!r}: one of {', '.join(MODELS)}, or package.module:attribute")
    return plugins.load_attribute(name, f"--model: {name}")


def _is_network(model: Any) -> bool:
    """A finished spec or linen module, as opposed to something that makes one."""
    return isinstance(model, tuple) or (hasattr(model, "apply") and not inspect.isclass(model))


@functools.cache
def _parameters(name: str) -> dict[str, inspect.Parameter]:
    model = _load(name)
    if _is_network(model):
        return {}
    if not callable(model):
        raise UsageError(f"--model: {name} is neither a network nor a function that makes one")
    try:
        hints = get_type_hints(getattr(model, "func", model))
    except (NameError, TypeError):  # a fork's annotations may name what is imported for type checkers only, or be none
        hints = {}
    with _reporting(name, "cannot be called", model):  # a builtin may have no signature
        parameters = inspect.signature(model).parameters
    # A linen module's fields; or what follows input_shape and num_classes.
    skipped = ("input_shape", "num_classes", "parent", "name") if inspect.isclass(model) else tuple(parameters)[:2]
    return {n: p.replace(annotation=hints.get(n, p.empty)) for n, p in parameters.items() if n not in skipped}


def options(name: str) -> dict[str, Any]:
    """What can be set of a model, with the defaults, flags and own options alike. Raises UsageError for an unknown model."""
    # A fork's fields may default to anything (a dtype, a function): those are for its own code to set.
    return {name: p.default for name, p in _parameters(name).items() if isinstance(p.default, str | int | float | tuple)}


def _flag(name: str) -> str:
    return f"--{name}" if name in FLAGS else f"--option={name}"


def _checked(model: str, name: str, annotation: Any, value: Any) -> Any:
    """`value` in the form that a ModelConfig holds. Raises UsageError if it is not what the option's annotation says."""

    def refuse(legal: str) -> UsageError:
        return UsageError(f"{_flag(name)}: {value!r} is not legal for model {model}: use {legal}")

    if name in _STACKS:
        stack = (value,) if isinstance(value, int) else tuple(value)
        if not stack or not all(isinstance(v, int) and v >= 1 for v in stack):
            raise refuse("integers of at least 1")
        if name != "filters" and len(set(stack)) == 1:
            stack = stack[:1]
        count = 1 if annotation is int else len(get_args(annotation)) if get_origin(annotation) is tuple else None
        if count and ... not in get_args(annotation) and len(stack) != count:
            raise refuse("one value" if count == 1 else f"{count} values joined by '-'")
        return stack
    legal = get_args(annotation) if get_origin(annotation) is Literal else _LEGAL.get(name)
    if legal:
        if value not in legal:
            raise refuse(f"one of {', '.join(map(str, legal))}")
    elif annotation is bool:
        if value not in (0, 1):
            raise refuse("0 or 1")
    elif annotation in (int, float) and not isinstance(value, int if annotation is int else int | float):
        raise refuse("an integer" if annotation is int else "a number")
    return value
