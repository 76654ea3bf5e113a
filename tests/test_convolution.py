"""Every implementation against lax: values and gradients of every rank, stride and dilation; under jit, vmap and scan."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax.ops import native
from cnn_jax.ops.conv import at_most, conv_max_pool, conv_valid, dense, implementation

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["native", "xla"], autouse=True)
def by(request):
    """Each test runs by both implementations of CPU; a machine without a C compiler has but one."""
    if request.param == "native" and native.library().path is None:
        reason = native.library().reason
        assert "failed" not in reason, reason  # a compiler that is there must take our C
        pytest.skip(reason)
    with at_most(request.param):
        yield request.param


@pytest.fixture
def only_native(by):
    if by != "native":
        pytest.skip("of the native implementation")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(x, kernel, *, strides, dilation, groups):
    spatial = "DHW"[5 - x.ndim :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, kernel, strides, "VALID", rhs_dilation=dilation, dimension_numbers=numbers, feature_group_count=groups
    )


def agree(ours, theirs, *arguments):
    """Values, and gradients for some gradient of the values; compiled, which is quicker than op by op."""

    def both_ways(function):
        def run(*arguments):
            y, pull_back = jax.vjp(function, *arguments)
            return y, pull_back(jnp.asarray(draw(*y.shape, seed=9)))

        return jax.jit(run)(*arguments)

    (y, gradients), (expected, expected_gradients) = both_ways(ours), both_ways(theirs)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


CASES = {
    "1d": ((3, 17, 2), (3, 2, 4), (1,), (1,), 1),
    "2d": ((4, 9, 8, 3), (3, 2, 3, 5), (1, 1), (1, 1), 1),
    "3d": ((2, 5, 6, 4, 2), (2, 3, 2, 2, 3), (1, 2, 1), (1, 1, 1), 1),
    "stride that leaves a rest": ((5, 10, 11, 2), (3, 3, 2, 4), (2, 3), (1, 1), 1),
    "dilation": ((4, 11, 12, 2), (3, 2, 2, 4), (1, 1), (2, 3), 1),
    "stride and dilation": ((32, 12, 13, 2), (3, 3, 2, 4), (3, 2), (2, 1), 1),
    "1x1 with stride": ((4, 6, 7, 3), (1, 1, 3, 5), (2, 2), (1, 1), 1),
    "groups": ((3, 7, 7, 4), (3, 3, 2, 6), (1, 1), (1, 1), 2),
    "prime batch": ((37, 5, 5, 1), (2, 2, 1, 3), (1, 1), (1, 1), 1),
    "kernel as large as the image": ((3, 5, 4, 2), (5, 4, 2, 7), (1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_lax(case):
    x_shape, kernel_shape, strides, dilation, groups = CASES[case]
    x, kernel = draw(*x_shape), draw(*kernel_shape, seed=1)
    how = {"strides": strides, "dilation": dilation, "groups": groups}
    agree(lambda x, k: conv_valid(x, k, **how), lambda x, k: reference(x, k, **how), x, kernel)


@pytest.mark.parametrize(
    ("zeros", "strides", "dilation"),
    [(((1, 1), (1, 1)), (1, 1), (1, 1)), (((0, 3), (2, 1)), (2, 3), (1, 1)), (((2, 2), (4, 0)), (1, 2), (2, 1))],
)
def test_zeros_around_are_those_put_there_before(zeros, strides, dilation):
    x, kernel, how = draw(4, 6, 7, 2), draw(3, 3, 2, 4, seed=1), {"strides": strides, "dilation": dilation, "groups": 1}
    padded = lambda x, k: reference(jnp.pad(x, ((0, 0), *zeros, (0, 0))), k, **how)  # noqa: E731
    agree(lambda x, k: conv_valid(x, k, zeros=zeros, **how), padded, x, kernel)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_bias_and_relu_on_the_way(strides):
    """The gradient is not zero where relu lets nothing through: only relu's own choice keeps it out."""
    x, kernel, bias = draw(4, 9, 8, 3), draw(3, 2, 3, 20, seed=1), draw(20, seed=2)
    how = {"strides": strides, "dilation": (1, 1), "groups": 1}
    theirs = lambda x, k, b: jax.nn.relu(reference(x, k, **how) + jnp.reshape(b, (1, 1, 1, -1)))  # noqa: E731
    agree(lambda *a: conv_valid(*a, **how, relu=True), theirs, x, kernel, bias)


