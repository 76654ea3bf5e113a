"""Geometry is held against what JAX says of the same layers: shapes, parameters, products, and measured receptive fields."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax import description, zoo
from cnn_jax import nn as specs
from cnn_jax.errors import UsageError
from cnn_jax.nn import (
    Activation,
    AvgPool,
    BatchNorm,
    Branch,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Dropout,
    Flatten,
    GeometryError,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    MaxPool,
    PadChannels,
    Residual,
    SeparableConv,
    Subsample,
    layer_table,
    named,
)
from cnn_jax.nn.network import CNN
from cnn_jax.nn.padding import as_tuple, axis_pads, output_size, resolve_pads, transpose_geometry
from cnn_jax.trial import ModelConfig, TrainConfig

sizes = st.integers(1, 12)
small = st.integers(1, 4)


# ------------------------------------------------------------------------------------------------------- pads and sizes


def lax_output_size(n, k, s, d, pads):
    """What XLA makes of an axis; 0 where it refuses."""
    x, kernel = jax.ShapeDtypeStruct((1, n, 1), "float32"), jax.ShapeDtypeStruct((k, 1, 1), "float32")
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(s,),
        padding=[pads],
        rhs_dilation=(d,),
        dimension_numbers=("NHC", "HIO", "NHC"),
    )
    return jax.eval_shape(convolve, x, kernel).shape[1]


@settings(deadline=None, max_examples=200)
@given(sizes, small, small, small, st.integers(0, 5), st.integers(0, 5))
def test_output_size_is_that_of_lax(n, k, s, d, low, high):
    assert output_size(n, k, s, d, low, high) == lax_output_size(n, k, s, d, (low, high))


@settings(deadline=None)
@given(sizes, small, small, small, st.sampled_from(["valid", "same", "same_lower"]))
def test_named_paddings_are_those_of_lax(n, k, s, d, padding):
    expected = lax.padtype_to_pads([n], [(k - 1) * d + 1], [s], padding.upper())
    assert axis_pads(n, k, s, d, padding) == tuple(expected[0])


@given(sizes, small, small)
def test_full_and_causal_paddings_reach_as_far_as_the_kernel(n, k, d):
    reach = (k - 1) * d
    assert axis_pads(n, k, 1, d, "full") == (reach, reach)
    assert axis_pads(n, k, 1, d, "causal") == (reach, 0)
    assert output_size(n, k, 1, d, reach, 0) == n


def test_pads_may_be_given_for_every_axis():
    assert resolve_pads((5, 6), 3, 1, 1, 2) == ((2, 2), (2, 2))
    assert resolve_pads((5, 6), 3, 1, 1, ((0, 1), (2, 3))) == ((0, 1), (2, 3))
    assert resolve_pads((28, 28), (3, 5), 2, 1, "same") == ((0, 1), (1, 2))
    assert resolve_pads((), 3, 1, 1, "same") == ()


@settings(deadline=None, max_examples=60)
@example(n=2, k=1, s=3, d=1, padding="same", extra=0)
@given(
    n=st.integers(1, 6),
    k=small,
    s=small,
    d=st.integers(1, 2),
    padding=st.sampled_from(["valid", "same", "same_lower", "full", 0, 1]),
    extra=st.sampled_from([0, 0, 0, 1, 2, 3]),
)
def test_a_transposed_convolution_makes_what_the_convolution_would_take(n, k, s, d, padding, extra):
    same = padding in ("same", "same_lower")
    try:
        pads, (size,) = transpose_geometry((n,), k, s, d, padding, extra)
    except GeometryError as error:
        assert (extra > 0 and (same or extra >= max(s, d))) or "leaves no output" in str(error)  # noqa: PT017
        return
    taken = functools.partial(output_size, k=k, s=s, d=d, low=pads[0][0], high=pads[0][1])
    if same:
        assert size == n * s
    elif extra == 0:
        assert taken(size - 1) == n - 1
    if extra < s:
        assert taken(size) == n


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_tuple((1, 2), 3, "strides"), "strides (1, 2) has 2 values for 3 spatial axes"),
        (lambda: as_tuple(0, 2, "strides"), "strides is 0: must be an integer of at least 1"),
        (lambda: as_tuple(1.5, 2, "window"), "window is 1.5"),
        (lambda: as_tuple(True, 2, "window"), "window is True"),
        (
            lambda: axis_pads(5, 3, 1, 1, "SAME"),
            "unknown padding 'SAME': must be one of valid, same, same_lower, full, causal",
        ),
        (lambda: axis_pads(5, 3, 1, 1, -1), "must not be negative"),
        (lambda: axis_pads(5, 3, 1, 1, (0, -1)), "at least 0"),
        (lambda: resolve_pads((5, 5), 3, 1, 1, "causal"), "one spatial axis, not 2"),
        (lambda: resolve_pads((5, 5), 3, 1, 1, ((1, 1),)), "1 pairs for 2 spatial axes"),
    ],
)
def test_illegal_sizes_are_refused(call, message):
    with pytest.raises(GeometryError, match=re.escape(message)):
        call()


# --------------------------------------------------------------------------------------------- tables against eval_shape


class Wrapped(nn.Module):
    """Hides a network's spec, so that `describe` has to trace it."""

    network: nn.Module

    def __call__(self, x, train=False):
        return self.network(x, train)


