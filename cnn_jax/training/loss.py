"""Loss of a step. Shapes: B images of a batch, K classes."""

import jax
import jax.numpy as jnp


def cross_entropy(logits_BK: jax.Array, labels_B: jax.Array) -> jax.Array:
    """-log softmax(logits)[label] of each image, in nats: float32 also for logits in bfloat16 or float16.

    optax.softmax_cross_entropy_with_integer_labels, with a comparison in place of its gather: the gradient of that is a
    scatter, a loop on CPU that takes longer to compile than the network's layers.
    """
    logits_BK = logits_BK.astype(jnp.promote_types(logits_BK.dtype, jnp.float32))
    shifted_BK = logits_BK - jax.lax.stop_gradient(logits_BK.max(-1, keepdims=True))
    own_BK = labels_B[:, None] == jnp.arange(logits_BK.shape[-1], dtype=labels_B.dtype)
    return jnp.log(jnp.exp(shifted_BK).sum(-1)) - jnp.where(own_BK, shifted_BK, 0).sum(-1)
