"""Blocks of layers: residual connections and branches."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.activation import ACTIVATIONS
from cnn_jax.nn.padding import GeometryError, Size
from cnn_jax.nn.spec import Field, Layer, Pass, Signal, Spec, Step, size_text, slide, times

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True, eq=False)  # == of arrays is an array
class Joined:
    """End of a residual block's body: activation(x + shortcut). A layer may compute it with its own output."""

    shortcut: "jax.Array"
    activation: str

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import blocks
        from cnn_jax.nn.modules.activation import activation

        return activation(self.activation)(blocks.merge("add", [x, self.shortcut]))


@dataclasses.dataclass(frozen=True)
class Residual(Layer):
    """activation(body(x) + shortcut(x)); an empty shortcut is the identity."""

    kind: ClassVar[str] = "residual"
    legal: ClassVar[dict[str, Sequence[str]]] = {"activation": ACTIVATIONS}
    body: Spec
    shortcut: Spec = ()
    activation: str = "relu"

    def join(self, paths: Sequence[Signal]) -> Step:
        return join(paths, concat=False)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        return forward.run(self.body, x, Joined(forward.run(self.shortcut, x), self.activation))

    @property
    def nested(self) -> tuple[Spec, ...]:
        return self.body, self.shortcut

    def with_nested(self, nested: tuple[Spec, ...]) -> "Residual":
        return dataclasses.replace(self, body=nested[0], shortcut=nested[1])

    def detail(self, rank: int) -> str:
        inner = [one for one in self.body if not one.follows]
        sizes = [size_text(one.kernel_size, rank) if hasattr(one, "kernel_size") else "" for one in inner]
        return ", ".join(f"{class_words(one)} {size}".strip() for one, size in zip(inner, sizes, strict=True))


@dataclasses.dataclass(frozen=True)
class Branch(Layer):
    """Branches on the same input, concatenated along channels ('concat') or added ('add')."""

    kind: ClassVar[str] = "branch"
    legal: ClassVar[dict[str, Sequence[str]]] = {"merge": ("concat", "add")}
    branches: tuple[Spec, ...]
    merge: str = "concat"

    def geometry(self, x: Signal) -> Step:
        raise GeometryError("must have at least one branch")

    def join(self, paths: Sequence[Signal]) -> Step:
        return join(paths, concat=self.merge == "concat")

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import blocks

        return blocks.merge(self.merge, [forward.run(branch, x) for branch in self.branches])

    @property
    def nested(self) -> tuple[Spec, ...]:
        return self.branches

    def with_nested(self, nested: tuple[Spec, ...]) -> "Branch":
        return dataclasses.replace(self, branches=nested)

    def detail(self, rank: int) -> str:
        return f"{len(self.branches)} branches"


@dataclasses.dataclass(frozen=True)
class PadChannels(Layer):
    """ResNet's parameter-free shortcut "A" (He et al. 2016): every `strides`-th position, zeros for the new channels."""

    kind: ClassVar[str] = "pad_channels"
    filters: int
    strides: Size = 1

    def geometry(self, x: Signal) -> Step:
        if self.filters < x.channels:
            raise GeometryError(f"filters is {self.filters}: must be at least its input's {x.channels} channels")
        return slide(x, "kernel", 1, self.strides, "valid")[1].costs(self.filters, 0)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import blocks

        return forward.module(blocks.PadChannels, self)(x)


def join(paths: Sequence[Signal], concat: bool) -> Step:
    """Add or concatenate the outputs of branches. Warns of misaligned receptive fields."""
    shapes = [p.shape for p in paths]
    if len({shape[:-1] if concat else shape for shape in shapes}) > 1:
        raise GeometryError(f"its branches have incompatible outputs: {' and '.join(map(times, shapes))}")
    shape = (*shapes[0][:-1], sum(s[-1] for s in shapes)) if concat else shapes[0]
    fields = [p.fields for p in paths if p.fields is not None]
    if len(fields) < len(paths):
        return Step(Signal(shape, None))
    jumps = [tuple(f.jump for f in path) for path in fields]
    if len(set(jumps)) > 1:
        strides = " and ".join(map(times, jumps))
        return Step(Signal(shape, None), warning=f"its branches have different effective strides: {strides} pixels")
    centres = [tuple(f.twice_centre / 2 for f in path) for path in fields]
    warning = ""
    if len(set(centres)) > 1:
        warning = (
            f"its branches are misaligned: their receptive fields are centred {' and '.join(map(times, centres))} pixels "
            f"into the image, at an effective stride of {times(jumps[0])}; odd kernels with equal padding on both sides align"
        )
    return Step(Signal(shape, tuple(map(_union, zip(*fields, strict=True)))), warning=warning)


def _union(fields: tuple[Field, ...]) -> Field:
    """Return the smallest field that covers all of `fields`, which have the same jump."""
    start = min(f.start for f in fields)
    return Field(start, max(f.start + f.size for f in fields) - start, fields[0].jump)


def class_words(layer: Layer) -> str:
    """Split a class name into words: 'GlobalAvgPool' -> 'global avg pool'."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(layer).__name__).lower()
