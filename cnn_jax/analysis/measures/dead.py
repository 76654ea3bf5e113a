"""Dead filters and units: constant outputs. N images, *S spatial axes, C channels."""

import numpy as np

from cnn_jax.analysis.measures.sample import hidden_units, sample_features
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

TOLERANCE = 1e-6  # of the widest range of a channel of the layer


def dead(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the share of a layer's channels whose output is the same at every position of every test image.

    A rectifier whose input is never positive is dead (Lu et al. 2019, "Dying ReLU and initialization: theory and
    numerical examples"). Formula: `dead_share`. Layers with units: convolutions, dense layers, activations.

    Returns:
      'dead' per layer.
    """
    features = sample_features(network, dataset)
    return {"dead": {name: dead_share(features[name]) for name in hidden_units(network)}}


def dead_share(x_NSC: np.ndarray) -> float:
    """Compute the share of channels with max - min over images and positions at most `TOLERANCE` of the widest range."""
    values_MC = x_NSC.reshape(-1, x_NSC.shape[-1])
    range_C = values_MC.max(axis=0) - values_MC.min(axis=0)
    return float(np.mean(range_C <= TOLERANCE * range_C.max()))
