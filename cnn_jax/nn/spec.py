"""Base class of the layer specs, and their geometry: signals, receptive fields, sliding windows. No JAX.

A network is data: a tuple of layer specs. The specs of one family and their linen modules are in files of the same name:
`nn/conv.py` and `nn/modules/conv.py`. A new kind of layer, here or in a fork, is a frozen dataclass derived from `Layer` that
defines `geometry` and `apply`; no registration is needed.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from cnn_jax.aliases import Value
from cnn_jax.errors import UsageError
from cnn_jax.nn.padding import PADDINGS, GeometryError, Padding, Size, as_tuple, check_fill, output_size, plain, resolve_pads

if TYPE_CHECKING:
    import flax.linen as nn
    import jax
    from jax.typing import DTypeLike

    from cnn_jax.nn.initializers import Draw

Parsed = TypeVar("Parsed", bound="Layer")


@dataclasses.dataclass(frozen=True)
class Field:
    """Receptive field along one axis: `size` inputs from `start` for the first output; neighbours are `jump` apart."""

    start: int = 0
    size: int = 1
    jump: int = 1

    def through(self, k: int, s: int, d: int, low: int) -> "Field":
        """Field of a window over this signal. Source: Araujo, Norris and Sim, Distill 2019, equations for r, j and start."""
        return Field(self.start - low * self.jump, self.size + (k - 1) * d * self.jump, self.jump * s)

    @property
    def twice_centre(self) -> int:
        return 2 * self.start + self.size - 1


@dataclasses.dataclass(frozen=True)
class Signal:
    """Input or output of a layer for one image: shape (*S, C), and a field per spatial axis, or None where undefined."""

    shape: tuple[int, ...]
    fields: tuple[Field, ...] | None = None

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[:-1]

    @property
    def channels(self) -> int:
        return self.shape[-1]


@dataclasses.dataclass(frozen=True)
class Step:
    """Geometry of one layer: its output, trained parameters, MACs, padding per spatial axis, and a warning for `describe`."""

    out: Signal
    params: int = 0
    macs: int = 0
    pads: tuple[tuple[int, int], ...] | None = None
    warning: str = ""

    def costs(self, channels: int, params: int, macs: int = 0) -> "Step":
        """Return the step with other channels and costs."""
        return Step(Signal((*self.out.spatial, channels), self.out.fields), params, macs, self.pads, self.warning)


class Pass(Protocol):
    """Interface of the forward pass for `Layer.apply`; see `network.Forward`."""

    train: bool
    dtype: "DTypeLike | None"

    def run(self, spec: "Spec", x: "jax.Array", then: "Follower | None" = None) -> "jax.Array":
        """Apply nested layers, in order, and `then`."""
        ...

    def module(self, kind: Callable[..., "nn.Module"], layer: "Layer", **more: Value) -> "nn.Module":
        """Construct the linen module `kind` with the fields of the layer."""
        ...


class Follower(Protocol):
    """What follows a layer: the next one, or an operation on its output."""

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        """Compute the output for that of the layer."""
        ...


@dataclasses.dataclass(frozen=True)
class Layer:
    """Spec of a layer: hashable settings.

    A subclass is a frozen dataclass. It defines `geometry`, `apply`, and `kind`, the prefix of default layer names. NumPy
    values and lists are converted to ints and tuples.
    """

    kind: ClassVar[str] = "layer"
    # Drawn as part of the preceding block in diagrams: norms, activations, dropout.
    follows: ClassVar[bool] = False
    # Legal values by field; checked before the geometry.
    legal: ClassVar[dict[str, Sequence[str]]] = {}
    # Library of `ops.native` with its operations, besides that of convolutions.
    unit: ClassVar[str] = ""

    name: str = dataclasses.field(default="", kw_only=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (as_plain := plain(value)) is not value:
                object.__setattr__(self, field.name, as_plain)

    def geometry(self, x: Signal) -> Step:
        """Compute output and costs for one image.

        Args:
          x: input of the layer.

        Raises:
          GeometryError: the layer does not fit its input. The message need not name the layer.
        """
        raise NotImplementedError

    def join(self, paths: Sequence[Signal]) -> Step:
        """Compute output and costs from the outputs of the `nested` specs; replaces `geometry` in layers with nested specs."""
        raise NotImplementedError

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        """Compute the output (N, *S', F) for x (N, *S, C).

        A linen module must be constructed by `forward.module` or with `name=self.name`.
        """
        raise NotImplementedError

    def fused(self, x: "jax.Array", forward: Pass, following: Follower) -> "tuple[jax.Array, jax.Array] | None":
        """Compute the outputs of the layer and of what follows it at once; None where that is not faster.

        The output of the layer must cost nothing under jit if it is unused.
        """
        return None

    def initializer(self, parameter: str, rank: int) -> "Draw | None":
        """Return the NumPy initializer of a parameter; None: use the linen module's `init`.

        Args:
          parameter: name in the module, such as 'kernel'.
          rank: number of spatial axes of the images.
        """
        return None

    @property
    def nested(self) -> "tuple[Spec, ...]":
        """Specs inside this layer, in order of computation."""
        return ()

    def with_nested(self: Parsed, nested: "tuple[Spec, ...]") -> Parsed:
        """Return the layer with other nested specs, one per entry of `nested`."""
        return self

    @property
    def compiled_in_c(self) -> bool:
        """Whether `ops` runs the layer and its gradients in C on CPU, if a compiler is available; or XLA does so little for it
        that a fast program matters less than a quick compilation.
        """
        return False

    def detail(self, rank: int) -> str:
        """Return the settings as a short text for a diagram, such as '3x3, stride 2, same, relu'."""
        return ""


Spec = tuple[Layer, ...]


def named(spec: Sequence[Layer]) -> Spec:
    """Return the network with a unique name for every layer: conv1, pool1, ...; numbered per kind in order of depth.

    Nested layers share the numbering, because a name is the key of the layer's parameters and features. Raises UsageError for
    duplicate names and for objects that are not layers.
    """
    counts: dict[str, int] = {}
    taken: set[str] = set()

    def visit(layers: Sequence[Layer]) -> Spec:
        out = []
        for layer in layers:
            if not isinstance(layer, Layer):
                raise GeometryError(
                    f"{type(layer).__name__} is not a layer: a spec is a tuple of instances of cnn_jax.nn.Layer"
                )
            name = layer.name
            if not name:
                counts[layer.kind] = counts.get(layer.kind, 0) + 1
                name = f"{layer.kind}{counts[layer.kind]}"
            if name in taken:
                raise UsageError(f"two layers are named {name!r}: layer names must be unique in a network")
            taken.add(name)
            nested = tuple(visit(part) for part in layer.nested)
            out.append(dataclasses.replace(layer.with_nested(nested), name=name))
        return tuple(out)

    return visit(spec)


def flat(spec: Sequence[Layer]) -> list[Layer]:
    """Return every layer; nested layers before the one that contains them."""
    return [one for layer in spec for one in (*(inner for part in layer.nested for inner in flat(part)), layer)]


# ------------------------------------------------------------------------------------------------ parts of a geometry


def count(value: int, what: str) -> int:
    """Return `value`. Raises GeometryError unless it is an integer of at least 1."""
    return as_tuple(value, 1, what)[0]


def check_groups(groups: int, *channels: int) -> int:
    """Return `groups`. Raises GeometryError unless it divides the input channels and, if given, the filters."""
    if any(c % count(groups, "groups") for c in channels):
        words = " and the ".join(f"{c} {what}" for c, what in zip(channels, ("channels", "filters"), strict=False))
        raise GeometryError(f"groups={groups} must divide the {words}")
    return groups


def spatial_rank(x: Signal) -> int:
    """Return the number of spatial axes. Raises GeometryError if there are none."""
    if not x.spatial:
        raise GeometryError(f"needs spatial axes, but its input has none: {times(x.shape)} values")
    return len(x.spatial)


def slide(
    x: Signal, what: str, window: Size, strides: Size, padding: Padding, dilation: Size = 1, mode: str = "zeros"
) -> tuple[tuple[int, ...], Step]:
    """Slide a window over `x`.

    Args:
      what: 'kernel' or 'window', for messages.

    Returns:
      The window sizes, and the step with unchanged channels and no costs.

    Raises:
      GeometryError: the output would be empty, or the padding mode cannot fill the padding.
    """
    n_S, rank = x.spatial, spatial_rank(x)
    k_S = as_tuple(window, rank, "kernel_size" if what == "kernel" else what)
    s_S, d_S = as_tuple(strides, rank, "strides"), as_tuple(dilation, rank, "dilation")
    pads = resolve_pads(n_S, k_S, s_S, d_S, padding)
    out_S = tuple(output_size(n, k, s, d, *p) for n, k, s, d, p in zip(n_S, k_S, s_S, d_S, pads, strict=True))
    if 0 in out_S:
        dilated = f" with dilation {times(d_S)}" if max(d_S) > 1 else ""
        smaller = "a smaller kernel_size or" if what == "kernel" else "smaller strides or"
        raise GeometryError(
            f"{what} {times(k_S)}{dilated} is larger than its input {times(n_S)} under padding {padding!r}: "
            f"use padding 'same', {smaller} fewer layers"
        )
    check_fill(n_S, pads, mode)
    fields = None if x.fields is None else tuple(map(Field.through, x.fields, k_S, s_S, d_S, (low for low, _ in pads)))
    return k_S, Step(Signal((*out_S, x.channels), fields), pads=pads)


def times(sizes: Iterable[float]) -> str:
    """Format sizes: (28, 28) -> '28x28'."""
    return "x".join(f"{size:g}" for size in sizes)


def settings_text(layer: Layer, rank: int) -> str:
    """Format window, strides, padding and activation of a layer as a short text."""

    settings: dict[str, Value] = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    found = [size_text(settings[name], rank) for name in ("kernel_size", "window") if name in settings]
    if "kernel_size" in settings and settings.get("strides", 1) not in (1, (1,) * rank):
        found.append(f"stride {size_text(settings['strides'], 1)}")
    padding = settings.get("padding", "valid"), settings.get("padding_mode", "zeros")
    if padding != PADDINGS["valid"]:
        found.append(next((flag for flag, pair in PADDINGS.items() if pair == padding), "padded"))
    if settings.get("activation", "linear") != "linear":
        found.append(settings["activation"])
    return ", ".join(found)


def size_text(size: Size, rank: int) -> str:
    """Format a size: 3 -> '3x3' for two axes."""
    return times(size if isinstance(size, tuple) else (size,) * rank)
