"""Measures of trained networks as values of a trial, for rows of papers."""

import functools
from collections.abc import Mapping
from pathlib import Path


@functools.lru_cache(maxsize=256)
def values(folder: Path, trial: str, measure: str) -> Mapping[str, Mapping[str, float]]:
    """Compute a measure of `analysis.measures` on a trial's network, by name and layer; cached for other rows."""
    from cnn_jax.analysis import measures
    from cnn_jax.analysis.trained import open_trial

    network = open_trial(folder, trial)
    return measures.load(measure)(network, network.dataset())
