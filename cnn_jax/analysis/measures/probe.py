"""Accuracy of a linear classifier on the output of each layer. N images, D values per image, K classes."""

import itertools

import numpy as np
import scipy.linalg

from cnn_jax.analysis.measures.sample import representations, untrained
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

TRAIN, VALIDATION, TEST = 1000, 1000, 2000  # images at most
MOST_VALUES = 2**15  # per image; larger outputs are averaged over blocks of neighbouring positions
STRENGTHS = (1e-3, 1e-2, 1e-1)  # of the penalty, in units of the mean squared norm of a centred image
PIXELS = "pixels"  # the layer before the first
_PIECE = 500  # images per batch of features


def probe(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the test accuracy of a linear probe per layer and on the raw pixels: the linear separability of the classes.

    Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes", who fit a softmax by
    gradient descent. Here the probe is ridge regression on one-hot labels, which has a unique solution and no seed: the class
    of x is argmax_k of (x - mean) W + mean of Y, with W = X' (X X' + s tr(X X') / N I)^-1 (Y - mean) for centred X (N, D). It
    is fitted on training images; s is the value of `STRENGTHS` with the highest validation accuracy (the largest one if tied);
    the reported accuracy is on test images.

    Returns:
      'probe' per layer and for 'pixels'; 'probe_untrained' per layer, for the network before training; 'probe_gain' of the last
      layer 'over first' layer, 'over pixels' and 'over untrained' last layer, but not for a linen module that is not a `CNN`,
      because its layer order is unknown.
    """
    fit_images, fit_labels = dataset.train_images[:TRAIN], dataset.train_labels[:TRAIN]
    held_images, held_labels = dataset.validation_images[:VALIDATION], dataset.validation_labels[:VALIDATION]
    if not len(held_labels):  # no validation images: use the last quarter of the training images
        cut = max(1, len(fit_labels) * 3 // 4)
        held_images, held_labels = fit_images[cut:], fit_labels[cut:]
        fit_images, fit_labels = fit_images[:cut], fit_labels[:cut]
    parts = (fit_images, fit_labels), (held_images, held_labels), (dataset.test_images[:TEST], dataset.test_labels[:TEST])
    classes = network.num_classes
    found = _scores(network, parts, classes, with_pixels=True)
    before = _scores(untrained(network), parts, classes, with_pixels=False)
    if network.spec is None:
        return {"probe": found, "probe_untrained": before}
    first, last = next(iter(before)), list(before)[-1]
    compared = {"over first": found[first], "over pixels": found[PIXELS], "over untrained": before[last]}
    gains = {what: found[last] - value for what, value in compared.items()}
    return {"probe": found, "probe_untrained": before, "probe_gain": gains}


def _scores(network: TrainedNetwork, parts: tuple, classes: int, with_pixels: bool) -> dict[str, float]:
    (fit_images, fit_labels), (held_images, held_labels), (test_images, test_labels) = parts
    names = ((PIXELS,) if with_pixels else ()) + representations(network)
    fitted, held = _values(network, fit_images, with_pixels), _values(network, held_images, with_pixels)
    probes = {name: fit(fitted.pop(name), fit_labels, held.pop(name), held_labels, classes) for name in names}
    right = dict.fromkeys(names, 0)
    for begin in range(0, len(test_images), _PIECE):
        values = _values(network, test_images[begin : begin + _PIECE], with_pixels)
        for name in names:
            right[name] += int((probes[name](values[name]) == test_labels[begin : begin + _PIECE]).sum())
    return {name: count / len(test_labels) for name, count in right.items()}


def _values(network: TrainedNetwork, images: np.ndarray, with_pixels: bool) -> dict[str, np.ndarray]:
    """Return the values (N, D) of each layer."""
    found = {PIXELS: np.asarray(network.inputs(images))} if with_pixels else {}
    return {name: flattened(x) for name, x in (found | network.features(images, representations(network))).items()}


def flattened(x_NSC: np.ndarray, most: int = MOST_VALUES) -> np.ndarray:
    """Flatten images to (N, D); if D exceeds `most`, average over the smallest sufficient blocks of positions."""
    block = next(b for b in itertools.count(1) if b >= max(x_NSC.shape[1:], default=1) or _size(x_NSC.shape, b) <= most)
    for axis in range(1, x_NSC.ndim - 1) if block > 1 else ():
        size = max(1, x_NSC.shape[axis] // block)
        wide = min(block, x_NSC.shape[axis])
        kept = np.take(x_NSC, range(size * wide), axis=axis)
        x_NSC = kept.reshape(*kept.shape[:axis], size, wide, *kept.shape[axis + 1 :]).mean(axis=axis + 1)
    return x_NSC.reshape(len(x_NSC), -1).astype(np.float32, copy=False)


def _size(shape: tuple[int, ...], block: int) -> int:
    return int(np.prod([max(1, n // block) for n in shape[1:-1]])) * shape[-1]


class Probe:
    """A linear classifier: argmax of (x - centre) @ weight + offset."""

    def __init__(self, centre_D: np.ndarray, weight_DK: np.ndarray, offset_K: np.ndarray):
        self.weight_DK = weight_DK
        self.offset_K = offset_K - centre_D @ weight_DK

    def __call__(self, x_ND: np.ndarray) -> np.ndarray:
        """Return the predicted class (N,) of each image."""
        return np.argmax(x_ND @ self.weight_DK + self.offset_K, axis=1)


def fit(x_ND: np.ndarray, labels_N: np.ndarray, held_MD: np.ndarray, held_labels_M: np.ndarray, classes: int) -> Probe:
    """Fit a probe in closed form.

    Args:
      x_ND: values of the images used for the fit.
      labels_N: their classes, 0..classes - 1.
      held_MD: values of the images used to choose the penalty.
      held_labels_M: their classes.
      classes: K.
    """
    centre_D, onehot_NK = x_ND.mean(axis=0), np.eye(classes, dtype=np.float32)[labels_N]
    centred_ND, offset_K = x_ND - centre_D, onehot_NK.mean(axis=0)
    count, values = x_ND.shape
    wide = values > count  # the dual system over images is smaller: X' (X X' + a)^-1 Y
    gram = centred_ND @ centred_ND.T if wide else centred_ND.T @ centred_ND
    right = onehot_NK - offset_K if wide else centred_ND.T @ (onehot_NK - offset_K)
    scale = np.trace(gram) / count
    if scale <= 0:  # constant over images
        return Probe(centre_D, np.zeros((values, classes), np.float32), offset_K)
    best, chosen = -1.0, None
    # float32 suffices: the penalty keeps the condition number below N / min(STRENGTHS) = 1e6.
    for strength in sorted(STRENGTHS, reverse=True):
        penalized = gram.copy()
        penalized.flat[:: len(gram) + 1] += strength * scale
        factor = scipy.linalg.cho_factor(penalized, overwrite_a=True, check_finite=False)
        solution = scipy.linalg.cho_solve(factor, right, check_finite=False)
        weight_DK = centred_ND.T @ solution if wide else solution
        found = Probe(centre_D, weight_DK, offset_K)
        score = float(np.mean(found(held_MD) == held_labels_M))
        if score > best:
            best, chosen = score, found
    assert chosen is not None
    return chosen
