"""Occlusion: decrease of a logit when a window of the image is covered (Zeiler and Fergus 2014).

N images, *S spatial axes, C channels, P positions of the window.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.aliases import Array
from cnn_jax.analysis.network import Apply, TrainedNetwork, Variables


def default_window(size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return window and stride per axis: a fifth of the image, and a third of the window."""
    window = tuple(max(1, round(n / 5)) for n in size)
    return window, tuple(max(1, w // 3) for w in window)


def windows(size: Sequence[int], window: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Build bool masks (P, *S) of the pixels covered at each position of a window.

    The last position along an axis ends at the border; a window larger than the image covers it.
    """
    fitting = [min(w, n) for n, w in zip(size, window, strict=True)]
    starts = [sorted({*range(0, n - w + 1, s), n - w}) for n, w, s in zip(size, fitting, strides, strict=True)]
    masks = []
    for corner in itertools.product(*starts):
        mask = np.zeros(tuple(size), bool)
        mask[tuple(slice(c, c + w) for c, w in zip(corner, fitting, strict=True))] = True
        masks.append(mask)
    return np.array(masks)


def occlusion(
    network: TrainedNetwork,
    x_NSC: Array,
    classes_N: Array,
    baseline: Array,
    window: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Compute the decrease of a class logit per pixel: the mean over all positions of the window that cover it.

    Args:
      network: the network.
      x_NSC: inputs of the network, floats.
      classes_N: class per image.
      baseline: fill value, of a shape that broadcasts to x_NSC.
      window, strides: per spatial axis; default `default_window`.

    Returns:
      Decrease (N, *S) in units of the logit; negative where the logit increases.
    """
    size = network.input_shape[:-1]
    known = default_window(size)
    masks_PS = windows(size, known[0] if window is None else window, known[1] if strides is None else strides)
    x_NSC = np.asarray(x_NSC, np.float32)
    falls_PN = drops(network, x_NSC, np.asarray(classes_N), np.asarray(baseline, np.float32), masks_PS)
    covered_S = masks_PS.sum(axis=0)
    total_NS = np.tensordot(falls_PN.T, masks_PS.astype(np.float32), axes=1)
    return total_NS / np.maximum(covered_S, 1)


def drops(
    network: TrainedNetwork, x_NSC: np.ndarray, classes_N: np.ndarray, baseline: np.ndarray, masks_PS: np.ndarray
) -> np.ndarray:
    """Compute the decrease (P, N) of the logit of each image under each mask, in batches of masks."""
    size = max(1, min(len(masks_PS), network.batch_size // 2))
    base = np.broadcast_to(baseline, x_NSC.shape)
    variables = jax.device_put(network.variables)
    falls = []
    for image, covered, label in zip(x_NSC, base, classes_N, strict=True):
        parts = []
        for begin in range(0, len(masks_PS), size):
            piece = masks_PS[begin : begin + size]
            count = len(piece)
            piece = np.concatenate([piece, np.repeat(piece[-1:], size - count, axis=0)])
            parts.append(np.asarray(_falls(network.apply, variables, image, covered, label, piece))[:count])
        falls.append(np.concatenate(parts))
    return np.stack(falls, axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _falls(
    apply: Apply, variables: Variables, image_SC: jax.Array, covered_SC: jax.Array, label: jax.Array, masks_PS: jax.Array
) -> jax.Array:
    x_PSC = jnp.where(masks_PS[..., None], covered_SC[None], image_SC[None])
    logits = apply(variables, jnp.concatenate([x_PSC, image_SC[None]]))[0][:, label]
    return logits[-1] - logits[:-1]
