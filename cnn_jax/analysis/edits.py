"""Forward passes with edited layers: outputs replaced on the way, activations left out.

N images, *S spatial axes, C channels, K classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cnn_jax.nn.modules.base import errors_named
from cnn_jax.nn.network import CNN, Forward
from cnn_jax.nn.spec import Layer, Spec, flat, named

Edit = Callable[[str, jax.Array], jax.Array]  # (name of a layer, its output) -> the output that later layers see


def apply_edited(model: CNN, variables: Any, x_NSC: jax.Array, edit: Edit) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute (logits_NK, features) in evaluation mode, with `edit` applied to the output of every layer.

    The features are the edited outputs. A convolution and the max-pool behind it are not fused, so that the pool sees the
    edited output; the numbers are the same up to rounding.
    """
    out: Any = _Edited(model.spec, model.dtype, model.precision, edit=edit).apply(variables, x_NSC)
    return out


class _Edited(CNN):
    edit: Edit = lambda name, x: x

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        forward = _Forward(self.dtype, self.precision, train, edit=self.edit)
        logits = forward.run(named(self.spec), x)
        return logits, forward.features


@dataclasses.dataclass
class _Forward(Forward):
    edit: Edit = dataclasses.field(kw_only=True)

    def run(self, spec: Spec, x: jax.Array) -> jax.Array:
        for layer in spec:
            with errors_named(layer.name):
                x = self.edit(layer.name, layer.apply(x, self))
            self.features[layer.name] = x
        return x


def without_activation(model: CNN, name: str) -> CNN:
    """The same network with the activation of one layer left out: its output then has a gradient where relu has none.

    An increasing activation leaves the order of the output's values alone. A layer without an activation stays as it is.
    """

    def visit(layers: Spec) -> Spec:
        out: list[Layer] = []
        for layer in layers:
            layer = layer.with_nested(tuple(visit(part) for part in layer.nested)) if layer.nested else layer
            if layer.name == name and hasattr(layer, "activation"):
                layer = dataclasses.replace(layer, activation="linear")  # type: ignore[call-arg]
            out.append(layer)
        return tuple(out)

    spec = visit(named(model.spec))
    assert any(layer.name == name for layer in flat(spec)), name
    return CNN(spec, model.dtype, model.precision)
