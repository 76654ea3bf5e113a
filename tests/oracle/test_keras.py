"""Agreement with Keras 3 on PyTorch: 'same' and 'causal' with strides, transposed and separable layers; outputs and gradients.

Kernels have Keras's shapes; where ours differ the test transposes. Both compute in float32, and their sums of at most a few
hundred terms run in different orders: 1e-5 of the largest magnitude.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnn_jax import avg_pool, conv, conv_transpose, max_pool
from cnn_jax.nn import modules
from cnn_jax.nn.padding import resolve_pads

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")

pytestmark = pytest.mark.oracle
many = settings(max_examples=40, deadline=None, derandomize=True)


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max(initial=0)))


def both_ways(ours, theirs, *arguments):
    """Compares outputs, and the gradients with respect to every argument of one random functional of them."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arguments]
    y = theirs(*tensors)
    weights = normal(*y.shape)
    torch.sum(y * torch.tensor(weights)).backward()
    mine, pullback = jax.vjp(jax.jit(ours), *map(jnp.asarray, arguments))
    close(mine, y.detach().numpy())
    for gradient, tensor in zip(pullback(jnp.asarray(weights)), tensors, strict=True):
        close(gradient, tensor.grad.numpy())


@st.composite
def sliding(draw):
    """(spatial, kernel, strides, dilation); Keras takes strides or dilation, not both."""
    rank = draw(st.integers(1, 3))
    per_axis = st.tuples(*(st.integers(1, 3),) * rank)
    sizes, ones = draw(per_axis), (1,) * rank
    strides, dilation = draw(st.one_of(st.tuples(per_axis, st.just(ones)), st.tuples(st.just(ones), per_axis)))
    spatial = [(k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(sizes, dilation, strict=True)]
    return spatial, sizes, strides, dilation


@many
@given(sliding(), st.sampled_from(["valid", "same", "causal"]), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2))
def test_conv(case, padding, groups, channels, filters):
    spatial, sizes, strides, dilation = case
    if padding == "causal" and len(spatial) > 1:
        padding = "same"
    x, kernel, bias = (
        normal(2, *spatial, groups * channels),
        normal(*sizes, channels, groups * filters),
        normal(groups * filters),
    )
    kind = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)[len(spatial) - 1]
    layer = kind(groups * filters, sizes, strides=strides, dilation_rate=dilation, groups=groups, padding=padding)
    layer.build(x.shape)
    arguments = {"strides": strides, "dilation": dilation, "groups": groups, "padding": padding}
    both_ways(
        functools.partial(conv, **arguments),
        lambda x, kernel, bias: layer.stateless_call([kernel, bias], [], x)[0],
        *(x, kernel, bias),
    )


@many
@given(sliding(), st.sampled_from(["valid", "same"]), st.integers(1, 3), st.integers(1, 3))
def test_conv_transpose(case, padding, channels, filters):
    spatial, sizes, strides, dilation = case
    # Keras lengthens 'valid' to n * s where the kernel is shorter than the stride; PyTorch and we do not.
    if padding == "valid":
        strides = tuple(min(s, k) for s, k in zip(strides, sizes, strict=True))
    x, kernel, bias = normal(2, *spatial, channels), normal(*sizes, filters, channels), normal(filters)
    kind = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)[len(spatial) - 1]
    layer = kind(filters, sizes, strides=strides, dilation_rate=dilation, padding=padding)
    layer.build(x.shape)
    both_ways(
        functools.partial(conv_transpose, strides=strides, dilation=dilation, padding=padding),
        lambda x, kernel, bias: layer.stateless_call([kernel, bias], [], x)[0],
        *(x, kernel, bias),
    )


@many
@given(sliding(), st.sampled_from(["valid", "same"]), st.integers(1, 3), st.integers(1, 2))
def test_depthwise_and_separable(case, padding, channels, multiplier):
    """Keras's depthwise kernel is (*K, C, multiplier), ours (*K, 1, C * multiplier)."""
    spatial, sizes, strides, dilation = case
    if len(spatial) == 3:
        spatial, sizes, strides, dilation = (v[:2] for v in case)
    strides = (max(strides),) * len(strides)  # Keras wants them equal here
    x, depthwise, bias = normal(2, *spatial, channels), normal(*sizes, channels, multiplier), normal(channels * multiplier)
    arguments = {"strides": strides, "padding": padding}
    rank = len(spatial)
    layer = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)[rank - 1](
        sizes, depth_multiplier=multiplier, dilation_rate=dilation, **arguments
    )
    layer.build(x.shape)
    module = modules.DepthwiseConv(sizes, multiplier, dilation=dilation, **arguments)
    own = (*sizes, 1, channels * multiplier)
    both_ways(
        lambda x, kernel, bias: module.apply({"params": {"kernel": kernel.reshape(own), "bias": bias}}, x),
        lambda x, kernel, bias: layer.stateless_call([kernel, bias], [], x)[0],
        *(x, depthwise, bias),
    )
    pointwise, bias = normal(*(1,) * rank, channels * multiplier, 3), normal(3)
    pair = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)[rank - 1](
        3, sizes, depth_multiplier=multiplier, dilation_rate=dilation, **arguments
    )
    pair.build(x.shape)
    separable = modules.SeparableConv(3, sizes, multiplier=multiplier, dilation=dilation, **arguments)

    def ours(x, depthwise, pointwise, bias):
        params = {"depthwise_kernel": depthwise.reshape(own), "pointwise_kernel": pointwise, "bias": bias}
        return separable.apply({"params": params}, x)

    both_ways(ours, lambda x, *weights: pair.stateless_call(list(weights), [], x)[0], *(x, depthwise, pointwise, bias))


@many
@given(sliding(), st.sampled_from(["valid", "same"]), st.sampled_from(["Max", "Average"]))
def test_pools(case, padding, name):
    spatial, window, strides, _ = case
    if name == "Average" and padding == "same":
        # On PyTorch, Keras 3.15 replicates the border where the padding is uneven, and averages the copies in; on TensorFlow
        # it leaves padding out, as it does here where it is even.
        assume(all(low == high for low, high in resolve_pads(spatial, window, strides, 1, padding)))
    kind = getattr(keras.layers, f"{name}Pooling{len(spatial)}D")
    layer = kind(window, strides=strides, padding=padding)
    pool = {"Max": max_pool, "Average": avg_pool}[name]
    both_ways(functools.partial(pool, window=window, strides=strides, padding=padding), layer, normal(2, *spatial, 3))