def test_under_jit_vmap_and_scan_it_is_the_same():
    x, kernels = draw(4, 7, 7, 2), draw(3, 3, 3, 2, 4, seed=1)

    def loss(kernel):
        return (conv_valid(x, kernel, strides=(1, 1), dilation=(1, 1), groups=1) ** 2).sum()

    alone = jnp.stack([jax.jit(jax.grad(loss))(kernel) for kernel in kernels])
    together = jax.jit(jax.vmap(jax.grad(loss)))(kernels)
    _, one_after_another = jax.jit(lambda kernels: lax.scan(lambda _, k: (None, jax.grad(loss)(k)), None, kernels))(kernels)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(one_after_another, alone, rtol=1e-4, atol=1e-3)


def test_gradient_of_a_gradient_is_that_of_lax():
    """layers.conv_transpose is a gradient of conv_valid, and is trained."""
    x, kernel, upstream = draw(4, 6, 6, 2), draw(3, 3, 2, 3, seed=1), draw(4, 2, 2, 3, seed=2)
    how = {"strides": (2, 2), "dilation": (1, 1), "groups": 1}

    def spread(conv):
        return lambda kernel: (jax.vjp(lambda x: conv(x, kernel, **how), x)[1](upstream)[0] ** 2).sum()

    np.testing.assert_allclose(jax.grad(spread(conv_valid))(kernel), jax.grad(spread(reference))(kernel), rtol=1e-4, atol=1e-4)


def test_what_is_not_asked_for_is_not_computed():
    """The first layer has no use for the gradient of the images; it would cost as much as the layer."""
    x, kernel = draw(16, 8, 8, 3), draw(3, 3, 3, 4, seed=1)

    def convolutions(argnums):
        loss = lambda x, k: (conv_valid(x, k, strides=(1, 1), dilation=(1, 1), groups=1) ** 2).sum()  # noqa: E731
        text = jax.jit(jax.grad(loss, argnums)).lower(x, kernel).compile().as_text()
        return text.count("window={size=") + text.count('custom_call_target="cnn_jax')

    assert convolutions(1) < convolutions((0, 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_types_keep_their_type(dtype):
    x, kernel = draw(2, 5, 5, 2).astype(dtype), draw(3, 3, 2, 3).astype(dtype)
    y, gradients = jax.vjp(lambda x, k: conv_valid(x, k, strides=(1, 1), dilation=(1, 1), groups=1), x, kernel)
    assert y.dtype == dtype
    assert all(gradient.dtype == dtype for gradient in gradients(y))


def one_by_one(x, kernel, bias, window, activation, strides=(1, 1), zeros=((0, 0), (0, 0))):
    padded = jnp.pad(x, ((0, 0), *zeros, (0, 0)))
    y = activation(reference(padded, kernel, strides=strides, dilation=(1, 1), groups=1) + jnp.reshape(bias, (1, 1, 1, -1)))
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), "VALID")


def at_once(x, kernel, bias, *, window, activation=jax.nn.relu, strides=(1, 1), zeros=((0, 0), (0, 0))):
    how = {"strides": strides, "dilation": (1, 1), "groups": 1, "zeros": zeros}
    return conv_max_pool(x, kernel, bias, **how, window=window, activation=activation)