def assert_as_traced(spec, input_shape, same_macs=True):
    """Shapes, parameters and MACs of the table against JAX, layer by layer."""
    table = layer_table(spec, input_shape)
    x = jax.ShapeDtypeStruct((2, *input_shape), "float32")
    (logits, features), variables = jax.eval_shape(lambda x: CNN(spec).init_with_output(jax.random.key(0), x), x)
    assert {row.name: row.output_shape for row in table.layers} == {name: y.shape[1:] for name, y in features.items()}
    assert logits.shape[1:] == table.output_shape
    counted = {name: sum(p.size for p in jax.tree.leaves(own)) for name, own in variables.get("params", {}).items()}
    assert {row.name: row.params for row in table.layers if row.params} == counted
    if same_macs:
        assert table.macs == description.describe(Wrapped(CNN(spec)), input_shape).macs


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_zoo_is_what_jax_says(name):
    input_shape, num_classes = zoo.PUBLISHED_FOR[name]
    spec = zoo.spec(ModelConfig(name), input_shape, num_classes)
    # A sparse layer is computed as a dense one with zeros, and distances without products.
    assert_as_traced(spec, input_shape, same_macs=name != "lenet5")


EVERY_LAYER = (
    Conv(8, 3, padding="same", dilation=2, padding_mode="circular", connections=((0,), (1, 2), (0, 2), (1,)) * 2),
    GroupNorm(groups=4),
    DepthwiseConv(3, multiplier=2, padding=1),
    SeparableConv(6, 3, multiplier=2, padding="same_lower", strides=2, use_bias=False),
    ConvTranspose(4, 2, strides=2, groups=2, padding="same"),
    ConvTranspose(4, 3, dilation=2, output_padding=1),
    Branch(((Conv(3, 1), LayerNorm()), (MaxPool(3, strides=1, padding="same"), Activation("gelu")))),
    Residual((Conv(14, 3, padding=1, groups=7), BatchNorm(use_bias=False)), (PadChannels(14),)),
    Branch(((Conv(5, 3, padding="same"),), (Conv(5, 1, use_bias=False),)), merge="add"),
    AvgPool(2, padding="same"),
    Subsample(2, activation="tanh"),
    Dropout(0.1),
    Dense(7),
)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("end", [Flatten(), GlobalAvgPool(), GlobalMaxPool()])
def test_every_layer_is_what_jax_says_in_any_number_of_axes(rank, end):
    # The first layer is sparse, but computed as a dense one with zeros: its products are counted apart.
    sparse, *others = EVERY_LAYER
    assert_as_traced((sparse,), (8,) * rank + (3,), same_macs=False)
    assert_as_traced((*others, end, Dense(3, use_bias=False)), (8,) * rank + (8,))


