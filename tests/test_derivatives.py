"""Derivatives under every transformation and implementation, against the same function made of lax's own operations.

Values are of order 1 and sums have at most some hundred terms: float32 is held to 1e-4 of the largest entry.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax import avg_pool, conv, conv_transpose, max_pool
from cnn_jax import nn as specs
from cnn_jax.nn import modules
from cnn_jax.nn.network import CNN
from cnn_jax.ops import native
from cnn_jax.ops.conv import at_most, conv_max_pool, conv_valid, dense
from cnn_jax.ops.norm import batch_norm


@pytest.fixture(params=["native", "xla", "lax"], autouse=True)
def by(request):
    if request.param == "native" and native.library().path is None:
        pytest.skip(native.library().reason)
    with at_most(request.param):
        yield request.param


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def close(found, expected, tolerance=1e-4):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)))

    jax.tree.map(compare, found, expected)


def plain_conv(x, kernel, bias=0, *, strides=(1, 1), zeros=((0, 0), (0, 0)), groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, strides, zeros, dimension_numbers=numbers, feature_group_count=groups)
    return y + jnp.reshape(bias, (1, 1, 1, -1))


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
    y, changed = modules.BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    return jnp.concatenate([y.ravel(), *jax.tree.leaves(changed)])


def joined(x, scale, bias, shortcut):
    y, *statistics = batch_norm(x, scale, bias, 1e-5, shortcut, relu=True)
    return jnp.concatenate([y.ravel(), *statistics])


def plainly_joined(x, scale, bias, shortcut):
    y, mean, var = jnp.split(plainly_normalized(x, scale, bias), (x.size, x.size + 3))
    return jnp.concatenate([jax.nn.relu(y + shortcut.ravel()), 10 * mean, 10 * (var - 0.9)])


def plainly_normalized(x, scale, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    mean_, var_, scale, bias = (values[None, None, None] for values in (mean, var, scale, bias))
    y = (x - mean_) / jnp.sqrt(var_ + 1e-5) * scale + bias
    return jnp.concatenate([y.ravel(), 0.1 * mean, 0.9 + 0.1 * var])


def plain_average_pool(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def subsample(x, scale, bias):
    """LeNet-5's pool, with tanh before and after it."""
    layer = modules.Subsample(2, inner="scaled_tanh", activation="tanh")
    return layer.apply({"params": {"scale": scale, "bias": bias}}, x)


def plain_subsample(x, scale, bias):
    total = 4 * plain_average_pool(1.7159 * jnp.tanh(2 / 3 * x))
    return jnp.tanh(total * scale[None, None, None] + bias[None, None, None])


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
    "dense": (dense, lambda x, k, b: x @ k + b[None], draw(4, 6), draw(6, 3), draw(3)),
    "max_pool": (lambda x: max_pool(x, 2), plain_max_pool, IMAGES),
    "avg_pool": (lambda x: avg_pool(x, 2), plain_average_pool, IMAGES),
    "average pool as a layer": (lambda x: modules.AvgPool(2).apply({}, x), plain_average_pool, IMAGES),
    "tanh and average pool": (
        lambda x: modules.AvgPool(2, inner="tanh").apply({}, x), lambda x: plain_average_pool(jnp.tanh(x)), IMAGES,
    ),
    "subsampling": (subsample, plain_subsample, IMAGES, draw(3) / 4, draw(3)),
    "batch norm": (normalized, plainly_normalized, IMAGES, 1 + draw(3) / 4, draw(3)),
    "batch norm, shortcut and relu": (joined, plainly_joined, IMAGES, 1 + draw(3) / 4, draw(3), draw(2, 5, 6, 3, seed=1)),
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


QUICK = (linearize, forward_over_reverse, forward_over_forward)
TRANSFORMATIONS = (
    jvp, jvp_of_one_argument, jacfwd, reverse_over_forward, reverse_over_reverse,
    forward_over_forward_over_reverse, hessian, vmap_of_hvp, gradient_of_vmap, vmap_of_vmap, gradient_of_scan,
)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["conv and relu", "conv, relu and pool", "dense", "batch norm", "batch norm, shortcut and relu", "subsampling"]
)
def test_e3_forward_mode_is_that_of_lax(name):
    derivatives_agree(name, QUICK)


