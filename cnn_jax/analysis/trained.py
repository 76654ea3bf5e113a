"""`open_trial`: the network that a trial of a sweep trained, from its folder."""

import hashlib
import os
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from cnn_jax import data
from cnn_jax.analysis.network import TrainedNetwork, check_data
from cnn_jax.analysis.records import find_record
from cnn_jax.errors import UsageError
from cnn_jax.records import store
from cnn_jax.records.arrays import to_npz
from cnn_jax.records.record import Record
from cnn_jax.zoo.build import build


def open_trial(dir: str | os.PathLike, trial: str = "best") -> TrainedNetwork:
    """Open the trained network of a trial.

    Args:
      dir: folder of a sweep.
      trial: id of a trial, a prefix of one id alone, or 'best': the highest validation accuracy.

    Raises:
      UsageError: there is no such trial, or several; it diverged or failed; its parameters were not kept, are damaged or do
        not fit its model; its data are gone or have changed.
    """
    record = find_record(dir, trial)
    dataset = data.load(record.config.data)
    check_data(dataset, record.config, record)
    info = dataset.info
    model = build(record.config.model, info.input_shape, info.num_classes)
    variables = _variables(dir, record, model, info.input_shape)
    return TrainedNetwork(
        model, variables, info.input_shape, info.num_classes, dataset.normalization, record.config, record
    )  # fmt: skip


def _variables(dir: str | os.PathLike, record: Record, model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    what = f"trial {record.trial}"
    if record.params_sha256 is None:
        raise UsageError(f"{what}: its parameters were not kept: train without --nokeep_params, in another folder")
    try:
        flat = store.load_params(dir, record.trial)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what}: its parameters are gone or damaged: {error}; run its command again") from None
    if hashlib.sha256(to_npz(flat)).hexdigest() != record.params_sha256 and record.trial in store.lost_params(dir):
        raise UsageError(f"{what}: its parameters are damaged: they do not match their checksum; run its command again")
    expected = flax.traverse_util.flatten_dict(_shapes(model, input_shape), sep="/")
    if {n: (a.shape, a.dtype) for n, a in flat.items()} != {n: (a.shape, a.dtype) for n, a in expected.items()}:
        raise UsageError(f"{what}: its parameters do not fit model {record.config.model.name}: its code has changed since")
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _shapes(model: nn.Module, input_shape: tuple[int, ...]) -> Any:
    x = np.zeros((1, *input_shape), np.float32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
