"""`open_trial`: the network that a trial of a sweep trained, from its folder."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from cnn_jax import data
from cnn_jax.analysis.network import TrainedNetwork, check_data
from cnn_jax.errors import UsageError
from cnn_jax.records import record as records
from cnn_jax.records import store
from cnn_jax.records.arrays import to_npz
from cnn_jax.records.record import Record
from cnn_jax.zoo.build import build

MOST_LISTED = 4  # trials in a message


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


def find_record(dir: str | os.PathLike, trial: str) -> Record:
    """Return the record of a finished trial; arguments and errors as in `open_trial`."""
    found = [records.decode(raw) for raw in store.read(dir)]
    if trial == "best":
        return best(found, str(dir))
    matches = [r for r in found if r.trial == trial] or [r for r in found if trial and r.trial.startswith(trial)]
    if not matches:
        raise UsageError(f"{trial!r}: {_missing(dir, trial, found)}")
    if len(matches) > 1:
        raise UsageError(f"{trial!r} is ambiguous: {len(matches)} trials of {dir} begin with it: {_listed(matches)}")
    record = matches[0]
    if record.status != "done":
        raise UsageError(f"trial {record.trial} {record.status} ({record.reason}): it has no trained network to look into")
    return record


def best(found: Sequence[Record], dir: str) -> Record:
    """Return the finished trial with the highest validation accuracy; where nothing was held out, test accuracy.

    Of equal ones, the first by validation loss, then by id. Raises UsageError if no trial is finished; `dir` is for messages.
    """
    done = [r for r in found if r.status == "done"]
    if not done:
        raise UsageError(f"{dir} holds no finished trial: all {len(found)} failed or diverged" if found else f"{dir} is empty")
    validated = [r for r in done if r.val_accuracy is not None]

    def rank(record: Record) -> tuple[float, float, str]:
        accuracy = record.val_accuracy if validated else record.test_accuracy
        loss = record.val_loss if validated else record.test_loss
        return -(accuracy or 0.0), float("inf") if loss is None else loss, record.trial

    return min(validated or done, key=rank)


def _missing(dir: str | os.PathLike, trial: str, found: Sequence[Record]) -> str:
    if any(planned.id.startswith(trial) for planned in store.plan(dir) if trial):
        return f"a trial of {dir} that is planned and not yet trained: run its command again"
    return f"no trial of {dir} has this id or prefix: use 'best', or one of {_listed(found)}"


def _listed(found: Sequence[Record]) -> str:
    more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
    return ", ".join(r.trial for r in found[:MOST_LISTED]) + more


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
