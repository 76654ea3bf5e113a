"""Normalization layers."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from cnn_jax.nn.activation import Activation
from cnn_jax.nn.blocks import Joined
from cnn_jax.nn.initializers import Constant, Draw
from cnn_jax.nn.spec import Follower, Layer, Pass, Signal, Step, check_groups

if TYPE_CHECKING:
    import jax

_INITIAL = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}


@dataclasses.dataclass(frozen=True)
class Norm(Layer):
    """A normalization of activations."""

    kind: ClassVar[str] = "norm"
    follows: ClassVar[bool] = True

    def geometry(self, x: Signal) -> Step:
        return Step(x, 2 * x.channels)

    def initializer(self, parameter: str, rank: int) -> Draw | None:
        return Constant(_INITIAL[parameter])


@dataclasses.dataclass(frozen=True)
class BatchNorm(Norm):
    """Batch normalization over all axes but channels; running statistics at evaluation."""

    unit: ClassVar[str] = "norm"
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True

    def geometry(self, x: Signal) -> Step:
        return Step(x, x.channels * (self.use_scale + self.use_bias))

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        from cnn_jax.nn.modules import norm

        return forward.module(norm.BatchNorm, self)(x, forward.train)

    def fused(self, x: "jax.Array", forward: Pass, following: Follower) -> "tuple[jax.Array, jax.Array] | None":
        """With relu after it, or with the end of a residual block."""
        from cnn_jax.nn.modules import norm
        from cnn_jax.nn.modules.activation import activation

        if type(self) is not BatchNorm or forward.dtype not in (None, x.dtype):
            return None
        if type(following) is Joined and (following.shortcut.shape, following.shortcut.dtype) == (x.shape, x.dtype):
            shortcut = following.shortcut
        elif type(following) is Activation and following.activation == "relu":
            shortcut = None
        else:
            return None
        relu = following.activation == "relu"
        alone, y = forward.module(norm.JoinedBatchNorm, self, relu=relu)(x, forward.train, shortcut)
        return alone, y if relu else activation(following.activation)(y)

    @property
    def compiled_in_c(self) -> bool:
        return True

    def detail(self, rank: int) -> str:
        return "batch norm"


@dataclasses.dataclass(frozen=True)
class GroupNorm(Norm):
    """Group normalization: `groups` groups of channels."""

    groups: int = 8
    epsilon: float = 1e-5

    def geometry(self, x: Signal) -> Step:
        check_groups(self.groups, x.channels)
        return Step(x, 2 * x.channels)

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        import flax.linen as nn

        check_groups(self.groups, x.shape[-1])
        return forward.module(nn.GroupNorm, self, num_groups=self.groups)(x)

    def detail(self, rank: int) -> str:
        return "group norm"


@dataclasses.dataclass(frozen=True)
class LayerNorm(Norm):
    """Layer normalization over channels."""

    epsilon: float = 1e-6

    def apply(self, x: "jax.Array", forward: Pass) -> "jax.Array":
        import flax.linen as nn

        return forward.module(nn.LayerNorm, self)(x)

    def detail(self, rank: int) -> str:
        return "layer norm"
