"""Derivatives of every kind, under every transformation and design, against the same function made of lax's own operations.

Values are of order 1 and sums have at most some hundred terms: float32 is held to 1e-4 of the largest entry.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax import avg_pool, conv, conv_transpose, layers, max_pool, native
from cnn_jax.convolution import at_most, conv_max_pool, conv_valid, dense

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["native", "xla", "lax"], autouse=True)
def by(request):
    if request.param == "native" and native.library().path is None:
        pytest.skip(native.library().reason)
    with at_most(request.param):
        yield request.param


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def close(found, expected, tolerance=1e-4):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0))),
        found,
        expected,
    )


def plain_conv(x, kernel, bias=0, *, strides=(1, 1), zeros=((0, 0), (0, 0)), groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, strides, zeros, dimension_numbers=numbers, feature_group_count=groups)
    return y + bias


def plain_max_pool(y):
    rows, columns = (size // 2 for size in y.shape[1:3])
    corners = (y[:, i : 2 * rows : 2, j : 2 * columns : 2] for i in (0, 1) for j in (0, 1))
    return functools.reduce(jnp.maximum, corners)


def plain_conv_transpose(x, kernel):
    padded = jnp.zeros((len(x), *(2 * (n - 1) + k for n, k in zip(x.shape[1:3], kernel.shape, strict=False)), kernel.shape[-2]))
    return jax.vjp(lambda y: plain_conv(y, kernel, strides=(2, 2)), padded)[1](x)[0]


def pooled(relu, strides=(1, 1)):
    activation = jax.nn.relu if relu else (lambda y: y)

    def ours(*arrays):
        how = {"strides": strides, "dilation": (1, 1), "groups": 1, "zeros": ((1, 1), (0, 1))}
        y = conv_max_pool(*arrays, **how, window=(2, 2), activation=activation)
        return max_pool(activation(conv(*arrays, strides=strides, padding=how["zeros"])), 2) if y is None else y

    return ours, lambda *a: plain_max_pool(activation(plain_conv(*a, strides=strides, zeros=((1, 1), (0, 1)))))


def normalized(x, scale, bias):
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}
    y, changed = layers.BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    return jnp.concatenate([y.ravel(), *jax.tree.leaves(changed)])


def plainly_normalized(x, scale, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
    return jnp.concatenate([y.ravel(), 0.1 * mean, 0.9 + 0.1 * var])


VALID = {"dilation": (1, 1), "groups": 1}
IMAGES, KERNEL = draw(2, 5, 6, 3), draw(3, 3, 3, 4)
RELU = (lambda *a: conv_valid(*a, strides=(1, 1), **VALID, relu=True), lambda *a: jax.nn.relu(plain_conv(*a)))
# Ours, the plain one, and their arguments.
FUNCTIONS = {
    "conv": (conv, plain_conv, IMAGES, KERNEL, draw(4)),
    "conv with strides": (
        lambda *a: conv(*a, strides=2, padding=1),
        lambda *a: plain_conv(*a, strides=(2, 2), zeros=((1, 1), (1, 1))),
        IMAGES, KERNEL, draw(4),
    ),
    "conv and relu": (*RELU, IMAGES, KERNEL, draw(4)),
    "conv as large as the image": (conv, plain_conv, IMAGES, draw(5, 6, 3, 4)),
    "depthwise": (lambda *a: conv(*a, groups=3), lambda *a: plain_conv(*a, groups=3), IMAGES, draw(3, 2, 1, 6)),
    "conv and pool": (*pooled(relu=False), draw(2, 5, 6, 1), draw(3, 3, 1, 4), draw(4)),
    "conv, relu and pool": (*pooled(relu=True), draw(2, 5, 6, 1), draw(3, 3, 1, 4), draw(4)),
    "conv with strides, relu and pool": (*pooled(relu=True, strides=(1, 2)), IMAGES, KERNEL, draw(4)),
    "conv_transpose": (lambda *a: conv_transpose(*a, strides=2), plain_conv_transpose, draw(2, 3, 2, 4), KERNEL),
    "dense": (dense, lambda x, k, b: x @ k + b, draw(4, 6), draw(6, 3), draw(3)),
    "max_pool": (lambda x: max_pool(x, 2), plain_max_pool, IMAGES),
    "avg_pool": (
        lambda x: avg_pool(x, 2),
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4,
        IMAGES,
    ),
    "batch norm": (normalized, plainly_normalized, IMAGES, 1 + draw(3) / 4, draw(3)),
}  # fmt: skip


def cubes(function):
    """A scalar that is not linear in the function's values, so that all of its second derivatives are seen."""
    return lambda *a: (function(*a) ** 3).sum() / 3


def jvp(function, arguments, tangents):
    return jax.jvp(function, arguments, tangents)


def jvp_of_one_argument(function, arguments, tangents):
    return [
        jax.jvp(lambda a, i=i: function(*arguments[:i], a, *arguments[i + 1 :]), arguments[i : i + 1], tangents[i : i + 1])
        for i in range(len(arguments))
    ]


