"""Base class of the layers with a kernel and a bias."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cnn_jax.nn.activation import ACTIVATIONS
from cnn_jax.nn.initializers import INITIALIZERS, Draw
from cnn_jax.nn.padding import PADDING_MODES
from cnn_jax.nn.spec import Layer, settings_text

_INITIALIZERS = tuple(INITIALIZERS)


@dataclasses.dataclass(frozen=True)
class Weighted(Layer):
    """A layer with a kernel, a bias and an activation."""

    legal: ClassVar[dict[str, Sequence[str]]] = {
        "activation": ACTIVATIONS,
        "padding_mode": PADDING_MODES,
        "kernel_init": _INITIALIZERS,
        "bias_init": _INITIALIZERS,
    }
    activation: str = dataclasses.field(default="linear", kw_only=True)
    use_bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: str = dataclasses.field(default="glorot_uniform", kw_only=True)
    bias_init: str = dataclasses.field(default="zeros", kw_only=True)

    def initializer(self, parameter: str, rank: int) -> Draw | None:
        name = self.kernel_init if parameter.endswith("kernel") else self.bias_init if parameter == "bias" else None
        return None if name is None else INITIALIZERS[name]

    def detail(self, rank: int) -> str:
        return settings_text(self, rank)
