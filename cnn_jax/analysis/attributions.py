"""All attributions of a set of images, each with its sanity check. N images, *S spatial axes, C channels."""

import dataclasses
from collections.abc import Callable

import numpy as np

from cnn_jax.aliases import Array
from cnn_jax.analysis import gradcam, occlusion, saliency
from cnn_jax.analysis.network import TrainedNetwork

METHODS = ("gradient", "integrated gradients", "SmoothGrad", "Grad-CAM", "occlusion")
SIGNED = ("integrated gradients", "occlusion")  # positive: evidence for the class; negative: against it
_PIECE = 8  # images at a time


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Attribution maps of one method.

    `trained` (N, *S) explains the network; `random` (N, *S) the same class in the same network with random parameters.
    `correlation` (N,) is Spearman's rank correlation between them: it is low for a method that depends on the trained
    parameters (Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim 2018). It is nan where a map is constant.
    """

    method: str
    trained: np.ndarray
    random: np.ndarray
    correlation: np.ndarray

    @property
    def signed(self) -> bool:
        return self.method in SIGNED


def attributions(
    network: TrainedNetwork,
    images_NSC: np.ndarray,
    classes_N: np.ndarray,
    layer: str | None = None,
    *,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Attribution]:
    """Compute every attribution of a class of each image, for the network and for one with random parameters.

    Args:
      network: the network.
      images_NSC: uint8, or floats as the network was trained on. A black image is the baseline of integrated gradients and the
        fill value of occlusion.
      classes_N: class per image.
      layer: of Grad-CAM; default `gradcam.default_layer`. Without such a layer, Grad-CAM is omitted.
      seed: seed of the random parameters.
      tell: called with the name of each method before it is computed.

    Raises:
      UsageError: as in `gradcam.grad_cam`, for an explicit `layer`.
    """
    x_NSC = np.asarray(network.inputs(images_NSC))
    base_1SC = np.asarray(network.inputs(np.zeros((1, *network.input_shape), np.uint8)))
    random = network.randomized(seed)
    out = []
    for method in METHODS:
        if method == "Grad-CAM" and layer is None and gradcam.default_layer(network) is None:
            continue
        tell(method)
        pictures = [_pictures(method, n, x_NSC, np.asarray(classes_N), base_1SC, layer) for n in (network, random)]
        correlation_N = saliency.rank_correlation(*pictures)
        out.append(Attribution(method, pictures[0], pictures[1], correlation_N))
    return out


def _pictures(
    method: str, network: TrainedNetwork, x_NSC: np.ndarray, classes_N: np.ndarray, base_1SC: np.ndarray, layer: str | None
) -> np.ndarray:
    """Compute maps (N, *S) of one method in batches; the last batch is padded with its last image."""
    size = max(1, min(_PIECE, len(x_NSC), network.batch_size))
    pieces = []
    for begin in range(0, len(x_NSC), size):
        chosen = np.minimum(np.arange(begin, begin + size), len(x_NSC) - 1)
        pieces.append(_of_piece(method, network, x_NSC[chosen], classes_N[chosen], base_1SC, layer)[: len(x_NSC) - begin])
    return np.concatenate(pieces)


def _of_piece(
    method: str, network: TrainedNetwork, x_NSC: Array, classes_N: Array, base_1SC: np.ndarray, layer: str | None
) -> np.ndarray:
    ask = network.apply, network.variables, x_NSC, classes_N
    if method == "gradient":
        return saliency.strength(np.asarray(saliency.gradient(*ask)))
    if method == "integrated gradients":
        return np.asarray(saliency.integrated_gradients(*ask, base_1SC)).sum(axis=-1)
    if method == "SmoothGrad":
        sigma = saliency.SIGMA * float(np.ptp(x_NSC))
        return saliency.strength(np.asarray(saliency.smooth_grad(*ask, sigma)))
    if method == "Grad-CAM":
        return gradcam.grad_cam(network, x_NSC, classes_N, layer)
    return occlusion.occlusion(network, x_NSC, classes_N, base_1SC)
