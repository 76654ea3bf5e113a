"""Optimizers: those of optax and optax.contrib by name, and those of a fork.

A fork's `package.module:attribute` is a function of a learning rate that returns an optax.GradientTransformation, like those of
optax; keyword arguments with defaults are set by --option=optimizer.NAME=VALUE. Every optimizer has the option freeze, see
`freezing`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Literal, TypeAlias, cast

import jax
import numpy as np
import optax
import optax.contrib

from cnn_jax import plugins
from cnn_jax.aliases import PyTree, Value
from cnn_jax.errors import UsageError
from cnn_jax.recipes.names import is_attribute
from cnn_jax.trial import OPTIMIZERS

Optimizer: TypeAlias = Callable[..., optax.GradientTransformation]  # of a learning rate and options

# Rules that treat each parameter value by itself. Applied to one vector instead of a tree, their program compiles several times
# faster.
_ELEMENTWISE = frozenset((
    "adabelief", "adadelta", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "ademamix", "adopt", "amsgrad", "lion",
    "nadam", "nadamw", "radam", "rmsprop", "rprop", "sgd", "sign_sgd", "signum", "yogi",
))  # fmt: skip
_START_FROM_ZEROS = frozenset(OPTIMIZERS)  # initial states that need no computation
# Need more than one gradient per step, or evaluate at parameters other than those they update.
_EXCLUDED = ("scale_by_", "schedule_free", "dpsgd", "lbfgs", "momo", "sophia", "noisy_sgd", "galore")
Numbers = Mapping[str, float | jax.Array]  # hyperparameters by name, which may be traced
RESERVED = ("learning_rate", "weight_decay", "momentum")  # set by flags of their own
_MODULES = (optax, optax.contrib)
_MASKS = ("mask", "weight_decay_mask")


@functools.cache
def names() -> tuple[str, ...]:
    """First-order optimizers of the optax that is installed: those with a learning rate, the common ones first."""
    found = [
        name
        for module in _MODULES
        for name in sorted(vars(module))
        if not name.startswith(("_", *_EXCLUDED))
        and isinstance(rule := getattr(module, name), FunctionType | functools.partial)
        if "learning_rate" in inspect.signature(rule).parameters
    ]
    return tuple(dict.fromkeys([*OPTIMIZERS, *found]))


@functools.cache
def load(name: str) -> Optimizer:
    """Return the function of an optimizer: (learning_rate, ...) -> GradientTransformation.

    Raises:
      UsageError: for an unknown name.
    """
    if name in OPTIMIZERS:
        return getattr(optax, name)
    if is_attribute(name):
        return cast(Optimizer, plugins.load_attribute(name, f"--optimizer: {name}"))
    if name not in names():
        raise UsageError(
            f"--optimizer: unknown optimizer {name!r}: one of {', '.join(names())}, or package.module:attribute; these are the "
            f"first-order optimizers of optax {optax.__version__}"
        )
    return next(getattr(module, name) for module in _MODULES if hasattr(module, name))


def optimizer(
    name: str,
    hyper: Numbers,
    options: Mapping[str, Value] | None = None,
    *,
    decay_kernels_only: bool = False,
) -> optax.GradientTransformation:
    """Build an optimizer.

    Weight decay is decoupled where the optimizer has its own (Loshchilov and Hutter 2019), and the gradient of an L2 penalty
    in the others.

    Args:
      name: of optax, optax.contrib, or package.module:attribute.
      hyper: learning_rate, weight_decay and momentum; clip_norm where gradients are clipped. They may be traced, so one
        program serves all values.
      options: further arguments of the optimizer, and of `freezing`.
      decay_kernels_only: leave biases and parameters of norms out of the weight decay.
    """
    function = load(name)
    parameters = inspect.signature(function).parameters
    given = dict(options or {})
    frozen = freezing(**{key: given.pop(key) for key in ("freeze",) if key in given})
    arguments = given | {key: hyper[key] for key in RESERVED if key in parameters}
    mask = is_kernel if decay_kernels_only else None
    own_decay = "weight_decay" in parameters
    if mask and own_decay:
        argument = next((each for each in _MASKS if each in parameters), None)
        if argument is None:
            raise UsageError(f"--decay_parameters=kernels: optimizer {name} has no mask for its weight decay")
        arguments[argument] = mask
    rules = [function(**arguments)]
    if not isinstance(rules[0], optax.GradientTransformation):
        raise UsageError(
            f"--optimizer: {name} returned a {type(rules[0]).__name__}: it must be an optax.GradientTransformation"
        )
    if not own_decay:
        rules.insert(0, optax.add_decayed_weights(hyper["weight_decay"], mask))
    if "clip_norm" in hyper:
        rules.insert(0, optax.clip_by_global_norm(hyper["clip_norm"]))
    if name in _ELEMENTWISE and mask is None:
        rules[-1] = optax.flatten(rules[-1])
    if frozen is not None:
        # Before the other rules, so that a norm of gradients is that of what is trained; after them, as weights may decay.
        rules = [frozen, *rules, frozen]
    return rules[0] if len(rules) == 1 else optax.chain(*rules)


def freezing(freeze: Literal["none", "spatial"] = "none") -> optax.GradientTransformation | None:
    """Rule that keeps parameters at their initial values.

    Args:
      freeze: 'none', or 'spatial': the kernels of convolutions with more than one position; those of 1x1 convolutions, dense
        layers, norms and biases are trained.

    Returns:
      The rule; None where nothing is frozen.
    """
    return None if freeze == "none" else optax.masked(optax.set_to_zero(), is_spatial_kernel)


def is_spatial_kernel(params: PyTree) -> PyTree:
    """Tree of bools: whether a parameter is the kernel of a convolution with more than one position."""

    def spatial(path: jax.tree_util.KeyPath, leaf: jax.Array) -> bool:
        return "kernel" in str(path[-1]) and leaf.ndim > 2 and max(leaf.shape[:-2]) > 1

    return jax.tree_util.tree_map_with_path(spatial, params)


def is_kernel(params: PyTree) -> PyTree:
    """Tree of bools: whether a parameter is a kernel of a layer, neither a bias nor a scale of a norm."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path[-1]), params)


def initial_state(rule: optax.GradientTransformation, name: str, params: PyTree) -> PyTree:
    """State of an optimizer before the first step, as NumPy arrays."""
    if name in _START_FROM_ZEROS:  # tested to be zeros: init need not be compiled
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(rule.init, params))
    return jax.device_get(rule.init(params))
