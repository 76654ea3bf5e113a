"""Linear functions with a transpose of their own, for the tangents of `jax.custom_jvp`.

A `jax.custom_vjp` has no forward mode. A `jax.custom_jvp` whose tangent is a call of `linear` has both: forward mode evaluates
the function, reverse mode transposes it by the rule given here. `jax.custom_derivatives.linear_call` does the same, but it
can neither be batched nor be differentiated with respect to its residuals, so it has no vmap and no second derivatives.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import ad, batching, mlir

Arrays = Sequence[jax.Array]


class Rule(NamedTuple):
    """A linear function and its transpose, both of (static, residuals, arrays) and both returning a list of arrays.

    `function` takes the linear arguments and must be differentiable with respect to the residuals; `transpose` takes the
    cotangents of the results and returns those of the linear arguments.
    """

    function: Callable[[Any, Arrays, Arrays], Arrays]
    transpose: Callable[[Any, Arrays, Arrays], Arrays]


def linear(rule: Rule, static: Hashable, residuals: Arrays, arguments: Arrays, like: Arrays) -> list[jax.Array]:
    """Returns `rule.function(static, residuals, arguments)`; transposed, it is `rule.transpose`.

    Args:
      rule: the function and its transpose. Both must be module-level functions.
      static: what the function depends on besides arrays.
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


# A level is a vmap around the function, outermost first: whether each array has that leading axis.
Levels = tuple[tuple[bool, ...], ...]


def batched(function: Callable[..., Any], levels: Levels) -> Callable[..., Any]:
    """Return `function` under the vmaps of `levels`."""
    for mapped in reversed(levels):
        function = jax.vmap(function, in_axes=tuple(0 if is_mapped else None for is_mapped in mapped))
    return function


def _evaluate(*arrays: jax.Array, rule: Rule, static: Hashable, count: int, levels: Levels, results: Any) -> Arrays:
    del results
    return batched(lambda *a: rule.function(static, a[:count], a[count:]), levels)(*arrays)


def sizes_of(levels: Levels, arrays: Sequence[Any]) -> list[int]:
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


def _result_types(*arrays: Any, levels: Levels, results: Any, **_: Any) -> list[Any]:
    sizes = sizes_of(levels, arrays)
    return [result.update(shape=(*sizes, *result.shape)) if sizes else result for result in results]


def _jvp(primals: Arrays, tangents: Arrays, *, count: int, **params: Any) -> tuple[Arrays, Arrays]:
    outputs = _linear_p.bind(*primals, count=count, **params)
    total: list[Any] = [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in outputs]
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
    cotangents: Arrays, *arrays: Any, rule: Rule, static: Hashable, count: int, levels: Levels, results: Any
) -> list[Any]:
    del results
    given = tuple(mapped[:count] + (True,) * len(cotangents) for mapped in levels)
    transpose = batched(lambda *a: rule.transpose(static, a[:count], a[count:]), given)
    found = transpose(*arrays[:count], *map(ad.instantiate_zeros, cotangents))
    out: list[Any] = [None] * count
    for i, cotangent in enumerate(found, count):
        shared = tuple(level for level, mapped in enumerate(levels) if not mapped[i])
        out.append((cotangent.sum(shared) if shared else cotangent) if ad.is_undefined_primal(arrays[i]) else None)
    return out


def _batch(arrays: Arrays, axes: Sequence[int | None], *, levels: Levels, **params: Any) -> tuple[Arrays, list[int]]:
    moved, level = leading(arrays, axes)
    outputs = _linear_p.bind(*moved, levels=(level, *levels), **params)
    return outputs, [0] * len(outputs)


_linear_p = core.Primitive("linear")
_linear_p.multiple_results = True
_linear_p.def_impl(_evaluate)
_linear_p.def_abstract_eval(_result_types)
ad.primitive_jvps[_linear_p] = _jvp
ad.primitive_transposes[_linear_p] = _transpose
batching.primitive_batchers[_linear_p] = _batch
mlir.register_lowering(_linear_p, mlir.lower_fun(_evaluate, multiple_results=True))
