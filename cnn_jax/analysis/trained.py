"""`open_trial`: load the trained network of a trial from the folder of its sweep."""

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

Flat = dict[str, np.ndarray]  # values by path, 'params/conv1/kernel'


def open_trial(dir: str | os.PathLike, trial: str = "best", *, epoch: int | None = None) -> TrainedNetwork:
    """Open the trained network of a trial.

    Args:
      dir: folder of a sweep; or FILE.safetensors from `export`, which needs neither the folder nor the data.
      trial: id of a trial, its unique prefix, or 'best': the highest validation accuracy.
      epoch: load the snapshot after this epoch, one of --snapshots; 0: before training. Default: the evaluated parameters.

    Raises:
      UsageError: no trial or several match; the trial diverged or failed; its parameters were not kept (at this epoch), are
        damaged or do not fit its model; its data are missing or have changed.
    """
    if os.fspath(dir).endswith(".safetensors"):
        return exported.open_file(dir, trial)
    record = find_record(dir, trial)
    dataset = data.load(record.config.data)
    check_data(dataset, record.config, record)
    info = dataset.info
    model = build(record.config.model, info.input_shape, info.num_classes, record.config.train.precision)
    flat = _kept(dir, record) if epoch is None else _snapshot(dir, record, epoch)
    variables = fitting(flat, record.config, model, info.input_shape)
    return TrainedNetwork(
        model,
        variables,
        info.input_shape,
        info.num_classes,
        dataset.normalization,
        record.config,
        record,
        class_names=info.class_names,
        epoch=epoch,
    )


def _kept(dir: str | os.PathLike, record: Record) -> Flat:
    what = f"trial {record.trial}"
    if record.params_sha256 is None:
        raise UsageError(f"{what}: its parameters were not kept: train without --nokeep_params, in another folder")
    return _read(dir, record, "params", record.params_sha256)


def _snapshot(dir: str | os.PathLike, record: Record, epoch: int) -> Flat:
    what = f"trial {record.trial}"
    if record.snapshots_sha256 is None:
        raise UsageError(f"epoch={epoch}: {what} kept no snapshots: train with --snapshots={epoch}, in another folder")
    if epoch not in record.snapshots:
        kept = ", ".join(map(str, record.snapshots))
        raise UsageError(f"epoch={epoch}: {what} has no snapshot of this epoch: must be one of {kept}")
    every = _read(dir, record, "snapshots", record.snapshots_sha256)
    start = f"{epoch}/"
    return {name.removeprefix(start): array for name, array in every.items() if name.startswith(start)}


def _read(dir: str | os.PathLike, record: Record, kind: store.Kind, checksum: str) -> Flat:
    """Read the arrays of a trial. Raises UsageError if they are missing or do not match the record."""
    what = f"trial {record.trial}: its {'parameters' if kind == 'params' else kind}"
    try:
        flat = store.load_params(dir, record.trial, kind)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} are gone or damaged: {error}; run its command again") from None
    if hashlib.sha256(to_npz(flat)).hexdigest() != checksum and record.trial in store.lost_params(dir, kind):
        raise UsageError(f"{what} are damaged: they do not match their checksum; run its command again")
    return flat
