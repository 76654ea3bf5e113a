"""VALID convolution with its gradients, fast on each backend. Padding is none of its business: see `layers`."""

import jax
from jax import lax


def conv_valid(x: jax.Array, kernel: jax.Array, *, strides: tuple[int, ...], dilation: tuple[int, ...], groups: int) -> jax.Array:
    """x (N, *S, C), kernel (*K, C // groups, F) -> (N, *S', F), S' = floor((S - (K - 1) * dilation - 1) / strides) + 1."""
    rank = x.ndim - 2
    spatial = "DHW"[3 - rank :]
    return lax.conv_general_dilated(
        x, kernel, strides, "VALID", rhs_dilation=dilation, dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"), feature_group_count=groups
    )
