"""Similarity of the top-activating patches of a filter. N images, C channels, T patches per channel, P pixels per patch."""

import numpy as np

from cnn_jax.analysis.excitation import Top, responses
from cnn_jax.analysis.measures.sample import hidden_units, test_sample, untrained
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.analysis.patches import ReceptiveField, cut
from cnn_jax.data import Dataset


def patterns(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the similarity and class purity of the nine top-activating patches of each filter.

    Source: patches with the largest outputs, as in Girshick et al. 2014, "Rich feature hierarchies for accurate object
    detection and semantic segmentation", section 3.1; purity as in Manning, Raghavan and Schuetze 2008, "Introduction to
    information retrieval", section 16.3. `alike` and `purity` have the formulas. Each patch is from a different image, and is
    the receptive field of the maximum. Filters without a positive output, or with fewer than two non-constant patches, are
    omitted.

    Returns:
      Per layer with units and spatial axes: 'alike', the mean correlation between two patches of a filter; 'alike_others',
      between patches of different filters of the layer; 'purity', the share of the most frequent class among the nine images;
      and 'alike_untrained' and 'purity_untrained' before training.
    """
    images, labels = test_sample(network, dataset)
    layers = [name for name in hidden_units(network) if len(network.feature_shapes[name]) == images.ndim - 1]
    out: dict[str, dict[str, float]] = {"alike": {}, "alike_others": {}, "purity": {}}
    for suffix, one in (("", network), ("_untrained", untrained(network))):
        for name, found in responses(one, images, layers).items():
            top = found.most()
            active_C = ~found.silent
            within, between = alike(patches(one, name, images, top)[active_C])
            out.setdefault(f"alike{suffix}", {})[name] = within
            out.setdefault(f"purity{suffix}", {})[name] = purity(np.asarray(labels)[top.images[active_C]])
            if not suffix:
                out["alike_others"][name] = between
    return out


def patches(network: TrainedNetwork, layer: str, images: np.ndarray, top: Top) -> np.ndarray:
    """Return the pixels (C, T, P) in the receptive fields of the maxima, 0 outside the image."""
    field = ReceptiveField.of(network, layer)
    return np.stack(
        [
            np.stack([cut(images[i], field.window(at), field.seen(at)).pixels.ravel() for i, at in zip(*one, strict=True)])
            for one in zip(top.images, top.positions, strict=True)
        ]
    ).astype(np.float64)


def alike(patches_CTP: np.ndarray) -> tuple[float, float]:
    """Compute the mean correlation of patches of one channel, and of different channels; nan if undefined.

    Pearson's correlation over pixels. Constant patches are ignored. The first mean weights every channel equally, the second
    every pair.
    """
    centred_CTP = patches_CTP - patches_CTP.mean(axis=-1, keepdims=True)
    length_CT = np.linalg.norm(centred_CTP, axis=-1)
    varies_CT = length_CT > 1e-9
    unit_CTP = np.where(varies_CT[..., None], centred_CTP / np.where(varies_CT, length_CT, 1.0)[..., None], 0.0)
    sum_CP, count_C = unit_CTP.sum(axis=1), varies_CT.sum(axis=1)
    # The sum over all pairs is the squared norm of the sum of patches, minus the correlation of each patch with itself.
    own_C = (sum_CP**2).sum(axis=-1)
    pairs_C = count_C * (count_C - 1)
    known_C = pairs_C > 0
    within = float(np.mean((own_C - count_C)[known_C] / pairs_C[known_C])) if known_C.any() else float("nan")
    others = count_C.sum() ** 2 - (count_C**2).sum()
    between = float(((sum_CP.sum(axis=0) ** 2).sum() - own_C.sum()) / others) if others else float("nan")
    return within, between


def purity(labels_CT: np.ndarray) -> float:
    """Compute the mean over channels of the share of the most frequent label; nan without channels."""
    shares = [np.unique(labels, return_counts=True)[1].max() / len(labels) for labels in labels_CT]
    return float(np.mean(shares)) if shares else float("nan")
