"""Per-example correctness of the test set: what seeds alone change, and which images flip between two cells."""

import base64
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell, Record


def correctness(record: Record) -> np.ndarray | None:
    """(N,) bool, whether each test image was right; None if the record does not say."""
    if record.get("test_correct") is None:
        return None
    bits = np.frombuffer(base64.b64decode(record["test_correct"]), dtype=np.uint8)
    return np.unpackbits(bits, count=record["test_examples"]).astype(bool)


def correct_SN(cell: Cell) -> np.ndarray:
    """(S, N) bool: the test images of every finished run of a cell, in order of seed; (0, 0) if none is recorded."""
    rows = [c for r in sorted(cell.done, key=lambda r: r["config"]["seed"]) if (c := correctness(r)) is not None]
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=bool)


def rates(cells: Sequence[Cell]) -> tuple[list[Cell], np.ndarray]:
    """The cells that recorded their images, and (K, N) the share of each one's runs that had each image right.

    Only cells tested on the same images can be set side by side: those of the first cell's data set and number of images.
    """
    found = [(c, bits) for c in cells if (bits := correct_SN(c)).size]
    same = [(c, bits) for c, bits in found if _test_set(c) == _test_set(found[0][0])]
    return [c for c, _ in same], np.array([bits.mean(axis=0) for _, bits in same])


def _test_set(cell: Cell) -> tuple:
    return cell.config["data"]["dataset"], cell.done[0]["test_examples"], cell.done[0]["data"]["checksum"]


@dataclasses.dataclass(frozen=True)
class Noise:
    """What the seed alone does to the test set, over all cells that have at least two runs.

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
    """Indices of the images that one cell gets right in most runs and the other wrong, from rates (N,), the clearest first."""
    differ = np.flatnonzero((a > 0.5) & (b < 0.5) | (a < 0.5) & (b > 0.5))
    return differ[np.argsort(-np.abs(a - b)[differ], kind="stable")]


def never_right(records: Sequence[Record]) -> np.ndarray:
    """Indices of the test images that no finished run got right; the records must be of one test set."""
    known = (c for r in records if r["status"] == "done" and (c := correctness(r)) is not None)
    right = next(known, np.ones(0, dtype=bool))
    for correct in known:  # one at a time: those of 100,000 runs together would not fit in memory
        right = right | correct
    return np.flatnonzero(~right)
