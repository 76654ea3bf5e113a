"""TrainedNetwork: a model, its variables and the preprocessing of its images.

N images, *S spatial axes, C channels, K classes.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import flax.linen as nn
import jax
import numpy as np
from numpy.typing import ArrayLike

from cnn_jax import data
from cnn_jax.aliases import Array, PyTree
from cnn_jax.data import UNIT, Dataset, Normalization
from cnn_jax.errors import UsageError
from cnn_jax.export import formats
from cnn_jax.export.exportable import Exportable
from cnn_jax.export.write import Exported, export
from cnn_jax.nn.init import initial_variables
from cnn_jax.nn.network import CNN
from cnn_jax.nn.spec import Layer, Spec, named
from cnn_jax.nn.table import layer_table
from cnn_jax.records.record import Record
from cnn_jax.trial import Trial

Variables = Mapping[str, PyTree]
Features = dict[str, jax.Array]
Apply = Callable[[Variables, jax.Array], tuple[jax.Array, Features]]  # (variables, x_NSC) -> (logits_NK, features)

BATCH = 256  # maximum images per batch
_BATCH_BYTES = 2**28  # limit on the activations of a batch


@dataclasses.dataclass(frozen=True, eq=False)  # == of arrays is an array
class TrainedNetwork:
    """A network with its variables.

    Attributes:
      model: linen module that returns (logits, features).
      variables: as `model.init` returns them.
      input_shape: (*S, C) of an image.
      num_classes: K.
      normalization: conversion of uint8 images to inputs.
      apply: `model.apply` in evaluation mode. Equal models share one object, so that programs with `apply` as a static argument
        are compiled once.
      trial: the trained trial; None for a network from `from_model`.
      record: its record; None likewise.
      class_names: names of the classes; empty for a network from `from_model`.
      epoch: training epoch of a snapshot; 0: before training. None: the parameters evaluated in the record.
    """

    model: nn.Module
    variables: Variables
    input_shape: tuple[int, ...]
    num_classes: int
    normalization: Normalization = UNIT
    trial: Trial | None = None
    record: Record | None = None
    class_names: tuple[str, ...] = ()
    epoch: int | None = None
    apply: Apply = dataclasses.field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.apply is None:
            object.__setattr__(self, "apply", _apply_of(self.model))

    @classmethod
    def from_model(
        cls,
        model: nn.Module | Sequence[Layer],
        input_shape: Sequence[int],
        num_classes: int,
        *,
        seed: int = 0,
        variables: Variables | None = None,
        normalization: Normalization = UNIT,
    ) -> "TrainedNetwork":
        """Create a network without a trial.

        Args:
          model: a linen module that returns (logits, features), or a tuple of layer specs.
          input_shape: (*S, C) of an image.
          num_classes: K.
          seed: seed of the initial values.
          variables: used instead of initial values.
          normalization: conversion of uint8 images to inputs; default: scale to 0..1.
        """
        module = model if isinstance(model, nn.Module) else CNN(named(model))
        shape = tuple(input_shape)
        values = initial_variables(module, shape, seed) if variables is None else variables
        return cls(module, values, shape, num_classes, normalization)

    def randomized(self, seed: int) -> "TrainedNetwork":
        """Return the architecture with initial values from `seed`; the trial's seed gives the values before training."""
        return self.with_variables(initial_variables(self.model, self.input_shape, seed))

    def with_variables(self, variables: Variables) -> "TrainedNetwork":
        """Return the network with other variables."""
        return dataclasses.replace(self, variables=variables)

    @property
    def spec(self) -> Spec | None:
        """Layer specs with their names; None for a linen module that is not a `CNN`."""
        return named(self.model.spec) if isinstance(self.model, CNN) else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; 0 if unknown."""
        if self.spec is None:
            return (self.record.macs if self.record else 0) or 0
        return layer_table(self.spec, self.input_shape).macs

    @property
    def label(self) -> str:
        """Name of the network in messages."""
        if self.trial is None:
            return f"model {type(self.model).__name__}"
        return f"trial {self.trial.id}" + ("" if self.epoch is None else f" at epoch {self.epoch}")

    def dataset(self) -> Dataset:
        """Return the trial's images and labels, split as in training.

        Raises:
          UsageError: the network has no trial; the data are missing or have changed since training.
        """
        if self.trial is None:
            raise UsageError(f"{self.label} has no data set: it was not opened by open_trial")
        dataset = data.load(self.trial.data)
        check_data(dataset, self.trial, self.record)
        return dataset

    def export(self, path: str | os.PathLike, format: str | None = None) -> Exported:
        """Export the network to a file; arguments and errors as in `cnn_jax.export.write.export`."""
        network = self
        if formats.format_of(format, path) != "jax_export" and isinstance(self.model, CNN) and self.model.dtype is not None:
            # Exported networks compute in float32, whatever the training precision.
            network = TrainedNetwork(
                self.model.clone(dtype=None), self.variables, self.input_shape, self.num_classes, self.normalization
            )
        exportable = Exportable(
            self.model, self.variables, self.input_shape, self.num_classes, self.normalization, network.logits,
            self.class_names, self.trial, self.record,
        )  # fmt: skip
        return export(exportable, path, format)

    def inputs(self, images: ArrayLike) -> Array:
        """Convert images to inputs of the network.

        Args:
          images: (N, *S, C) integers 0..255, normalized as in training; or floats, returned as float32.

        Returns:
          float32 (N, *S, C); a JAX array for JAX arrays.

        Raises:
          UsageError: the images have another shape or type.
        """
        array = images if isinstance(images, jax.Array) else np.asarray(images)
        self._check_shape(array.shape)
        if np.issubdtype(array.dtype, np.floating):
            return array.astype(np.float32)
        if not np.issubdtype(array.dtype, np.integer):
            raise UsageError(f"images have type {array.dtype}: must be uint8 0..255, or floats as the network was trained on")
        return self.normalization(array)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape[1:] != self.input_shape or len(shape) != len(self.input_shape) + 1:
            wanted = ", ".join(map(str, self.input_shape))
            raise UsageError(f"images have shape {shape}: {self.label} takes (N, {wanted})")

    def logits(self, images: Array) -> np.ndarray:
        """Compute the logits (N, K) of images in batches; images as in `inputs`."""
        parts = [logits for logits, _ in self._batches(images, ())]
        return np.concatenate(parts) if parts else np.zeros((0, self.num_classes), np.float32)

    def features(self, images: Array, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Compute the outputs of layers, in batches.

        Args:
          images: as in `inputs`.
          layers: names; default all, which needs much memory for many images.

        Returns:
          Outputs (N, ...) by layer name, in order of computation.

        Raises:
          UsageError: unknown layer, or the model returns no features.
        """
        names = self.layers if layers is None else tuple(self.layer(name) for name in layers)
        if not self.layers:
            raise UsageError(f"{self.label} returns no features: a linen module returns (logits, {{name: array}})")
        parts = [features for _, features in self._batches(images, names)]
        if not parts:
            return {name: np.zeros((0, *self.feature_shapes[name]), np.float32) for name in names}
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    @functools.cached_property
    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every layer's output for one image, in order of computation; empty for a model without features."""
        x = jax.ShapeDtypeStruct((1, *self.input_shape), np.float32)
        shapes = jax.eval_shape(self.apply, self.variables, x)[1]
        names = list(shapes)
        if self.spec is not None:  # jit and eval_shape sort the keys of a dict
            names = [row.name for row in layer_table(self.spec, self.input_shape).layers]
        return {name: tuple(shapes[name].shape[1:]) for name in names}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with features, in order of computation; for a linen module, in alphabetical order."""
        return tuple(self.feature_shapes)

    def layer(self, name: str) -> str:
        """Return `name`. Raises UsageError with the legal names for an unknown layer."""
        if name not in self.layers:
            raise UsageError(f"--layer={name}: unknown layer of {self.label}: must be one of {', '.join(self.layers)}")
        return name

    @functools.cached_property
    def batch_size(self) -> int:
        """Images per batch, limited by the size of their activations; at most 256."""
        values = sum(int(np.prod(shape)) for shape in (self.input_shape, *self.feature_shapes.values()))
        return max(1, min(BATCH, _BATCH_BYTES // (4 * values)))

    def batches(self, images: Array) -> Iterator[tuple[Array, int]]:
        """Yield batches of equal size and their number of valid images; the last batch is padded with its last image."""
        size = min(self.batch_size, 1 << (len(images) - 1).bit_length()) if len(images) else 0
        for begin in range(0, len(images), size or 1):
            piece = images[begin : begin + size]
            count = len(piece)
            if count < size:
                piece = np.concatenate([piece, np.repeat(piece[-1:], size - count, axis=0)])
            yield piece, count

    def _batches(self, images: Array, names: tuple[str, ...]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        self._check_shape(np.shape(images))
        variables = jax.device_put(self.variables)
        for piece, count in self.batches(images):
            logits, features = _forward(self.apply, names, variables, self.inputs(piece))
            yield np.asarray(logits)[:count], {name: np.asarray(value)[:count] for name, value in features.items()}


def check_data(dataset: Dataset, trial: Trial, record: Record | None) -> None:
    """Raise UsageError if `dataset` differs from the trial's training data."""
    if record is not None and record.data is not None and record.data.checksum != dataset.checksum:
        raise UsageError(
            f"--dataset={trial.data.dataset} has changed since trial {trial.id} was trained: its checksum is "
            f"{dataset.checksum[:12]}, not {record.data.checksum[:12]}"
        )


def evaluate(model: nn.Module, variables: Variables, x_NSC: jax.Array) -> tuple[jax.Array, Features]:
    """Compute (logits_NK, features) for inputs in evaluation mode."""
    return cast(tuple[jax.Array, Features], model.apply(variables, x_NSC, train=False))


def _apply_of(model: nn.Module) -> Apply:
    try:
        return _cached_apply(model)
    except TypeError:  # a fork's module with unhashable fields
        return functools.partial(evaluate, model)


@functools.lru_cache(maxsize=64)
def _cached_apply(model: nn.Module) -> Apply:
    return functools.partial(evaluate, model)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(apply: Apply, names: tuple[str, ...], variables: Variables, x_NSC: jax.Array) -> tuple[jax.Array, Features]:
    logits_NK, features = apply(variables, x_NSC)
    return logits_NK, {name: features[name] for name in names}