POOLED = {
    "the chapter's": ((16, 12, 12, 1), (3, 3, 1, 8), (2, 2), jax.nn.relu),
    "a rest that no window covers": ((5, 9, 12, 1), (3, 2, 1, 3), (2, 2), jax.nn.relu),
    "three channels": ((4, 8, 8, 3), (3, 3, 3, 4), (2, 2), jax.nn.relu),
    "another activation": ((4, 8, 8, 1), (3, 3, 1, 4), (2, 2), jnp.tanh),
    "one image": ((1, 6, 6, 1), (3, 3, 1, 2), (2, 2), jax.nn.relu),
}
POOLED_BY_XLA = {
    "uneven window": ((4, 10, 9, 1), (2, 3, 1, 4), (3, 2), jax.nn.relu),
    "window of one": ((4, 6, 6, 1), (3, 3, 1, 4), (1, 1), jax.nn.relu),
}


@pytest.mark.parametrize("case", POOLED)
def test_convolution_and_pool_at_once_are_those_one_by_one(case):
    x_shape, kernel_shape, window, activation = POOLED[case]
    x, kernel, bias = draw(*x_shape), draw(*kernel_shape, seed=1), draw(kernel_shape[-1], seed=2)
    ours = functools.partial(at_once, window=window, activation=activation)
    agree(ours, lambda *a: one_by_one(*a, window, activation), x, kernel, bias)


@pytest.mark.parametrize("case", POOLED_BY_XLA)
def test_other_windows_are_pooled_at_once_by_xla_alone(case, by):
    x_shape, kernel_shape, window, activation = POOLED_BY_XLA[case]
    x, kernel, bias = draw(*x_shape), draw(*kernel_shape, seed=1), draw(kernel_shape[-1], seed=2)
    ours = functools.partial(at_once, window=window, activation=activation)
    if by == "native":
        assert ours(x, kernel, bias) is None
    else:
        agree(ours, lambda *a: one_by_one(*a, window, activation), x, kernel, bias)


def test_of_equal_values_the_first_gets_the_gradient():
    x, kernel, bias = np.ones((2, 4, 4, 1), np.float32), draw(1, 1, 1, 3) ** 2, np.zeros(3, np.float32)
    total = lambda *a: at_once(*a, window=(2, 2)).sum()  # noqa: E731
    x_gradient, kernel_gradient, bias_gradient = jax.jit(jax.grad(total, (0, 1, 2)))(x, kernel, bias)
    first = np.zeros((4, 4), np.float32)
    first[::2, ::2] = kernel.sum()
    np.testing.assert_allclose(x_gradient[0, :, :, 0], first, rtol=1e-6)
    np.testing.assert_allclose(kernel_gradient[0, 0, 0], 8)  # 4 windows in each of 2 images: nobody is counted twice
    np.testing.assert_allclose(bias_gradient, 8)


def test_where_relu_let_nothing_through_nothing_comes_back():
    x, kernel, bias = draw(2, 6, 6, 1), draw(3, 3, 1, 2), np.full(2, -1e3, np.float32)
    total = lambda *a: at_once(*a, window=(2, 2)).sum()  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(x, kernel, bias)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


def test_a_diverged_network_is_not_hidden():
    x, kernel = draw(2, 6, 6, 1), np.full((3, 3, 1, 2), np.nan, np.float32)
    run = jax.jit(lambda *a: at_once(*a, window=(2, 2)))
    assert jnp.isnan(run(x, kernel, np.zeros(2, np.float32))).all()


