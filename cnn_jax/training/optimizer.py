"""Optimizers by name."""

from collections.abc import Callable, Mapping
from typing import Any

import optax


def optimizer(name: str, hyper: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optimizer of a name in `trial.OPTIMIZERS`; `hyper` may hold traced values, so one program serves all of them.

    Weight decay is decoupled in adamw (Loshchilov and Hutter 2019) and the gradient of an L2 penalty in the others.
    """
    rate, decay, momentum = hyper["learning_rate"], hyper["weight_decay"], hyper["momentum"]
    table: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=decay),
        "sgd": lambda: optax.sgd(rate, momentum),
        "rmsprop": lambda: optax.rmsprop(rate, momentum=momentum),
    }
    # One vector instead of a tree: every rule above is elementwise, and the program compiles several times faster.
    rule = optax.flatten(table[name]())
    return rule if name == "adamw" else optax.chain(optax.add_decayed_weights(decay), rule)
