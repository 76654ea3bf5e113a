"""Dense layer equivalent to a convolution. N images, *S spatial axes, C channels, *K kernel axes, F filters."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cnn_jax.errors import UsageError
from cnn_jax.nn.padding import PADDING_MODES, Padding, Size, as_tuple, check_fill, output_size, resolve_pads
from cnn_jax.nn.spec import check_groups

_NUMPY_MODES = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}
MOST = 2**28  # entries of a matrix: 2 GB


@dataclasses.dataclass(frozen=True, eq=False)  # == of arrays is an array
class EqualDense:
    """Dense layer with the same outputs as a convolution.

    Attributes:
      matrix: (prod(S) * C, prod(S') * F), float64: `x.reshape(N, -1) @ matrix + bias` is `conv(x).reshape(N, -1)`.
      bias: (prod(S') * F,).
      output_shape: (*S', F).
      conv_params: parameters of the convolution.
      dense_params: parameters of a dense layer from all inputs to all outputs.
      connections: entries of the matrix that hold a kernel tap, whatever its value.
    """

    matrix: np.ndarray
    bias: np.ndarray
    output_shape: tuple[int, ...]
    conv_params: int
    dense_params: int
    connections: int

    def __call__(self, x_NSC: np.ndarray) -> np.ndarray:
        """Compute the outputs (N, *S', F) of the dense layer."""
        return (x_NSC.reshape(len(x_NSC), -1) @ self.matrix + self.bias).reshape(len(x_NSC), *self.output_shape)


def equal_dense(
    kernel: np.ndarray,
    input_shape: Sequence[int],
    bias: np.ndarray | None = None,
    *,
    strides: Size = 1,
    padding: Padding = "valid",
    padding_mode: str = "zeros",
    dilation: Size = 1,
    groups: int = 1,
) -> EqualDense:
    """Build the dense layer equivalent to `cnn_jax.conv` with the same arguments.

    A convolution is a dense layer whose weights are zero outside its windows (sparse connections) and equal in all windows
    (shared weights): Goodfellow, Bengio and Courville 2016, "Deep learning", section 9.2. Built from integer tables, without
    running a convolution.

    Args:
      kernel: (*K, C // groups, F).
      input_shape: (*S, C) of one image.
      bias: (F,).
      strides: as for `conv`, like the other settings.

    Raises:
      UsageError: the shapes are incompatible, the output would be empty, or the matrix would have more than `MOST` entries.
    """
    *spatial, channels = (int(n) for n in input_shape)
    rank, filters = len(spatial), kernel.shape[-1]
    check_groups(groups, channels, filters)
    if kernel.ndim != rank + 2 or kernel.shape[-2] * groups != channels:
        raise UsageError(f"kernel {kernel.shape} with groups={groups} does not fit images of shape {tuple(input_shape)}")
    if padding_mode not in PADDING_MODES:
        raise UsageError(f"unknown padding_mode {padding_mode!r}: must be one of {', '.join(PADDING_MODES)}")
    k_S, s_S, d_S = kernel.shape[:-2], as_tuple(strides, rank, "strides"), as_tuple(dilation, rank, "dilation")
    pads = resolve_pads(spatial, k_S, s_S, d_S, padding)
    check_fill(spatial, pads, padding_mode)
    out_S = tuple(output_size(n, k, s, d, *p) for n, k, s, d, p in zip(spatial, k_S, s_S, d_S, pads, strict=True))
    inputs, outputs = math.prod(spatial) * channels, math.prod(out_S) * filters
    if not outputs:
        raise UsageError(f"kernel {k_S} is larger than its input {tuple(spatial)} under padding {padding!r}")
    if inputs * outputs > MOST:
        raise UsageError(f"the dense layer would have {inputs:,} x {outputs:,} weights: the limit is {MOST:,}")
    source_OP = window_sources(spatial, k_S, s_S, d_S, pads, padding_mode)
    matrix, used = np.zeros((inputs, outputs)), np.zeros((inputs, outputs), bool)
    taps_PCF = kernel.reshape(-1, *kernel.shape[-2:]).astype(np.float64)
    wide, per_group = channels // groups, filters // groups
    o_O = np.arange(len(source_OP))
    for tap, source_O in enumerate(source_OP.T):
        inside = source_O >= 0
        for group in range(groups):
            c, f = np.arange(wide) + group * wide, np.arange(per_group) + group * per_group
            rows = (source_O[inside, None] * channels + c)[:, :, None]
            columns = (o_O[inside, None] * filters + f)[:, None, :]
            # With padding that repeats pixels, several taps may read the same pixel; each tap reads a pixel at most once per
            # window.
            matrix[rows, columns] += taps_PCF[tap][:, f]
            used[rows, columns] = True
    bias_F = np.zeros(filters) if bias is None else np.asarray(bias, np.float64)
    conv_params = kernel.size + (0 if bias is None else filters)
    dense_params = matrix.size + (0 if bias is None else outputs)
    return EqualDense(matrix, np.tile(bias_F, math.prod(out_S)), (*out_S, filters), conv_params, dense_params, int(used.sum()))


def window_sources(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
    padding_mode: str,
) -> np.ndarray:
    """Compute the input position (prod(S'), prod(K)) read by each tap of each window; -1 for a padded zero."""
    index_S = np.arange(math.prod(spatial)).reshape(spatial)
    if padding_mode == "zeros":
        padded = np.pad(index_S, pads, constant_values=-1)
    else:
        padded = np.pad(index_S, pads, mode=_NUMPY_MODES[padding_mode])  # type: ignore[call-overload]
    rank, tables = len(kernel), []
    for axis, (n, k, s, d) in enumerate(zip(padded.shape, kernel, strides, dilation, strict=True)):
        start = np.arange(0, n - (k - 1) * d, s)
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = len(start), k
        tables.append((start[:, None] + d * np.arange(k)).reshape(shape))
    windows = padded[tuple(tables)]
    return windows.reshape(math.prod(windows.shape[:rank]), -1)
