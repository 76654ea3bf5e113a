"""Edge score: similarity of first-layer kernels to oriented edges.

K kernel axes, P = K * K positions, C channels, F filters, T templates.
"""

import functools
import itertools
import math

import numpy as np

from cnn_jax.analysis.measures.sample import Kernel, kernels, untrained
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset
from cnn_jax.nn import flat

ANGLES = 24  # orientations in 180 degrees
SOBEL = math.sqrt(0.5 / math.log(2))  # deviation of the Gaussian whose derivative on a 3x3 grid is the Sobel kernel
_RANDOM = 512  # minimum number of kernels averaged for the untrained baseline


def edges(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Compute the edge score of the first layer: the mean over filters of R squared of the best oriented edge or Gabor.

    Source: Gabor filters as the first layer of trained networks, Krizhevsky, Sutskever and Hinton 2012, figure 3, and Yosinski
    et al. 2014, "How transferable are features in deep neural networks?"; `edge_scores` has the formula. Random kernels score
    well above 0, and higher the smaller they are: compare the score with theirs.

    Returns:
      'edges' and 'edges_untrained' of the first convolution, the latter over at least `_RANDOM` kernels from its initializer
      (for a linen module that is not a `CNN`, over its initial values only); empty for a network without a convolution over two
      axes, or with a first kernel of one position.
    """
    del dataset
    first = next((kernel for kernel in kernels(network) if kernel.value.ndim == 4), None)
    if first is None or max(first.value.shape[:2]) < 2:
        return {}
    return {
        "edges": {first.layer: float(edge_scores(first.value).mean())},
        "edges_untrained": {first.layer: float(np.mean([edge_scores(drawn).mean() for drawn in _random(network, first)]))},
    }


def _random(network: TrainedNetwork, first: Kernel) -> list[np.ndarray]:
    """Return initial kernels (K, K, C, F) of the layer: those of this trial, and more if its initializer is one of NumPy."""
    found = [next(kernel.value for kernel in kernels(untrained(network)) if kernel.path == first.path)]
    layer = next((one for one in flat(network.spec or ()) if one.name == first.layer), None)
    draw = layer.initializer(first.path[-1], 2) if layer else None
    rng = np.random.default_rng(network.trial.seed if network.trial else 0)
    for _ in range(1, -(-_RANDOM // first.value.shape[-1]) if draw else 1):
        assert draw is not None
        found.append(draw(rng, first.value.shape, np.dtype(np.float32)))
    return found


def edge_scores(kernel_KKCF: np.ndarray) -> np.ndarray:
    """Compute R squared (F,) of the best template for each filter.

    R squared = max over templates t of sum over channels of (t . w_c)^2 / |w_c|^2, where w_c is the filter's slice of channel c
    minus its mean, and t is a template of zero mean and unit length: the share of a filter's variance over positions explained
    by one pattern with a separate weight per channel. A Sobel kernel scores 1; a constant one scores 0.
    """
    size = kernel_KKCF.shape[:2]
    w_PCF = kernel_KKCF.reshape(-1, *kernel_KKCF.shape[2:]).astype(np.float64)
    w_PCF = w_PCF - w_PCF.mean(axis=0)
    explained_TF = (np.einsum("tp,pcf->tcf", templates(size), w_PCF) ** 2).sum(axis=1)
    total_F, largest_F = (w_PCF**2).sum(axis=(0, 1)), np.square(kernel_KKCF).sum(axis=(0, 1, 2))
    varies_F = total_F > 1e-10 * np.maximum(largest_F, 1e-30)
    return np.where(varies_F, explained_TF.max(axis=0, initial=0.0) / np.where(varies_F, total_F, 1.0), 0.0)


@functools.cache
def templates(size: tuple[int, int]) -> np.ndarray:
    """Build oriented edges and Gabors (T, P) on a grid of `size`, each with zero mean and unit norm.

    With u along and v across the pattern's orientation, in positions from the centre: edges are u exp(-(u^2 + v^2) / 2 s^2)
    (one of the s gives the Sobel kernel), the ramp u, and the step sign(u); Gabors are exp(-(u^2 + v^2) / 2 s^2)
    cos(2 pi u / l + p) of wavelengths l from 2 positions to twice the kernel, s = l / 2 (one octave of bandwidth is 0.56 l:
    Daugman 1985) or l / 3, and phases p of 0 and 90 degrees: a line and an edge.
    """
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in size)
    y_KK, x_KK = np.meshgrid(rows, columns, indexing="ij")
    wide = max(size)
    found = []
    for angle in np.arange(ANGLES) * math.pi / ANGLES:
        u_KK, v_KK = x_KK * math.cos(angle) + y_KK * math.sin(angle), y_KK * math.cos(angle) - x_KK * math.sin(angle)
        r2_KK = u_KK**2 + v_KK**2
        found += [u_KK, np.sign(np.round(u_KK, 9))]
        found += [u_KK * np.exp(-r2_KK / (2 * s * s)) for s in (SOBEL, *(wide * f for f in (0.2, 0.35, 0.5)))]
        wavelengths = np.geomspace(2, 2 * wide, 5)
        for wavelength, ratio, phase in itertools.product(wavelengths, (1 / 3, 1 / 2), (0.0, math.pi / 2)):
            envelope_KK = np.exp(-r2_KK / (2 * (ratio * wavelength) ** 2))
            found.append(envelope_KK * np.cos(2 * math.pi * u_KK / wavelength + phase))
    t_TP = np.stack(found).reshape(len(found), -1)
    t_TP = t_TP - t_TP.mean(axis=1, keepdims=True)
    length_T1 = np.linalg.norm(t_TP, axis=1, keepdims=True)
    kept_T = length_T1[:, 0] > 1e-9
    return t_TP[kept_T] / length_T1[kept_T]
