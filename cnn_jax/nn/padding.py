"""Padding: amount (integers) and mode (fill values). Padding modes are handled only here.

Amount and mode are separate: compute the amount once (`resolve_pads`), fill it according to the mode (`pad`), then convolve
  VALID.
Only `pad` imports JAX. Letters: n input size, k kernel size, s stride, d dilation, each along one spatial axis; a kernel spans
(k - 1) * d + 1 positions.

A size (`kernel_size`, `strides`, `dilation`, `window`) is an int for all spatial axes or a tuple with an int per axis. A
padding amount is one of `PADDING_AMOUNTS`, an int, or a (low, high) pair per spatial axis. The flag `--padding` combines amount
and mode: see `PADDINGS`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError

if TYPE_CHECKING:
    import jax

Size = Union[int, tuple[int, ...]]
Padding = Union[str, int, tuple[tuple[int, int], ...]]

PADDING_AMOUNTS = ("valid", "same", "same_lower", "full", "causal")
PADDING_MODES = ("zeros", "reflect", "symmetric", "replicate", "circular")
# Value of the flag --padding -> (amount, mode). The last four fill the 'same' amount.
PADDINGS = {
    "valid": ("valid", "zeros"),
    "same": ("same", "zeros"),
    "full": ("full", "zeros"),
    "reflect": ("same", "reflect"),
    "symmetric": ("same", "symmetric"),
    "replicate": ("same", "replicate"),
    "circular": ("same", "circular"),
}
_NUMPY_MODES = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}


class GeometryError(UsageError):
    """A layer that does not fit its input. The message is one line and names the layer if it is part of a network."""


def plain(value: Value) -> Value:
    """Convert NumPy integers to int, and lists and arrays to tuples, at any depth; return other values unchanged."""
    if isinstance(value, int | str | float):  # also bool, which `as_tuple` rejects
        return value
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return plain(value.tolist()) if hasattr(value, "tolist") else value  # a NumPy array or scalar


def as_tuple(size: Size, rank: int, what: str, least: int = 1) -> tuple[int, ...]:
    """Convert an int, or a sequence of `rank` ints, to one int per spatial axis, each at least `least`.

    `what` names the quantity in the GeometryError.
    """
    size = plain(size)
    sizes = size if isinstance(size, tuple) else (size,) * rank
    if len(sizes) != rank:
        raise GeometryError(f"{what} {sizes} has {len(sizes)} values for {rank} spatial axes: give one number, or one per axis")
    for value in sizes:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise GeometryError(f"{what} is {value!r}: must be an integer of at least {least}")
    return sizes


def axis_pads(n: int, k: int, s: int, d: int, padding: str | int | Sequence[int]) -> tuple[int, int]:
    """Compute the positions added (before, after) along one axis.

    'same' gives ceil(n / s) outputs and adds an odd position at the end, as in TensorFlow and Keras; 'same_lower' adds it at
    the start. 'full' adds (k - 1) * d at both ends, so that every input is multiplied by every weight; 'causal' adds them at
    the start only. An int is added at both ends; a pair is (before, after).
    """
    reach = (k - 1) * d
    padding = plain(padding)
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
                f"unknown padding {padding!r}: must be one of {', '.join(PADDING_AMOUNTS)}, an integer, "
                "or a (low, high) pair per axis"
            )
        case int():
            low = high = padding
        case _:
            low, high = as_tuple(tuple(padding), 2, "a (low, high) pair of padding", least=0)
    if low < 0 or high < 0:
        raise GeometryError(f"padding is {padding!r}: must not be negative")
    return low, high


def resolve_pads(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: Size, padding: Padding
) -> tuple[tuple[int, int], ...]:
    """Compute the (low, high) pads of every spatial axis for an input of shape `spatial`."""
    rank, padding = len(spatial), plain(padding)
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


def check_fill(spatial: Sequence[int], pads: Sequence[tuple[int, int]], mode: str) -> None:
    """Raise GeometryError if the padding is wider than one copy of the image can fill in this mode.

    'reflect' does not repeat the edge and fills up to n - 1 positions of an axis of n, 'symmetric' and 'circular' up to n.
    """
    for n, pair in zip(spatial, pads, strict=True):
        widest = {"reflect": n - 1, "symmetric": n, "circular": n}.get(mode, math.inf)
        if max(pair) > widest:
            raise GeometryError(
                f"{mode} padding of {max(pair)} is wider than its input {'x'.join(map(str, spatial))} can fill "
                f"(at most {widest}): use padding mode 'replicate', a smaller kernel_size or fewer layers"
            )


def transpose_geometry(
    spatial: Sequence[int], kernel: Size, strides: Size, dilation: Size, padding: Padding, output_padding: Size = 0
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Compute pads and output sizes of a transposed convolution over an input of shape `spatial`.

    The pads are those of the corresponding convolution, so they are cropped. Outputs along an axis:
    (n - 1) * s + (k - 1) * d + 1 - low - high + output_padding; under 'same' and 'same_lower' they are n * s, as in Keras
    (so there `output_padding` must be 0).
    """
    rank = len(spatial)
    k_S, s_S = as_tuple(kernel, rank, "kernel_size"), as_tuple(strides, rank, "strides")
    d_S = as_tuple(dilation, rank, "dilation")
    extra_S = as_tuple(output_padding, rank, "output_padding", least=0)
    padding = plain(padding)
    same = padding in ("same", "same_lower")
    forward_S = [n * s for n, s in zip(spatial, s_S, strict=True)]
    pads = resolve_pads(forward_S if same else spatial, k_S, s_S, d_S, padding)
    if same and any(extra_S):
        raise GeometryError(f"output_padding is {output_padding} under padding {padding!r}: must be 0 there")
    for extra, s, d in zip(extra_S, s_S, d_S, strict=True):
        if extra and extra >= max(s, d):
            raise GeometryError(f"output_padding is {extra}: must be smaller than strides {s} or dilation {d}")
    axes = zip(spatial, k_S, s_S, d_S, pads, extra_S, strict=True)
    out_S = tuple(
        n * s if same else (n - 1) * s + (k - 1) * d + 1 - low - high + extra for n, k, s, d, (low, high), extra in axes
    )
    if min(out_S) < 1:
        raise GeometryError(f"padding {padding!r} leaves no output: use less padding or a larger kernel_size")
    return pads, out_S


