"""Seconds that a device needs at least: for the products, or for the bytes, whichever takes longer (Williams et al. 2009)."""

from benchmarks.gpu.settings import Ceilings


def share(seconds: float, flops: float, products: str, nbytes: float | None, ceilings: Ceilings) -> float | None:
    """Share of `seconds` that the device needs at least; None where the ceiling of products is not known.

    It may exceed 1: behind a max-pool ours makes fewer products than it is counted, and bytes that a cache holds do not come
    from memory.

    Args:
      seconds: measured.
      flops: operations, two per multiply-accumulate.
      products: what they are multiplied in, a key of `ceilings.flops`.
      nbytes: read and written, as XLA counts them; None: not known, so the products alone count.
      ceilings: measured on the device.
    """
    if products not in ceilings.flops:
        return None
    moving = nbytes / ceilings.bandwidth if nbytes and ceilings.bandwidth else 0.0
    return max(flops / ceilings.flops[products], moving) / seconds