def test_e3_under_vmap_the_transpose_is_kept():
    derivatives_agree("conv and relu", (gradient_of_vmap,))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_e3_derivatives_of_every_kind_are_those_of_lax(name):
    derivatives_agree(name, QUICK + TRANSFORMATIONS)


def derivatives_agree(name, transformations):
    ours, plain, *arguments = FUNCTIONS[name]
    tangents = tuple(draw(*a.shape, seed=5) for a in arguments)
    arguments = tuple(map(jnp.asarray, arguments))

    def all_of(function):
        return jax.jit(lambda *a: [transform(function, a, tangents) for transform in transformations])(*arguments)

    for transform, found, expected in zip(transformations, all_of(ours), all_of(plain), strict=True):
        try:
            close(found, expected, 1e-3 if name.startswith("batch norm") else 1e-4)
        except AssertionError as error:
            raise AssertionError(f"{name}: {transform.__name__}") from error


# ------------------------------------------------------------------------------------------------ constants and exports


def test_e5_an_array_of_numpy_may_be_mapped_inside_jit():
    images, kernel = draw(3, 2, 5, 5, 3), draw(3, 3, 3, 4)
    found = jax.jit(lambda k: jax.vmap(lambda x: conv(x, k))(images))(kernel)
    close(found, jnp.stack([plain_conv(x, kernel) for x in images]))


def loss(x, kernel, bias):
    """A convolution, one with relu and pool, an average pool, and a dense layer."""
    pool = pooled(relu=True)[0]
    y = pool(conv_valid(x, kernel, strides=(1, 1), **VALID, relu=True), kernel, bias)
    y = subsample(y, bias, bias)
    return (dense(y.reshape(len(y), -1), jnp.ones((4, 2)), jnp.ones(2)) ** 2).sum()


def test_e5_a_program_is_exported_for_every_platform():
    """C is in no exported program: our library need not be where it runs."""
    arguments = draw(2, 6, 8, 4), draw(3, 3, 4, 4), draw(4)
    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert "custom_call @cnn_jax" not in exported.mlir_module()
    close(exported.call(*arguments), step(*arguments))


# ----------------------------------------------------------------------------------------------------------- empty batches

EVERY_KIND = {
    "conv and pool": (specs.Conv(6, 3, activation="relu"), specs.MaxPool(2)),
    "groups": (specs.Conv(6, 3, groups=2), specs.Activation("gelu")),
    "depthwise": (specs.DepthwiseConv(3), specs.SeparableConv(4, 3), specs.ConvTranspose(3, 3, strides=2)),
    "flatten": (specs.Flatten(), specs.Dropout(0.5), specs.Dense(3), specs.RBF(((1, 1, -1),))),
    "pools": (specs.Conv(3, 1, activation="tanh"), specs.AvgPool(2), specs.Subsample(2), specs.GlobalMaxPool()),
    "norms": (specs.BatchNorm(), specs.GroupNorm(2), specs.LayerNorm(), specs.PadChannels(6, 2), specs.GlobalAvgPool()),
    "branches": (specs.Residual((specs.Conv(4, 1),)), specs.Branch(((specs.Conv(2, 3),), (specs.MaxPool(3, 1),)))),
}


# With 2 channels, the XLA implementation does convolution and pool at once.
@pytest.mark.parametrize(("kind", "channels"), [("conv and pool", 2), *((kind, 4) for kind in EVERY_KIND)])
def test_e6_an_empty_batch_gives_an_empty_result(kind, channels):
    network = CNN(EVERY_KIND[kind])
    x = np.zeros((0, 8, 8, channels), np.float32)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), np.zeros((1, 8, 8, channels), np.float32)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), dict(variables))
    params = variables.pop("params", {})

    def total(params, x):
        given = {"params": params, **variables}
        (logits, _), _ = network.apply(given, x, True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
        return logits.sum(), logits

    (_, logits), (gradients, of_x) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, x)
    assert logits.shape[0] == 0
    assert of_x.shape == x.shape
    if kind != "norms":  # there is no mean over nothing
        assert not any(np.any(gradient) for gradient in jax.tree.leaves(gradients))