def test_at_once_under_vmap_over_trials_and_in_a_loop():
    x, kernels, bias = draw(4, 8, 8, 1), draw(3, 3, 3, 1, 4, seed=1), np.zeros(4, np.float32)
    loss = lambda kernel: (at_once(x, kernel, bias, window=(2, 2)) ** 2).sum()  # noqa: E731
    alone = jnp.stack([jax.jit(jax.grad(loss))(kernel) for kernel in kernels])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(kernels), alone, rtol=1e-4, atol=1e-3)
    _, in_loop = jax.jit(lambda kernels: lax.scan(lambda _, k: (None, jax.grad(loss)(k)), None, kernels))(kernels)
    np.testing.assert_allclose(in_loop, alone, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "fitting"),
    [
        ({}, {"native", "xla"}),
        ({"strides": (2, 2)}, {"native"}),
        ({"kernel": jax.ShapeDtypeStruct((3, 3, 32, 64), jnp.float32), "x": (128, 28, 28, 32)}, {"native"}),
        ({"x": (128, 28, 224, 1)}, {"native"}),
        ({"dilation": (1, 2)}, set()),
        ({"window": (4, 4)}, set()),
        ({"window": (2, 1)}, {"xla"}),
        ({"window": (1, 27)}, set()),
        ({"x": (128, 3, 28, 1)}, set()),
        ({"kernel": jax.ShapeDtypeStruct((3, 3, 1, 32), jnp.bfloat16)}, set()),
    ],
)
def test_who_does_convolution_and_pool_at_once(change, fitting, by):
    case = {"x": (128, 28, 28, 1), "kernel": jax.ShapeDtypeStruct((3, 3, 1, 32), jnp.float32), "window": (2, 2)}
    case = {**case, "strides": (1, 1), "dilation": (1, 1), "groups": 1, "zeros": ((0, 0), (0, 0)), **change}
    x, kernel = jax.ShapeDtypeStruct(case.pop("x"), jnp.float32), case.pop("kernel")
    found = []

    def note(x, kernel):
        found.append(conv_max_pool(x, kernel, activation=jax.nn.relu, **case))
        return x

    jax.eval_shape(note, x, kernel)
    assert (found[0] is not None) is (by in fitting and jax.default_backend() == "cpu")


# --------------------------------------------------------------------------------------------------- the native implementation

# A failure is told as it was found: to make it smaller takes minutes, as lax compiles anew for every shape.
FOUND = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.mark.usefixtures("only_native")
@settings(max_examples=20, deadline=None, phases=FOUND)
@given(
    images=st.integers(1, 20),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([1, 2, 3, 5, 8, 16, 17]),
    filters=st.sampled_from([1, 3, 6, 8, 9, 16, 20, 32]),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    zeros=st.tuples(*[st.tuples(st.integers(0, 7), st.integers(0, 7))] * 2),
    biased=st.booleans(),
    relu=st.booleans(),
    pool=st.booleans(),
)
def test_any_shape_agrees_with_lax(images, size, kernel, channels, filters, strides, zeros, biased, relu, pool):
    agrees_with_lax(images, size, kernel, channels, filters, strides, zeros, biased, relu, pool)


@pytest.mark.usefixtures("only_native")
@settings(max_examples=15, deadline=None, phases=FOUND)
@given(
    images=st.integers(1, 20),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    channels=st.sampled_from([8, 9, 16, 17, 32, 96]),
    filters=st.sampled_from([9, 16, 20, 32, 96]),  # 96 x 96: so wide that a kernel gradient is cut into fewer tasks
    zeros=st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
    biased=st.booleans(),
    relu=st.booleans(),
    pool=st.booleans(),
)
def test_any_shape_fit_for_winograd_agrees_with_lax(images, size, channels, filters, zeros, biased, relu, pool):
    agrees_with_lax(images, size, (3, 3), channels, filters, (1, 1), zeros, biased, relu, pool)


