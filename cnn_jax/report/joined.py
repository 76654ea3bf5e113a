"""Joins the records of several folders: each trial once, and every data set the same in all."""

import json
from collections.abc import Sequence

from cnn_jax import stats
from cnn_jax.errors import UsageError
from cnn_jax.report import words

_RESULTS = ("history", "test_loss", "test_accuracy", "test_correct")
_DIVISION = ("validation_fraction", "split_seed", "train_examples")  # of one data set, which do not change its checksum


def records(folders: Sequence[tuple[str, list[stats.Record]]]) -> tuple[list[stats.Record], int]:
    """Join the records of named folders; also return how many trials have different results in two folders.

    A trial in several folders counts once: the first that is done, else the first.

    Raises:
      UsageError: two records of one data set have different checksums or numbers of images.
    """
    found: dict[str, stats.Record] = {}
    sets: dict[str, tuple[str, object]] = {}
    differ = set()
    for folder, entries in folders:
        for record in entries:
            _check_data(folder, record, sets)
            known = found.get(record["trial"])
            if known and known["status"] == record["status"] == "done" and not same_results(known, record):
                differ.add(record["trial"])
            if known is None or (known["status"] != "done" and record["status"] == "done"):
                found[record["trial"]] = record
    return list(found.values()), len(differ)


def same_results(a: stats.Record, b: stats.Record) -> bool:
    """Whether two records of a trial are of the same run, or of runs with identical results."""
    return all(a.get(name) == b.get(name) for name in _RESULTS)


def differing(count: int) -> str:
    """The sentence about trials whose results differ between folders."""
    trials, have = words.count(count, "trial"), "has" if count == 1 else "have"
    return f"{trials} {have} different results in two folders: those of the first folder are used."


def _check_data(folder: str, record: stats.Record, sets: dict[str, tuple[str, object]]) -> None:
    """Compare a record's data with those seen before under the same name and division; add them to `sets`."""
    data, config = record["data"], record["config"]["data"]
    if data is None:
        return
    name = json.dumps({key: value for key, value in config.items() if key not in _DIVISION}, sort_keys=True)
    sizes = [data[part] for part in ("train", "validation", "test")]
    for key, value, what in (
        (name, data["checksum"], "checksum"),
        (json.dumps(config, sort_keys=True), sizes, "numbers of images"),
    ):
        first, known = sets.setdefault(f"{what} {key}", (folder, value))
        if known != value:
            where = f"{first} and {folder}" if first != folder else folder
            raise UsageError(
                f"{where}: the data set {config['dataset']} is not the same in all trials ({what} {known} and {value}): "
                "report on each separately"
            )
