"""Batch normalization with a shortcut and relu, as one operation in C: against NumPy in float64, and within networks.

Derivatives under every transformation are in test_derivatives.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from double import x64

from cnn_jax import nn as specs
from cnn_jax.nn.network import CNN
from cnn_jax.ops import native, norm
from cnn_jax.ops.conv import at_most
from cnn_jax.ops.norm import batch_norm, normalize

ROOT = Path(__file__).resolve().parents[1]
EPSILON = 1e-5


@pytest.fixture
def only_native():
    if native.library().path is None:
        pytest.skip(native.library().reason)


def draw(rng, shape, mean=0.0, deviation=1.0):
    return rng.normal(mean, deviation, shape).astype(np.float32)


def by_numpy(x, scale, bias, shortcut, relu):
    """(y, mean, variance) in float64."""
    axes = tuple(range(x.ndim - 1))
    x = np.asarray(x, np.float64)
    mean, var = x.mean(axes), x.var(axes)
    y = (x - mean) / np.sqrt(var + EPSILON) * scale + bias
    y = y if shortcut is None else y + np.asarray(shortcut, np.float64)
    return np.maximum(y, 0) if relu else y, mean, var


def gradients_by_numpy(x, scale, y, upstream, of_mean, of_var, relu):
    """Those of x, scale, bias and the shortcut in float64, by Ioffe and Szegedy 2015, section 3."""
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    x, passed = np.asarray(x, np.float64), np.asarray(upstream, np.float64)
    passed = passed * (np.asarray(y, np.float64) > 0) if relu else passed
    inverse, centred = 1 / np.sqrt(x.var(axes) + EPSILON), x - x.mean(axes)
    of_normalized = passed * scale
    of_var = of_var - (of_normalized * centred).sum(axes) * inverse**3 / 2
    of_mean = of_mean - of_normalized.sum(axes) * inverse
    of_x = of_normalized * inverse + of_var * 2 * centred / count + of_mean / count
    return of_x, (passed * centred * inverse).sum(axes), passed.sum(axes), passed


def close(found, expected, tolerance, told=""):
    found, expected = (np.asarray(values, np.float64) for values in (found, expected))
    atol = tolerance * max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=told)


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("seed", range(3))
def test_c_agrees_with_numpy_for_random_shapes(dtype, seed):
    rng = np.random.default_rng(seed)
    for channels in (1, 2, 3, 10, 16, 17, 32, 40, 64, 80):
        shape = (*rng.integers(1, 12, rng.integers(1, 4)).tolist(), channels)
        if seed == 0:
            shape = (40, *shape)  # more rows than one
        relu, joined = map(bool, rng.integers(0, 2, 2))
        x, shortcut, upstream = (jnp.asarray(draw(rng, shape, 2, 3), dtype) for _ in range(3))
        scale, bias, of_mean, of_var = (draw(rng, channels, 1) for _ in range(4))
        given = (x, scale, bias, *([shortcut] if joined else []))

        def ours(x, scale, bias, shortcut=None, relu=relu):
            return batch_norm(x, scale, bias, EPSILON, shortcut, relu=relu)

        (y, mean, var), pull_back = jax.vjp(ours, *given)
        told = f"{shape}, relu {relu}, shortcut {joined}"
        exact = 1e-5 if dtype == jnp.float32 else 2**-8 if dtype == jnp.bfloat16 else 2**-10
        expected_y, *expected_statistics = by_numpy(x, scale, bias, shortcut if joined else None, relu)
        close(y, expected_y, exact, told)
        for found, expected in zip((mean, var), expected_statistics, strict=True):
            close(found, expected, 1e-5, told)
        evaluated = normalize(x, scale, bias, (mean, var), EPSILON, shortcut if joined else None, relu=relu)
        close(evaluated, expected_y, exact, told)
        found = pull_back((upstream, of_mean, of_var))
        expected = gradients_by_numpy(x, scale, y, upstream, of_mean, of_var, relu)
        for gradient, number, argument in zip(found, expected, given, strict=False):
            assert gradient.dtype == argument.dtype
            if x.size // channels > 8:  # of fewer values, a variance near zero magnifies what was rounded
                close(gradient, number, 10 * exact, told)


@pytest.mark.usefixtures("only_native")
def test_gradients_are_those_of_autodiff_in_float64():
    rng = np.random.default_rng(0)
    x, shortcut, upstream = (draw(rng, (6, 7, 5, 12), 1, 2) for _ in range(3))
    scale, bias, weights = (draw(rng, 12, 1) for _ in range(3))

    def loss(function):
        def total(*arrays):
            y, mean, var = function(*arrays)
            return (y * upstream).sum() + (weights * mean).sum() + (weights * var**2).sum()

        return jax.grad(total, (0, 1, 2, 3))

    def plain(x, scale, bias, shortcut):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean[None, None, None]) / jnp.sqrt(var + EPSILON)[None, None, None] * scale[None, None, None]
        return jax.nn.relu(y + bias[None, None, None] + shortcut), mean, var

    found = loss(lambda x, s, b, shortcut: batch_norm(x, s, b, EPSILON, shortcut, relu=True))(x, scale, bias, shortcut)
    with x64(True):
        expected = loss(plain)(*(np.asarray(a, np.float64) for a in (x, scale, bias, shortcut)))
    for a, b in zip(found, expected, strict=True):
        close(a, b, 1e-5)


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("first", [None, 0.0, -1e4])
def test_nothing_cancels_where_the_mean_is_far_from_zero(first):
    """Mean 1e4, deviation 1; also where the first image is of another kind."""
    x = draw(np.random.default_rng(0), (64, 16, 16, 3), 1e4)
    if first is not None:
        x[0] = first
    y, mean, var = batch_norm(x, jnp.ones(3), jnp.zeros(3), EPSILON)
    expected = by_numpy(x, 1, 0, None, relu=False)
    np.testing.assert_allclose(mean, expected[1], rtol=1e-7)
    np.testing.assert_allclose(var, expected[2], rtol=3e-6)
    np.testing.assert_allclose(y, expected[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(("mean", "first"), [(0, None), (1e4, None), (1e4, 0.0), (1e4, -1e4)])
def test_one_pass_on_a_gpu_is_as_exact(mean, first, lanes):
    """Run by the CPU. Errors of the sums are magnified by N = 64 at most: if the first image is of another kind."""
    x = draw(np.random.default_rng(0), (lanes, 64, 16, 16, 3), mean)
    if first is not None:
        x[:, 0] = first
    shortcut = draw(np.random.default_rng(1), x.shape)
    how = norm.How(EPSILON, shortcut=True, relu=True, native=False)
    compute = jax.jit(jax.vmap(lambda x, shortcut: norm._on_gpu(how, x, jnp.ones(3), jnp.zeros(3), shortcut)))
    for found, of_lane, added in zip(zip(*compute(x, shortcut), strict=True), x, shortcut, strict=True):
        expected = by_numpy(of_lane, 1, 0, added, relu=True)
        np.testing.assert_allclose(found[1], expected[1], rtol=3e-7, atol=1e-7)
        np.testing.assert_allclose(found[2], expected[2], rtol=2e-7 if first is None else 64 * 2e-7)
        np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=2e-3 if mean else 2e-5)


@pytest.mark.usefixtures("only_native")
def test_a_constant_channel_becomes_its_bias():
    x = np.broadcast_to(np.float32([0.1, 1234.567, -3e7, 0]), (37, 9, 9, 4))
    y, mean, var = batch_norm(x, jnp.ones(4), jnp.arange(4.0), EPSILON)
    np.testing.assert_array_equal(mean, x[0, 0, 0])
    np.testing.assert_array_less(np.asarray(var), 1e-12 * x[0, 0, 0] ** 2 + 1e-30)
    np.testing.assert_allclose(y, np.broadcast_to(np.arange(4.0), x.shape), atol=1e-4)


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (36, 8, 8)])
def test_a_value_that_is_not_finite_spoils_its_channel_alone(value, place):
    x = draw(np.random.default_rng(0), (37, 9, 9, 5))
    x[(*place, 2)] = value
    for relu in (False, True):
        y, _, var = batch_norm(x, jnp.ones(5), jnp.zeros(5), EPSILON, relu=relu)
        assert np.isnan(y[..., 2]).all()
        assert np.isnan(var).tolist() == [False, False, True, False, False]
        assert np.isfinite(np.delete(y, 2, -1)).all()


@pytest.mark.usefixtures("only_native")
def test_any_number_of_threads_gives_the_same_bits():
    code = """
        import hashlib, os, sys
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
        import jax, numpy as np
        from cnn_jax.ops.norm import batch_norm, normalize
        rng = np.random.default_rng(0)
        for shape in ((64, 16, 16, 16), (61, 13, 11, 33)):
            x, shortcut = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
            scale, bias = (rng.normal(size=shape[-1:]).astype(np.float32) for _ in range(2))
            run = lambda *a: (batch_norm(*a[:3], 1e-5, a[3], relu=True)[0] ** 2).sum()
            values = jax.jit(jax.value_and_grad(run, (0, 1, 2, 3)))(x, scale, bias, shortcut)
            print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(values))).hexdigest())
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    told = [subprocess.run([*run, n], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout for n in "12"]
    assert told[0] == told[1] != ""


@pytest.mark.usefixtures("only_native")
def test_it_is_in_c_on_cpu_and_in_no_exported_program():
    x, scale = np.ones((2, 4, 4, 3), np.float32), np.ones(3, np.float32)

    def step(x, scale):
        return jax.grad(lambda *a: (batch_norm(*a, scale, EPSILON, x, relu=True)[0] ** 2).sum(), (0, 1))(x, scale)

    lowered = jax.jit(step).lower(x, scale).as_text()
    assert (lowered.count("@cnn_jax_norm("), lowered.count("@cnn_jax_norm_gradient(")) == (1, 1)
    exported = jax.export.export(jax.jit(step), platforms=("cpu", "cuda", "tpu"))(x, scale)
    assert "@cnn_jax" not in exported.mlir_module()
    for found, expected in zip(exported.call(x, scale), step(x, scale), strict=True):
        close(found, expected, 1e-4)
    with at_most("xla"):
        assert "@cnn_jax" not in jax.jit(lambda *a: batch_norm(*a, scale, EPSILON)).lower(x, scale).as_text()


# ------------------------------------------------------------------------------------------------------------ networks

HEAD = (specs.GlobalAvgPool(), specs.Dense(3))
BODY = (specs.Conv(4, 3, padding="same"), specs.BatchNorm(), specs.Activation("relu"), specs.Conv(4, 1), specs.BatchNorm())
STEM, PADDED = specs.Conv(3, 1), (specs.PadChannels(4),)
JOINED = {  # and the number of norms that are joined with what follows
    "relu": ((STEM, specs.BatchNorm(), specs.Activation("relu"), *HEAD), 1),
    "gelu": ((STEM, specs.BatchNorm(), specs.Activation("gelu"), *HEAD), 0),
    "residual": ((STEM, specs.Residual(BODY, PADDED), *HEAD), 2),
    "residual without relu": ((STEM, specs.Residual(BODY, PADDED, "linear"), *HEAD), 2),
    "not normalized last": ((specs.Residual((specs.BatchNorm(), specs.Conv(3, 1))), specs.BatchNorm(), *HEAD), 0),
}


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", JOINED)
def test_a_network_computes_the_same_with_and_without_joining(name, dtype, monkeypatch):
    """Outputs of all layers, running statistics and gradients; in training and in evaluation."""
    spec, joined = JOINED[name]
    network = CNN(spec, dtype)
    x = draw(np.random.default_rng(0), (5, 8, 8, 3))
    variables = dict(network.init(jax.random.key(1), x))
    params = variables.pop("params")
    taken = []
    fused = specs.BatchNorm.fused

    def counted(*arguments):
        taken.append(fused(*arguments))
        return taken[-1]

    def both():
        def loss(params, x):
            (logits, features), changed = network.apply({"params": params, **variables}, x, True, mutable=["batch_stats"])
            return (logits**2).sum() + sum((f.astype(jnp.float32) ** 2).mean() for f in features.values()), (features, changed)

        def evaluated(x):
            logits, features = network.apply({"params": params, **variables}, x)
            return (logits**2).sum(), features

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x), jax.jit(jax.grad(evaluated, has_aux=True))(x)

    monkeypatch.setattr(specs.BatchNorm, "fused", counted)
    found = both()
    assert sum(one is not None for one in taken) == 2 * joined
    monkeypatch.setattr(specs.BatchNorm, "fused", lambda *_: None)
    jax.tree.map(lambda a, b: close(a, b, 1e-4 if dtype is None else 0.1), found, both())
