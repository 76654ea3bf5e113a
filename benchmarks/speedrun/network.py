"""The network of airbench94: a fixed whitening layer, three groups of two convolutions, a dense layer.

N images, H, W, C height, width, channels, F filters, K classes, P values of a patch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax import conv, max_pool

PATCH = 2  # the whitening kernel is 2x2
NORM_MOMENTUM = 0.6  # of the running statistics; 0.4 in PyTorch's definition
EPSILON = 1e-12  # of the variance
LOGIT_SCALE = 1 / 9
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # within 1 / sqrt(fan in): PyTorch's default


def identity_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Initialize the first filters to the identity, the others at random."""
    kernel = uniform(key, shape, dtype)
    passed = min(shape[2:])
    unit = jnp.zeros((*shape[:3], passed), dtype).at[shape[0] // 2, shape[1] // 2, :passed].set(jnp.eye(passed, dtype=dtype))
    return kernel.at[..., :passed].set(unit)


class Net(nn.Module):
    """Images (N, H, W, C) and a whitening kernel (2, 2, C, F) -> logits (N, K).

    Convolutions are computed in `dtype`; statistics of normalization and logits in float32 or wider. Normalization has biases
    only.
    """

    widths: tuple[int, ...]
    classes: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, whitening_kernel: jax.Array, train: bool) -> jax.Array:
        bias = self.param("whitening_bias", nn.initializers.zeros, whitening_kernel.shape[-1:])
        x = gelu(self.convolve(x, jax.lax.stop_gradient(whitening_kernel), bias))
        for group, width in enumerate(self.widths, 1):
            for which in (1, 2):
                name = f"{group}_{which}"
                kernel = self.param(f"conv{name}", identity_init, (3, 3, x.shape[-1], width), jnp.float32)
                x = self.convolve(x, kernel, padding="same")
                if which == 1:
                    x = max_pool(x, 2)  # by slices: the gradient is a select; that of lax.reduce_window is a scatter
                norm = nn.BatchNorm(
                    not train, momentum=NORM_MOMENTUM, epsilon=EPSILON, use_scale=False, dtype=self.dtype, name=f"norm{name}"
                )
                x = gelu(norm(x))
        x = max_pool(x, x.shape[1:3])[:, 0, 0]
        head = self.param("head", uniform, (x.shape[-1], self.classes), jnp.float32)
        return x.astype(head.dtype) @ head * LOGIT_SCALE

    def convolve(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, padding: str = "valid") -> jax.Array:
        """Apply `conv` in the type of this network."""
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return conv(x, kernel, None if bias is None else bias.astype(self.dtype), padding=padding)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU with erf, PyTorch's default; Flax's default is an approximation."""
    return nn.gelu(x, approximate=False)


def whitening(x_NHWC: jax.Array, epsilon: float = 5e-4) -> jax.Array:
    """(2, 2, C, 8 C) kernel: the principal axes of patches about zero, largest first, scaled to unit power; their negatives."""
    height, width, channels = x_NHWC.shape[1:]
    slices = [x_NHWC[:, i : height - PATCH + 1 + i, j : width - PATCH + 1 + j] for i in range(PATCH) for j in range(PATCH)]
    patches_NP = jnp.concatenate(slices, -1).reshape(-1, PATCH * PATCH * channels)
    power_PP = jnp.matmul(patches_NP.T, patches_NP, precision="highest") / len(patches_NP)
    values_P, vectors_PF = jnp.linalg.eigh(power_PP)
    kernel_PF = (vectors_PF / jnp.sqrt(values_P + epsilon)[None])[:, ::-1]
    return jnp.concatenate([kernel_PF, -kernel_PF], -1).reshape(PATCH, PATCH, channels, -1)