def linearize(function, arguments, tangents):
    y, push_forward = jax.linearize(function, *arguments)
    return y, push_forward(*tangents), jax.linear_transpose(push_forward, *arguments)(y)


def jacfwd(function, arguments, tangents):
    return jax.jacfwd(lambda a: function(*arguments[:-1], a))(arguments[-1])


def forward_over_reverse(function, arguments, tangents):
    return jax.jvp(jax.grad(cubes(function), tuple(range(len(arguments)))), arguments, tangents)


def reverse_over_forward(function, arguments, tangents):
    slope = lambda *a: jax.jvp(cubes(function), a, tangents)[1]  # noqa: E731
    return jax.grad(slope, tuple(range(len(arguments))))(*arguments)


def forward_over_forward(function, arguments, tangents):
    return jax.jvp(lambda *a: jax.jvp(function, a, tangents)[1], arguments, tangents)


def reverse_over_reverse(function, arguments, tangents):
    every = tuple(range(len(arguments)))
    slope = lambda *a: sum(jnp.vdot(g, t) for g, t in zip(jax.grad(cubes(function), every)(*a), tangents, strict=True))  # noqa: E731
    return jax.grad(slope, every)(*arguments)


def forward_over_forward_over_reverse(function, arguments, tangents):
    hvp = lambda *a: forward_over_reverse(function, a, tangents)[1]  # noqa: E731
    return jax.jvp(hvp, arguments, tangents)[1]


def hessian(function, arguments, tangents):
    return jax.hessian(lambda a: cubes(function)(*arguments[:-1], a))(arguments[-1])


def vmap_of_hvp(function, arguments, tangents):
    both = [jnp.stack([a, a / 2]) for a in arguments]
    return jax.vmap(lambda *a: forward_over_reverse(function, a, tangents))(*both)


def gradient_of_vmap(function, arguments, tangents):
    """The first argument is mapped, the others are shared, the last on its second axis: each in turn."""
    first = jnp.stack([arguments[0], arguments[0] / 2])
    last = jnp.stack([arguments[-1], arguments[-1] / 2], -1)

    def total(first, *rest):
        return cubes(jax.vmap(lambda x: function(x, *rest)))(first) + cubes(jax.vmap(lambda x: function(x, *rest), 0, 1))(first)

    found = [jax.grad(total, tuple(range(len(arguments))))(first, *arguments[1:])]
    if len(arguments) > 1:
        over_last = lambda a, last: cubes(jax.vmap(lambda b: function(a, *arguments[1:-1], b), -1))(last)  # noqa: E731
        found.append(jax.grad(over_last, (0, 1))(arguments[0], last))
    return found


def vmap_of_vmap(function, arguments, tangents):
    """Tangents of two levels, with another argument mapped in each."""
    first = jnp.stack([arguments[0], arguments[0] / 2])
    last = jnp.stack([arguments[-1], arguments[-1] / 2, arguments[-1] / 3])

    def slope(a, b):
        given = [a, *arguments[1:-1], b] if len(arguments) > 1 else [a + b]
        return jax.jvp(function, given, list(tangents))[1]

    inner = lambda a: jax.vmap(lambda b: slope(a, b))(last)  # noqa: E731
    loss = lambda first: (jax.vmap(inner)(first) ** 2).sum()  # noqa: E731
    return jax.vmap(inner)(first), jax.grad(loss)(first)


def gradient_of_scan(function, arguments, tangents):
    def steps(*arguments):
        def step(total, weight):
            return total + cubes(function)(arguments[0] * weight, *arguments[1:]), None

        return lax.scan(step, 0.0, jnp.array([1.0, 0.5]))[0]

    return jvp(steps, arguments, tangents), jax.grad(steps, tuple(range(len(arguments))))(*arguments)


TRANSFORMATIONS = (
    jvp, jvp_of_one_argument, linearize, jacfwd, forward_over_reverse, reverse_over_forward, forward_over_forward,
    reverse_over_reverse, forward_over_forward_over_reverse, hessian, vmap_of_hvp, gradient_of_vmap, vmap_of_vmap, gradient_of_scan,
)  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_e3_derivatives_of_every_kind_are_those_of_lax(name):
    ours, plain, *arguments = FUNCTIONS[name]
    tangents = tuple(draw(*a.shape, seed=5) for a in arguments)
    arguments = tuple(map(jnp.asarray, arguments))

    def all_of(function):
        return jax.jit(lambda *a: [transform(function, a, tangents) for transform in TRANSFORMATIONS])(*arguments)

    for transform, found, expected in zip(TRANSFORMATIONS, all_of(ours), all_of(plain), strict=True):
        try:
            close(found, expected, 1e-3 if name == "batch norm" else 1e-4)
        except AssertionError as error:
            raise AssertionError(f"{name}: {transform.__name__}") from error
