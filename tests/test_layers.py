"""Convolution, pooling and padding against answers by hand, against plain NumPy loops, and by properties.

Tolerances. Values are of order 1 and every sum has fewer than 1,000 terms, so float32 (unit roundoff 6e-8, errors growing like
the square root of the terms) is held to 1e-5 of the largest magnitude, bfloat16 (4e-3) to 2e-2 and float64 to 1e-12. Padding
only copies numbers: there equality is exact.
"""

import dataclasses
import functools
import inspect
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double import x64
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import nn as specs
from cnn_jax.errors import UsageError
from cnn_jax.nn import modules
from cnn_jax.nn.functional import avg_pool, conv, conv_transpose, max_pool
from cnn_jax.nn.modules import ACTIVATIONS
from cnn_jax.nn.padding import as_tuple, output_size, pad, resolve_pads, transpose_geometry
from cnn_jax.ops.conv import at_most

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-12}
# Every new shape is a new compilation, so the examples are few; `make oracle` draws more. Always the same ones: no flakes.
few = settings(max_examples=10, deadline=None, derandomize=True)


def close(actual, expected, dtype="float32"):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * max(1.0, np.abs(expected).max(initial=0)))


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def windows(x, sizes, strides, dilation):
    """Every window of x (N, *S, C), by plain loops: yields (position, window (N, *K, C))."""
    spans = [range(0, n - (k - 1) * d, s) for n, k, s, d in zip(x.shape[1:-1], sizes, strides, dilation, strict=True)]
    for position in itertools.product(*(enumerate(span) for span in spans)):
        index = [slice(start, start + (k - 1) * d + 1, d) for (_, start), k, d in zip(position, sizes, dilation, strict=True)]
        yield tuple(i for i, _ in position), x[(slice(None), *index)]


def outputs(x, sizes, strides, dilation):
    return [output_size(n, k, s, d, 0, 0) for n, k, s, d in zip(x.shape[1:-1], sizes, strides, dilation, strict=True)]


