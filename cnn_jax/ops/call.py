"""Operations in C, as operations of JAX: called in programs for this machine's CPU, made of XLA's own operations elsewhere.

An exported program, or one lowered for another platform, cannot rely on the library where it will run. A batch is one call of C
after the other on CPU, and one batched operation elsewhere; so it, too, is decided when the platform is known.
"""

import ctypes
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypedDict, Unpack

import jax
from jax.core import ShapedArray
from jax.extend import core
from jax.interpreters import batching, mlir

from cnn_jax.ops import native
from cnn_jax.ops.linear import Arrays, Levels, leading, sizes_of

Results = tuple[jax.ShapeDtypeStruct, ...]
Function = Callable[..., list[jax.Array]]

_TARGETS = {  # functions of each unit of `native`
    "conv": ("cnn_jax_conv", "cnn_jax_conv_kernel_gradient", "cnn_jax_conv_input_gradient"),
    "half": ("cnn_jax_conv_half", "cnn_jax_conv_kernel_gradient_half", "cnn_jax_conv_input_gradient_half"),
    "norm": ("cnn_jax_norm", "cnn_jax_norm_given", "cnn_jax_norm_gradient"),
    "pool": ("cnn_jax_average_pool", "cnn_jax_average_pool_gradient"),
}
_UNIT = {name: unit for unit, names in _TARGETS.items() for name in names}


class Operation(NamedTuple):
    """A function of the library, and what computes the same elsewhere. Both must be module-level functions.

    Attributes:
      name: of the function in C.
      in_c: (*arrays, name=, how=, results=) -> outputs, by `jax.ffi`.
      elsewhere: (name=, how=, results=, levels=, platform=) -> function of arrays, under the vmaps of `levels`.
    """

    name: str
    in_c: Function
    elsewhere: Callable[..., Function]


@functools.cache
def available(unit: str = "conv") -> bool:
    """Whether there is a compiled library of this unit; compiles it if necessary."""
    path = native.library(unit).path
    if path is None:
        return False
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return False
    for name in _TARGETS[unit]:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return True


def call(operation: Operation, how: Hashable, results: Sequence[jax.ShapeDtypeStruct], *arrays: jax.Array) -> list[jax.Array]:
    """Returns the outputs of the operation, of the shapes and types `results`, for the static parameters `how`."""
    return _call_p.bind(*arrays, operation=operation, how=how, results=tuple(results), levels=())


def _one_by_one(function: Function, levels: Levels) -> Function:
    """`function` over the leading axes of `levels`, in a loop: C works through a batch by itself."""
    for mapped in reversed(levels):
        function = functools.partial(_loop, function, mapped)
    return function


def _loop(function: Function, mapped: tuple[bool, ...], *arrays: jax.Array) -> list[jax.Array]:
    def one(given: dict[int, jax.Array]) -> list[jax.Array]:
        return function(*(given.get(i, array) for i, array in enumerate(arrays)))

    return jax.lax.map(one, {i: array for i, array in enumerate(arrays) if mapped[i]})


class _Params(TypedDict):
    """Parameters of the primitive, besides `operation` and `levels`."""

    how: Hashable
    results: Results


_Values = Sequence[mlir.ir.Value | Sequence[mlir.ir.Value]]


def _lower(
    context: mlir.LoweringRuleContext,
    *arrays: mlir.ir.Value,
    operation: Operation,
    levels: Levels,
    platform: str = "",
    **params: Unpack[_Params],
) -> _Values:
    function = operation.elsewhere(name=operation.name, **params, levels=levels, platform=platform)
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


def _lower_for_cpu(
    context: mlir.LoweringRuleContext,
    *arrays: mlir.ir.Value,
    operation: Operation,
    levels: Levels,
    **params: Unpack[_Params],
) -> _Values:
    exported = context.module_context.lowering_parameters.for_export
    if exported or not available(_UNIT[operation.name]):
        return _lower(context, *arrays, operation=operation, levels=levels, **params)
    function = _one_by_one(functools.partial(operation.in_c, name=operation.name, **params), levels)
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


def _batch(
    arrays: Arrays, axes: Sequence[int | None], *, operation: Operation, levels: Levels, **params: Unpack[_Params]
) -> tuple[list[jax.Array], list[int]]:
    moved, level = leading(arrays, axes)
    outputs = _call_p.bind(*moved, operation=operation, levels=(level, *levels), **params)
    return outputs, [0] * len(outputs)


def _result_types(*arrays: ShapedArray, operation: Operation, levels: Levels, **params: Unpack[_Params]) -> list[ShapedArray]:
    sizes = sizes_of(levels, arrays)
    return [ShapedArray((*sizes, *result.shape), result.dtype) for result in params["results"]]


_call_p = core.Primitive("cnn_jax_call")
_call_p.multiple_results = True
_call_p.def_impl(jax.jit(_call_p.bind, static_argnames=("operation", "how", "results", "levels")))
_call_p.def_abstract_eval(_result_types)
batching.primitive_batchers[_call_p] = _batch
mlir.register_lowering(_call_p, _lower)
mlir.register_lowering(_call_p, _lower_for_cpu, platform="cpu")
for _platform in ("cuda", "rocm"):
    mlir.register_lowering(_call_p, functools.partial(_lower, platform="gpu"), platform=_platform)
