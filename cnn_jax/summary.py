"""What a network is: per layer its output, parameters, MACs, receptive field, padding and memory; as text and as JSON.

A spec is read with integers by `geometry`. Only a linen module that has no spec is traced, and only then is JAX imported.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cnn_jax import zoo
from cnn_jax.config import ModelConfig, Spec, UsageError
from cnn_jax.geometry import Description, LayerInfo, layer_table

if TYPE_CHECKING:
    import flax.linen as nn

CONVENTION = "MACs: multiply-accumulates of convolutions and dense layers for one image, without bias; padding counts"


def describe(
    model: "str | ModelConfig | Spec | nn.Module", input_shape: Sequence[int] | None = None, num_classes: int | None = None
) -> Description:
    """Layers and totals of a model for one image of shape `input_shape` (*S, C).

    `model` is a name, a ModelConfig, a spec or any linen module. A model of the zoo knows the shape and the number of classes
    that it was published for. A linen module that is no `models.CNN` is traced, not run: its rows are its modules, its MACs
    are all matrix products and convolutions (the body of a `while_loop` once; products with zeros that the program writes
    out count), and it has no receptive fields. Raises UsageError for a model that does not exist or does not fit its input.
    """
    if isinstance(model, str):
        model = ModelConfig(model)
    if isinstance(model, ModelConfig):
        native_shape, native_classes = zoo.NATIVE.get(model.name, (None, None))
        input_shape = native_shape if input_shape is None else tuple(input_shape)
        num_classes = native_classes if num_classes is None else num_classes
        for flag, value in (("input_shape", input_shape), ("num_classes", num_classes)):
            if value is None:
                raise UsageError(
                    f"--{flag}: model {model.name} has no default: give it, as in --input_shape=28,28,1 --num_classes=10"
                )
        return _describe_config(zoo.resolve(model), input_shape, num_classes)
    if input_shape is None:
        raise UsageError("input_shape: a spec or a module has no default: give it, as in (28, 28, 1)")
    return _describe_network(model, tuple(input_shape))


@functools.lru_cache(maxsize=4096)
def _describe_config(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int) -> Description:
    network = zoo.spec(config, input_shape, num_classes)
    if not isinstance(network, tuple):
        from cnn_jax import models
        from cnn_jax.convolution import at_most

        with at_most("lax"):
            network = models.build(config, input_shape, num_classes)
    return dataclasses.replace(_describe_network(network, input_shape), model=config.name)


def _describe_network(network: Any, input_shape: tuple[int, ...]) -> Description:
    if isinstance(network, tuple):
        return layer_table(network, input_shape)
    from cnn_jax.models import CNN

    return layer_table(network.spec, input_shape) if isinstance(network, CNN) else _trace(network, input_shape)


# ---------------------------------------------------------------------------------------------------------------- tracing


@dataclasses.dataclass(frozen=True)
class _Call:
    """A module that was called: where it sits, its class, and the shape and bytes of what it gave."""

    path: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    bytes: int


def _trace(module: "nn.Module", input_shape: tuple[int, ...]) -> Description:
    import flax.linen as nn
    import jax

    from cnn_jax.convolution import at_most

    name = type(module).__name__
    calls: list[_Call] = []
    last: list[Any] = [None]

    def note(method: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        result = method(*args, **kwargs)
        if context.method_name == "__call__":
            out = result[0] if isinstance(result, tuple) and result else result
            shape, fresh = getattr(out, "shape", (1,)), out is not last[0]
            size = math.prod(shape) * out.dtype.itemsize if fresh and hasattr(out, "dtype") else 0
            calls.append(_Call(context.module.path, type(context.module).__name__, tuple(shape[1:]), size))
            last[0] = out
        return result

    train: dict[str, Any] = {"train": False} if "train" in inspect.signature(type(module).__call__).parameters else {}
    x = jax.ShapeDtypeStruct((1, *input_shape), "float32")
    try:
        with at_most("lax"):
            variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **train), x)
        with nn.intercept_methods(note), at_most("lax"):
            program = jax.make_jaxpr(lambda v, x: module.apply(v, x, **train))(variables, x)
    except UsageError:
        raise
    except Exception as error:  # whatever a fork's code raises is told in one line
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"model {name} cannot be traced on images {input_shape}: {type(error).__name__}: {reason}") from error

    paths = {call.path for call in calls}

    def owner(path: Sequence[str]) -> tuple[str, ...]:
        return next(tuple(path[:i]) for i in range(len(path), -1, -1) if tuple(path[:i]) in paths)

    params, macs = dict.fromkeys(paths, 0), dict.fromkeys(paths, 0)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables.get("params", {})):
        params[owner([key.key for key in keys])] += leaf.size
    for scopes, count in _products(program.jaxpr):
        # Behind the root's own name in the scopes; transformations put scopes of their own in between.
        macs[owner([scope for scope in scopes if any(scope in path for path in paths)])] += count

    rows = []
    for call in calls:  # a module that is called again shares its parameters; its products were all counted at the first
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


def _products(jaxpr: Any, scopes: tuple[str, ...] = (), times: int = 1) -> Iterator[tuple[tuple[str, ...], int]]:
    """The scopes and the MACs of every matrix product and convolution of a program, those in inner programs included."""
    for equation in _needed(jaxpr):
        here = scopes + tuple(str(equation.source_info.name_stack).split("/"))
        parameters, primitive = equation.params, equation.primitive.name
        if primitive == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            inputs, outputs = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            yield here, times * math.prod(outputs) * math.prod(inputs[axis] for axis in contracted)
        elif primitive == "conv_general_dilated":
            image, kernel = (variable.aval.shape for variable in equation.invars)
            yield here, times * _convolution_macs(parameters, image, kernel, equation.outvars[0].aval.shape)
        else:
            inner = [getattr(p, "jaxpr", p) for p in _leaves(parameters) if hasattr(getattr(p, "jaxpr", p), "eqns")]
            counts = [list(_products(program, here, times * parameters.get("length", 1))) for program in inner]
            if primitive == "cond" and counts:  # one branch runs: the dearest
                counts = [max(counts, key=lambda products: sum(count for _, count in products))]
            for products in counts:
                yield from products


def _leaves(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        yield from value if isinstance(value, tuple | list) else (value,)


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the outputs depend on: a gradient taken inside a layer leaves others behind, which are never run."""
    needed, equations = {id(variable) for variable in jaxpr.outvars}, []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(id(variable) in needed for variable in equation.outvars):
            needed.update(map(id, equation.invars))
            equations.append(equation)
    return equations[::-1]