def test_every_kind_of_layer_is_in_that_test_or_in_the_zoo():
    def kinds(layers):
        for layer in layers:
            yield type(layer)
            for part in (getattr(layer, "body", ()), getattr(layer, "shortcut", ()), *getattr(layer, "branches", ())):
                yield from kinds(part)

    shown = set(kinds((*EVERY_LAYER, Flatten(), GlobalAvgPool(), GlobalMaxPool())))
    shown |= set(kinds(zoo.spec(ModelConfig("lenet5"), (28, 28, 1), 10)))
    kinds_of_ours = {kind for kind in vars(specs).values() if isinstance(kind, type) and issubclass(kind, specs.Layer)} - {
        specs.Layer
    }
    assert shown == kinds_of_ours


convs = st.builds(
    Conv,
    filters=st.integers(1, 4),
    kernel_size=st.one_of(small, st.tuples(small, small)),
    strides=st.integers(1, 2),
    padding=st.sampled_from(["valid", "same", "same_lower", "full", 1, ((0, 2), (1, 0))]),
    padding_mode=st.sampled_from(["zeros", "reflect", "symmetric", "replicate", "circular"]),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
)
pools = st.builds(MaxPool, window=small, strides=st.sampled_from([None, 1, 2]), padding=st.sampled_from(["valid", "same"]))
depthwise = st.builds(
    DepthwiseConv, kernel_size=small, multiplier=st.integers(1, 2), padding=st.sampled_from(["valid", "same"])
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(convs, pools, depthwise), min_size=1, max_size=4), sizes, sizes)
def test_a_network_is_refused_by_both_or_described_as_jax_says(layers, height, width):
    spec, input_shape = (*layers, Flatten(), Dense(2)), (height, width, 2)
    try:
        layer_table(spec, input_shape)
    except GeometryError:
        x = jax.ShapeDtypeStruct((1, *input_shape), "float32")
        with pytest.raises(UsageError):
            jax.eval_shape(lambda x: CNN(spec).init(jax.random.key(0), x), x)
    else:
        assert_as_traced(spec, input_shape)


# --------------------------------------------------------------------------------------------------------- receptive field


def positive(layers):
    """The same windows on one channel, linear and without norms: so no gradient is cancelled or cut off."""
    out = []
    for layer in layers:
        match layer:
            case Conv() | SeparableConv() | ConvTranspose():
                out.append(Conv(1, layer.kernel_size, layer.strides, layer.padding, dilation=layer.dilation, name=layer.name))
            case DepthwiseConv():
                out.append(Conv(1, layer.kernel_size, layer.strides, layer.padding, name=layer.name))
            case MaxPool() | AvgPool():
                strides = layer.window if layer.strides is None else layer.strides
                out.append(Conv(1, layer.window, strides, layer.padding, name=layer.name))
            case Subsample():
                out.append(dataclasses.replace(layer, activation="linear"))
            case PadChannels():
                out.append(dataclasses.replace(layer, filters=1))
            case Residual():
                body, shortcut = positive(layer.body), positive(layer.shortcut)
                out.append(dataclasses.replace(layer, body=body, shortcut=shortcut, activation="linear"))
            case Branch():
                out.append(dataclasses.replace(layer, branches=tuple(map(positive, layer.branches)), merge="add"))
            case Flatten() | GlobalAvgPool() | GlobalMaxPool():
                return tuple(out)
    return tuple(out)


