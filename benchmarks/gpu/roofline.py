"""Roofline: minimum seconds for products or bytes, whichever takes longer (Williams et al. 2009)."""

from benchmarks.gpu.settings import Ceilings


def share(seconds: float, flops: float, products: str, nbytes: float | None, ceilings: Ceilings) -> float | None:
    """Compute the minimum time as a share of `seconds`; None if the ceiling of products is unknown.

    It may exceed 1: before a max-pool, cnn_jax computes fewer products than counted, and cached bytes are not read from memory.

    Args:
      seconds: measured.
      flops: operations, two per multiply-accumulate.
      products: precision of products, a key of `ceilings.flops`.
      nbytes: bytes read and written, as counted by XLA; None: unknown, only products count.
      ceilings: measured on the device.
    """
    if products not in ceilings.flops:
        return None
    moving = nbytes / ceilings.bandwidth if nbytes and ceilings.bandwidth else 0.0
    return max(flops / ceilings.flops[products], moving) / seconds
