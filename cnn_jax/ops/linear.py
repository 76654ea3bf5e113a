"""Linear functions with custom transposes, for the tangents of `jax.custom_jvp`.

A `jax.custom_vjp` has no forward mode. A `jax.custom_jvp` whose tangent is a call of `linear` has both: forward mode evaluates
the function, reverse mode transposes it by the rule given here. `jax.custom_derivatives.linear_call` does the same, but it
can neither be batched nor be differentiated with respect to its residuals, so it has no vmap and no second derivatives.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypedDict, TypeVar, Unpack, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import core
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[jax.Array]
_Tangent = jax.Array | ad.Zero  # or a cotangent; Zero: symbolic


Static = TypeVar("Static", bound=Hashable)
Function = TypeVar("Function", bound=Callable)


class Rule(NamedTuple, Generic[Static]):
    """A linear function and its transpose, both of (static, residuals, arrays) and both returning a list of arrays.

    `function` takes the linear arguments and must be differentiable with respect to the residuals; `transpose` takes the
    cotangents of the results and returns those of the linear arguments.
    """

    function: Callable[[Static, Arrays, Arrays], Arrays]
    transpose: Callable[[Static, Arrays, Arrays], Arrays]


def linear(rule: Rule[Static], static: Static, residuals: Arrays, arguments: Arrays, like: Arrays) -> list[jax.Array]:
    """Returns `rule.function(static, residuals, arguments)`; transposed, it is `rule.transpose`.

    Args:
      rule: the function and its transpose. Both must be module-level functions.
      static: parameters of the function other than arrays.
      residuals: arrays in which the function need not be linear.
      arguments: arrays in which it is linear, jointly.
      like: arrays with the shapes and types of the results.
    """
    results = tuple(jax.typeof(y) for y in like)
    return _linear_p.bind(
        *residuals, *arguments, rule=rule, static=static, count=len(residuals), levels=(), results=results
    )  # fmt: skip


def canonical(x: jax.Array) -> jax.Array:
    """Returns `x` as an array of JAX. Under vmap inside jit it may hold one of NumPy, which `jax.custom_jvp` does not take."""
    return jnp.copy(x) if isinstance(getattr(x, "val", None), np.ndarray) else x


def zero_tangent(x: jax.Array) -> jax.Array:
    """Returns the tangent of an array of integers. Its type float0 exists in NumPy alone; JAX's annotations say jax.Array."""
    return cast(jax.Array, np.zeros(x.shape, jax.dtypes.float0))


# A level is a vmap around the function, outermost first: whether each array has that leading axis.
Levels = tuple[tuple[bool, ...], ...]


def batched(function: Function, levels: Levels) -> Function:
    """Return `function` under the vmaps of `levels`."""
    for mapped in reversed(levels):
        function = jax.vmap(function, in_axes=tuple(0 if is_mapped else None for is_mapped in mapped))
    return function


class _Params(TypedDict, Generic[Static]):
    """Parameters of the primitive, besides `count`."""

    rule: Rule[Static]
    static: Static
    levels: Levels
    results: tuple[ShapedArray, ...]


def _evaluate(*arrays: jax.Array, count: int, **params: Unpack[_Params[Static]]) -> Arrays:
    def function(*a: jax.Array) -> Arrays:
        return params["rule"].function(params["static"], a[:count], a[count:])

    return batched(function, params["levels"])(*arrays)


def sizes_of(levels: Levels, arrays: Sequence[jax.Array | ShapedArray]) -> list[int]:
    """Return the size of each level's axis, of arrays that have them."""
    sizes, axes = [], [0] * len(arrays)
    for mapped in levels:
        first = mapped.index(True)
        sizes.append(arrays[first].shape[axes[first]])
        axes = [axis + is_mapped for axis, is_mapped in zip(axes, mapped, strict=True)]
    return sizes


def leading(arrays: Arrays, axes: Sequence[int | None]) -> tuple[list[jax.Array], tuple[bool, ...]]:
    """Return the arrays with their batch axes in front, and the level that these make."""
    moved = [array if axis is None else jnp.moveaxis(array, axis, 0) for array, axis in zip(arrays, axes, strict=True)]
    return moved, tuple(axis is not None for axis in axes)


def _result_types(*arrays: ShapedArray, count: int, **params: Unpack[_Params[Static]]) -> list[ShapedArray]:
    sizes = sizes_of(params["levels"], arrays)
    return [result.update(shape=(*sizes, *result.shape)) if sizes else result for result in params["results"]]


def _jvp(
    primals: Arrays, tangents: Sequence[_Tangent], *, count: int, **params: Unpack[_Params[Static]]
) -> tuple[Arrays, Sequence[_Tangent]]:
    outputs = _linear_p.bind(*primals, count=count, **params)
    total: list[_Tangent] = [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in outputs]
    moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]
    if any(i >= count for i in moving):
        arguments = map(ad.instantiate_zeros, tangents[count:])
        total = _linear_p.bind(*primals[:count], *arguments, count=count, **params)
    if residuals := [i for i in moving if i < count]:

        def function(*values: jax.Array) -> Arrays:
            arrays = list(primals)
            for i, value in zip(residuals, values, strict=True):
                arrays[i] = value
            return _evaluate(*arrays, count=count, **params)

        _, more = jax.jvp(function, [primals[i] for i in residuals], [tangents[i] for i in residuals])
        total = list(map(ad.add_tangents, total, more))
    return outputs, total


def _transpose(
    cotangents: Sequence[_Tangent],
    *arrays: jax.Array | ad.UndefinedPrimal,
    count: int,
    **params: Unpack[_Params[Static]],
) -> list[jax.Array | None]:
    levels, residuals = params["levels"], cast(Arrays, arrays[:count])  # the function is not linear in them
    given = tuple(mapped[:count] + (True,) * len(cotangents) for mapped in levels)

    def function(*a: jax.Array) -> Arrays:
        return params["rule"].transpose(params["static"], a[:count], a[count:])

    transpose = batched(function, given)
    found = transpose(*residuals, *map(ad.instantiate_zeros, cotangents))
    out: list[jax.Array | None] = [None] * count
    for i, cotangent in enumerate(found, count):
        shared = tuple(level for level, mapped in enumerate(levels) if not mapped[i])
        out.append((cotangent.sum(shared) if shared else cotangent) if ad.is_undefined_primal(arrays[i]) else None)
    return out


def _batch(
    arrays: Arrays, axes: Sequence[int | None], *, count: int, **params: Unpack[_Params[Static]]
) -> tuple[Arrays, list[int]]:
    moved, level = leading(arrays, axes)
    outputs = _linear_p.bind(*moved, count=count, **{**params, "levels": (level, *params["levels"])})
    return outputs, [0] * len(outputs)


_linear_p = core.Primitive("linear")
_linear_p.multiple_results = True
_linear_p.def_impl(_evaluate)
_linear_p.def_abstract_eval(_result_types)
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
mlir.register_lowering(_linear_p, mlir.lower_fun(_evaluate, multiple_results=True))
