"""Trials of the same cell: equal but for the seed. No JAX."""

import dataclasses
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.errors import UsageError
from cnn_jax.records.record import Record
from cnn_jax.records.record import to_json as as_dict


@dataclasses.dataclass(frozen=True)
class SeedsOfCell:
    """Finished trials that differ only in the seed.

    `never_right` lists the indices of the test images that all of them misclassify, where predictions were recorded.
    """

    records: tuple[Record, ...]
    never_right: tuple[int, ...]

    @property
    def median(self) -> Record:
        """Return the record with the median accuracy (the lower median), on validation images if there are any."""
        validated = all(r.val_accuracy is not None for r in self.records)
        by_accuracy = sorted(self.records, key=lambda r: ((r.val_accuracy if validated else r.test_accuracy) or 0.0, r.trial))
        return by_accuracy[(len(by_accuracy) - 1) // 2]


def seeds_of_cell(record: Record, records: Sequence[Record]) -> SeedsOfCell:
    """Find the trials of a record's cell among the records of its folder. Raises UsageError if `record` is not finished."""
    if record.status != "done":
        raise UsageError(f"trial {record.trial} {record.status}: it has no results")
    alike = dataclasses.replace(record.config, seed=0)
    own = [r for r in records if r.status == "done" and dataclasses.replace(r.config, seed=0) == alike]
    same_images = [as_dict(r) for r in own if r.data == record.data]
    return SeedsOfCell(tuple(own), tuple(int(i) for i in stats.never_right(same_images)))
