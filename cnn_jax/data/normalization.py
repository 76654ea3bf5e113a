"""Conversion of pixels 0 to 255 to network inputs (--normalize), the same in training and evaluation.

Axes: N images, H height, W width, C channels.
"""

import dataclasses
import math
from typing import Any

import numpy as np

_PIECE = 2**22  # pixels per call: `np.bincount` converts them to 64-bit integers


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Normalization of a trial's images, with its statistics, which are part of the trained network.

    Attributes:
      kind: one of `trial.NORMALIZATIONS`.
      mean: for 'per_channel', the mean of each channel of the training images, as a fraction of 255; otherwise empty.
      std: the standard deviation likewise; 1 for a constant channel, which is only centered.
    """

    kind: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, images_NHWC: Any) -> Any:
        """Convert uint8 images, of NumPy or JAX, to float32 inputs of a network.

        'none' gives 0 to 1. 'per_channel' then subtracts `mean` and divides by `std`. 'standardize' gives every image zero
        mean and unit variance over its pixels and channels, as `tf.image.per_image_standardization` for uint8: the standard
        deviation is at least 1 / sqrt(pixels x channels) grey levels, so a constant image becomes 0.
        """
        x_NHWC = images_NHWC.astype(np.float32)
        if self.kind == "standardize":  # in grey levels: float32 sums of small images are exact
            axes = tuple(range(1, x_NHWC.ndim))
            centered_NHWC = x_NHWC - x_NHWC.mean(axes, keepdims=True)
            variance_N111 = (centered_NHWC**2).mean(axes, keepdims=True)
            return centered_NHWC / variance_N111.clip(1 / math.prod(x_NHWC.shape[1:])) ** 0.5
        unit_NHWC = x_NHWC * (1 / 255)
        if self.kind == "per_channel":
            shape = (1,) * (unit_NHWC.ndim - 1) + (-1,)
            mean, slope = np.array(self.mean, np.float32), np.array([1 / s for s in self.std], np.float32)
            return (unit_NHWC - mean.reshape(shape)) * slope.reshape(shape)
        return unit_NHWC


UNIT = Normalization()


def channel_statistics(images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation (C,) of each channel of uint8 images, as fractions of 255.

    Computed from the counts of the 256 pixel values, so the result is the same on every machine.
    """
    n, height, width, channels = images_NHWC.shape
    counts_CV = np.zeros((channels, 256), np.int64)
    step = max(1, _PIECE // (height * width))
    for first in range(0, n, step):
        piece_NHWC = images_NHWC[first : first + step]
        for channel in range(channels):
            counts_CV[channel] += np.bincount(piece_NHWC[..., channel].ravel(), minlength=256)
    pixels = n * height * width
    means, deviations = [], []
    for counts in counts_CV.tolist():  # Python integers: exact
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / pixels / 255)
        deviations.append(math.sqrt(pixels * squares - total**2) / pixels / 255 or 1.0)
    return np.array(means), np.array(deviations)
