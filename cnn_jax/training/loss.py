"""Losses of an image. Shapes: B images of a batch, K classes.

A loss is a function (logits_BK, targets_BK) -> (B,). Targets are probabilities: one-hot, smoothed or mixed. A fork's
`package.module:attribute` has the same form; keyword arguments with defaults are set by --option=loss.NAME=VALUE.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Loss = Callable[..., jax.Array]


def cross_entropy(logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
    """-sum_k targets_k log softmax(logits)_k of each image, in nats."""
    return -(targets_BK * jax.nn.log_softmax(as_float32(logits_BK))).sum(-1)


def mse(logits_BK: jax.Array, targets_BK: jax.Array) -> jax.Array:
    """Mean over the classes of the squared difference of logits and targets (Hui and Belkin 2021, arXiv 2006.07322)."""
    return ((as_float32(logits_BK) - targets_BK) ** 2).mean(-1)


def focal(logits_BK: jax.Array, targets_BK: jax.Array, *, gamma: float = 2.0) -> jax.Array:
    """Cross-entropy whose terms are scaled by (1 - p_k)^gamma (Lin et al. 2017, arXiv 1708.02002, eq. 4, over softmax)."""
    log_p_BK = jax.nn.log_softmax(as_float32(logits_BK))
    # -expm1(log p) is 1 - p, kept above 0: the gradient of a power below 1 is not finite there.
    rest_BK = jnp.maximum(-jnp.expm1(log_p_BK), jnp.finfo(log_p_BK.dtype).eps)
    return -(targets_BK * rest_BK**gamma * log_p_BK).sum(-1)


BY_NAME: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "focal": focal}


def cross_entropy_of_labels(logits_BK: jax.Array, labels_B: jax.Array) -> jax.Array:
    """`cross_entropy` for integer labels: -log softmax(logits)[label] of each image, in nats.

    optax.softmax_cross_entropy_with_integer_labels, with a comparison in place of its gather: the gradient of that is a
    scatter, a loop on CPU that takes longer to compile than the network's layers.
    """
    logits_BK = as_float32(logits_BK)
    shifted_BK = logits_BK - jax.lax.stop_gradient(logits_BK.max(-1, keepdims=True))
    own_BK = labels_B[:, None] == jnp.arange(logits_BK.shape[-1], dtype=labels_B.dtype)[None]
    return jnp.log(jnp.exp(shifted_BK).sum(-1)) - jnp.where(own_BK, shifted_BK, 0).sum(-1)


def as_float32(logits_BK: jax.Array) -> jax.Array:
    """Logits in float32 where they are in bfloat16 or float16."""
    return logits_BK.astype(jnp.promote_types(logits_BK.dtype, jnp.float32))


def one_hot(labels_B: jax.Array, classes: int) -> jax.Array:
    """Targets (B, K) of labels (B,)."""
    return (labels_B[:, None] == jnp.arange(classes, dtype=labels_B.dtype)[None]).astype(jnp.float32)


def smoothed(targets_BK: jax.Array, share: jax.Array) -> jax.Array:
    """Targets with `share` of their mass spread evenly over the classes (Szegedy et al. 2016, arXiv 1512.00567)."""
    return targets_BK * (1 - share) + share / targets_BK.shape[-1]