def pad(x: "jax.Array", pads: Sequence[tuple[int, int]], mode: str = "zeros", value: float = 0.0) -> "jax.Array":
    """Pad the spatial axes of x (N, *S, C).

    Two positions at each end of 1234: zeros `00 1234 00`, reflect `32 1234 32` (the edge is not repeated), symmetric `21 1234
    43` (the edge is repeated), replicate `11 1234 44`, circular `34 1234 12`.

    Args:
      x: an array with 1, 2 or 3 spatial axes.
      pads: a (low, high) pair per spatial axis.
      mode: one of `PADDING_MODES`.
      value: replaces the zeros in mode 'zeros'; must be 0 in other modes.

    Raises:
      UsageError: a pad is negative, or wider than one copy of the image: 'reflect' of n positions or more, 'symmetric' or
        'circular' of more than n.
    """
    import jax.numpy as jnp

    if mode not in PADDING_MODES:
        raise UsageError(f"unknown padding_mode {mode!r}: must be one of {', '.join(PADDING_MODES)}")
    if value != 0 and mode != "zeros":
        raise UsageError(f"padding_mode {mode!r} fills with values of the image: value={value} requires mode 'zeros'")
    spatial = x.shape[1 : array_rank(x) + 1]
    pads = resolve_pads(spatial, 1, 1, 1, tuple(pads))
    check_fill(spatial, pads, mode)
    widths = ((0, 0), *pads, (0, 0))
    if mode == "zeros":
        return jnp.pad(x, widths, constant_values=value)
    return jnp.pad(x, widths, mode=_NUMPY_MODES[mode])


def array_rank(x: "jax.Array", kernel: "jax.Array | None" = None) -> int:
    """Return the number of spatial axes of x (N, *S, C). Raises UsageError unless it is 1, 2 or 3 and equal to `kernel`'s."""
    if not 3 <= x.ndim <= 5:
        raise UsageError(f"x has shape {x.shape}: must be (N, *S, C) with 1, 2 or 3 spatial axes")
    if kernel is not None and kernel.ndim != x.ndim:
        raise UsageError(f"kernel has shape {kernel.shape}: must have {x.ndim - 2} spatial axes, as x {x.shape}")
    return x.ndim - 2
