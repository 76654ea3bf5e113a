"""Channels that padding silences at the border, or that detect the border by it. N images, *S = (H, W), C channels."""

import numpy as np
import scipy

from cnn_jax.analysis.measures.sample import hidden_units
from cnn_jax.analysis.network import TrainedNetwork
from cnn_jax.data import Dataset

IMAGES = 32
AWARE = 0.5  # Kolmogorov-Smirnov statistic: one threshold separates border and interior, equally frequent, in 75 % of cases
BLIND = 0.1  # share of the mean absolute output in the interior
_LEAST = 4  # positions along an axis


def border_units(network: TrainedNetwork, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Measure the share of a layer's channels that padding silences at the border, or that detect the border by it.

    Images are independent uniform noise, whose distribution is the same at all positions: any difference at the border is due
    to padding. The outermost positions of a map are compared with those at least a quarter of its side away from the border.
    Without padding and with circular padding both have the same distribution.

    A channel is padding-aware if the two distributions of its output have a Kolmogorov-Smirnov distance of `AWARE` or more,
    after Garcia-Gasulla, Gimenez-Abalos and Martin-Torres 2023, "Padding aware neurons" (2309.08048). It is border-blind if
    its mean absolute output at the border is below `BLIND` of that in the interior: a blind spot of Alsallakh et al. 2021,
    "Mind the pad: CNNs can develop blind spots" (2010.02178).

    Returns:
      'padding_aware' and 'border_blind' by layer; layers with fewer than `_LEAST` positions along an axis are omitted.
    """
    if len(network.input_shape) != 3:
        return {}
    shapes = network.feature_shapes
    names = [n for n in hidden_units(network) if len(shapes[n]) == 3 and min(shapes[n][:2]) >= _LEAST]
    if not names:
        return {}
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, *network.input_shape), np.uint8)
    aware, blind = {}, {}
    for name, y_NHWC in network.features(noise, names).items():
        border_MC, inside_MC = _parts(y_NHWC)
        distances = [
            scipy.stats.ks_2samp(a, b, method="asymp").statistic for a, b in zip(border_MC.T, inside_MC.T, strict=True)
        ]
        at_border_C, inside_C = np.abs(border_MC).mean(axis=0), np.abs(inside_MC).mean(axis=0)
        aware[name] = float(np.mean(np.array(distances) >= AWARE))
        blind[name] = float(np.mean((at_border_C < BLIND * inside_C) & (inside_C > 0)))
    return {"padding_aware": aware, "border_blind": blind}


def _parts(y_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs (M, C) at the outermost positions, and at positions a quarter of the side or more from the border."""
    height, width = y_NHWC.shape[1:3]
    rows, columns = np.ogrid[:height, :width]
    away_y, away_x = np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns)
    border_HW = np.minimum(away_y, away_x) == 0
    inside_HW = (away_y >= height // 4) & (away_x >= width // 4)
    return y_NHWC[:, border_HW].reshape(-1, y_NHWC.shape[-1]), y_NHWC[:, inside_HW].reshape(-1, y_NHWC.shape[-1])
