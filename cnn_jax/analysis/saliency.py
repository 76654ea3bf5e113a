"""Gradient attributions: the influence of pixels on a class logit.

All functions take floats x (N, *S, C), inputs of the network, and a class per image (N,), and return (N, *S, C) in units of the
logit (`gradient`, `smooth_grad`: per unit of the input). `apply` is static: see `TrainedNetwork.apply`. N images, *S spatial
axes, C channels, K classes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.aliases import Array
from cnn_jax.analysis.network import Apply, Variables

IG_STEPS = 32
SAMPLES = 16
SIGMA = 0.15  # standard deviation of SmoothGrad's noise, relative to the range of the inputs


def _score_gradient(apply: Apply, variables: Variables, x_NSC: Array, classes_N: Array) -> jax.Array:
    def score(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(apply(variables, x)[0], classes_N[:, None], axis=1).sum()

    return jax.grad(score)(x_NSC)


@functools.partial(jax.jit, static_argnums=0)
def gradient(apply: Apply, variables: Variables, x_NSC: Array, classes_N: Array) -> jax.Array:
    """Compute the gradient of the logit of a class (Simonyan, Vedaldi and Zisserman 2014)."""
    return _score_gradient(apply, variables, jnp.asarray(x_NSC), jnp.asarray(classes_N))


@functools.partial(jax.jit, static_argnums=(0, 5))
def integrated_gradients(
    apply: Apply, variables: Variables, x_NSC: Array, classes_N: Array, baseline: Array, steps: int = IG_STEPS
) -> jax.Array:
    """Compute integrated gradients (Sundararajan, Taly and Yan 2017) along the line from a baseline.

    Midpoint rule. They sum to the difference of the logits of image and baseline ("completeness"), up to quadrature error.

    Args:
      apply, variables, x_NSC, classes_N: see the module docstring.
      baseline: a blank input, of a shape that broadcasts to x_NSC.
      steps: number of points on the line.
    """
    x, base = jnp.asarray(x_NSC), jnp.broadcast_to(baseline, x_NSC.shape)
    classes_N = jnp.asarray(classes_N)

    def add(total: jax.Array, share: jax.Array) -> tuple[jax.Array, None]:
        return total + _score_gradient(apply, variables, base + share * (x - base), classes_N), None

    shares = (jnp.arange(steps) + 0.5) / steps
    total, _ = jax.lax.scan(add, jnp.zeros_like(x), shares)
    return (x - base) * total / steps


def smooth_grad(
    apply: Apply,
    variables: Variables,
    x_NSC: Array,
    classes_N: Array,
    sigma: float,
    samples: int = SAMPLES,
    seed: int = 0,
) -> jax.Array:
    """Compute the mean gradient over noisy copies of the images (Smilkov et al. 2017).

    Args:
      apply, variables, x_NSC, classes_N: see the module docstring.
      sigma: standard deviation of the noise, in units of the input; the paper has 10 to 20 % of the range.
      samples: number of noisy copies of each image; all images get the same noise.
      seed: seed of the noise.
    """
    shape = samples, 1, *np.shape(x_NSC)[1:]
    noise = np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)
    return _mean_gradient(apply, variables, x_NSC, classes_N, noise)


@functools.partial(jax.jit, static_argnums=0)
def _mean_gradient(apply: Apply, variables: Variables, x_NSC: Array, classes_N: Array, noise: jax.Array) -> jax.Array:
    """Average the gradient over added noise: `noise` has a leading axis of samples, each of which broadcasts to x_NSC."""
    x, classes_N = jnp.asarray(x_NSC), jnp.asarray(classes_N)

    def add(total: jax.Array, shift: jax.Array) -> tuple[jax.Array, None]:
        return total + _score_gradient(apply, variables, x + shift, classes_N), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(x), noise)
    return total / len(noise)


def strength(attribution_NSC: np.ndarray) -> np.ndarray:
    """Reduce an attribution to one value per pixel (N, *S): the largest absolute value over channels."""
    return np.abs(np.asarray(attribution_NSC)).max(axis=-1)


def rank_correlation(a_NS: np.ndarray, b_NS: np.ndarray) -> np.ndarray:
    """Compute Spearman's rank correlation (N,) between pairs of maps; nan where one of them is constant.

    The sanity check of Adebayo et al. 2018: an attribution that depends on the trained parameters changes when they are
    randomized, so the correlation is far below 1.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(np.asarray(a).reshape(len(a), -1), axis=1) for a in (a_NS, b_NS)]
    centred = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    norms = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred[0] * centred[1]).sum(1) / norms
