"""`open_trial`: the network that a trial of a sweep trained, from its folder."""

import hashlib
import os

import numpy as np

from cnn_jax import data
from cnn_jax.analysis import exported
from cnn_jax.analysis.exported import fitting
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
      dir: folder of a sweep; or a file FILE.safetensors that `export` wrote, which needs neither the folder nor the data.
      trial: id of a trial, a prefix of one id alone, or 'best': the highest validation accuracy.

    Raises:
      UsageError: there is no such trial, or several; it diverged or failed; its parameters were not kept, are damaged or do
        not fit its model; its data are gone or have changed.
    """
    if os.fspath(dir).endswith(".safetensors"):
        return exported.open_file(dir, trial)
    record = find_record(dir, trial)
    dataset = data.load(record.config.data)
    check_data(dataset, record.config, record)
    info = dataset.info
    model = build(record.config.model, info.input_shape, info.num_classes, record.config.train.precision)
    variables = fitting(_arrays(dir, record), record.config, model, info.input_shape)
    return TrainedNetwork(
        model, variables, info.input_shape, info.num_classes, dataset.normalization, record.config, record, info.class_names
    )


def _arrays(dir: str | os.PathLike, record: Record) -> dict[str, np.ndarray]:
    what = f"trial {record.trial}"
    if record.params_sha256 is None:
        raise UsageError(f"{what}: its parameters were not kept: train without --nokeep_params, in another folder")
    try:
        flat = store.load_params(dir, record.trial)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what}: its parameters are gone or damaged: {error}; run its command again") from None
    if hashlib.sha256(to_npz(flat)).hexdigest() != record.params_sha256 and record.trial in store.lost_params(dir):
        raise UsageError(f"{what}: its parameters are damaged: they do not match their checksum; run its command again")
    return flat