def _convolution_macs(parameters: dict[str, Any], image: Sequence[int], kernel: Sequence[int], out: Sequence[int]) -> int:
    """Products of a convolution, with padding too. One over inputs with holes between them (`lhs_dilation`) is the gradient of
    another and costs what that costs: neither holes nor padding count."""
    numbers = parameters["dimension_numbers"]
    total = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    for axis, (n_axis, k_axis, out_axis) in enumerate(axes):
        s, d, holes = (parameters[name][axis] for name in ("window_strides", "rhs_dilation", "lhs_dilation"))
        low, last = parameters["padding"][axis][0], (image[n_axis] - 1) * holes
        places = [o * s + j * d - low for o in range(out[out_axis]) for j in range(kernel[k_axis])]
        total *= len(places) if holes == 1 else sum(0 <= place <= last and place % holes == 0 for place in places)
    return total


# ----------------------------------------------------------------------------------------------------------------- output


def to_json(description: Description) -> dict[str, Any]:
    """What `describe` found, in types that JSON knows; None where a number does not exist."""
    layers = []
    for layer in description.layers:
        row = dataclasses.asdict(layer)
        row["padding"] = row.pop("pads")
        layers.append(row)
    return {
        "model": description.model,
        "input_shape": description.input_shape,
        "layers": layers,
        "params": description.params,
        "macs": description.macs,
        "receptive_field": description.receptive_field,
        "activation_bytes": description.activation_bytes,
    }


def to_text(description: Description) -> str:
    """What `describe` found as an aligned table, with the totals and the MAC convention below."""
    header = ("layer", "kind", "output", "padding", "parameters", "MACs", "field", "stride", "bytes")
    rows = [
        (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            _pads_text(layer.pads),
            f"{layer.params:,}",
            f"{layer.macs:,}",
            _sizes_text(layer.receptive_field),
            _sizes_text(layer.effective_stride),
            f"{layer.activation_bytes:,}",
        )
        for layer in description.layers
    ]
    d = description
    total = ("total", "", "x".join(map(str, d.output_shape)), "", f"{d.params:,}", f"{d.macs:,}")
    totals = (*total, _sizes_text(d.receptive_field), "", f"{d.activation_bytes:,}")
    widths = [max(map(len, column)) for column in zip(header, *rows, totals, strict=True)]
    rule = "  ".join("─" * width for width in widths)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    title = " ".join(filter(None, (d.model, "on", "x".join(map(str, d.input_shape)))))
    return "\n".join([title, "", line(header), rule, *map(line, rows), rule, line(totals), "", CONVENTION])


def _sizes_text(size: int | tuple[int, ...] | None) -> str:
    return "" if size is None else str(size) if isinstance(size, int) else "x".join(map(str, size))


def _pads_text(pads: tuple[tuple[int, int], ...] | None) -> str:
    """'1' for one position everywhere, '0/1' where the ends differ, '1x2' where the axes do."""
    if pads is None:
        return ""
    axes = [str(low) if low == high else f"{low}/{high}" for low, high in pads]
    return axes[0] if len(set(axes)) == 1 else "x".join(axes)
