"""What a network is: per layer its output, parameters, MACs, receptive field, padding and memory; as text and as JSON.

A spec is read with integers by `geometry`. Only a linen module that has no spec is traced, and only then is JAX imported.
"""

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cnn_jax import zoo
from cnn_jax.config import (
    PADDINGS,
    Activation,
    BatchNorm,
    Branch,
    Dropout,
    GroupNorm,
    Layer,
    LayerNorm,
    ModelConfig,
    Residual,
    Size,
    Spec,
    UsageError,
    named,
    plain,
)
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
    if isinstance(model, list):
        model = tuple(model)
    input_shape = None if input_shape is None else plain(input_shape)
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

    from cnn_jax.convolution import TRANSPOSED_SCOPE, at_most

    name = type(module).__name__
    calls: list[_Call] = []
    transposed: set[tuple[str, ...]] = set()  # modules whose convolution is the gradient of another
    last: list[Any] = [None]

    def note(method: Any, args: tuple, kwargs: dict, context: Any) -> Any:
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
    for scopes, counts in _products(program.jaxpr):
        # Behind the root's own name in the scopes; transformations put scopes of their own in between.
        path = owner([scope for scope in scopes if any(scope in path for path in paths)])
        is_gradient = path in transposed or TRANSPOSED_SCOPE in scopes
        macs[path] += counts.of_gradient if is_gradient else counts.as_written

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


class _Count(NamedTuple):
    """MACs of an operation; of a convolution also those of the one that it is the gradient of, if it is one."""

    as_written: int
    of_gradient: int


def _products(jaxpr: Any, scopes: tuple[str, ...] = (), times: int = 1) -> Iterator[tuple[tuple[str, ...], _Count]]:
    """The scopes and the MACs of every matrix product and convolution of a program, those in inner programs included."""
    for equation in _needed(jaxpr):
        here = scopes + tuple(str(equation.source_info.name_stack).split("/"))
        parameters, primitive = equation.params, equation.primitive.name
        if primitive == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            inputs, outputs = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            yield here, _Count(*[times * math.prod(outputs) * math.prod(inputs[axis] for axis in contracted)] * 2)
        elif primitive == "conv_general_dilated":
            image, kernel = (variable.aval.shape for variable in equation.invars)
            as_written, gradient = _convolution_macs(parameters, image, kernel, equation.outvars[0].aval.shape)
            yield here, _Count(times * as_written, times * gradient)
        else:
            inner = [getattr(p, "jaxpr", p) for p in _leaves(parameters) if hasattr(getattr(p, "jaxpr", p), "eqns")]
            counts = [list(_products(program, here, times * parameters.get("length", 1))) for program in inner]
            if primitive == "cond" and counts:  # one branch runs: the dearest
                counts = [max(counts, key=lambda products: sum(count.as_written for _, count in products))]
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


