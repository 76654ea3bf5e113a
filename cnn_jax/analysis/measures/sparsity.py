"""Sparsity of activations. N images, *S spatial axes, C channels."""

import numpy as np

from cnn_jax.analysis.measures.sample import hidden_units, sample_features
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset


def sparsity(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the share of a layer's outputs that are exactly zero on test images; 0 for activations that are never zero.

    Source: Glorot, Bordes and Bengio 2011, "Deep sparse rectifier neural networks".

    Returns:
      'sparsity' per layer with units: convolutions, dense layers, activations.
    """
    features = sample_features(network, dataset)
    return {"sparsity": {name: zero_share(features[name]) for name in hidden_units(network)}}


def zero_share(x_NSC: np.ndarray) -> float:
    """Compute the share of zeros."""
    return float(np.mean(x_NSC == 0))
