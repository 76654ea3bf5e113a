"""Input of the exporters: a trained network, its preprocessing, and the metadata of a file."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict

import cnn_jax
from cnn_jax.aliases import PyTree
from cnn_jax.data.normalization import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.lowering import NotLowered, Op, lower
from cnn_jax.nn.network import CNN
from cnn_jax.nn.spec import Spec, named
from cnn_jax.records import record as records
from cnn_jax.records.record import Record
from cnn_jax.trial import Trial

Files = dict[str, bytes]  # contents by suffix, in the order of writing


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A trained network, as used by the exporters.

    Attributes:
      model: linen module that returns (logits, features).
      variables: as `model.init` returns them.
      input_shape: (*S, C) of an image.
      num_classes: K.
      normalization: conversion of uint8 images to inputs.
      logits: function from uint8 images (N, *S, C) to logits (N, K), the reference for files.
      class_names: names of the classes; empty if unknown.
      trial: the trained trial, if any.
      record: its record.
    """

    model: nn.Module
    variables: Mapping[str, PyTree]
    input_shape: tuple[int, ...]
    num_classes: int
    normalization: Normalization
    logits: Callable[[np.ndarray], np.ndarray]
    class_names: tuple[str, ...] = ()
    trial: Trial | None = None
    record: Record | None = None

    @property
    def spec(self) -> Spec | None:
        """Layer specs with their names; None for a linen module that is not a `CNN`."""
        return named(self.model.spec) if isinstance(self.model, CNN) else None

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Variables by path, such as 'params/conv1/kernel'."""
        return {path: np.asarray(value) for path, value in flatten_dict(dict(self.variables), sep="/").items()}

    @functools.cached_property
    def ops(self) -> tuple[Op, ...]:
        """Return the operations of the network. Raises UsageError for a linen module without layer specs."""
        instead = "use format safetensors or jax_export"
        if self.spec is None:
            raise UsageError(f"{self.label}: {type(self.model).__name__} is a linen module, not layer specs: {instead}")
        try:
            return lower(self.spec, self.input_shape, self.arrays)
        except NotLowered as error:
            raise UsageError(f"{self.label}: {error}: {instead}") from None

    @property
    def label(self) -> str:
        """Name of the network in messages."""
        return f"trial {self.trial.id}" if self.trial else f"model {type(self.model).__name__}"

    @property
    def name(self) -> str:
        """Name of the network in a file: letters, digits, '_' and '-'."""
        return self.trial.id if self.trial else type(self.model).__name__

    def about(self, input: str) -> dict[str, str]:
        """Metadata of a file.

        Args:
          input: shape and type of the images in the file.
        """
        found = {
            "producer": f"cnn_jax {cnn_jax.__version__}",
            "input": input,
            "output": f"logits, float32 (batch, {self.num_classes})",
            "input_shape": json.dumps(self.input_shape),
            "num_classes": str(self.num_classes),
            "normalization": json.dumps(dataclasses.asdict(self.normalization)),
            "class_names": json.dumps(self.class_names),
        }
        if self.trial is not None:
            found |= {"trial": self.trial.id, "settings": self.trial.canonical}
            found |= {"model": self.trial.model.name, "dataset": self.trial.data.dataset}
        if self.record is not None:
            found |= {
                name: str(self.record[name]) for name in ("val_accuracy", "test_accuracy") if self.record[name] is not None
            }
        return found

    @property
    def record_json(self) -> str:
        """Return the record without command and machine; '' without a record."""
        if self.record is None:
            return ""
        return json.dumps({k: v for k, v in records.to_json(self.record).items() if k not in ("command", "host")})

    def input_text(self, *axes: int) -> str:
        """Describe the input: 'uint8 0 to 255 (batch, ...)' with the sizes of `axes`."""
        return f"image, uint8 0 to 255 ({', '.join(map(str, ('batch', *axes)))}), normalized inside"
