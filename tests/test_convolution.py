"""conv_valid against lax: values and gradients of every rank, stride and dilation; what jit, vmap and scan make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax.convolution import conv_valid


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(x, kernel, *, strides, dilation, groups):
    spatial = "DHW"[5 - x.ndim :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, kernel, strides, "VALID", rhs_dilation=dilation, dimension_numbers=numbers, feature_group_count=groups
    )


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
    y, gradients = jax.vjp(lambda x, k: conv_valid(x, k, **how), x, kernel)
    expected, expected_gradients = jax.vjp(lambda x, k: reference(x, k, **how), x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    upstream = draw(*y.shape, seed=2)
    for ours, theirs in zip(gradients(upstream), expected_gradients(upstream), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_under_jit_vmap_and_scan_it_is_the_same():
    x, kernels = draw(4, 7, 7, 2), draw(3, 3, 3, 2, 4, seed=1)

    def loss(kernel):
        return (conv_valid(x, kernel, strides=(1, 1), dilation=(1, 1), groups=1) ** 2).sum()

    alone = jnp.stack([jax.grad(loss)(kernel) for kernel in kernels])
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
