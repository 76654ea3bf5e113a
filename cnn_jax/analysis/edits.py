"""Forward passes with edited layers: modified outputs, omitted activations.

N images, *S spatial axes, C channels, K classes.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.extend import core

from cnn_jax.aliases import PyTree
from cnn_jax.analysis.network import Apply
from cnn_jax.errors import UsageError
from cnn_jax.nn.modules.base import errors_named
from cnn_jax.nn.network import CNN, Forward
from cnn_jax.nn.spec import Follower, Layer, Spec, flat, named

Edit = Callable[[str, jax.Array], jax.Array]  # (layer name, its output) -> input of later layers


def apply_edited(model: CNN, variables: PyTree, x_NSC: jax.Array, edit: Edit) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute (logits_NK, features) in evaluation mode, with `edit` applied to the output of every layer.

    The features are the edited outputs. A convolution and the max-pool after it are not fused, so that the pool reads the
    edited output; results are equal up to rounding.
    """
    out: PyTree = _Edited(model.spec, model.dtype, model.precision, edit=edit).apply(variables, x_NSC)
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

    def run(self, spec: Spec, x: jax.Array, then: Follower | None = None) -> jax.Array:
        for layer in spec:
            with errors_named(layer.name):
                x = self.edit(layer.name, layer.apply(x, self))
            self.features[layer.name] = x
        return x if then is None else then.apply(x, self)


def apply_shifted(
    apply: Apply, variables: PyTree, x_NSC: jax.Array, layer: str, shift: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute logits_NK and the output of a layer, with `shift` added to this output before later layers read it.

    Works for any model that returns features, including a linen module without a spec: the traced program is split after the
    operation that computes the output.

    Raises:
      UsageError: the logits do not depend on the returned output, for example because it is a copy.
    """
    closed = jax.make_jaxpr(lambda variables, x: _both(apply, layer, variables, x))(variables, x_NSC)
    program = closed.jaxpr
    logits, output = program.outvars
    cut = next((i + 1 for i, equation in enumerate(program.eqns) if any(v is output for v in equation.outvars)), 0)
    first, last = program.eqns[:cut], program.eqns[cut:]
    own = {variable for equation in last for variable in equation.outvars}
    read = [atom for equation in last for atom in equation.invars if not isinstance(atom, core.Literal)]
    between = list(dict.fromkeys(variable for variable in read if variable not in own))
    if not cut or output not in between:
        raise UsageError(f"--layer={layer}: the logits do not depend on the output that the model returns for it")
    head = core.ClosedJaxpr(core.Jaxpr(program.constvars, program.invars, between, first), closed.consts)
    tail = core.ClosedJaxpr(core.Jaxpr((), between, [logits], last), ())
    values = core.jaxpr_as_fun(head)(*jax.tree.leaves((variables, x_NSC)))
    here = between.index(output)
    shifted = [*values[:here], values[here] + shift, *values[here + 1 :]]
    return core.jaxpr_as_fun(tail)(*shifted)[0], shifted[here]


def _both(apply: Apply, layer: str, variables: PyTree, x_NSC: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits_NK, features = apply(variables, x_NSC)
    return logits_NK, features[layer]


def without_activation(model: CNN, name: str) -> CNN:
    """Return the network without the activation of one layer, so that its output has a gradient where relu has none.

    An increasing activation preserves the order of the output's values. A layer without an activation is unchanged.
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