def agrees_with_lax(images, size, kernel, channels, filters, strides, zeros, biased, relu, pool):
    sizes = [(n + sum(z) - k) // s + 1 for n, z, k, s in zip(size, zeros, kernel, strides, strict=True)]
    least = 2 if pool else 1
    if min(sizes) < least or any(n + sum(z) < k for n, z, k in zip(size, zeros, kernel, strict=True)):
        return
    # Small integers: every order of summation gives the same sums, so nothing but equality will do.
    rng = np.random.default_rng(images)
    shapes = [(images, *size, channels), (*kernel, channels, filters), (filters,)][: 3 if biased else 2]
    arrays = [rng.integers(-3, 4, shape).astype(np.float32) for shape in shapes]
    if kernel == (3, 3):
        arrays[1][arrays[1] == 0] = 4  # a kernel with zero taps is computed by the plain loops, not by Winograd's
    activation = jax.nn.relu if relu else (lambda y: y)
    how = {"strides": strides, "dilation": (1, 1), "groups": 1, "zeros": zeros}

    def ours(*arrays):
        if pool:
            return conv_max_pool(*arrays, **how, window=(2, 2), activation=activation)
        return conv_valid(*arrays, **how, relu=relu)

    def theirs(x, k, b=0):
        if pool:
            return one_by_one(x, k, b, (2, 2), activation, strides, zeros)
        padded = jnp.pad(x, ((0, 0), *zeros, (0, 0)))
        return activation(reference(padded, k, strides=strides, dilation=(1, 1), groups=1) + jnp.reshape(b, (1, 1, 1, -1)))

    gradient = rng.integers(-3, 4, jax.eval_shape(theirs, *arrays).shape).astype(np.float32)

    def both_ways(function):
        def run(gradient, *arrays):
            y, pull_back = jax.vjp(function, *arrays)
            return y, *pull_back(gradient)

        return jax.jit(run)(gradient, *arrays)

    for found, expected in zip(both_ways(ours), both_ways(theirs), strict=True):
        np.testing.assert_array_equal(found, expected)


def exact(x, kernel, upstream):
    """The convolution and its two gradients in float64, and the same of magnitudes: the scale of a plain sum's errors."""

    def both(x, kernel, upstream):
        rows, columns = upstream.shape[1:3]
        y, of_x, of_kernel = np.zeros(upstream.shape), np.zeros(x.shape), np.zeros(kernel.shape)
        for i, j in np.ndindex(3, 3):
            seen = (slice(None), slice(i, i + rows), slice(j, j + columns))
            y += x[seen] @ kernel[i, j]
            of_x[seen] += upstream @ kernel[i, j].T
            of_kernel[i, j] = np.tensordot(x[seen], upstream, ((0, 1, 2), (0, 1, 2)))
        return y, of_x, of_kernel

    wide = [a.astype(np.float64) for a in (x, kernel, upstream)]
    return both(*wide), both(*map(np.abs, wide))


def in_order(x, kernel, upstream):
    """The convolution and its two gradients in float32, term by term: the same on every machine, unlike lax."""
    rows, columns = upstream.shape[1:3]
    y, of_x, of_kernel = np.zeros_like(upstream), np.zeros_like(x), np.zeros_like(kernel)
    for i, j in np.ndindex(3, 3):
        seen = (slice(None), slice(i, i + rows), slice(j, j + columns))
        for c in range(x.shape[-1]):
            y += x[seen][..., c, None] * kernel[i, j, c]
        for f in range(kernel.shape[-1]):
            of_x[seen] += upstream[..., f, None] * kernel[i, j, :, f]
        for n, r, q in np.ndindex(len(x), rows, columns):
            of_kernel[i, j] += np.outer(x[n, r + i, q + j], upstream[n, r, q])
    return y, of_x, of_kernel


@pytest.mark.usefixtures("only_native")
def test_winograd_rounds_no_more_than_a_plain_sum():
    """Fewer terms meet in one sum."""
    arrays = draw(4, 12, 12, 64), draw(3, 3, 64, 64, seed=1), draw(4, 10, 10, 64, seed=2)
    x, kernel, upstream = arrays
    y, pull_back = jax.vjp(lambda x, k: conv_valid(x, k, strides=(1, 1), dilation=(1, 1), groups=1), x, kernel)
    values, _ = exact(*arrays)
    for found, plain, value in zip((y, *pull_back(upstream)), in_order(*arrays), values, strict=True):
        error, limit = (np.sqrt(((np.asarray(a, np.float64) - value) ** 2).mean()) for a in (found, plain))
        assert error < limit


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_second_derivatives_are_those_of_lax(relu, pool):
    x, kernel, bias = draw(3, 8, 9, 2), draw(3, 3, 2, 4, seed=1), draw(4, seed=2)
    how = {"strides": (2, 1), "dilation": (1, 1), "groups": 1, "zeros": ((1, 1), (0, 1))}
    activation = jax.nn.relu if relu else (lambda y: y)

    def ours(*a):
        if pool:
            return conv_max_pool(*a, **how, window=(2, 2), activation=activation)
        return conv_valid(*a, **how, relu=relu)

    def theirs(x, kernel, bias):
        padded = jnp.pad(x, ((0, 0), *how["zeros"], (0, 0)))
        y = activation(reference(padded, kernel, strides=(2, 1), dilation=(1, 1), groups=1) + jnp.reshape(bias, (1, 1, 1, -1)))
        h, w = y.shape[1] // 2 * 2, y.shape[2] // 2 * 2
        corners = [y[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]
        return functools.reduce(jnp.maximum, corners) if pool else y

    def second(function):  # of a loss whose gradient is not zero where relu is
        def length(*a):
            return sum((g**2).sum() for g in jax.grad(lambda *a: ((function(*a) + 1) ** 3).sum(), (0, 1, 2))(*a))

        return jax.jit(jax.grad(length, (0, 1, 2)))(x, kernel, bias)

    def by_upstream(function):  # what relu and pool keep out is kept out of this too, though nothing behind it would
        y, pull_back = jax.vjp(function, x, kernel, bias)
        upstream = jnp.asarray(draw(*y.shape, seed=3))
        return jax.jit(jax.grad(lambda u: sum((g**2).sum() for g in pull_back(u))))(upstream)

    both = ((*second(function), by_upstream(function)) for function in (ours, theirs))
    for found, expected in zip(*both, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.usefixtures("only_native")
def test_any_number_of_threads_gives_the_same_bits():
    """Sums are cut into the same pieces whoever adds them up."""
    code = """
        import hashlib, os, sys
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
        import jax, jax.numpy as jnp, numpy as np
        from cnn_jax.ops.conv import conv_valid, implementation
        assert implementation() == "native"
        rng = np.random.default_rng(0)
        run = lambda *a: (conv_valid(*a, strides=(1, 1), dilation=(1, 1), groups=1, relu=True) ** 2).sum()
        for shapes in ([(37, 14, 14, 6), (5, 5, 6, 16), (16,)], [(37, 4, 4, 96), (3, 3, 96, 128), (128,)]):
            for dtype in (jnp.float32, jnp.bfloat16):
                x, k, b = (rng.normal(size=s).astype(dtype) for s in shapes)
                gradients = jax.jit(jax.grad(run, (0, 1, 2)))(x, k, b)
                print(hashlib.sha256(b"".join(np.asarray(g).tobytes() for g in gradients)).hexdigest())
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    told = [subprocess.run([*run, n], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout for n in "12"]
    assert told[0] == told[1] != ""


@pytest.mark.usefixtures("only_native")
@pytest.mark.slow
def test_no_compiler_means_xla_and_a_damaged_file_is_made_anew(tmp_path):
    code = "from cnn_jax.ops import conv, native; print(conv.implementation(), *native.library())"

    def told(**environment):
        environment = {**os.environ, "CNN_JAX_CACHE": str(tmp_path), **environment}
        return subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
        ).stdout.strip()

    assert told(CNN_JAX_NATIVE="0") == "xla None CNN_JAX_NATIVE=0"
    assert "install gcc or clang" in told(PATH=str(tmp_path), CC="")
    assert told(CC="false").startswith("xla None")
    assert not list(tmp_path.glob("native/*.so"))
    chosen, path, *_ = told().split()
    assert chosen == "native"
    before = Path(path).read_bytes()
    Path(path).write_bytes(before[:1000])
    assert told().split()[:2] == ["native", path]
    assert Path(path).read_bytes() == before


def test_in_other_contexts_it_is_another_design():
    with at_most("lax"):
        assert implementation() == "lax"
    with at_most("xla"):
        assert implementation() == ("xla" if jax.default_backend() == "cpu" else "lax")


def test_a_nested_context_does_not_take_back_what_the_outer_one_asks_for():
    """Programs are traced in a context of their own: without this, no caller could have one of plain convolutions."""
    with at_most("lax"):
        with at_most("native"):
            assert implementation() == "lax"
        assert implementation() == "lax"


def test_dense_is_a_product_and_a_bias():
    x, kernel, bias = draw(5, 7), draw(7, 3, seed=1), draw(3, seed=2)
    np.testing.assert_allclose(dense(x, kernel, bias), x @ kernel + bias, rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------- E1: range of the input, zero taps

UNIT = {"strides": (1, 1), "dilation": (1, 1), "groups": 1}


def masked_kernel(seed=0):
    """Taps of a causal kernel (PixelCNN): zero from the centre on."""
    kernel = draw(3, 3, 16, 16, seed=seed)
    kernel[1, 1:] = kernel[2] = 0
    return kernel


@pytest.mark.parametrize("sentinel", [-9999.0, 1e6, -1e9, 1e38])
def test_e1_a_zero_tap_hides_its_pixel(sentinel):
    x, kernel = draw(2, 6, 6, 16, seed=1), masked_kernel()
    shown = x.copy()
    shown[0, 2, 2], x[0, 2, 2] = sentinel, 0
    output = jax.jit(lambda x, k: conv_valid(x, k, **UNIT)[0, 1, 1])
    np.testing.assert_allclose(output(shown, kernel), output(x, kernel), rtol=1e-5, atol=1e-5)
    gradients = jax.jit(jax.grad(lambda x, k: output(x, k).sum(), (0, 1)))
    (of_x, of_kernel), (_, expected) = gradients(shown, kernel), gradients(x, kernel)
    assert not of_x[0, 2, 2].any()
    np.testing.assert_allclose(of_kernel[kernel != 0], expected[kernel != 0], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("only_native")
@settings(max_examples=40, deadline=None, phases=FOUND)
@given(
    seed=st.integers(0, 2**32 - 1),
    decades=st.sampled_from([0, 1, 5, 30]),
    scale=st.sampled_from([1e-37, 1e-20, 1.0, 1e20, 1e33]),
    sentinel=st.sampled_from([None, -9999.0, 1e6, -1e9, 1e30]),
    zero_taps=st.booleans(),
    relu=st.booleans(),
)
@example(seed=26956, decades=0, scale=1.0, sentinel=None, zero_taps=False, relu=True)
def test_e1_errors_are_those_of_a_plain_sum(seed, decades, scale, sentinel, zero_taps, relu):
    """Each output within a small multiple of eps * sum |x| |kernel|, whatever the range of the input.

    The nine taps of a channel and filter share one bound, the largest: with few images that relu left mostly zero, a tap's own
    sum can have hardly a term, and Winograd's products are shared between taps.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 6, 7, 16)) * 10 ** rng.uniform(-decades, 0, (2, 6, 7, 16)) * scale
    x = np.maximum(x, 0) if relu else x
    if sentinel is not None:
        x[0, rng.integers(6), rng.integers(7)] = sentinel
    x, kernel = x.astype(np.float32), draw(3, 3, 16, 20, seed=seed)
    kernel[rng.integers(3), rng.integers(3)] *= not zero_taps
    upstream = draw(2, 4, 5, 20, seed=seed + 1) * (rng.random((2, 4, 5, 1)) < 0.5).astype(np.float32)
    y, pull_back = jax.vjp(jax.jit(lambda x, k: conv_valid(x, k, **UNIT)), x, kernel)
    values, bounds = exact(x, kernel, upstream)
    bounds[2][:] = bounds[2].max((0, 1))
    for name, found, value, bound in zip(["y", "x", "kernel"], (y, *pull_back(upstream)), values, bounds, strict=True):
        # 2e-36: what is flushed to zero below the smallest normal number, 144 times over.
        excess = np.abs(np.asarray(found, np.float64) - value) / (2.0**-23 * bound + 2e-36)
        assert excess.max() <= 32, (name, excess.max())


@pytest.mark.usefixtures("only_native")
def test_e1_an_image_is_judged_alone():
    """An outlier in one image changes no bit of the others."""
    x, kernel = draw(3, 9, 9, 16), draw(3, 3, 16, 16, seed=1)
    run = jax.jit(lambda x: conv_valid(x, kernel, **UNIT))
    before = np.asarray(run(x))
    x[1, 4, 4] = 1e9
    np.testing.assert_array_equal(np.asarray(run(x))[[0, 2]], before[[0, 2]])


@pytest.mark.usefixtures("only_native")
def test_e1_what_is_not_finite_stays_in_its_windows():
    x, kernel = draw(1, 8, 8, 16), draw(3, 3, 16, 16, seed=1)
    x[0, 4, 4, 3] = np.nan
    y = np.asarray(conv_valid(x, kernel, **UNIT))
    assert np.isnan(y[0, 2:5, 2:5]).all()
    assert np.isnan(y).sum() == 9 * 16


# ------------------------------------------------------------------------------ E2: half precision; E10: large kernels


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_e2_gradients_of_half_precision_are_summed_in_float32(dtype):
    x = jnp.ones((2, 32, 32, 2), dtype)
    depthwise = jax.grad(lambda k: conv_valid(x, k, strides=(1, 1), dilation=(1, 1), groups=2).astype(jnp.float32).sum())
    np.testing.assert_array_equal(depthwise(jnp.ones((1, 1, 1, 2), dtype)).astype(np.float32), 2048)
    kernel = jnp.ones((1, 1, 2, 3), dtype)
    by_bias = jax.grad(lambda b: conv_valid(x, kernel, b, **UNIT).astype(jnp.float32).sum())
    np.testing.assert_array_equal(by_bias(jnp.zeros(3, dtype)).astype(np.float32), 2048)
    of_dense = jax.grad(lambda b: dense(jnp.ones((2048, 2), dtype), kernel[0, 0], b).astype(jnp.float32).sum())
    np.testing.assert_array_equal(of_dense(jnp.zeros(3, dtype)).astype(np.float32), 2048)


def test_e2_a_large_depthwise_window_is_summed_in_float32():
    y = conv_valid(jnp.ones((1, 24, 24, 2), jnp.bfloat16), jnp.ones((24, 24, 1, 2), jnp.bfloat16), **{**UNIT, "groups": 2})
    np.testing.assert_array_equal(y.astype(np.float32), 576)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_e10_depthwise_kernels_of_any_size_make_one_program(multiplier):
    def gradient(size):
        kernel = jax.ShapeDtypeStruct((size, size, 1, 4 * multiplier), jnp.float32)
        x = jax.ShapeDtypeStruct((2, 33, 33, 4), jnp.float32)
        loss = lambda x, k: conv_valid(x, k, **{**UNIT, "groups": 4}).sum()  # noqa: E731
        return len(jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).as_text().splitlines())

    assert gradient(31) < 1.2 * gradient(3)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_e10_depthwise_convolution_agrees_with_lax(multiplier):
    x, kernel = draw(2, 13, 12, 3), draw(7, 5, 1, 3 * multiplier, seed=1)
    how = {"strides": (2, 1), "dilation": (1, 2), "groups": 3}
    agree(lambda x, k: conv_valid(x, k, **how), lambda x, k: reference(x, k, **how), x, kernel)
