"""Compilation of `ops.native`: no warnings for any width of vector, flags of the environment. Results, for random shapes."""

import itertools
import os
import platform
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops import call, ffi, native
from cnn_jax.sweep.plan import Plan
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.program import trace_program
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

ROOT = Path(__file__).resolve().parents[1]
X86 = platform.machine() in ("x86_64", "AMD64")
TARGETS = {
    "SSE2, 4 lanes": ["-march=x86-64"],
    "AVX2, 8 lanes": ["-march=x86-64", "-mavx2", "-mfma"],
    "AVX-512, 16 lanes": (AVX512 := ["-march=x86-64", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mfma"]),
    "AMX": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    "AMX in C": [*AVX512, "-DEMULATED_TILES"],
}


@pytest.mark.parametrize("target", TARGETS if X86 else {"the machine's own": []})
@pytest.mark.parametrize("unit", native.UNITS)
def test_sources_compile_without_a_warning(unit, target, tmp_path):
    compiler, headers = native._compiler(), native._headers()
    if compiler is None or headers is None:
        pytest.skip("no C compiler, or no headers of XLA")
    flags = [*native.WARNINGS, "-Werror", *TARGETS.get(target, [])]
    for command in itertools.chain(*native._commands(unit, compiler, flags, headers, tmp_path / "made.so")):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")


def told(cache, **environment):
    """What a process of its own finds, and all that it prints."""
    code = "from cnn_jax.ops import native; print(*native.library())"
    environment = {**os.environ, "CNN_JAX_CACHE": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def only_with_a_compiler():
    if native.library().path is None:
        pytest.skip(native.library().reason)


@pytest.mark.usefixtures("only_with_a_compiler")
def test_flags_of_the_environment_make_another_file(tmp_path):
    flags = "-O1 -DUNUSED='1 + 1'"
    path = told(tmp_path, CNN_JAX_CFLAGS=flags)
    assert key(path) != key(str(native.library().path))
    assert told(tmp_path, CNN_JAX_CFLAGS=flags) == path
    assert [str(path) for path in tmp_path.glob("native/*.so")] == [path]


def key(path):
    return Path(path).name.split("-")[1]


@pytest.mark.usefixtures("only_with_a_compiler")
def test_warnings_are_not_printed_and_errors_are_told(tmp_path):
    """-DINLINE makes a warning, since the sources define INLINE as well."""
    assert told(tmp_path, CNN_JAX_CFLAGS="-O1 -DINLINE").endswith(".so")
    assert "error" in told(tmp_path, CNN_JAX_CFLAGS="-DINLINE -no-such-flag")
    assert told(tmp_path, CNN_JAX_CFLAGS="'") == "None CNN_JAX_CFLAGS: No closing quotation"


# ------------------------------------------------------------------------------------------------------------- shapes
# Against numpy rather than lax, which compiles anew for each shape: under sanitizers that takes a second or more.


def by_numpy(how, x, kernel, bias, upstream):
    """(y, gradient of x, of kernel, of bias) of a convolution with bias, relu and pool of 2x2; exact for small integers."""
    (down, across), (rows, columns) = how.strides, upstream.shape[1:3]
    rows, columns = (rows * 2, columns * 2) if how.pool else (rows, columns)
    padded = np.pad(x, ((0, 0), *how.zeros, (0, 0)))
    reach = down * (rows - 1) + 1, across * (columns - 1) + 1
    seen = {(i, j): np.s_[:, i : i + reach[0] : down, j : j + reach[1] : across] for i, j in np.ndindex(*kernel.shape[:2])}
    y = sum(padded[s] @ kernel[place] for place, s in seen.items()) + bias
    gradient = upstream
    if how.pool:
        corners = [np.s_[:, i::2, j::2] for i, j in np.ndindex(2, 2)]
        windows = np.stack([y[corner] for corner in corners])
        winner, gradient, y = windows.argmax(0), np.zeros_like(y), windows.max(0)
        for number, corner in enumerate(corners):
            gradient[corner] = upstream * (winner == number) * ((y > 0) | (not how.relu))
    elif how.relu:
        gradient = upstream * (y > 0)
    of_x, of_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for place, s in seen.items():
        of_x[s] += gradient @ kernel[place].T
        of_kernel[place] = np.tensordot(padded[s], gradient, ((0, 1, 2), (0, 1, 2)))
    (top, _), (left, _) = how.zeros
    of_x = of_x[:, top : top + x.shape[1], left : left + x.shape[2]]
    return np.maximum(y, 0) if how.relu else y, of_x, of_kernel, gradient.sum((0, 1, 2))


SHAPES = {  # sizes of the kernel (None: random, with strides), channels, filters, type
    "plain": (None, [1, 2, 3, 5, 8, 16, 17], [1, 3, 6, 8, 9, 16, 20], np.float32),
    "winograd": ((3, 3), [9, 16, 17, 32], [9, 16, 20, 32], np.float32),
    "bfloat16": (None, [1, 3, 6, 16, 17, 32, 40], [1, 6, 16, 20, 32, 48], jnp.bfloat16),
}


@pytest.mark.usefixtures("only_with_a_compiler")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", SHAPES)
def test_c_agrees_with_numpy_for_random_shapes(kind, seed):
    assert call.available()
    kernel_size, channels, filters, dtype = SHAPES[kind]
    rng = np.random.default_rng(seed)
    for _ in range(15):
        pool, relu = map(bool, rng.integers(0, 2, 2))
        window = kernel_size or tuple(rng.integers(1, 8, 2).tolist())
        strides = (1, 1) if kernel_size else tuple(rng.integers(1, 4, 2).tolist())
        zeros = tuple(tuple(rng.integers(0, 4, 2).tolist()) for _ in range(2))
        out = rng.integers(1, 10, 2) * (2 if pool else 1)
        rest = int(rng.integers(0, 3))
        size = [(n - 1) * s + k - sum(z) + rest for n, s, k, z in zip(out.tolist(), strides, window, zeros, strict=True)]
        if min(size) < 1:
            continue
        how = ffi.How(strides, zeros, relu=relu, pool=pool)
        c, f = int(rng.choice(channels)), int(rng.choice(filters))
        x, kernel, bias = (
            rng.integers(-3, 4, shape).astype(np.float32)
            for shape in [(int(rng.integers(1, 6)), *size, c), (*window, c, f), (f,)]
        )
        kernel[kernel == 0] = 4  # zero taps are a reason for the plain loops
        given = [jnp.asarray(array, dtype) for array in (x, kernel, bias)]
        y, pull_back = jax.vjp(lambda *arrays, how=how: ffi.conv(how, *arrays), *given)
        upstream = rng.integers(-3, 4, y.shape).astype(np.float32)
        expected = by_numpy(how, x, kernel, bias, upstream)
        for name, found, value in zip(
            ("y", "x", "kernel", "bias"), (y, *pull_back(jnp.asarray(upstream, dtype))), expected, strict=True
        ):
            message = f"{name}: {how}, {x.shape}, {kernel.shape}"
            np.testing.assert_array_equal(np.asarray(found, np.float32), value.astype(found.dtype), err_msg=message)


@pytest.mark.usefixtures("only_with_a_compiler")
@pytest.mark.skipif(not X86, reason="AMX is of x86")
def test_bfloat16_by_tiles_written_in_c_agrees_too(tmp_path):
    """On a processor without AMX, this is all that runs of `half.c`."""
    test = "tests/test_native.py::test_c_agrees_with_numpy_for_random_shapes"
    code = f"""
        import sys, pytest
        from cnn_jax.ops import native
        sys.exit(pytest.main(["-q", "{test}", "-k", "bfloat16 and 0"]) if native.has_half() else 0)  # 0: without AVX-512
    """
    environment = {**os.environ, "CNN_JAX_CACHE": str(tmp_path), "CNN_JAX_CFLAGS": "-DEMULATED_TILES"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("only_with_a_compiler")
@pytest.mark.parametrize("channels", [5, 8])  # a row of the window at once, and a tap at a time: see layout_of
def test_what_is_not_finite_stays_in_its_windows_in_bfloat16(channels):
    """A tap's gradient has no NaN from a pixel that it never sees; an output none from a pixel outside of its window."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(3, 12, 13, channels)), rng.normal(size=(3, 3, channels, 7))
    x[1, 4, 12, 2] = np.inf  # in the last column, of which the taps of the other two columns see nothing
    how = ffi.How((1, 1), ((0, 0), (0, 0)))
    given = [jnp.asarray(array, jnp.bfloat16) for array in (x, kernel, np.zeros(7))]
    y, pull_back = jax.vjp(lambda *arrays: ffi.conv(how, *arrays), *given)
    finite = np.isfinite(np.asarray(y, np.float32))
    assert (~finite).sum() == 3 * 7
    assert not finite[1, 2:5, 10].any()
    gradient = np.isfinite(np.asarray(pull_back(jnp.ones_like(y))[1], np.float32))
    assert not gradient[:, 2, 2].any()
    assert gradient[:, :2].all()
    assert np.delete(gradient, 2, axis=2).all()


@pytest.mark.usefixtures("only_with_a_compiler")
@pytest.mark.parametrize(("size", "channels"), [(3, 1), (3, 3), (5, 1), (2, 4)])
def test_what_is_not_finite_stays_in_its_windows_with_few_filters(size, channels):
    """Two floats of a run are multiplied at once: of an odd run, the last must not be with its neighbour outside the window."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 12, channels)), rng.normal(size=(size, size, channels, 5))
    row, column = 4, 7
    touched = np.zeros((9, 12), bool)
    touched[row, column] = True
    how = ffi.How((1, 1), ((0, 0), (0, 0)))

    def convolve(x):
        return ffi.conv(how, x, jnp.asarray(kernel, jnp.float32), jnp.zeros(5))

    spoiled = x.copy()
    spoiled[1, row, column, 0] = np.inf
    y = np.asarray(convolve(jnp.asarray(spoiled, jnp.float32)))
    seen = np.lib.stride_tricks.sliding_window_view(touched, (size, size)).any((2, 3))
    np.testing.assert_array_equal(np.isfinite(y[1]).all(-1), ~seen)
    assert np.isfinite(y[0]).all()

    upstream = np.ones(y.shape, np.float32)
    upstream[1, 2, 3, 0] = np.inf
    (gradient,) = jax.vjp(convolve, jnp.asarray(x, jnp.float32))[1](jnp.asarray(upstream))
    reached = np.zeros((9, 12), bool)
    reached[2 : 2 + size, 3 : 3 + size] = True
    np.testing.assert_array_equal(np.isfinite(np.asarray(gradient)[1]).all(-1), ~reached)
    assert np.isfinite(np.asarray(gradient)[0]).all()


@pytest.mark.parametrize("name", ["cnn", "lenet5", "resnet20"])
@pytest.mark.usefixtures("only_with_a_compiler")
def test_the_plan_names_the_libraries_that_training_calls(name):
    model, data = ModelConfig(name), DataConfig("mnist")
    trial = Trial(model, data, TrainConfig(epochs=1))
    images, labels = (jax.ShapeDtypeStruct(size, dtype) for size, dtype in (((64, 28, 28, 1), np.uint8), ((64,), np.int32)))
    on_device = DeviceData(images, labels, images, labels, 32, (28, 28, 1), 10, np.zeros(64, np.int32))
    program = str(trace_program(trial, 1, on_device).train.jaxpr)
    called = {unit for unit, names in call._TARGETS.items() for function in names if f"name='{function}'" in program}
    info = types.SimpleNamespace(input_shape=(28, 28, 1), num_classes=10)
    assert set(Plan((trial,), {data: info}, {(model, data): None}).units) == called