def loop_conv(x, kernel, strides, dilation, groups):
    """VALID cross-correlation in float64, one output at a time."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    *sizes, channels, filters = kernel.shape
    y = np.zeros((len(x), *outputs(x, sizes, strides, dilation), filters))
    for f in range(filters):
        first = f // (filters // groups) * channels  # the group's first channel
        for position, window in windows(x, sizes, strides, dilation):
            for n in range(len(x)):
                y[(n, *position, f)] = np.sum(window[n][..., first : first + channels] * kernel[..., f])
    return y


# --------------------------------------------------------------------------------------------------------------- padding

IMAGE = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)  # 1 2 3 / 4 5 6 / 7 8 9
PADDED = {
    "zeros": "0 0 0 0 0 / 0 1 2 3 0 / 0 4 5 6 0 / 0 7 8 9 0 / 0 0 0 0 0",
    "reflect": "5 4 5 6 5 / 2 1 2 3 2 / 5 4 5 6 5 / 8 7 8 9 8 / 5 4 5 6 5",
    "symmetric": "1 1 2 3 3 / 1 1 2 3 3 / 4 4 5 6 6 / 7 7 8 9 9 / 7 7 8 9 9",
    "replicate": "1 1 2 3 3 / 1 1 2 3 3 / 4 4 5 6 6 / 7 7 8 9 9 / 7 7 8 9 9",
    "circular": "9 7 8 9 7 / 3 1 2 3 1 / 6 4 5 6 4 / 9 7 8 9 7 / 3 1 2 3 1",
}
# Sums over the 3x3 windows of the above, added up by hand: what a kernel of ones gives with padding 'same'.
SUMS = {
    "zeros": "12 21 16 / 27 45 33 / 24 39 28",
    "reflect": "33 36 39 / 42 45 48 / 51 54 57",
    "symmetric": "21 27 33 / 39 45 51 / 57 63 69",
    "replicate": "21 27 33 / 39 45 51 / 57 63 69",
    "circular": "45 45 45 / 45 45 45 / 45 45 45",
}
# By two, one axis: here symmetric and replicate part ways. Low 2, high 1.
ROW = {
    "zeros": "0 0 1 2 3 0",
    "reflect": "3 2 1 2 3 2",
    "symmetric": "2 1 1 2 3 3",
    "replicate": "1 1 1 2 3 3",
    "circular": "2 3 1 2 3 1",
}


def table(text):
    return np.array([[float(v) for v in row.split()] for row in text.split("/")])


@pytest.mark.parametrize("mode", specs.PADDING_MODES)
def test_each_mode_pads_as_drawn(mode):
    np.testing.assert_array_equal(pad(IMAGE, ((1, 1), (1, 1)), mode)[0, :, :, 0], table(PADDED[mode]))
    np.testing.assert_array_equal(pad(IMAGE[:, 0], ((2, 1),), mode)[0, :, 0], table(ROW[mode])[0])


@pytest.mark.parametrize("mode", specs.PADDING_MODES)
def test_each_mode_convolves_as_added_up_by_hand(mode):
    ones = jnp.ones((3, 3, 1, 1))
    np.testing.assert_array_equal(conv(IMAGE, ones, padding="same", padding_mode=mode)[0, :, :, 0], table(SUMS[mode]))
    np.testing.assert_array_equal(
        conv(IMAGE, ones, padding="same", padding_mode=mode, strides=2)[0, :, :, 0], table(SUMS[mode])[::2, ::2]
    )


# A row 1 2 3 4 under the kernel 1 10: no flip, and where the odd position goes.
@pytest.mark.parametrize(
    ("padding", "strides", "answer"),
    [
        ("valid", 1, [21, 32, 43]),
        ("same", 1, [21, 32, 43, 4]),
        ("same_lower", 1, [10, 21, 32, 43]),
        ("full", 1, [10, 21, 32, 43, 4]),
        ("causal", 1, [10, 21, 32, 43]),
        (1, 1, [10, 21, 32, 43, 4]),
        (((0, 2),), 1, [21, 32, 43, 4, 0]),
        ("valid", 3, [21]),
        ("same", 3, [21, 4]),
        ("same_lower", 3, [10, 43]),
        ("full", 3, [10, 43]),
    ],
)
def test_each_amount_by_hand(padding, strides, answer):
    row = jnp.array([1.0, 2, 3, 4]).reshape(1, 4, 1)
    kernel = jnp.array([1.0, 10]).reshape(2, 1, 1)
    np.testing.assert_array_equal(conv(row, kernel, padding=padding, strides=strides)[0, :, 0], answer)


def test_value_is_the_zeros():
    np.testing.assert_array_equal(pad(IMAGE[:, 0], ((1, 2),), value=7)[0, :, 0], [7, 1, 2, 3, 7, 7])


@few
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_same_is_what_keras_defines(n, k, s, d):
    """ceil(n / s) outputs; of the padding the smaller half in front. Shown on a picket fence of powers of two."""
    x = (2.0 ** np.arange(n)).reshape(1, n, 1)
    kernel = np.ones((k, 1, 1))
    total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
    for padding, low in (("same", total // 2), ("same_lower", total - total // 2)):
        sums = [sum(2.0**i for i in (o * s - low + t * d for t in range(k)) if 0 <= i < n) for o in range(math.ceil(n / s))]
        np.testing.assert_array_equal(conv(x, kernel, strides=s, dilation=d, padding=padding)[0, :, 0], sums)


# ----------------------------------------------------------------------------------------------------------- convolution

CASES = [
    # spatial, kernel, channels, filters, arguments
    ((7,), (3,), 2, 4, {}),
    ((9,), (2,), 4, 4, {"strides": 2, "dilation": 3, "groups": 2, "padding": "causal"}),
    ((6, 5), (3, 2), 3, 2, {"strides": (2, 1), "padding": "same"}),
    ((6, 7), (2, 3), 4, 6, {"dilation": (1, 2), "groups": 2, "padding": "full"}),
    ((5, 6), (3, 3), 3, 3, {"groups": 3, "strides": 2, "padding": ((2, 0), (1, 3))}),
    ((4, 5, 3), (2, 3, 2), 2, 4, {"strides": (1, 2, 1), "padding": "same_lower", "groups": 2}),
    ((3, 4, 5), (2, 2, 3), 2, 3, {"dilation": (2, 1, 2), "padding": 1}),
]


def settle(spatial, sizes, arguments):
    """Pads, strides and dilation of a case, all explicit."""
    rank = len(spatial)
    strides = as_tuple(arguments.get("strides", 1), rank, "strides")
    dilation = as_tuple(arguments.get("dilation", 1), rank, "dilation")
    return resolve_pads(spatial, sizes, strides, dilation, arguments.get("padding", "valid")), strides, dilation


@pytest.mark.parametrize("mode", specs.PADDING_MODES)
@pytest.mark.parametrize(("spatial", "sizes", "channels", "filters", "arguments"), CASES)
def test_conv_equals_plain_loops(spatial, sizes, channels, filters, arguments, mode):
    groups = arguments.get("groups", 1)
    x, kernel = normal(2, *spatial, channels), normal(*sizes, channels // groups, filters)
    bias = normal(filters)
    pads, strides, dilation = settle(spatial, sizes, arguments)
    modes = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), mode=modes.get(mode, mode))
    expected = loop_conv(padded, kernel, strides, dilation, groups) + bias
    if any(max(p) >= n for n, p in zip(spatial, pads, strict=True)) and mode == "reflect":
        pytest.skip("a reflection of n positions or more is refused, see test_refusals")
    close(conv(x, kernel, bias, padding_mode=mode, **arguments), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_types_are_kept(dtype):
    with x64(True):
        x, kernel = jnp.asarray(normal(2, 6, 6, 2), dtype), jnp.asarray(normal(3, 3, 2, 4), dtype)
        y = conv(x, kernel, padding="same")
        assert y.dtype == dtype
        padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
        close(y, loop_conv(padded, kernel, (1, 1), (1, 1), 1), dtype)
        assert conv_transpose(y, kernel, strides=2).dtype == dtype
        for pool in (max_pool, avg_pool):
            assert pool(x, 2).dtype == dtype
            close(pool(x, 2), windows_reduced(x, (2, 2), (2, 2), (1, 1), np.max if pool is max_pool else np.mean), dtype)


def test_integer_images_convolve_as_floats():
    image = np.full((1, 3, 3, 1), 200, np.uint8)
    np.testing.assert_array_equal(conv(image, np.ones((3, 3, 1, 1), np.float32)), [[[[1800.0]]]])
    np.testing.assert_array_equal(avg_pool(image, 3), [[[[200.0]]]])
    np.testing.assert_array_equal(max_pool(image, 3, padding=1), np.full((1, 1, 1, 1), 200, np.uint8))


def directional(function, *arguments):
    """The directional derivative by reverse mode, and by central differences in float64."""
    with x64(True):
        arguments = [jnp.asarray(a, jnp.float64) for a in arguments]
        steps = [jnp.asarray(normal(*a.shape, seed=9), jnp.float64) for a in arguments]
        weights = jnp.asarray(normal(*jax.eval_shape(function, *arguments).shape, seed=8), jnp.float64)

        @jax.jit
        def scalar(*arguments):
            return jnp.sum(weights * function(*arguments))

        gradients = jax.jit(jax.grad(scalar, argnums=tuple(range(len(arguments)))))(*arguments)
        slope = sum(jnp.vdot(g, s) for g, s in zip(gradients, steps, strict=True))
        h = 1e-4
        ahead, behind = (scalar(*(a + sign * h * s for a, s in zip(arguments, steps, strict=True))) for sign in (1, -1))
        return float(slope), float((ahead - behind) / (2 * h))


@pytest.mark.parametrize("mode", specs.PADDING_MODES)
def test_gradients_are_slopes(mode):
    """1e-6: central differences with h = 1e-4 of a function that is a product of two arguments: exact but for rounding."""
    x, kernel, bias = normal(2, 5, 6, 4), normal(3, 2, 2, 6), normal(6)
    slope, difference = directional(
        lambda *a: conv(*a, strides=(2, 1), padding="same", padding_mode=mode, groups=2, dilation=(1, 2)), x, kernel, bias
    )
    assert slope == pytest.approx(difference, rel=1e-6)
    kernel = normal(3, 2, 3, 4)
    slope, difference = directional(lambda *a: conv_transpose(*a, strides=2, padding=1, groups=2), x, kernel, bias)
    assert slope == pytest.approx(difference, rel=1e-6)


def test_pools_have_gradients():
    x = (
        np.random.default_rng(0).permutation(72).reshape(1, 6, 6, 2) / 10
    )  # no two within reach of h: the maximum is smooth there
    for pool in (lambda x: max_pool(x, 3, strides=2, padding="same"), lambda x: avg_pool(x, 3, strides=2, padding=1)):
        slope, difference = directional(pool, x)
        assert slope == pytest.approx(difference, rel=1e-6)


def test_everything_maps_over_a_new_axis():
    x, kernel = normal(3, 2, 6, 6, 2), normal(3, 3, 3, 2, 4)
    for function in (
        lambda x, k: conv(x, k, padding="same", padding_mode="circular", strides=2),
        lambda x, k: conv_transpose(conv(x, k), k, strides=2),
        lambda x, k: max_pool(x, 2),
        lambda x, k: avg_pool(x, 3, padding="same"),
    ):
        function = jax.jit(function)
        one_by_one = jnp.stack([function(a, k) for a, k in zip(x, kernel, strict=True)])
        close(jax.vmap(function)(x, kernel), one_by_one)


@few
@given(st.data())
def test_circular_padding_commutes_with_rolling(data):
    rank = data.draw(st.integers(1, 3))
    n = data.draw(st.integers(3, 6))
    k = data.draw(st.integers(1, 3))
    shift = data.draw(st.integers(-5, 5))
    x, kernel = normal(1, *(n,) * rank, 2), normal(*(k,) * rank, 2, 2)
    axes = tuple(range(1, rank + 1))

    def layer(x):
        return conv(x, kernel, padding="same", padding_mode="circular")

    layer = jax.jit(layer)
    close(layer(jnp.roll(x, (shift,) * rank, axes)), jnp.roll(layer(x), (shift,) * rank, axes))


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_modes_agree_away_from_borders(k, strides):
    """Bit for bit, at any stride: the mode does not move the sampling grid. At the border they differ."""
    n = 14
    x, kernel = normal(1, n, n, 2), normal(k, k, 2, 3)
    ((low, high), _) = resolve_pads((n, n), k, strides, 1, "same")
    results = {mode: conv(x, kernel, strides=strides, padding="same", padding_mode=mode) for mode in specs.PADDING_MODES}
    first, last = -(-low // strides), (n + low - k) // strides + 1
    assert last - first >= 2
    for mode, y in results.items():
        np.testing.assert_array_equal(y[:, first:last, first:last], results["zeros"][:, first:last, first:last], err_msg=mode)
        if mode != "zeros" and low + high > 0:
            assert not np.array_equal(y, results["zeros"])


# ---------------------------------------------------------------------------------------------------- transposed convolution


@settings(few, max_examples=6)
@given(st.data())
def test_conv_transpose_is_the_adjoint_of_conv(data):
    """<conv(x), y> = <x, conv_transpose(y)>, for every amount, at any stride, in float64: both sides to 1e-12 of their size."""
    rank = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 2]))
    per_axis = st.tuples(*(st.integers(1, 3),) * rank)
    sizes, strides, dilation = data.draw(per_axis), data.draw(per_axis), data.draw(per_axis)
    padding = data.draw(st.sampled_from(["valid", "same", "same_lower", "full", 1]))
    spans = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    # Image sizes are multiples of the stride for 'same', whose transpose cannot give others.
    spatial = [s * -(-(span + data.draw(st.integers(0, 2))) // s) for s, span in zip(strides, spans, strict=True)]
    with x64(True):
        x = jnp.asarray(normal(2, *spatial, 2 * groups), jnp.float64)
        kernel = jnp.asarray(normal(*sizes, 2, 3 * groups), jnp.float64)
        arguments = {"strides": strides, "dilation": dilation, "padding": padding, "groups": groups}
        cx = jax.jit(functools.partial(conv, **arguments))(x, kernel)
        y = jnp.asarray(normal(*cx.shape, seed=1), jnp.float64)
        _, reached = transpose_geometry(cx.shape[1:-1], sizes, strides, dilation, padding)
        extra = tuple(n - m for n, m in zip(spatial, reached, strict=True))  # what the stride left over
        ty = jax.jit(functools.partial(conv_transpose, output_padding=extra, **arguments))(y, kernel)
        left, right = jnp.vdot(cx, y), jnp.vdot(x, ty)
        assert ty.shape == x.shape
        assert abs(left - right) <= 1e-12 * jnp.linalg.norm(cx) * jnp.linalg.norm(y)


def test_conv_transpose_by_hand():
    """Each input stamps the kernel, `strides` apart; stamps add where they overlap."""
    row, kernel = jnp.array([1.0, 2]).reshape(1, 2, 1), jnp.array([1.0, 10, 100]).reshape(3, 1, 1)
    for arguments, answer in [
        ({}, [1, 12, 120, 200]),
        ({"strides": 2}, [1, 10, 102, 20, 200]),
        ({"strides": 2, "padding": 1}, [10, 102, 20]),
        ({"strides": 2, "padding": 1, "output_padding": 1}, [10, 102, 20, 200]),
        ({"strides": 2, "padding": "same"}, [1, 10, 102, 20]),
        ({"strides": 2, "padding": "same_lower"}, [10, 102, 20, 200]),
        ({"strides": 4, "padding": "same"}, [1, 10, 100, 0, 2, 20, 200, 0]),
        ({"dilation": 2}, [1, 2, 10, 20, 100, 200]),
    ]:
        np.testing.assert_array_equal(conv_transpose(row, kernel, **arguments)[0, :, 0], answer, err_msg=str(arguments))


# --------------------------------------------------------------------------------------------------------------- pooling


def windows_reduced(x, sizes, strides, dilation, reduce):
    x = np.asarray(x, np.float64)
    y = np.zeros((len(x), *outputs(x, sizes, strides, dilation), x.shape[-1]))
    for position, window in windows(x, sizes, strides, dilation):
        y[(slice(None), *position)] = reduce(window, axis=tuple(range(1, x.ndim - 1)))
    return y


@few
@given(st.data())
def test_pools_equal_plain_loops(data):
    rank = data.draw(st.integers(1, 3))
    per_axis = st.tuples(*(st.integers(1, 3),) * rank)
    window, strides, dilation = data.draw(per_axis), data.draw(per_axis), data.draw(per_axis)
    padding = data.draw(st.sampled_from(["valid", "same", "same_lower"]))
    spatial = [(k - 1) * d + 1 + data.draw(st.integers(0, 2)) for k, d in zip(window, dilation, strict=True)]
    x = normal(2, *spatial, 3)

    def padded(dilation, fill):
        pads, _, _ = settle(spatial, window, {"strides": strides, "dilation": dilation, "padding": padding})
        return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)

    expected = windows_reduced(padded(dilation, -np.inf), window, strides, dilation, np.max)
    close(jax.jit(lambda x: max_pool(x, window, strides=strides, padding=padding, dilation=dilation))(x), expected)
    ones = (1,) * rank
    for include, fill in ((True, 0), (False, np.nan)):
        expected = windows_reduced(padded(ones, fill), window, strides, ones, np.nanmean)
        pool = functools.partial(avg_pool, window=window, strides=strides, padding=padding, count_include_pad=include)
        close(jax.jit(pool)(x), expected)


def test_padding_never_wins():
    pool = jax.jit(functools.partial(max_pool, window=3, strides=1, padding=1))
    assert (pool(-jnp.ones((1, 3, 3, 1))) == -1).all()
    assert (pool(np.full((1, 3, 3, 1), -7, np.int32)) == -7).all()


def test_the_first_maximum_gets_the_gradient():
    """As in PyTorch: first in row-major order, also where the window is worked through one axis at a time."""
    image = jnp.array([[0.0, 5], [5, 5]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool(x, 2).sum())(image)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


@pytest.mark.parametrize("place", range(4))
def test_nan_is_not_pooled_away(place):
    assert jnp.isnan(max_pool(jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1), 2)).all()


# ------------------------------------------------------------------------------------------------------------- refusals

SQUARE, KERNEL = np.ones((1, 4, 4, 4), np.float32), np.ones((3, 3, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: conv(SQUARE, KERNEL, padding=4, padding_mode="reflect"), "reflect .* 4 is .*at most 3"),
        (lambda: conv(SQUARE, KERNEL, padding=5, padding_mode="symmetric"), "symmetric .* 5 is .*at most 4"),
        (lambda: conv(SQUARE, KERNEL, padding=5, padding_mode="circular"), "circular .* 5 is .*at most 4"),
        (lambda: conv(SQUARE, KERNEL, padding_mode="mirror"), "padding_mode 'mirror': must be one of zeros, reflect"),
        (lambda: conv(SQUARE, KERNEL, padding="some"), "padding 'some': must be one of valid, same"),
        (lambda: conv(SQUARE, KERNEL, padding="causal"), "'causal' is for one spatial axis"),
        (lambda: conv(SQUARE, KERNEL, padding=-1), "must not be negative"),
        (lambda: conv(SQUARE, KERNEL, padding=((1, 1),)), "1 pairs for 2 spatial axes"),
        (lambda: conv(SQUARE, KERNEL, dilation=2), "kernel of 3 with dilation 2 spans 5 positions"),
        (lambda: conv(SQUARE, KERNEL, strides=0), "strides is 0"),
        (lambda: conv(SQUARE, KERNEL, strides=(1, 1, 1)), "3 values for 2 spatial axes"),
        (lambda: conv(SQUARE, KERNEL, groups=3), "groups=3 must divide"),
        (lambda: conv(SQUARE, KERNEL, groups=2), "takes 8 channels, but x has 4"),
        (lambda: conv(SQUARE, KERNEL, np.ones(3)), r"bias has shape \(3,\)"),
        (lambda: conv(SQUARE, KERNEL[0]), "kernel has shape"),
        (lambda: conv(SQUARE[0, 0], KERNEL[0, 0]), "1, 2 or 3 spatial axes"),
        (lambda: conv_transpose(SQUARE, KERNEL, strides=2, output_padding=2), "output_padding is 2"),
        (lambda: conv_transpose(SQUARE, KERNEL, padding="same", output_padding=1), "output_padding is 1"),
        (lambda: conv_transpose(SQUARE, KERNEL, padding=3), "leaves no output"),
        (lambda: max_pool(SQUARE, 5), "window of 5"),
        (lambda: max_pool(SQUARE, 2, strides=1, padding=2), "only padding"),
        (lambda: avg_pool(SQUARE, 2, padding=2), "only padding"),
        (lambda: max_pool(SQUARE, 2, dilation=5, padding=3), "only padding"),
        (lambda: pad(SQUARE, ((1, 1),)), "1 pairs for 2 spatial axes"),
        (lambda: pad(SQUARE, ((1, 1), (0, -1))), "must be an integer of at least 0"),
        (lambda: pad(SQUARE, ((1, 1), (1, 1)), "reflect", value=1), "value=1 requires mode 'zeros'"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- modules


def test_tables_are_the_vocabulary():
    assert tuple(ACTIVATIONS) == specs.ACTIVATIONS


def test_activations_at_one_and_minus_one():
    """From their definitions; sigma(1) = 0.731059."""
    answers = {
        "linear": (1, -1), "relu": (1, 0), "leaky_relu": (1, -0.01), "relu6": (1, 0), "elu": (1, math.expm1(-1)),
        "selu": (1.0507010, 1.0507010 * 1.6732632 * math.expm1(-1)),
        "gelu": (0.5 * (1 + math.erf(1 / math.sqrt(2))), -0.5 * (1 - math.erf(1 / math.sqrt(2)))),
        "silu": (0.731059, -0.268941), "softplus": (1.313262, 0.313262), "sigmoid": (0.731059, 0.268941),
        "tanh": (math.tanh(1), -math.tanh(1)), "scaled_tanh": (1.7159 * math.tanh(2 / 3), -1.7159 * math.tanh(2 / 3)),
    }  # fmt: skip
    for name, function in ACTIVATIONS.items():
        np.testing.assert_allclose(function(jnp.array([1.0, -1.0])), answers[name], atol=1e-6, err_msg=name)


MODULES = [
    name for name, kind in inspect.getmembers(modules, inspect.isclass)
    if issubclass(kind, nn.Module) and not name.startswith("_") and hasattr(specs, name)  # PooledConv is two of them
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_module_takes_what_its_spec_says(name):
    """Same arguments, same defaults; `inner` is an argument of the layer before."""
    others = ("name", "parent", "dtype", "precision", "inner")

    def fields(kind):
        return {f.name: f.default for f in dataclasses.fields(kind) if f.name not in others}

    assert fields(getattr(modules, name)) == fields(getattr(specs, name))


def filled(module, x):
    """(parameters drawn by NumPy, output, number of parameters): no random numbers to compile."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))["params"]
    params = {name: normal(*leaf.shape).astype(leaf.dtype) for name, leaf in shapes.items()}
    return params, jax.jit(module.apply)({"params": params}, x), sum(p.size for p in params.values())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_modules_compute_their_functions(rank):
    x = jnp.asarray(normal(2, *(5,) * rank, 4))
    arguments = {"strides": 2, "padding": "same", "padding_mode": "circular"}
    p, y, _ = filled(modules.Conv(6, 3, groups=2, activation="relu", **arguments), x)
    direct = conv(x, p["kernel"], p["bias"], groups=2, strides=2, padding="same", padding_mode="circular")
    close(y, jax.nn.relu(direct))

    p, y, count = filled(modules.DepthwiseConv(3, 2, **arguments), x)
    assert count == 3**rank * 8 + 8
    for channel in range(4):
        own = slice(2 * channel, 2 * channel + 2)
        alone = conv(
            x[..., channel : channel + 1],
            p["kernel"][..., own],
            p["bias"][own],
            strides=2,
            padding="same",
            padding_mode="circular",
        )
        close(y[..., own], alone)

    p, y, count = filled(modules.SeparableConv(5, 3, multiplier=2, **arguments), x)
    assert count == 3**rank * 8 + 8 * 5 + 5
    inner = conv(x, p["depthwise_kernel"], groups=4, strides=2, padding="same", padding_mode="circular")
    close(y, np.asarray(inner) @ np.asarray(p["pointwise_kernel"]).reshape(8, 5) + np.asarray(p["bias"]))

    p, y, _ = filled(modules.ConvTranspose(6, 3, strides=2, padding=1, output_padding=1, groups=2, use_bias=False), x)
    close(y, conv_transpose(x, p["kernel"], strides=2, padding=1, output_padding=1, groups=2))

    np.testing.assert_array_equal(modules.MaxPool(2, 1, "same").apply({}, x), max_pool(x, 2, strides=1, padding="same"))
    np.testing.assert_array_equal(
        modules.AvgPool(2, 1, 1, True).apply({}, x), avg_pool(x, 2, strides=1, padding=1, count_include_pad=True)
    )
    flat = np.asarray(x).reshape(2, -1, 4)
    close(modules.GlobalMaxPool().apply({}, x), flat.max(1))
    close(modules.GlobalAvgPool().apply({}, x), flat.mean(1))

    p, y, count = filled(modules.Subsample(2), x)
    assert count == 8
    close(y, np.asarray(avg_pool(x, 2)) * 2**rank * np.asarray(p["scale"]) + np.asarray(p["bias"]))
    close(modules.Subsample(2).init_with_output(jax.random.key(0), x)[0], avg_pool(x, 2))

    y = modules.PadChannels(6, 2).apply({}, x)
    assert y.shape == (2, *(3,) * rank, 6)
    np.testing.assert_array_equal(y[..., :4], x[(slice(None), *(slice(None, None, 2),) * rank)])
    assert not y[..., 4:].any()


