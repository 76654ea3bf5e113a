"""Every model, padding mode and recipe is lowered for GPU and TPU by the CPU package; nothing is compiled."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import shapes

from cnn_jax.ops import accelerator, call
from cnn_jax.ops.accelerator import How
from cnn_jax.recipes.published import RECIPES
from cnn_jax.training.program import Traced, trace_program
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.models import MODELS, PUBLISHED_FOR

PLATFORMS = ("cuda", "tpu")


@pytest.fixture(autouse=True, scope="module")
def with_a_compiler():
    """Trace as on a machine with a C compiler, as nothing is run that C would be called in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "available", lambda: True)
        yield


PADDINGS = ("valid", "same", "full", "reflect", "symmetric", "replicate", "circular")
# Custom calls of JAX itself: its random numbers on a GPU.
OF_JAX = {"cu_threefry2x32", "cu_threefry2x32_ffi"}


def traced(model: ModelConfig, lanes: int, shape: tuple[int, ...] = (28, 28, 1), classes: int = 10, **train) -> Traced:
    config = TrainConfig(**{"batch_size": 32, "epochs": 2, **train})
    return trace_program(Trial(model, DataConfig(), config), lanes, shapes(shape, classes, 1000))


def check(program: jax.stages.Traced, platform: str) -> str:
    """Lower for a platform and assert what must hold on any accelerator; return the StableHLO."""
    lowered = program.lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert set(re.findall(r"custom_call @([\w.$]+)", text)) <= OF_JAX
    assert "f64" not in re.findall(r"tensor<(?:\d+x)*(\w+)>", text)
    assert "callback" not in text
    constants = re.findall(r"stablehlo\.constant dense<(?:\"|\[).*?: tensor<([\dx]*)x\w+>", text)
    assert max((math.prod(map(int, sizes.split("x"))) for sizes in constants), default=0) <= 4096
    donated = sum(leaf.donated for leaf in jax.tree.leaves(lowered.args_info))
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") == donated
    assert re.search(r"stablehlo\.(dynamic_)?gather.*-> tensor<[\dx]*xui8>", text)  # images, converted after they are taken
    return text


def check_both(programs: Traced, platform: str) -> tuple[str, str]:
    return check(programs.train, platform), check(programs.evaluate, platform)


LANES = (1, 3, 16)  # no vmap, a few seeds, the most


@functools.cache
def chapters_net(lanes: int) -> Traced:
    return traced(ModelConfig("cnn", padding="same"), lanes)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_lanes_are_batched_not_looped_over(platform):
    train, _ = check_both(chapters_net(3), platform)
    assert train.count("stablehlo.while") == 1  # over the steps


@pytest.mark.parametrize("platform", PLATFORMS)
def test_weight_gradients_of_lanes_on_a_gpu_are_those_of_a_grouped_convolution(platform):
    train, _ = check_both(traced(ModelConfig("lenet5"), 3), platform)
    assert ("batch_group_count = 3" in train) is (platform == "cuda")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_half_precision(platform):
    train, _ = check_both(traced(ModelConfig("simple_convnet"), 1, precision="bfloat16"), platform)
    convolutions = re.findall(r"stablehlo\.convolution.*?: \((\S+), (\S+)\)", train)
    assert convolutions
    assert all("bf16" in operand for operands in convolutions for operand in operands)
    assert not re.search(r"stablehlo\.reduce.*add.*-> tensor<[\dx]*bf16>", train)  # sums are float32


@pytest.mark.accelerators
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model(name, lanes):
    shape, classes = PUBLISHED_FOR[name]
    if shape[0] > 64:  # the same layers on images that cost less to hold: AlexNet and VGG end in 10^8 parameters
        shape, classes = (64, 64, 3), 10
    programs = traced(ModelConfig(name), lanes, shape, classes, batch_size=8)
    for platform in PLATFORMS:
        check_both(programs, platform)


@pytest.mark.accelerators
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_padding_mode(padding, lanes):
    programs = traced(ModelConfig("cnn", filters=(8, 16), padding=padding), lanes)
    for platform in PLATFORMS:
        check_both(programs, platform)


@pytest.mark.accelerators
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name, lanes):
    flags = dict(RECIPES[name].flags)
    known = {field.name for field in dataclasses.fields(TrainConfig)} - {"options", "epochs", "batch_size"}
    training = {key: value for key, value in flags.items() if key in known and not isinstance(value, (list, tuple, dict))}
    option = {key: value for key, value in flags.get("option", {}).items() if "." not in key}
    model = flags.get("model", "cnn")
    shape, classes = PUBLISHED_FOR.get(model, ((28, 28, 1), 10))  # a model of a paper: on MNIST
    programs = traced(ModelConfig(model, options=tuple(sorted(option.items()))), lanes, shape, classes, **training)
    for platform in PLATFORMS:
        check_both(programs, platform)


# ------------------------------------------------------------------------------- the operations, run by the CPU all the same

CASES = {
    "plain": (How((1, 1), ((0, 0), (0, 0))), (7, 8, 2)),
    "strides and zeros": (How((2, 1), ((1, 0), (2, 1)), relu=True), (7, 8, 2)),
    "pool of few taps": (How((1, 1), ((1, 1), (0, 1)), relu=True, pool=True), (8, 9, 2)),
    "pool without relu, strides": (How((1, 2), ((0, 0), (1, 1)), pool=True), (8, 11, 1)),
    "pool of many taps": (How((1, 1), ((0, 0), (0, 0)), relu=True, pool=True), (7, 7, 8)),
}


@pytest.mark.accelerators
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("case", CASES)
def test_an_operation_and_its_gradients_are_right_on(platform, case, dtype):
    """Against lax and its gradients, on small integers: sums are exact, and of equal values the first must win.

    In bfloat16 sums are taken in float32 and rounded once.
    """
    how, shape = CASES[case]
    lanes, filters = 3, 4
    rng = np.random.default_rng(5)

    def integers(*size: int) -> jax.Array:
        return jnp.asarray(rng.integers(-2, 3, size), jnp.float32)

    x, kernel, bias = integers(lanes, 2, *shape), integers(lanes, 3, 3, shape[-1], filters), integers(lanes, filters)

    def reference(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, how.strides, how.zeros, dimension_numbers=numbers) + bias[None, None, None]
        if how.pool:  # select-and-scatter gives the gradient to the first of equal values
            y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jax.nn.relu(y) if how.relu else y

    def run(name: str, results: list[jax.Array], *arrays: jax.Array) -> list[jax.Array]:
        of_one = tuple(jax.ShapeDtypeStruct(result.shape[1:], dtype) for result in results)
        level = (True,) * len(arrays)
        given = [array if array.dtype == jnp.uint8 else array.astype(dtype) for array in arrays]
        return jax.jit(accelerator.function(f"cnn_jax_{name}", how, of_one, (level,), platform))(*given)

    def assert_rounded(found: jax.Array, exact: jax.Array) -> None:
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, exact.astype(dtype))

    y, pull_back = jax.vjp(jax.vmap(reference), x, kernel, bias)
    found = run("conv", [y], x, kernel, bias)
    assert_rounded(found[0], y)
    gradient = integers(*y.shape)
    of_x, of_kernel, of_bias = pull_back(gradient)
    seen = found[-1] if how.pool or how.relu else bias
    found_kernel, found_bias = run("conv_kernel_gradient", [kernel, bias], x, gradient, seen)
    assert_rounded(found_kernel, of_kernel)
    assert_rounded(found_bias, of_bias)
    assert_rounded(run("conv_input_gradient", [x], gradient, kernel, seen)[0], of_x)