def footprints(spec, input_shape):
    """Per layer with positions: (first, size) of the input positions that its middle output and its right neighbour see."""
    network = CNN(spec)
    x = jnp.ones((1, *input_shape))
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), x)
    variables = jax.tree.map(lambda p: np.full(p.shape, 0.5, np.float32), shapes)  # 0.5 ** 110 is still a float32
    outputs, pull = jax.vjp(lambda x: network.apply(variables, x)[1], x)
    pull = jax.jit(pull)
    zeros = jax.tree.map(lambda y: np.zeros(y.shape, np.float32), outputs)
    found = {}
    for name, zero in zeros.items():
        found[name] = []
        for axis in range(1, x.ndim - 1):
            middle = [0, *(n // 2 for n in zero.shape[1:-1]), 0]
            for shift in (0, 1):
                seed = zero.copy()
                index = list(middle)
                index[axis] += shift
                seed[tuple(index)] = 1
                (gradient,) = pull(zeros | {name: seed})
                seen = np.flatnonzero(np.moveaxis(np.asarray(gradient), axis, 0).reshape(x.shape[axis], -1).any(1))
                assert seen[0] > 0
                assert seen[-1] < x.shape[axis] - 1, "the image is too small to measure"
                found[name].append((int(seen[0]), int(seen[-1] - seen[0] + 1)))
    return found


# The deeper ones take seconds, and are the same function as ResNet-20.
SLOW = ("resnet32", "resnet44", "resnet56", "resnet110")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in zoo.MODELS if n != "mlp"])
def test_receptive_fields_are_measured_gradient_footprints(name):
    """On one spatial axis: the axes do not know of each other, and an axis long enough for ResNet-110 is still quick."""
    spec = named(zoo.spec(ModelConfig(name), *zoo.PUBLISHED_FOR[name]))
    if name.startswith("lenet5"):  # its padding is given per axis
        spec = (dataclasses.replace(spec[0], padding=2), *spec[1:])
    deepest = layer_table(spec, zoo.PUBLISHED_FOR[name][0]).receptive_field
    # One filter each is enough for the table too, and its sparse connections are no matter of space.
    rows = layer_table(positive(spec), (2 * deepest + 70, 1)).layers
    table = {row.name: (row.receptive_field, row.effective_stride) for row in rows}
    original = {
        row.name: (row.receptive_field, row.effective_stride) for row in layer_table(spec, zoo.PUBLISHED_FOR[name][0]).layers
    }
    assert table == {name: original[name] for name in table}
    for layer, (here, beside) in footprints(positive(spec), (2 * deepest + 70, 1)).items():
        assert (here[1], beside[0] - here[0]) == table[layer], layer


def test_receptive_fields_differ_by_axis():
    spec = (Conv(1, (3, 5), strides=(1, 2), padding="same"), MaxPool((2, 3)), DepthwiseConv((1, 3), dilation=(1, 2)))
    rows = layer_table(spec, (40, 80, 1)).layers
    assert [(row.receptive_field, row.effective_stride) for row in rows] == [
        ((3, 5), (1, 2)),
        ((4, 9), (2, 6)),
        ((4, 33), (2, 6)),
    ]
    linear = (*positive(spec[:2]), Conv(1, (1, 3), dilation=(1, 2)))
    for (name, found), row in zip(footprints(linear, (40, 80, 1)).items(), rows, strict=True):
        (top, high), (below, _), (left, wide), (right, _) = found
        assert ((high, wide), (below - top, right - left)) == (row.receptive_field, row.effective_stride), name


def test_after_a_flatten_there_is_no_receptive_field():
    table = layer_table((Conv(4, 3), Flatten(), Dense(5)), (9, 9, 1))
    assert [row.receptive_field for row in table.layers] == [3, None, None]
    assert [row.effective_stride for row in table.layers] == [1, None, None]
    assert table.receptive_field == 3
    assert layer_table((Flatten(), Dense(5)), (9, 9, 1)).receptive_field is None
    # What an output of a strided transposed convolution sees depends on where it is.
    assert layer_table((ConvTranspose(4, 3, strides=2),), (9, 9, 1)).receptive_field is None
    assert layer_table((Conv(4, 3), ConvTranspose(4, 3)), (9, 9, 1)).receptive_field == 5


