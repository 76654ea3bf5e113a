"""Compiled programs of a bucket of trials."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import zoo
from cnn_jax.aliases import PyTree
from cnn_jax.description import describe
from cnn_jax.ops import conv as ops
from cnn_jax.training.compilation import Options, compile_once, options_for
from cnn_jax.training.components import Components, components
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.loop import eval_batches, steps_per_epoch, train_steps
from cnn_jax.training.step import create_train_state, variables_of
from cnn_jax.trial import Trial
from cnn_jax.zoo.build import build

EVAL_BATCH = 128
# Steps in a loop of known length, by platform. On a GPU each iteration of any other loop copies its condition to the host and
# waits for it; the steps left over, at most one less, are done that way.
LOOP_UNIT = {"gpu": 16}


@dataclasses.dataclass(frozen=True)
class Program:
    """A bucket's compiled programs: `train` is `train_steps`, `evaluate` is `eval_batches`, for `lanes` trials at a time."""

    model: nn.Module
    setup: Components
    lanes: int
    train: Callable
    evaluate: Callable
    eval_batches: int
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Traced:
    """A bucket's programs before they are lowered for a platform and compiled."""

    model: nn.Module
    setup: Components
    train: jax.stages.Traced
    evaluate: jax.stages.Traced
    eval_batches: int


def trace_program(trial: Trial, lanes: int, data: DeviceData) -> Traced:
    """Trace what all trials with the `static` of `trial` share. Raises UsageError if batch or model do not fit the data.

    Of the arrays of `data` only shapes, types and shardings are used, so `jax.ShapeDtypeStruct` will do.
    """
    model = build(trial.model, data.input_shape, data.num_classes, trial.train.precision)
    batch = trial.train.batch_size
    steps = steps_per_epoch(len(data.train_labels), batch)
    setup = components(trial.train, steps * trial.train.epochs, data.num_classes)
    state = create_train_state(model, data.input_shape, setup, trial.dynamic)
    states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((lanes, *leaf.shape), leaf.dtype), state)
    hyper = hyper_of([trial] * lanes)
    unit = LOOP_UNIT.get(data.platform, 1)
    sums = jax.ShapeDtypeStruct((lanes, 2, steps), jnp.float32)
    order = jax.ShapeDtypeStruct((lanes, steps, batch), jnp.int32)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    # One program evaluates any number of images, in pieces of at most 16 batches.
    most = max(data.validation, len(data.eval_labels) - data.validation)
    pieces = jax.ShapeDtypeStruct((min(16, -(-most // EVAL_BATCH)), EVAL_BATCH), jnp.int32)

    def train(state, hyper, sums, images, labels, order, first, last):  # type: ignore[no-untyped-def]
        return train_steps(model, setup, state, hyper, sums, images, labels, order, first, last, data.normalization, unit)

    def evaluate(variables, images, labels, indices):  # type: ignore[no-untyped-def]
        return eval_batches(model, setup, variables, images, labels, indices, data.normalization)

    place = data.placement
    trained = place.jit(train, lanes, (0, 0, 0, None, None, 0, None, None), batch=(5, order.shape), donate=(0, 2))
    evaluated = place.jit(evaluate, lanes, (0, None, None, None), batch=(3, pieces.shape))
    with ops.at_most(_most(data)):
        return Traced(
            model,
            setup,
            trained.trace(states, hyper, sums, data.train_images, data.train_labels, order, index, index),
            evaluated.trace(variables_of(states), data.eval_images, data.eval_labels, pieces),
            pieces.shape[0],
        )


def compile_program(trial: Trial, lanes: int, data: DeviceData) -> Program:
    """Trace and compile, for the devices of `data`."""
    start = time.perf_counter()
    traced = trace_program(trial, lanes, data)
    lowered = {"train": traced.train.lower(), "evaluate": traced.evaluate.lower()}
    name = repr((trial.static, lanes, data.input_shape, len(data.train_labels)))
    compiled = compile_once(lowered, _compiler_options(trial, data), name)
    train, evaluate = compiled["train"], compiled["evaluate"]
    return Program(traced.model, traced.setup, lanes, train, evaluate, traced.eval_batches, time.perf_counter() - start)


def _compiler_options(trial: Trial, data: DeviceData) -> Options:
    """Settings of XLA for the programs of a trial."""
    if implementation(data) != "native":
        return {}
    spec = zoo.spec(trial.model, data.input_shape, data.num_classes)
    if not isinstance(spec, tuple) or not all(layer.compiled_in_c for layer in spec):
        return options_for(0, all_in_c=False)
    macs = describe(trial.model, data.input_shape, data.num_classes).macs
    return options_for(macs * len(data.train_labels) * trial.train.epochs, all_in_c=True)


def implementation(data: DeviceData) -> str:
    """How convolutions of programs for `data` are done: one of `ops.IMPLEMENTATIONS`."""
    with ops.at_most(_most(data)):
        return ops.implementation(data.platform)


def _most(data: DeviceData) -> str:
    """The first implementation that programs for `data` may use; devices that divide a batch cannot share a call of ours."""
    return "xla" if data.placement.divides == "batch" else "native"


def stack_states(states: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def hyper_of(trials: Sequence[Trial]) -> dict[str, np.ndarray]:
    rows = [trial.dynamic for trial in trials]
    return {key: np.array([row[key] for row in rows], np.int32 if key == "seed" else np.float32) for key in rows[0]}
