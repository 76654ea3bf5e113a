"""Near-duplicate filters of a layer. *K kernel axes, C channels, F filters."""

import numpy as np

from cnn_jax.analysis.measures.sample import kernels, untrained
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

ALIKE = 0.95  # cosine


def duplicates(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the share of a layer's filters that repeat an earlier one: the cosine of their kernels is at least `ALIKE`.

    Source: Ayinde, Inanc and Zurada 2019, "Redundant feature pruning for accelerated inference in deep neural networks", who
    group filters by their cosine. Scale and bias are ignored: the outputs of two such filters are multiples of each other, up
    to the bias.

    Returns:
      'duplicates' per convolution; 'duplicates_untrained' for the network before training.
    """
    del dataset
    return {
        "duplicates": {kernel.layer: duplicate_share(kernel.value) for kernel in kernels(network)},
        "duplicates_untrained": {kernel.layer: duplicate_share(kernel.value) for kernel in kernels(untrained(network))},
    }


def duplicate_share(kernel_KCF: np.ndarray, alike: float = ALIKE) -> float:
    """Compute the share of filters f with cos(w_f, w_g) >= `alike` for some g < f. Zero filters are never duplicates."""
    w_DF = kernel_KCF.reshape(-1, kernel_KCF.shape[-1]).astype(np.float64)
    length_F = np.linalg.norm(w_DF, axis=0)
    unit_DF = w_DF / np.where(length_F > 0, length_F, 1.0)
    cosine_FF = np.triu(unit_DF.T @ unit_DF, 1)
    return float(np.mean((cosine_FF >= alike).any(axis=0)))