def _convolution_macs(parameters: dict[str, Any], image: Sequence[int], kernel: Sequence[int], out: Sequence[int]) -> _Count:
    """Products of a convolution, with padding too.

    A transposed convolution is the gradient of another and costs what that costs: every input meets every weight. It shows
    as holes between the inputs (`lhs_dilation`); without strides it has none and looks like any convolution.
    """
    numbers = parameters["dimension_numbers"]
    channels = image[numbers.lhs_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    taps = channels * math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    gradient = taps * math.prod(image[axis] for axis in numbers.lhs_spec[2:])
    holes = max(parameters["lhs_dilation"], default=1) > 1
    as_written = gradient if holes else taps * math.prod(out[axis] for axis in numbers.out_spec[2:])
    return _Count(as_written, gradient)


# ----------------------------------------------------------------------------------------------------------------- output


def to_json(description: Description) -> dict[str, Any]:
    """What `describe` found, in types that JSON knows; None where a number does not exist."""
    layers = []
    for layer in description.layers:
        row = dataclasses.asdict(layer)
        row["padding"] = row.pop("pads")
        del row["warning"]  # among those of the whole, with the layer's name
        layers.append(row)
    return {
        "model": description.model,
        "input_shape": description.input_shape,
        "layers": layers,
        "params": description.params,
        "macs": description.macs,
        "receptive_field": description.receptive_field,
        "activation_bytes": description.activation_bytes,
        "warnings": description.warnings,
    }


MOST_BLOCKS = 48  # of an outline: more would be no picture


def outline(model: ModelConfig, input_shape: tuple[int, ...], num_classes: int) -> dict[str, Any]:
    """The network as blocks for a diagram, in types that JSON knows.

    A block is a layer at the top of the spec with its name, what it is set to, its output shape and parameters. A residual or
    a branch is one block with all of its layers; norms, activations and dropout belong to the block before them. Of a linen
    module without a spec, the blocks are its direct submodules. `left_out` counts the blocks behind the first `MOST_BLOCKS`.
    """
    resolved = zoo.resolve(model)
    network, found = zoo.spec(resolved, input_shape, num_classes), _describe_config(resolved, input_shape, num_classes)
    spec = network if isinstance(network, tuple) else getattr(network, "spec", None)
    layers = {} if spec is None else {layer.name: layer for layer in named(spec)}
    blocks: list[dict[str, Any]] = []
    params = 0  # of the layers inside of the next block, whose rows come before it
    for row in found.layers:
        params += row.params
        if row.name not in layers and (spec is not None or "/" in row.name or row is found.layers[-1]):
            continue
        layer = layers.get(row.name)
        detail = "" if layer is None else _detail(layer, len(row.output_shape) - 1)
        if blocks and isinstance(layer, BatchNorm | GroupNorm | LayerNorm | Activation | Dropout):
            blocks[-1]["detail"] = ", ".join(filter(None, (blocks[-1]["detail"], detail)))
            blocks[-1]["params"] += params
        else:
            kind = row.kind if layer is None else _words(type(layer).__name__)
            blocks.append({"kind": kind, "detail": detail, "shape": list(row.output_shape), "params": params})
        params = 0
    totals = {"params": found.params, "macs": found.macs, "left_out": max(0, len(blocks) - MOST_BLOCKS)}
    return {"model": found.model, "input_shape": list(input_shape), "blocks": blocks[:MOST_BLOCKS]} | totals


def _detail(layer: Layer, rank: int) -> str:
    """What a layer is set to, in a few words: '3x3, stride 2, same, relu'."""
    match layer:
        case BatchNorm() | GroupNorm() | LayerNorm():
            return _words(type(layer).__name__)
        case Activation():
            return layer.activation
        case Dropout():
            return f"dropout {layer.rate:g}"
        case Residual():
            inner = [one for one in layer.body if one.kind not in ("norm", "activation", "dropout")]
            sizes = [_times(one.kernel_size, rank) if hasattr(one, "kernel_size") else "" for one in inner]
            return ", ".join(f"{_words(type(one).__name__)} {size}".strip() for one, size in zip(inner, sizes, strict=True))
        case Branch():
            return f"{len(layer.branches)} branches"
    settings: dict[str, Any] = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    found = [_times(settings[name], rank) for name in ("kernel_size", "window") if name in settings]
    if "kernel_size" in settings and settings.get("strides", 1) not in (1, (1,) * rank):
        found.append(f"stride {_times(settings['strides'], 1)}")
    padding = settings.get("padding", "valid"), settings.get("padding_mode", "zeros")
    if padding != PADDINGS["valid"]:
        found.append(next((flag for flag, pair in PADDINGS.items() if pair == padding), "padded"))
    if settings.get("activation", "linear") != "linear":
        found.append(settings["activation"])
    return ", ".join(found)


def _times(size: Size, rank: int) -> str:
    return "x".join(map(str, size if isinstance(size, tuple | list) else (size,) * rank))


def _words(name: str) -> str:
    """'GlobalAvgPool' -> 'global avg pool', as a class name reads in a sentence."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


COLUMNS = ("layer", "kind", "output", "padding", "parameters", "MACs", "field", "stride", "bytes")


def title(description: Description) -> str:
    """'cnn on 28x28x1'."""
    return " ".join(filter(None, (description.model, "on", "x".join(map(str, description.input_shape)))))


def to_rows(description: Description) -> list[tuple[str, ...]]:
    """What `describe` found under `COLUMNS`: a row per layer, then the totals."""
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
    return [*rows, totals]


def to_text(description: Description) -> str:
    """What `describe` found as an aligned table, with the totals and the MAC convention below."""
    *rows, totals = to_rows(description)
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, totals, strict=True)]
    rule = "  ".join("─" * width for width in widths)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    table = [line(COLUMNS), rule, *map(line, rows), rule, line(totals)]
    return "\n".join([title(description), "", *table, "", *notes(description)])


def notes(description: Description) -> list[str]:
    """The MAC convention and the warnings, a line each."""
    return [CONVENTION, *(f"Warning: {warning}" for warning in description.warnings)]


def _sizes_text(size: int | tuple[int, ...] | None) -> str:
    return "" if size is None else str(size) if isinstance(size, int) else "x".join(map(str, size))


def _pads_text(pads: tuple[tuple[int, int], ...] | None) -> str:
    """'1' for one position everywhere, '0/1' where the ends differ, '1x2' where the axes do."""
    if pads is None:
        return ""
    axes = [str(low) if low == high else f"{low}/{high}" for low, high in pads]
    return axes[0] if len(set(axes)) == 1 else "x".join(axes)