@pytest.mark.parametrize(
    ("branches", "warning", "field"),
    [
        # On 8 positions TensorFlow's 'same' pads a strided 3x3 convolution at the end only.
        ((Conv(1, 3, strides=2, padding="same"), Conv(1, 1, strides=2)), "centred 1x1 and 0x0 pixels into the image", 3),
        ((Conv(1, 2, padding="same"), Conv(1, 1)), "centred 0.5x0.5 and 0x0 pixels", 2),
        ((Conv(1, 3, padding=1), Conv(1, 3, padding=((2, 0), (1, 1)))), "centred 0x0 and -1x0 pixels", (4, 3)),
        ((Conv(1, 3, strides=2, padding="same"), Conv(1, 5)), "different effective strides: 2x2 and 1x1 pixels", None),
    ],
)
def test_e4_misaligned_branches_are_a_warning(branches, warning, field):
    table = layer_table((Branch(tuple((branch,) for branch in branches)),), (8, 8, 1))
    (told,) = table.warnings
    assert told.startswith("branch1: ")
    assert warning in told
    assert table.layers[-1].receptive_field == field
    assert not layer_table((Residual((Conv(1, 3, strides=2, padding=1),), (Conv(1, 1, strides=2),)),), (8, 8, 1)).warnings


def test_e7_settings_may_be_lists_and_numbers_of_numpy():
    as_given = Conv(
        np.int64(8), [3, np.int32(2)], strides=np.array([2, 1]), padding=[[1, 0], (0, np.int8(1))], groups=np.int64(1)
    )
    assert as_given == Conv(8, (3, 2), strides=(2, 1), padding=((1, 0), (0, 1)))
    assert hash(as_given) == hash(Conv(8, (3, 2), strides=(2, 1), padding=((1, 0), (0, 1))))
    assert Conv(8, padding=np.int64(1)).padding == 1
    nested = Residual([as_given, MaxPool(np.array(2))], [Conv(8, 1)])
    assert hash(nested) == hash(Residual((as_given, MaxPool(2)), (Conv(8, 1),)))
    found = layer_table([Conv(np.int64(4), [3, 3]), Dense(np.int16(5))], np.array([6, 6, 1]))
    assert found == layer_table((Conv(4, 3), Dense(5)), (6, 6, 1))
    assert description.describe([Conv(4, 3)], [np.int64(6), 6, 1]).input_shape == (6, 6, 1)
    assert resolve_pads((5, 6), 3, 1, 1, np.array([[0, 1], [2, 3]])) == ((0, 1), (2, 3))
    for wrong in (np.float64(1), np.bool_(True), np.array([1.5, 2])):
        with pytest.raises(GeometryError, match="must be an integer"):
            as_tuple(wrong, 2, "strides")


def test_the_widest_branch_is_the_receptive_field():
    table = layer_table((Branch(((Conv(2, 1),), (Conv(3, 5, padding="same"),), (Conv(4, 3, padding="same"),))),), (8, 8, 1))
    assert table.layers[-1].receptive_field == 5
    assert table.layers[-1].output_shape == (8, 8, 9)