def test_dense_and_rbf():
    x = jnp.asarray(normal(3, 4))
    p, y, _ = filled(modules.Dense(2, activation="tanh"), x)
    close(y, np.tanh(np.asarray(x) @ p["kernel"] + p["bias"]))
    codes = ((1, -1, 1, 1), (-1, -1, -1, 1))
    expected = [[-0.5 * sum((a - b) ** 2 for a, b in zip(row, code, strict=True)) for code in codes] for row in np.asarray(x)]
    close(modules.RBF(codes).apply({}, x), expected)


def test_connections_are_the_only_parameters():
    """A sparse layer equals the dense one with zeros at the missing connections, and counts without them."""
    connections = ((0, 2), (1,), (0, 1, 2))
    x = jnp.asarray(normal(2, 5, 5, 3))
    module = modules.Conv(3, 3, connections=connections)
    p, y, count = filled(module, x)
    assert count == 9 * 6 + 3
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[..., [0, 2, 1, 0, 1, 2], [0, 0, 1, 2, 2, 2]] = p["kernel"]
    close(y, conv(x, kernel, p["bias"]))
    gradient = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x) ** 2))(p)["kernel"]
    dense = jax.grad(lambda k: jnp.sum(conv(x, k, p["bias"]) ** 2))(jnp.asarray(kernel))
    close(gradient, dense[..., [0, 2, 1, 0, 1, 2], [0, 0, 1, 2, 2, 2]])


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (modules.Conv(4, 9), "kernel of 9"),
        (modules.Conv(4, 3, padding=4, padding_mode="reflect"), "reflect"),
        (modules.Conv(6, 3, groups=4), "groups=4 must divide"),
        (modules.Conv(0), "filters is 0"),
        (modules.Conv(4, activation="swish"), "unknown activation 'swish': must be one of linear, relu"),
        (modules.Conv(4, kernel_init="xavier"), "unknown initializer 'xavier': must be one of zeros, ones"),
        (modules.Conv(2, connections=((0,), (4,))), "connections must list"),
        (modules.Conv(2, connections=((0,), (1, 1))), "connections must list"),
        (modules.Conv(2, connections=((0,), ())), "connections must list"),
        (modules.Conv(2, connections=((0,),)), "connections must list"),
        (modules.Conv(2, groups=2, connections=((0,), (1,))), "groups must be 1"),
        (modules.ConvTranspose(3, groups=2), "groups=2 must divide"),
        (modules.MaxPool(5), "window of 5"),
        (modules.PadChannels(3), "filters=3"),
        (modules.RBF(((1, 1),)), "codes have length"),
    ],
)
def test_modules_name_themselves_when_they_refuse(module, sentence):
    with pytest.raises(UsageError, match=f"^layer 'body': .*{sentence}"):
        jax.eval_shape(lambda: module.clone(name="body").init(jax.random.key(0), SQUARE))


