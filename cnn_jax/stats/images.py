"""Answers per image: variation between seeds, variation between images, and images on which two cells differ."""

import base64
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell, Record
from cnn_jax.stats.image_variance import Images


def correctness(record: Record, metric: str = "test_accuracy") -> np.ndarray | None:
    """(N,) bool, whether each image of the set that `metric` is measured on was classified correctly; None if not recorded."""
    text = record.get("test_correct" if metric == "test_accuracy" else "val_correct")
    if text is None:
        return None
    images = record["test_examples"] if metric == "test_accuracy" else record["data"]["validation"]
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=images).astype(bool)


def correct_SN(cell: Cell, metric: str = "test_accuracy") -> np.ndarray:
    """(S, N) bool: the answers of every finished run of a cell, in order of seed; (0, 0) if none is recorded."""
    rows = [c for r in cell.runs(metric) if (c := correctness(r, metric)) is not None]
    same = [row for row in rows if len(row) == len(rows[0])]  # splits may hold out different numbers of images
    return np.stack(same) if same else np.zeros((0, 0), dtype=bool)


def answers(cells: Sequence[Cell], metric: str) -> Images | None:
    """The cells' answers on the images of `metric`; None if a run did not record its own, or runs saw different images."""
    sets = {_images_of(r, metric) for c in cells for r in c.done}
    if len(sets) != 1:
        return None
    correct = [correct_SN(c, metric) for c in cells]
    if any(len(bits) != len(c.values(metric)) or bits.shape[1] < 2 for bits, c in zip(correct, cells, strict=True)):
        return None
    return Images.of(correct)


def _images_of(record: Record, metric: str) -> tuple:
    """Key of the images that a run was measured on."""
    data, config = record["data"] or {}, record["config"]["data"]
    split = () if metric == "test_accuracy" else (config["split_seed"], config["validation_fraction"], config["train_examples"])
    return config["dataset"], data.get("checksum"), data.get("validation"), record["test_examples"], *split


def rates(cells: Sequence[Cell]) -> tuple[list[Cell], np.ndarray]:
    """The cells with recorded answers, and (K, N) the share of their runs that classify each image correctly.

    Only cells tested on the same images can be compared: those of the first cell's data set and number of images.
    """
    found = [(c, bits) for c in cells if (bits := correct_SN(c)).size]
    same = [(c, bits) for c, bits in found if _test_set(c) == _test_set(found[0][0])]
    return [c for c, _ in same], np.array([bits.mean(axis=0) for _, bits in same])


def share_right(records: Sequence[Record]) -> dict[int, float]:
    """Share of runs that classify each test image correctly; empty if runs were tested on different numbers of images."""
    right: np.ndarray | None = None
    runs = 0
    for record in records:  # one at a time: those of 100,000 runs together would not fit in memory
        bits = correctness(record)
        if bits is None or (right is not None and len(bits) != len(right)):
            return {}
        right = bits.astype(np.int64) if right is None else right + bits
        runs += 1
    return {} if right is None else dict(enumerate((right / runs).tolist()))


def _test_set(cell: Cell) -> tuple:
    return cell.config["data"]["dataset"], cell.done[0]["test_examples"], cell.done[0]["data"]["checksum"]


@dataclasses.dataclass(frozen=True)
class Noise:
    """Variation of test results between seeds, over all cells with at least two runs.

    `sd` is the spread of test accuracy between seeds. `flips` is the share of images on which two runs of one cell disagree.
    `independent_sd` is the spread that would follow if each image flipped on its own (Jordan 2023, "Calibrated chaos"):
    measured on N images instead of n seeds it is far better known, and a larger `sd` says that images fail together.
    """

    sd: float
    flips: float
    independent_sd: float
    images: int
    runs: int


def noise(cells: Sequence[Cell]) -> Noise | None:
    """The noise floor; None if no cell has two runs with recorded images."""
    groups = [bits for c in cells if len(bits := correct_SN(c)) > 1]
    if not groups:
        return None
    df = np.array([len(g) - 1 for g in groups])
    variance = np.array([g.mean(axis=1).var(ddof=1) for g in groups])
    per_image = np.array([g.var(axis=0, ddof=1).mean() for g in groups])
    per_run = np.array([g.var(axis=0, ddof=1).mean() / g.shape[1] for g in groups])
    return Noise(
        math.sqrt(np.average(variance, weights=df)),
        2 * float(np.average(per_image, weights=df)),
        math.sqrt(np.average(per_run, weights=df)),
        groups[0].shape[1],
        sum(len(g) for g in groups),
    )


def flipped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Indices of images that most runs of one cell get right and most of the other wrong, from rates (N,), clearest first."""
    differ = np.flatnonzero((a > 0.5) & (b < 0.5) | (a < 0.5) & (b > 0.5))
    return differ[np.argsort(-np.abs(a - b)[differ], kind="stable")]


def never_right(records: Sequence[Record]) -> np.ndarray:
    """Indices of the test images that no finished run got right; the records must be of one test set."""
    known = (c for r in records if r["status"] == "done" and (c := correctness(r)) is not None)
    right = next(known, np.ones(0, dtype=bool))
    for correct in known:  # one at a time: those of 100,000 runs together would not fit in memory
        right = right | correct
    return np.flatnonzero(~right)
