"""Networks from safetensors files written by `export`, without the folder of the sweep."""

import dataclasses
import os
from collections.abc import Mapping

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from cnn_jax import schema
from cnn_jax.aliases import PyTree
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Normalization
from cnn_jax.errors import UsageError
from cnn_jax.export import safetensors
from cnn_jax.records import record as records
from cnn_jax.records.record import Record
from cnn_jax.trial import NORMALIZATIONS, Trial
from cnn_jax.zoo.build import build


@dataclasses.dataclass(frozen=True)
class _Images:
    """Metadata of a network's images and classes."""

    input_shape: tuple[int, ...]
    num_classes: int
    normalization: Normalization
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        kind, statistics = self.normalization.kind, (self.normalization.mean, self.normalization.std)
        channels = {"per_channel": self.input_shape[-1:]}.get(kind, (0,))
        if len(self.input_shape) != 3 or min(*self.input_shape, self.num_classes) < 1:
            raise ValueError("input_shape must be (height, width, channels), and there must be a class")
        if kind not in NORMALIZATIONS or {len(values) for values in statistics} != set(channels):
            raise ValueError("unknown kind of normalization, or not one mean and std per channel")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError("class_names must have a name per class")


def open_file(path: str | os.PathLike, trial: str = "best") -> TrainedNetwork:
    """Open the network in a file. A fork's model is imported by name.

    Args:
      path: FILE.safetensors.
      trial: required prefix of the trial id, or 'best' for any.

    Raises:
      UsageError: the file is damaged, was not exported from a trial, or has another trial; the model has changed since.
    """
    arrays, about = safetensors.read(path)
    file = os.fspath(path)
    if "settings" not in about:
        raise UsageError(f"{file} holds arrays without a trial of cnn_jax: read it with safetensors.numpy.load_file")
    config, record, images = _metadata(file, about)
    if trial != "best" and not config.id.startswith(trial):
        raise UsageError(f"{trial!r}: {file} holds trial {config.id}")
    model = build(config.model, images.input_shape, images.num_classes, config.train.precision)
    variables = fitting(arrays, config, model, images.input_shape)
    return TrainedNetwork(
        model, variables, images.input_shape, images.num_classes, images.normalization, config, record, images.class_names
    )


def _metadata(file: str, about: Mapping[str, str]) -> tuple[Trial, Record | None, _Images]:
    try:
        config = Trial.from_json(about["settings"])
        record = records.decode(schema.loads(about["record"])) if "record" in about else None
        if record is not None and record.config != config:
            raise ValueError("the record is of another trial")
        names = [field.name for field in dataclasses.fields(_Images)]
        return config, record, schema.decode(_Images, {name: schema.loads(about[name]) for name in names})
    except (KeyError, ValueError) as error:
        raise UsageError(f"{file}: its metadata are damaged, or of a later version: {error}") from None


def fitting(
    arrays: Mapping[str, np.ndarray], trial: Trial, model: nn.Module, input_shape: tuple[int, ...]
) -> dict[str, PyTree]:
    """Return arrays by path as variables of the model. Raises UsageError if paths or shapes differ from the model's."""
    x = np.zeros((1, *input_shape), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    expected = flax.traverse_util.flatten_dict(shapes, sep="/")
    if {n: (a.shape, a.dtype) for n, a in arrays.items()} != {n: (a.shape, a.dtype) for n, a in expected.items()}:
        raise UsageError(f"trial {trial.id}: its parameters do not fit model {trial.model.name}: its code has changed since")
    return flax.traverse_util.unflatten_dict(dict(arrays), sep="/")
