"""Accuracy lost by removing a layer's weakest filters. *K kernel axes, C channels, F filters."""

import itertools

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cnn_jax.analysis.measures.sample import Kernel, accuracy, kernels, test_sample
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset
from cnn_jax.nn import BatchNorm, GroupNorm, LayerNorm, flat

SHARES = (25, 50)  # percentages of a layer's filters
DRAWS = 3  # of random filters


def pruning(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the test accuracy lost by removing a layer's filters with the smallest L1 norm, without retraining.

    Source: Li et al. 2017, "Pruning filters for efficient convnets", section 3.1 and figure 2. A filter is removed by zeroing
    its kernel and bias, and the scale and bias of a norm directly after it. One layer at a time; the share is rounded down to
    whole filters.

    Returns:
      'pruned_25' and 'pruned_50' per convolution: accuracy of the whole network minus that without this percentage of the
      layer's filters; 'pruned_50_random': the mean loss of accuracy for the same number of random filters, over `DRAWS` draws.
    """
    images, labels = test_sample(network, dataset)
    whole = accuracy(network, images, labels)
    out: dict[str, dict[str, float]] = {name: {} for name in (*(f"pruned_{s}" for s in SHARES), "pruned_50_random")}
    rng = np.random.default_rng(0)

    def loss(kernel: Kernel, order_F: np.ndarray, share: int) -> float:
        chosen = order_F[: len(order_F) * share // 100]
        return whole - accuracy(without_filters(network, kernel, chosen), images, labels)

    for kernel in kernels(network):
        order_F = weakest_first(kernel.value)
        for share in SHARES:
            out[f"pruned_{share}"][kernel.layer] = loss(kernel, order_F, share)
        drawn = [loss(kernel, rng.permutation(len(order_F)), 50) for _ in range(DRAWS)]
        out["pruned_50_random"][kernel.layer] = float(np.mean(drawn))
    return out


def weakest_first(kernel_KCF: np.ndarray) -> np.ndarray:
    """Return filter indices (F,) by ascending L1 norm of their kernels; ties keep the index order."""
    norm_F = np.abs(kernel_KCF).reshape(-1, kernel_KCF.shape[-1]).sum(axis=0)
    return np.argsort(norm_F, kind="stable")


def without_filters(network: TrainedNetwork, kernel: Kernel, filters: np.ndarray) -> TrainedNetwork:
    """Return the network with the given filters of a layer set to zero."""
    params = dict(flatten_dict(network.variables["params"]))
    zeroed = [kernel.path, (*kernel.path[:-1], "bias")]
    if (norm := _norm_behind(network, kernel.layer)) is not None:
        zeroed += [(norm, "scale"), (norm, "bias")]
    for path in zeroed:
        if path in params:
            params[path] = np.array(params[path])
            params[path][..., filters] = 0
    return network.with_variables({**network.variables, "params": unflatten_dict(params)})


def _norm_behind(network: TrainedNetwork, layer: str) -> str | None:
    layers = flat(network.spec or ())
    behind = next((b for a, b in itertools.pairwise(layers) if a.name == layer), None)
    return behind.name if isinstance(behind, BatchNorm | GroupNorm | LayerNorm) else None
