"""Layer table of a network: output shapes, parameters, MACs, receptive fields. Integers only, no JAX."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

from cnn_jax.nn.dense import Flatten
from cnn_jax.nn.padding import GeometryError, plain
from cnn_jax.nn.spec import Field, Layer, Signal, Spec, Step, named


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """One layer of a network for one image.

    Shapes exclude the batch. A receptive field is the number of input positions that an output depends on along an axis,
    borders ignored; the effective stride is the distance between the fields of neighbouring outputs. Both are an int if all
    axes agree, else a tuple, and None where undefined: after a global pooling or a flatten, and after a transposed convolution
    with strides (the field varies with position). Statistics of norms are not counted. MACs are multiply-accumulates of
    convolutions and dense layers (and of the distances of an RBF layer), without bias; products with padding are counted.
    activation_bytes is the size of the output in float32; 0 for a flatten, which copies nothing. `fields` has the receptive
    fields with their offsets per axis: with padding, the field of the first output starts before the image.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int = 0
    macs: int = 0
    receptive_field: int | tuple[int, ...] | None = None
    effective_stride: int | tuple[int, ...] | None = None
    pads: tuple[tuple[int, int], ...] | None = None
    activation_bytes: int = 0
    warning: str = ""
    fields: tuple[Field, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Description:
    """Layers of a network in order of computation, and totals; params excludes running statistics."""

    input_shape: tuple[int, ...]
    layers: tuple[LayerInfo, ...]
    model: str = ""

    @functools.cached_property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @functools.cached_property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @functools.cached_property
    def activation_bytes(self) -> int:
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"{layer.name}: {layer.warning}" for layer in self.layers if layer.warning)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.layers[-1].output_shape if self.layers else self.input_shape

    @property
    def receptive_field(self) -> int | tuple[int, ...] | None:
        """Receptive field of the last layer with one."""
        return next((la.receptive_field for la in reversed(self.layers) if la.receptive_field is not None), None)


def layer_table(spec: Sequence[Layer], input_shape: Sequence[int]) -> Description:
    """Compute output shapes, parameters, MACs and receptive fields for images of shape `input_shape` (*S, C).

    The layers inside a `Residual` or a `Branch` have separate rows, before the row of the block, which has no costs. Raises
    GeometryError naming the layer that is invalid or does not fit, and UsageError for duplicate names.
    """
    return _layer_table(tuple(spec), plain(input_shape))


@functools.lru_cache(maxsize=4096)
def _layer_table(spec: Spec, input_shape: tuple[int, ...]) -> Description:
    if not input_shape or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in input_shape):
        raise GeometryError(f"input shape {input_shape} must be (*spatial sizes, channels), integers of at least 1")
    rows: list[LayerInfo] = []
    _run(named(spec), Signal(input_shape, (Field(),) * (len(input_shape) - 1)), rows)
    return Description(input_shape, tuple(rows))


def _run(layers: Spec, x: Signal, rows: list[LayerInfo]) -> Signal:
    for layer in layers:
        step = _step(layer, x, rows)
        x = step.out
        rows.append(
            LayerInfo(
                name=layer.name,
                kind=layer.kind,
                output_shape=x.shape,
                params=step.params,
                macs=step.macs,
                receptive_field=_per_axis(f.size for f in x.fields or ()),
                effective_stride=_per_axis(f.jump for f in x.fields or ()),
                pads=step.pads,
                activation_bytes=0 if isinstance(layer, Flatten) else 4 * math.prod(x.shape),
                warning=step.warning,
                fields=x.fields,
            )
        )
    return x


def _step(layer: Layer, x: Signal, rows: list[LayerInfo]) -> Step:
    """Compute the geometry of a layer and append the rows of nested layers; the caller appends the row of the layer."""
    for field, legal in layer.legal.items():
        if (value := getattr(layer, field, legal[0])) not in legal:
            raise GeometryError(f"{layer.name}: unknown {field} {value!r}: must be one of {', '.join(legal)}")
    paths = [_run(part, x, rows) for part in layer.nested]
    try:
        return layer.join(paths) if paths else layer.geometry(x)
    except GeometryError as error:
        raise GeometryError(f"{layer.name}: {error}") from None


def _per_axis(values: Iterable[int]) -> int | tuple[int, ...] | None:
    values = tuple(values)
    return None if not values else values[0] if len(set(values)) == 1 else values
