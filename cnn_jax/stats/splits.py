"""Validation splits as blocks: cells are compared within a split, never across."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnn_jax.stats.cells import Cell, place
from cnn_jax.stats.means import Means


def within_splits(cells: Sequence[Cell], metric: str, resolution: float = 0.0) -> Means:
    """Means of cells with runs in several splits: a randomized block design.

    The unit is the mean over the seeds of a cell in a split. The effect of each split is fitted by least squares
    and subtracted. The residuals vary between splits and seeds, so intervals refer to new splits and new seeds.
    """
    units = [(k, s, np.mean(v)) for k, cell in enumerate(cells) for s, v in _by_split(cell, metric).items()]
    cell_U = np.array([k for k, _, _ in units])
    splits, split_U = np.unique([s for _, s, _ in units], return_inverse=True)
    value_U = np.array([v for _, _, v in units])
    x_UP = np.hstack([np.eye(len(cells))[cell_U], np.eye(len(splits))[split_U][:, 1:]])
    if np.linalg.matrix_rank(x_UP) < x_UP.shape[1]:  # cells that share no split with the others: nothing to compare within
        return Means.of([c.values(metric) for c in cells], resolution)
    effect_B = np.concatenate([[0.0], np.linalg.lstsq(x_UP, value_U, rcond=None)[0][len(cells) :]])
    adjusted_U = value_U - (effect_B - effect_B.mean())[split_U]
    means = Means.of([adjusted_U[cell_U == k] for k in range(len(cells))], resolution)
    # The fitted effects of splits cost degrees of freedom, shared by the cells.
    before, after = len(units) - len(cells), len(units) - x_UP.shape[1]
    if after < 1:
        return dataclasses.replace(means, df=0.0)
    share = after / before
    own_K, variance_K = means.own_K / share, means.variance_K / share
    return dataclasses.replace(means, own_K=own_K, variance_K=variance_K, df_K=means.df_K * share, df=float(after))


def _by_split(cell: Cell, metric: str) -> dict[int, list[float]]:
    out: dict[int, list[float]] = {}
    for record in cell.runs(metric):
        out.setdefault(place(record)[0], []).append(record[metric])
    return out