@pytest.mark.parametrize(("dtype", "kept"), [(None, "float32"), (jnp.bfloat16, "float32"), (jnp.float64, "float64")])
def test_dtype_is_of_the_computation(dtype, kept):
    with x64(True):
        p, y, _ = filled(modules.Conv(4, dtype=dtype), jnp.asarray(SQUARE))
        assert y.dtype == (dtype or jnp.float32)
        assert p["kernel"].dtype == kept


def test_precision_reaches_the_products_and_their_gradients():
    module = modules.Conv(4, precision="highest")
    variables = {"params": {"kernel": KERNEL, "bias": KERNEL[0, 0, 0]}}
    with at_most("xla"):  # C multiplies in float32 whatever is asked
        program = str(jax.make_jaxpr(jax.grad(lambda v: module.apply(v, SQUARE).sum()))(variables))
    products = program.count("conv_general_dilated[") + program.count("dot_general[")
    assert products >= 1
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_initializers_and_activations_may_be_functions():
    module = modules.Conv(
        4, kernel_init=lambda key, shape, dtype: jnp.full(shape, 3, dtype), bias_init="ones", activation=jnp.negative
    )
    y, variables = module.init_with_output(jax.random.key(0), SQUARE)
    assert (variables["params"]["kernel"] == 3).all()
    assert (y == -(3 * 3 * 4 * 3 + 1)).all()


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 6, 3), (3, 4, 2, 5, 2)])
def test_batch_norm_is_that_of_flax(shape):
    rng = np.random.default_rng(0)
    x, pulled = rng.normal(3, 2, shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    ours, theirs = modules.BatchNorm(), nn.BatchNorm(momentum=0.9, epsilon=1e-5)
    params = {
        "scale": rng.normal(1, 0.3, shape[-1:]).astype(np.float32),
        "bias": rng.normal(size=shape[-1:]).astype(np.float32),
    }
    stats = {"mean": np.full(shape[-1:], 2, np.float32), "var": np.full(shape[-1:], 3, np.float32)}
    shapes = jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x, use_running_average=False))
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x, True)) == shapes

    def both(run):
        def loss(params, x):
            y, changed = run(params, x)
            return (y * pulled).sum() + sum((value**2).sum() for value in jax.tree.leaves(changed)), (y, changed)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    def variables(params):
        return {"params": params, "batch_stats": stats}

    found = both(lambda p, x: ours.apply(variables(p), x, True, mutable=["batch_stats"]))
    expected = both(lambda p, x: theirs.apply(variables(p), x, use_running_average=False, mutable=["batch_stats"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), found, expected)
    still = theirs.apply(variables(params), x, use_running_average=True)
    np.testing.assert_allclose(ours.apply(variables(params), x, False), still, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- E2, E9: numerics


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_e2_gradients_of_half_precision_are_summed_in_float32(dtype):
    x = jnp.ones((2, 64, 64, 1), dtype)
    module = modules.Subsample(2, dtype=dtype)
    params = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    gradients = jax.jit(jax.grad(lambda p: module.apply({"params": p}, x).astype(jnp.float32).sum()))(params)
    assert gradients["scale"] == 4 * 2048
    assert gradients["bias"] == 2048
    by_bias = jax.grad(lambda b: conv_transpose(x, jnp.ones((1, 1, 1, 1), dtype), b).astype(jnp.float32).sum())
    assert jax.jit(by_bias)(jnp.zeros(1, dtype)) == 8192
    peak = jnp.zeros((1, 65, 65, 1), dtype).at[0, 32, 32].set(1)
    wins = jax.jit(jax.grad(lambda x: max_pool(x, 33, strides=1, padding=16).astype(jnp.float32).sum()))(peak)
    assert wins.max() == jnp.asarray(33 * 33, dtype)


@pytest.mark.parametrize("padding", [1, "same", "same_lower"])
def test_e9_padding_never_wins_over_minus_infinity(padding):
    """The gradient of each window goes to its first pixel, though padding has the same value."""
    x = jnp.full((1, 4, 4, 1), -jnp.inf)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 3, strides=1, padding=padding).sum()))(x)
    assert gradient.sum() == 16
    np.testing.assert_array_equal(gradient[0, :, :, 0], np.outer([2, 1, 1, 0], [2, 1, 1, 0]))


@pytest.mark.parametrize("mean", [0, 5, 300])
def test_e9_batch_norm_of_a_mean_far_from_zero(mean):
    x = np.random.default_rng(0).normal(mean, 0.1, (64, 16, 16, 3)).astype(np.float32)
    wide = x.astype(np.float64)
    moments = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    module = modules.BatchNorm(momentum=0.0)
    variables = {
        "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
        "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
    }
    _, moved = jax.jit(lambda x: module.apply(variables, x, train=True, mutable=["batch_stats"]))(x)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], moments[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], moments[1], rtol=4e-6 if mean < 300 else 1e-4)
