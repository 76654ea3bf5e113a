"""Position information in a layer's outputs. N images, *S spatial axes, C channels, M = N * prod(S) positions, A targets."""

import numpy as np

from cnn_jax.analysis.measures.sample import representations
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

IMAGES = 128  # at most; half to fit, half to score
_VALUES = 2**25  # limit on the values of a layer's output over all images
PENALTY = 1e-6  # of ridge regression, in units of the mean variance of a channel


def position(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure R squared of a linear read-out of the position from the channels at that position, per layer.

    Source: Islam, Jia and Bruce 2020, "How much position information do convolutional neural networks encode?", who read
    position maps out of frozen features; here by least squares with one weight per channel (their 1x1 read-out), fitted on one
    half of the images and scored on the other. The content of test images correlates with position; independent uniform noise
    does not, so on noise a network without padding scores 0, and any position information is due to padding.

    Returns:
      Per layer with spatial axes: 'position', the mean over axes of R squared of the coordinate, on test images;
      'position_noise', the same on noise; 'border_noise', R squared of the distance to the nearest border, on noise.
    """
    names = [n for n in representations(network) if len(network.feature_shapes[n]) == len(network.input_shape)]
    names = [n for n in names if min(network.feature_shapes[n][:-1]) > 1]
    if not names:
        return {}
    largest = max(int(np.prod(network.feature_shapes[n])) for n in names)
    count = 2 * int(np.clip(_VALUES // largest, 4, IMAGES) // 2)
    noise = np.random.default_rng(0).integers(0, 256, (count, *network.input_shape), np.uint8)
    on_images, on_noise = (network.features(images, names) for images in (dataset.test_images[:count], noise))
    return {
        "position": {name: float(read_out(on_images[name])[:-1].mean()) for name in names},
        "position_noise": {name: float(read_out(on_noise[name])[:-1].mean()) for name in names},
        "border_noise": {name: float(read_out(on_noise[name])[-1]) for name in names},
    }


def read_out(x_NSC: np.ndarray) -> np.ndarray:
    """Compute R squared (A,) of each target: 1 - sum of squared errors / sum of squares, on the second half of the images.

    Negative where the fit is worse than a constant; nan for a constant target.
    """
    target_SA = targets(x_NSC.shape[1:-1])
    half = len(x_NSC) // 2
    x_MC = x_NSC.reshape(-1, x_NSC.shape[-1]).astype(np.float64)
    cut = half * len(target_SA)
    fitted_MC, scored_MC = x_MC[:cut], x_MC[cut:]
    y_fit_MA, y_MA = np.tile(target_SA, (half, 1)), np.tile(target_SA, (len(x_NSC) - half, 1))
    centre_C = fitted_MC.mean(axis=0)
    fitted_MC = fitted_MC - centre_C
    gram_CC = fitted_MC.T @ fitted_MC
    ridge = PENALTY * np.trace(gram_CC) / len(gram_CC)
    if ridge <= 0:  # constant channels
        return np.zeros(target_SA.shape[1])
    weight_CA = np.linalg.solve(gram_CC + ridge * np.eye(len(gram_CC)), fitted_MC.T @ y_fit_MA)
    error_MA = y_MA - (scored_MC - centre_C) @ weight_CA
    total_A = (y_MA**2).sum(axis=0)
    share_A = (error_MA**2).sum(axis=0) / np.where(total_A > 0, total_A, 1.0)
    return np.where(total_A > 0, 1 - share_A, np.nan)


def targets(spatial: tuple[int, ...]) -> np.ndarray:
    """Build centred targets (prod(S), A): the coordinate along each axis from -1 to 1, then the distance to the border."""
    coordinates = np.meshgrid(*(np.linspace(-1, 1, n) for n in spatial), indexing="ij")
    to_border = np.min([1 - np.abs(axis) for axis in coordinates], axis=0)
    target_SA = np.stack([*coordinates, to_border], axis=-1).reshape(-1, len(spatial) + 1)
    return target_SA - target_SA.mean(axis=0)
