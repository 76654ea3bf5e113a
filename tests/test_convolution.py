"""Against lax: values and gradients of every rank, stride and dilation; what jit, vmap and scan make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax.convolution import can_fuse, conv_max_pool, conv_valid, dense


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
        return jax.jit(jax.grad(loss, argnums)).lower(x, kernel).compile().as_text().count("window={size=")

    assert convolutions(1) < convolutions((0, 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_types_keep_their_type(dtype):
    x, kernel = draw(2, 5, 5, 2).astype(dtype), draw(3, 3, 2, 3).astype(dtype)
    y, gradients = jax.vjp(lambda x, k: conv_valid(x, k, strides=(1, 1), dilation=(1, 1), groups=1), x, kernel)
    assert y.dtype == dtype
    assert all(gradient.dtype == dtype for gradient in gradients(y))


def one_by_one(x, kernel, bias, window, activation):
    y = activation(reference(x, kernel, strides=(1, 1), dilation=(1, 1), groups=1) + bias)
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), "VALID")


POOLED = {
    "the chapter's": ((16, 12, 12, 1), (3, 3, 1, 8), (2, 2), jax.nn.relu),
    "a rest that no window covers": ((5, 9, 12, 1), (3, 2, 1, 3), (2, 2), jax.nn.relu),
    "three channels": ((4, 8, 8, 3), (3, 3, 3, 4), (2, 2), jax.nn.relu),
    "uneven window": ((4, 10, 9, 1), (2, 3, 1, 4), (3, 2), jax.nn.relu),
    "window of one": ((4, 6, 6, 1), (3, 3, 1, 4), (1, 1), jax.nn.relu),
    "another activation": ((4, 8, 8, 1), (3, 3, 1, 4), (2, 2), jnp.tanh),
    "one image": ((1, 6, 6, 1), (3, 3, 1, 2), (2, 2), jax.nn.relu),
}


@pytest.mark.parametrize("case", POOLED)
def test_convolution_and_pool_at_once_are_those_one_by_one(case):
    x_shape, kernel_shape, window, activation = POOLED[case]
    x, kernel, bias = draw(*x_shape), draw(*kernel_shape, seed=1), draw(kernel_shape[-1], seed=2)
    at_once = lambda *a: conv_max_pool(*a, window=window, activation=activation)  # noqa: E731
    agree(at_once, lambda *a: one_by_one(*a, window, activation), x, kernel, bias)


def test_of_equal_values_the_first_gets_the_gradient():
    x, kernel, bias = np.ones((2, 4, 4, 1), np.float32), draw(1, 1, 1, 3) ** 2, np.zeros(3, np.float32)
    total = lambda *a: conv_max_pool(*a, window=(2, 2), activation=jax.nn.relu).sum()  # noqa: E731
    x_gradient, kernel_gradient, bias_gradient = jax.jit(jax.grad(total, (0, 1, 2)))(x, kernel, bias)
    first = np.zeros((4, 4), np.float32)
    first[::2, ::2] = kernel.sum()
    np.testing.assert_allclose(x_gradient[0, :, :, 0], first, rtol=1e-6)
    np.testing.assert_allclose(kernel_gradient[0, 0, 0], 8)  # 4 windows in each of 2 images: nobody is counted twice
    np.testing.assert_allclose(bias_gradient, 8)


def test_where_relu_let_nothing_through_nothing_comes_back():
    x, kernel, bias = draw(2, 6, 6, 1), draw(3, 3, 1, 2), np.full(2, -1e3, np.float32)
    total = lambda *a: conv_max_pool(*a, window=(2, 2), activation=jax.nn.relu).sum()  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(x, kernel, bias)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


def test_a_diverged_network_is_not_hidden():
    x, kernel = draw(2, 6, 6, 1), np.full((3, 3, 1, 2), np.nan, np.float32)
    run = jax.jit(lambda *a: conv_max_pool(*a, window=(2, 2), activation=jax.nn.relu))
    assert jnp.isnan(run(x, kernel, np.zeros(2, np.float32))).all()


def test_at_once_under_vmap_over_trials_and_in_a_loop():
    x, kernels, bias = draw(4, 8, 8, 1), draw(3, 3, 3, 1, 4, seed=1), np.zeros(4, np.float32)
    loss = lambda kernel: (conv_max_pool(x, kernel, bias, window=(2, 2), activation=jax.nn.relu) ** 2).sum()  # noqa: E731
    alone = jnp.stack([jax.jit(jax.grad(loss))(kernel) for kernel in kernels])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(kernels), alone, rtol=1e-4, atol=1e-3)
    _, in_loop = jax.jit(lambda kernels: lax.scan(lambda _, k: (None, jax.grad(loss)(k)), None, kernels))(kernels)
    np.testing.assert_allclose(in_loop, alone, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"strides": (2, 2)}, False),
        ({"dilation": (1, 2)}, False),
        ({"groups": 2}, False),
        ({"kernel": jax.ShapeDtypeStruct((3, 3, 32, 64), jnp.float32)}, False),
        ({"window": (4, 4)}, False),
        ({"window": (1, 27)}, False),
        ({"x": jax.ShapeDtypeStruct((128, 28, 224, 1), jnp.float32)}, False),
        ({"x": jax.ShapeDtypeStruct((128, 28, 28, 1), jnp.bfloat16)}, False),
        ({"x": jax.ShapeDtypeStruct((128, 28, 1), jnp.float32)}, False),
    ],
)
def test_who_may_be_fused(change, fits):
    x, kernel = jax.ShapeDtypeStruct((128, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 32), jnp.float32)
    case = {"x": x, "kernel": kernel, "strides": (1, 1), "dilation": (1, 1), "groups": 1, "window": (2, 2)}
    assert can_fuse(**(case | change)) is (fits and jax.default_backend() == "cpu")


def test_dense_is_a_product_and_a_bias():
    x, kernel, bias = draw(5, 7), draw(7, 3, seed=1), draw(3, seed=2)
    np.testing.assert_allclose(dense(x, kernel, bias), x @ kernel + bias, rtol=1e-5, atol=1e-6)
