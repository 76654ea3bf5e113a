"""Compiled programs of a bucket of trials, and the data set in the device's memory."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import zoo
from cnn_jax.aliases import PyTree
from cnn_jax.data import UNIT, Dataset, Normalization
from cnn_jax.description import describe
from cnn_jax.ops import conv as ops
from cnn_jax.training.compilation import Options, compile_once, options_for
from cnn_jax.training.components import Components, components
from cnn_jax.training.loop import eval_batches, over_lanes, steps_per_epoch, train_steps
from cnn_jax.training.step import create_train_state, variables_of
from cnn_jax.trial import Trial
from cnn_jax.zoo.build import build

EVAL_BATCH = 128
# Steps in a loop of known length, by platform. On a GPU each iteration of any other loop copies its condition to the host and
# waits for it; the steps left over, at most one less, are done that way.
LOOP_UNIT = {"gpu": 16}


@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set in a device's memory: training images, and images to evaluate on (validation, then test)."""

    train_images: jax.Array
    train_labels: jax.Array
    eval_images: jax.Array
    eval_labels: jax.Array
    validation: int  # how many of the eval images are validation images
    input_shape: tuple[int, ...]
    num_classes: int
    labels: np.ndarray  # of the eval images, on the host
    mesh: Mesh | None = None  # of the devices that share the images of every batch; None: one device
    normalization: Normalization = UNIT  # of the images, training and evaluation alike

    @classmethod
    def put(cls, data: Dataset, devices: Sequence[jax.Device] = ()) -> "DeviceData":
        """Copies the arrays to the device; to each of several, which then share the images of every batch."""
        mesh = Mesh(np.array(devices), ("batch",)) if len(devices) > 1 else None

        def put(array: np.ndarray) -> jax.Array:
            if mesh is None:
                return jax.device_put(np.ascontiguousarray(array), devices[0] if devices else None)
            return _spread(array, NamedSharding(mesh, PartitionSpec()))

        labels = np.concatenate([data.validation_labels, data.test_labels])
        return cls(
            put(data.train_images),
            put(data.train_labels),
            put(np.concatenate([data.validation_images, data.test_images])),
            put(labels),
            len(data.validation_labels),
            data.info.input_shape,
            data.info.num_classes,
            labels,
            mesh,
            data.normalization,
        )

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu'."""
        sharding = self.train_images.sharding
        if sharding is None:
            return jax.default_backend()
        device: jax.Device = next(iter(sharding.device_set))
        return device.platform

    def divided(self, indices: np.ndarray) -> Any:
        """Indices (..., B) as the programs take them: the batch axis divided over the devices."""
        return indices if self.mesh is None else _spread(indices, _division(self.mesh, indices.shape))


def _division(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The last axis divided over the devices; whole on each if it cannot be divided evenly."""
    return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), None if shape[-1] % mesh.size else "batch"))


def _spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The array on the devices of all processes; each process has the whole of it and gives its own devices their part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


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

    placed: tuple[dict[str, PyTree], dict[str, PyTree]] = ({}, {})
    if data.mesh is not None:
        # Values are whole on every device, the batch is divided: XLA then adds up the gradients of the parts.
        whole = NamedSharding(data.mesh, PartitionSpec())
        placed = (
            {"in_shardings": (whole,) * 5 + (_division(data.mesh, order.shape), whole, whole), "out_shardings": whole},
            {"in_shardings": (whole,) * 3 + (_division(data.mesh, pieces.shape),), "out_shardings": whole},
        )
    trained = jax.jit(over_lanes(train, lanes, (0, 0, 0, None, None, 0, None, None)), donate_argnums=(0, 2), **placed[0])
    evaluated = jax.jit(over_lanes(evaluate, lanes, (0, None, None, None)), **placed[1])
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
    spec = zoo.spec(trial.model, data.input_shape, data.num_classes)
    in_c = isinstance(spec, tuple) and all(layer.compiled_in_c for layer in spec)
    if implementation(data) != "native" or not in_c:
        return {}
    macs = describe(trial.model, data.input_shape, data.num_classes).macs
    return options_for(macs * len(data.train_labels) * trial.train.epochs)


def implementation(data: DeviceData) -> str:
    """How convolutions of programs for `data` are done: one of `ops.IMPLEMENTATIONS`."""
    with ops.at_most(_most(data)):
        return ops.implementation(data.platform)


def _most(data: DeviceData) -> str:
    """The first implementation that programs for `data` may use; several devices cannot share a call of ours."""
    return "native" if data.mesh is None else "xla"


def stack_states(states: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def hyper_of(trials: Sequence[Trial]) -> dict[str, np.ndarray]:
    rows = [trial.dynamic for trial in trials]
    return {key: np.array([row[key] for row in rows], np.int32 if key == "seed" else np.float32) for key in rows[0]}
