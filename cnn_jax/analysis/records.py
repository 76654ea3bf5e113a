"""Selection of a trial in a folder: by id, by prefix, or the best. No JAX."""

import os
from collections.abc import Sequence

from cnn_jax.errors import UsageError
from cnn_jax.records import record as records
from cnn_jax.records import store
from cnn_jax.records.record import Record

MOST_LISTED = 4  # trials in a message


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
        raise UsageError(f"trial {record.trial} {record.status} ({record.reason}): it has no trained parameters")
    return record


def best(found: Sequence[Record], dir: str) -> Record:
    """Return the finished trial with the highest validation accuracy; without validation images, test accuracy.

    Ties are broken by validation loss, then by id. Raises UsageError if no trial is finished; `dir` is used in messages.
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
