"""Agreement with PyTorch on CPU: outputs and gradients, over shapes and arguments that hypothesis draws.

Both sides compute in float64, on which two right answers differ by the order of their sums alone: 1e-12 of the largest
magnitude. PyTorch has no 'same' with strides, so amounts are passed to it as explicit padding, which its `F.pad` fills.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double import x64
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import avg_pool, conv, conv_transpose, max_pool, pad
from cnn_jax.nn.padding import resolve_pads

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.oracle
many = settings(max_examples=40, deadline=None, derandomize=True)

TORCH_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def per_axis(rank, low, high):
    return st.tuples(*(st.integers(low, high),) * rank)


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape)


def channels_first(x):
    return np.moveaxis(x, -1, 1)


def both_ways(ours, theirs, *arguments):
    """Compares outputs, and the gradients with respect to every argument of one random functional of them.

    `theirs` gets tensors of the arguments as they are and returns a tensor channels first.
    """
    tensors = [torch.tensor(a, requires_grad=True) for a in arguments]
    y = theirs(*tensors)
    weights = normal(*y.shape)
    torch.sum(y * torch.tensor(weights)).backward()
    with x64(True):
        mine, pullback = jax.vjp(jax.jit(ours), *map(jnp.asarray, arguments))
        close(channels_first(mine), y.detach().numpy())
        for gradient, tensor in zip(pullback(jnp.moveaxis(jnp.asarray(weights), 1, -1)), tensors, strict=True):
            close(gradient, tensor.grad.numpy())


def close(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max(initial=0)))


def first(x):
    """Channels to the front, in PyTorch."""
    return torch.movedim(x, -1, 1)


def torch_pad(x, pads, mode):
    """x channels first; F.pad wants the last axis first."""
    return F.pad(x, [amount for pair in reversed(pads) for amount in pair], mode=TORCH_MODES[mode])


@st.composite
def sliding(draw):
    """(spatial, kernel, strides, dilation, padding): a kernel that fits an image that every mode can pad."""
    rank = draw(st.integers(1, 3))
    sizes, strides, dilation = draw(per_axis(rank, 1, 4 - (rank > 2))), draw(per_axis(rank, 1, 3)), draw(per_axis(rank, 1, 2))
    spatial = [(k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(sizes, dilation, strict=True)]
    pairs = st.tuples(*(st.tuples(*(st.integers(0, n - 1),) * 2) for n in spatial))
    amounts = st.sampled_from(["valid", "same", "same_lower", "full", *(["causal"] if rank == 1 else [])])
    return spatial, sizes, strides, dilation, draw(st.one_of(amounts, pairs))


@many
@given(sliding(), st.sampled_from(sorted(TORCH_MODES)), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_conv(case, mode, groups, channels, filters, use_bias):
    spatial, sizes, strides, dilation, padding = case
    pads = resolve_pads(spatial, sizes, strides, dilation, padding)
    x, kernel = normal(2, *spatial, groups * channels), normal(*sizes, channels, groups * filters)
    bias = [normal(groups * filters)] * use_bias
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(spatial) - 1]

    def theirs(x, kernel, *bias):
        kernel = torch.movedim(kernel, (-1, -2), (0, 1))
        return convolve(torch_pad(first(x), pads, mode), kernel, *bias, stride=strides, dilation=dilation, groups=groups)

    arguments = {"strides": strides, "padding": padding, "padding_mode": mode, "dilation": dilation, "groups": groups}
    both_ways(functools.partial(conv, **arguments), theirs, x, kernel, *bias)


@many
@given(sliding(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.data())
def test_conv_transpose(case, groups, channels, filters, use_bias, data):
    spatial, sizes, strides, dilation, _ = case
    rank = len(spatial)
    whole = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(spatial, sizes, strides, dilation, strict=True)]
    padding = [data.draw(st.integers(0, (n - 1) // 2)) for n in whole]
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilation, strict=True))
    x, kernel = normal(2, *spatial, groups * channels), normal(*sizes, filters, groups * channels)
    bias = [normal(groups * filters)] * use_bias
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]

    def theirs(x, kernel, *bias):
        kernel = torch.movedim(kernel, (-1, -2), (0, 1)).contiguous()  # or its gradient fails: "grad_weight needs to be"
        return convolve(
            first(x), kernel, *bias, stride=strides, padding=padding, output_padding=extra, dilation=dilation, groups=groups
        )

    arguments = {"strides": strides, "output_padding": extra, "dilation": dilation, "groups": groups}
    pairs = tuple((p, p) for p in padding)
    both_ways(functools.partial(conv_transpose, padding=pairs, **arguments), theirs, x, kernel, *bias)


@many
@given(sliding(), st.data())
def test_max_pool(case, data):
    """Ties included: a third of the values are equal, and PyTorch gives the gradient to the first."""
    spatial, window, strides, dilation, _ = case
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in window)
    x = np.round(normal(2, *spatial, 3))
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(spatial) - 1]
    both_ways(
        functools.partial(max_pool, window=window, strides=strides, padding=tuple((p, p) for p in padding), dilation=dilation),
        lambda x: pool(first(x), window, strides, padding, dilation),
        x,
    )


@many
@given(sliding(), st.booleans(), st.data())
def test_avg_pool(case, include, data):
    spatial, window, strides, _, _ = case
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in window)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(spatial) - 1]
    pairs = tuple((p, p) for p in padding)
    both_ways(
        functools.partial(avg_pool, window=window, strides=strides, padding=pairs, count_include_pad=include),
        lambda x: pool(first(x), window, strides, padding, count_include_pad=include),
        normal(2, *spatial, 3),
    )


@many
@given(sliding(), st.sampled_from(sorted(TORCH_MODES)), st.data())
def test_pad(case, mode, data):
    spatial = case[0]
    # PyTorch's circular reaches n, its reflect n - 1, as ours.
    widest = [n - (mode == "reflect") for n in spatial]
    pads = [(data.draw(st.integers(0, w)), data.draw(st.integers(0, w))) for w in widest]
    both_ways(lambda x: pad(x, pads, mode), lambda x: torch_pad(first(x), pads, mode), normal(1, *spatial, 2))
