"""Layer table of a linen module without a spec, from a trace."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.nn import Description, LayerInfo
from cnn_jax.ops.conv import TRANSPOSED_SCOPE, at_most


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a module: its path and class, and the shape and bytes of its output."""

    path: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    bytes: int


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> Description:
    name = type(module).__name__
    calls: list[_Call] = []
    transposed: set[tuple[str, ...]] = set()  # modules with transposed convolutions
    last: list[object] = [None]

    def note(method: Callable, args: tuple, kwargs: dict, context: "nn.module.InterceptorContext") -> object:
        result = method(*args, **kwargs)
        if context.method_name == "__call__":
            out = result[0] if isinstance(result, tuple) and result else result
            shape, fresh = getattr(out, "shape", (1,)), out is not last[0]
            size = math.prod(shape) * out.dtype.itemsize if fresh and hasattr(out, "dtype") else 0
            calls.append(_Call(context.module.path, type(context.module).__name__, tuple(shape[1:]), size))
            last[0] = out
            if isinstance(context.module, nn.ConvTranspose):
                transposed.add(context.module.path)
        return result

    train: dict[str, Value] = {"train": False} if "train" in inspect.signature(type(module).__call__).parameters else {}
    x = jax.ShapeDtypeStruct((1, *input_shape), "float32")
    try:
        with at_most("lax"):
            variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **train), x)
        with nn.intercept_methods(note), at_most("lax"):
            program = jax.make_jaxpr(lambda v, x: module.apply(v, x, **train))(variables, x)
    except UsageError:
        raise
    except Exception as error:  # report any exception of a fork's code in one line
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"model {name} cannot be traced on images {input_shape}: {type(error).__name__}: {reason}") from error

    paths = {call.path for call in calls}

    def owner(path: Sequence[str]) -> tuple[str, ...]:
        return next(tuple(path[:i]) for i in range(len(path), -1, -1) if tuple(path[:i]) in paths)

    params, macs = dict.fromkeys(paths, 0), dict.fromkeys(paths, 0)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables.get("params", {})):
        params[owner([key.key for key in keys])] += leaf.size
    for scopes, counts in _products(program.jaxpr):
        # Scopes follow the root's name; transformations insert additional scopes.
        path = owner([scope for scope in scopes if any(scope in path for path in paths)])
        is_gradient = path in transposed or TRANSPOSED_SCOPE in scopes
        macs[path] += counts.of_gradient if is_gradient else counts.as_written

    rows = []
    for call in calls:  # repeated calls share parameters; all products are counted at the first call
        rows.append(
            LayerInfo(
                name="/".join(call.path) or name,
                kind=call.kind,
                output_shape=call.shape,
                params=params.pop(call.path, 0),
                macs=macs.pop(call.path, 0),
                activation_bytes=call.bytes,
            )
        )
    return Description(input_shape, tuple(rows), model=name)


class _Count(NamedTuple):
    """MACs of an operation; for a convolution, also those as a transposed convolution, if it is one."""

    as_written: int
    of_gradient: int


def _products(jaxpr: Jaxpr, scopes: tuple[str, ...] = (), times: int = 1) -> Iterator[tuple[tuple[str, ...], _Count]]:
    """Yield scopes and MACs of every matrix product and convolution of a program, including inner programs."""
    for equation in _needed(jaxpr):
        here = scopes + tuple(str(equation.source_info.name_stack).split("/"))
        parameters, primitive = equation.params, equation.primitive.name
        if primitive == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            inputs, outputs = _shape(equation.invars[0]), _shape(equation.outvars[0])
            yield here, _Count(*[times * math.prod(outputs) * math.prod(inputs[axis] for axis in contracted)] * 2)
        elif primitive == "conv_general_dilated":
            image, kernel = map(_shape, equation.invars)
            as_written, gradient = _convolution_macs(parameters, image, kernel, _shape(equation.outvars[0]))
            yield here, _Count(times * as_written, times * gradient)
        else:
            leaves = (getattr(leaf, "jaxpr", leaf) for leaf in _leaves(parameters))
            inner = [leaf for leaf in leaves if isinstance(leaf, Jaxpr)]
            counts = [list(_products(program, here, times * parameters.get("length", 1))) for program in inner]
            if primitive == "cond" and counts:  # one branch runs: count the most expensive
                counts = [max(counts, key=lambda products: sum(count.as_written for _, count in products))]
            for products in counts:
                yield from products


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    assert isinstance(variable.aval, jax.core.ShapedArray)
    return variable.aval.shape


def _leaves(parameters: dict[str, Value]) -> Iterator[Value]:
    for value in parameters.values():
        yield from value if isinstance(value, tuple | list) else (value,)


def _needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Return the equations that the outputs depend on; gradients inside a layer leave unused ones, which never run."""
    needed, equations = {id(variable) for variable in jaxpr.outvars}, []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(id(variable) in needed for variable in equation.outvars):
            needed.update(map(id, equation.invars))
            equations.append(equation)
    return equations[::-1]


def _convolution_macs(parameters: dict[str, Value], image: Sequence[int], kernel: Sequence[int], out: Sequence[int]) -> _Count:
    """Count the products of a convolution, including those with padding.

    A transposed convolution costs as much as the convolution whose gradient it is: every input is multiplied by every weight.
    With strides, it is recognized by dilated inputs (`lhs_dilation`); without, it is an ordinary convolution.
    """
    numbers = parameters["dimension_numbers"]
    channels = image[numbers.lhs_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    taps = channels * math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    gradient = taps * math.prod(image[axis] for axis in numbers.lhs_spec[2:])
    holes = max(parameters["lhs_dilation"], default=1) > 1
    as_written = gradient if holes else taps * math.prod(out[axis] for axis in numbers.out_spec[2:])
    return _Count(as_written, gradient)
