"""Similarity of representations. N images, D values per image, L representations."""

from collections.abc import Mapping

import numpy as np

from cnn_jax.analysis.measures.probe import PIXELS, flattened
from cnn_jax.analysis.measures.sample import once_per_network, sample_features, test_sample, untrained
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

IMAGES = 256  # at most


def cka(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Compute the linear CKA of each layer with the pixels, with the last layer, and with the same layer before training.

    Source: Kornblith et al. 2019, "Similarity of neural network representations revisited"; the unbiased form, see
    `unit_gram`. `analysis.similarity` compares layers of different networks.

    Returns:
      'cka_pixels', 'cka_last' and 'cka_before' (training), per layer; no 'cka_last' for a linen module that is not a `CNN`,
      because its layer order is unknown.
    """
    own, before = dict(grams(network, dataset)), grams(untrained(network), dataset)
    pixels = own.pop(PIXELS)
    compared = {"cka_pixels": dict.fromkeys(own, pixels), "cka_before": before}
    if network.spec is not None:
        compared["cka_last"] = dict.fromkeys(own, list(own.values())[-1])
    return {what: {name: similarity(gram, others[name]) for name, gram in own.items()} for what, others in compared.items()}


@once_per_network
def grams(network: TrainedNetwork, dataset: Dataset) -> dict[str, np.ndarray]:
    """Compute `unit_gram` of the pixels and of each layer, on the first `IMAGES` test images."""
    images = np.asarray(network.inputs(test_sample(network, dataset)[0][:IMAGES]))
    features: Mapping[str, np.ndarray] = {PIXELS: images} | sample_features(network, dataset)
    return {name: unit_gram(flattened(x[:IMAGES])) for name, x in features.items()}


def unit_gram(x_ND: np.ndarray) -> np.ndarray:
    """Compute the Gram matrix (N, N), U-centred and scaled to unit norm; zeros if all images have the same values.

    U-centring (Szekely and Rizzo 2014, "Partial distance correlation with methods for dissimilarities"): zero
    diagonal, and off it K_ij - sum_j K_ij / (N - 2) - sum_i K_ij / (N - 2) + sum_ij K_ij / ((N - 1)(N - 2)), with the diagonal
    of K set to zero. The inner product of two such matrices, over N (N - 3), is the unbiased HSIC of Song et al. 2012, so with
    unit norm it is the unbiased linear CKA: 0 on average for independent representations of any width, whereas the biased form
    of Kornblith et al. grows with D / N.
    """
    x_ND = x_ND.astype(np.float64)
    x_ND = x_ND - x_ND.mean(axis=0)
    k_NN, n = x_ND @ x_ND.T, len(x_ND)
    if n < 4 or np.trace(k_NN) <= 0:
        return np.zeros_like(k_NN)
    np.fill_diagonal(k_NN, 0.0)
    sums_N = k_NN.sum(axis=1)
    k_NN = k_NN - (sums_N[:, None] + sums_N[None]) / (n - 2) + sums_N.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(k_NN, 0.0)
    length = np.linalg.norm(k_NN)
    return k_NN / length if length > 0 else k_NN


def similarity(a_NN: np.ndarray, b_NN: np.ndarray) -> float:
    """Compute the unbiased linear CKA of two `unit_gram`s of the same images: 1 if equal up to rotation and scale."""
    defined = a_NN.any() and b_NN.any()
    return float(np.vdot(a_NN, b_NN)) if defined else float("nan")
