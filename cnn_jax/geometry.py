"""Integers only: padding amounts, output sizes, parameters, multiply-accumulates (MACs), receptive fields. No JAX.

n input size, k kernel size, s stride, d dilation, each along one spatial axis; a kernel spans (k - 1) * d + 1 positions.
"""

from collections.abc import Sequence

from cnn_jax.config import PADDING_AMOUNTS, Padding, Size, UsageError


class GeometryError(UsageError):
    """A layer that does not fit its input. The message is one line that names the layer once it is part of a network."""


# ------------------------------------------------------------------------------------------------- sizes and paddings


def as_tuple(size: Size, rank: int, what: str, least: int = 1) -> tuple[int, ...]:
    """An int for every one of `rank` spatial axes, from an int or from a sequence of `rank` ints, each at least `least`.

    `what` names the quantity in the GeometryError.
    """
    sizes = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(sizes) != rank:
        raise GeometryError(f"{what} {sizes} has {len(sizes)} values for {rank} spatial axes: give one number, or one per axis")
    for value in sizes:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise GeometryError(f"{what} is {value!r}: it must be an integer of at least {least}")
    return sizes


def axis_pads(n: int, k: int, s: int, d: int, padding: str | int | Sequence[int]) -> tuple[int, int]:
    """Positions added (before, after) one axis.

    'same' keeps ceil(n / s) outputs and gives the odd position to the end, as TensorFlow and Keras do; 'same_lower' gives
    it to the start. 'full' adds (k - 1) * d at both ends, so that every input meets every weight; 'causal' adds them all
    at the start. An int is added at both ends; a pair is (before, after).
    """
    reach = (k - 1) * d
    match padding:
        case "valid":
            return 0, 0
        case "same" | "same_lower":
            total = max((-(-n // s) - 1) * s + reach + 1 - n, 0)
            less, more = total // 2, total - total // 2
            return (less, more) if padding == "same" else (more, less)
        case "full":
            return reach, reach
        case "causal":
            return reach, 0
        case str():
            raise GeometryError(
                f"unknown padding {padding!r}: one of {', '.join(PADDING_AMOUNTS)}, an integer, or a (low, high) pair per axis"
            )
        case int():
            low = high = padding
        case _:
            low, high = as_tuple(tuple(padding), 2, "a (low, high) pair of padding", least=0)
    if low < 0 or high < 0:
        raise GeometryError(f"padding is {padding!r}: it must not be negative")
    return low, high


def resolve_pads(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: Size, padding: Padding
) -> tuple[tuple[int, int], ...]:
    """The (low, high) pads of every spatial axis for an input of shape `spatial`."""
    rank = len(spatial)
    if padding == "causal" and rank != 1:
        raise GeometryError(f"padding 'causal' is for one spatial axis, not {rank}: use one of valid, same, same_lower, full")
    per_axis: Sequence = [padding] * rank if isinstance(padding, str | int) else padding
    if len(per_axis) != rank:
        raise GeometryError(
            f"padding {padding} has {len(per_axis)} pairs for {rank} spatial axes: give a (low, high) pair per axis"
        )
    kernel, strides = as_tuple(kernel, rank, "kernel_size"), as_tuple(strides, rank, "strides")
    dilation = as_tuple(dilation, rank, "dilation")
    return tuple(axis_pads(*axis) for axis in zip(spatial, kernel, strides, dilation, per_axis, strict=True))


def output_size(n: int, k: int, s: int, d: int, low: int, high: int) -> int:
    """Outputs along one axis: floor((n + low + high - (k - 1) * d - 1) / s) + 1, and 0 where the kernel does not fit."""
    return max((n + low + high - (k - 1) * d - 1) // s + 1, 0)