# ----------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("spec", "input_shape", "message"),
    [
        (
            (Conv(2, 3), Conv(2, 5)),
            (5, 5, 1),
            "conv2: kernel 5x5 is larger than its input 3x3 under padding 'valid': "
            "use padding 'same', a smaller kernel_size or fewer layers",
        ),
        ((Conv(2, 3, dilation=3),), (5, 5, 1), "conv1: kernel 3x3 with dilation 3x3 is larger than its input 5x5"),
        ((MaxPool(2), MaxPool(2)), (3, 3, 1), "pool2: window 2x2 is larger than its input 1x1 under padding 'valid'"),
        ((Conv(2, 3, padding="same", padding_mode="reflect"),), (1, 5, 1), "conv1: reflect padding of 1 is wider than its"),
        ((Conv(2, 9, padding="same", padding_mode="circular"),), (3, 3, 1), "conv1: circular padding of 4 is wider than"),
        ((Conv(4, 1, groups=3),), (5, 5, 3), "conv1: groups=3 must divide the 3 channels and the 4 filters"),
        ((Conv(3, 1, groups=3),), (5, 5, 4), "conv1: groups=3 must divide the 4 channels and the 3 filters"),
        ((Conv(3, 1, groups=0),), (5, 5, 4), "conv1: groups is 0: must be an integer of at least 1"),
        ((GroupNorm(8),), (5, 5, 4), "norm1: groups=8 must divide the 4 channels"),
        ((Conv(0, 1),), (5, 5, 1), "conv1: filters is 0: must be an integer of at least 1"),
        ((Dense(-1),), (5,), "dense1: units is -1"),
        ((DepthwiseConv(3, multiplier=0),), (5, 5, 1), "depthwise1: multiplier is 0"),
        ((Conv(1, (3, 3, 3)),), (5, 5, 1), "conv1: kernel_size (3, 3, 3) has 3 values for 2 spatial axes"),
        ((Conv(1, activation="rellu"),), (5, 5, 1), "conv1: unknown activation 'rellu': must be one of linear, relu"),
        ((Conv(1, padding_mode="mirror"),), (5, 5, 1), "conv1: unknown padding_mode 'mirror': must be one of zeros, reflect"),
        ((Conv(1, kernel_init="xavier"),), (5, 5, 1), "conv1: unknown kernel_init 'xavier': must be one of zeros"),
        ((Conv(1, padding="vaild"),), (5, 5, 1), "conv1: unknown padding 'vaild': must be one of valid, same"),
        ((Residual((), activation="rellu"),), (5, 5, 1), "residual1: unknown activation 'rellu'"),
        ((Residual((Conv(2, 3),)),), (5, 5, 1), "residual1: its branches have incompatible outputs: 3x3x2 and 5"),
        ((Residual((Conv(2, 7, name="inner"),)),), (5, 5, 1), "inner: kernel 7x7 is larger"),
        ((Branch(((), ()), merge="multiply"),), (5, 5, 1), "branch1: unknown merge 'multiply': must be one of concat, add"),
        ((Branch(()),), (5, 5, 1), "branch1: must have at least one branch"),
        ((Flatten(), Conv(1)), (5, 5, 1), "conv1: needs spatial axes, but its input has none: 25 values"),
        ((Flatten(), ConvTranspose(1)), (5, 5, 1), "conv_transpose1: needs spatial axes"),
        ((Dropout(1.0),), (5, 5, 1), "dropout1: rate is 1.0: must be at least 0 and below 1"),
        ((PadChannels(1),), (5, 5, 2), "pad_channels1: filters is 1: must be at least its input's 2 channels"),
        ((Conv(2, 1, connections=((0,), (3,))),), (5, 5, 3), "conv1: connections must list, for each of its 2 filters"),
        ((Conv(2, 1, connections=((0,),)),), (5, 5, 3), "conv1: connections must list, for each of its 2 filters"),
        ((ConvTranspose(1, 2, output_padding=1),), (5, 5, 1), "conv_transpose1: output_padding is 1: must be smaller"),
        ((ConvTranspose(1, 3, padding="full"),), (2, 2, 1), "conv_transpose1: padding 'full' leaves no output"),
        ((Conv(1), TrainConfig()), (5, 5, 1), "TrainConfig is not a layer: a spec is a tuple of instances"),
        ((Conv(1),), (0, 5, 1), "input shape (0, 5, 1) must be"),
        ((Conv(1),), (), "input shape () must be"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line_that_names_the_layer(spec, input_shape, message):
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        layer_table(spec, input_shape)
    assert "\n" not in str(error.value)
