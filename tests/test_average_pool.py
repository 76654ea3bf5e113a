"""`native/pool.c` against NumPy and autodiff in float64: any shape, with and without what surrounds the pool."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from double import x64

from cnn_jax import nn as specs
from cnn_jax.nn.network import CNN
from cnn_jax.ops import call, pool
from cnn_jax.ops.conv import at_most
from cnn_jax.ops.pool import How, Tanh

pytestmark = pytest.mark.skipif(not call.available(), reason="there is no C compiler")

SCALED = Tanh(1.7159, 2 / 3)
HOWS = [How(*pair) for pair in itertools.product((None, Tanh(), SCALED), repeat=2)]
# Rows, columns and channels: vectors in parts, whole, and more than one per column; pixels outside of all windows.
SHAPES = [(2, 2, 1), (3, 5, 1), (28, 28, 6), (10, 10, 16), (5, 7, 20), (4, 2, 33), (2, 9, 3), (6, 6, 64)]


def plain(how, x, scale=np.full(1, 0.25), bias=np.zeros(1)):  # noqa: B008
    scale, bias = (array[None, None, None] for array in (scale, bias))
    rows, columns = (size // 2 for size in x.shape[1:3])
    x = how.inner.a * jnp.tanh(how.inner.b * x) if how.inner else x
    y = sum(x[:, i : 2 * rows : 2, j : 2 * columns : 2] for i in (0, 1) for j in (0, 1)) * scale + bias
    return how.outer.a * jnp.tanh(how.outer.b * y) if how.outer else y


def squash(x):
    """Tanh of each value, by C."""
    windows = jnp.asarray(np.repeat(x, 4).reshape(len(x), 2, 2, 1))
    return np.asarray(pool.average_pool(How(None, Tanh()), windows)).ravel()


def test_tanh_is_within_two_units_in_the_last_place():
    grid = np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-37, 2, 200_001), np.linspace(0.62, 0.63, 10_001)])
    x = grid.astype(np.float32)
    for values in (x, -x):
        exact = np.tanh(values.astype(np.float64))
        error = np.abs(squash(values) - exact) / np.spacing(np.abs(exact).astype(np.float32))
        assert error.max() < 2


def test_tanh_of_what_is_no_number():
    found = squash(np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38], np.float32))
    np.testing.assert_array_equal(found, [np.nan, np.nan, 1, -1, 0, 0, 1, -1])


def test_a_pixel_that_is_no_number_is_seen_in_its_window_alone():
    x = np.ones((1, 4, 4, 1), np.float32)
    x[0, 0, 3] = np.nan
    y = np.asarray(pool.average_pool(How(Tanh(), Tanh()), jnp.asarray(x)))[0, :, :, 0]
    np.testing.assert_array_equal(np.isnan(y), [[False, True], [False, False]])


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_values_and_gradients_are_those_of_float64(how, affine):
    for shape in SHAPES:
        rng = np.random.default_rng((affine, *shape))
        rows, columns, channels = shape
        x, upstream = rng.normal(size=(3, *shape)), rng.normal(size=(3, rows // 2, columns // 2, channels))
        given = [x, *(rng.normal(size=(2, channels)) if affine else ())]
        with x64():
            exact, pull_back = jax.vjp(functools.partial(plain, how), *given)
            gradients = pull_back(upstream)
        ours = [jnp.asarray(array, jnp.float32) for array in given]
        y, pull_back = jax.vjp(jax.jit(functools.partial(pool.average_pool, how)), *ours)
        np.testing.assert_allclose(y, exact, rtol=0, atol=2e-6)
        for found, expected in zip(pull_back(jnp.asarray(upstream, jnp.float32)), gradients, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("images", [1, 2, 17, 40])
def test_gradients_do_not_depend_on_the_other_images(images):
    """Sums over images are exact for small integers, whatever the tasks are."""
    rng = np.random.default_rng(images)
    x, upstream = (jnp.asarray(rng.integers(-3, 4, (images, n, n, 5)), jnp.float32) for n in (6, 3))
    scale, bias = jnp.asarray(rng.integers(-2, 3, (2, 5)), jnp.float32)
    found = jax.vjp(functools.partial(pool.average_pool, How()), x, scale, bias)[1](upstream)
    for one, other in zip(found, jax.vjp(functools.partial(plain, How()), x, scale, bias)[1](upstream), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_array_that_is_used_again_is_not_overwritten():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)

    @jax.jit
    def both(x):
        doubled = 2 * x
        return pool.average_pool(How(Tanh()), doubled), doubled

    np.testing.assert_array_equal(both(x)[1], 2 * x)
    np.testing.assert_array_equal(jax.jit(functools.partial(pool.average_pool, How(Tanh())))(x), both(x / 2)[0])


NETS = {
    "subsampling": (specs.Conv(3, 3, activation="scaled_tanh"), specs.Subsample(2, activation="tanh")),
    "average pool": (specs.Conv(3, 3, activation="tanh"), specs.AvgPool(2)),
    "relu": (specs.Conv(3, 3, activation="relu"), specs.AvgPool(2), specs.Subsample(2)),
    "gelu": (specs.Conv(3, 3, activation="gelu"), specs.Subsample(2, activation="gelu")),
}


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("net", NETS)
def test_a_network_has_the_values_and_features_of_its_layers(net, dtype):
    """Fused with the convolution before it or not."""
    network = CNN(NETS[net], dtype)
    x = np.random.default_rng(0).normal(size=(2, 11, 10, 2)).astype(np.float32)
    variables = network.init(jax.random.key(0), x)

    def run(variables):
        y, features = network.apply(variables, x)
        return (y.astype(jnp.float32) ** 2).sum(), (y, features)

    with at_most("lax"):
        expected = jax.jit(jax.value_and_grad(run, has_aux=True))(variables)
    found = jax.jit(jax.value_and_grad(run, has_aux=True))(variables)
    assert list(found[0][1][1]) == list(expected[0][1][1])
    tolerance = 1e-5 if dtype is None else 0.05
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


def test_lenet5_has_nothing_but_one_operation_for_convolution_and_pool():
    network = CNN(NETS["subsampling"])
    x = np.zeros((2, 10, 10, 2), np.float32)
    variables = network.init(jax.random.key(0), x)
    text = jax.jit(lambda variables: network.apply(variables, x)[0]).lower(variables).compile().as_text()
    assert text.count('custom_call_target="cnn_jax_average_pool"') == 1
    assert "tanh(" not in text
