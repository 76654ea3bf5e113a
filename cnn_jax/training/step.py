"""One training step and one evaluation step: pure functions of (static config, hyperparameters, data, state).

Shapes: B images of a batch, K classes.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.data import UNIT, Normalization
from cnn_jax.nn.init import initial_variables
from cnn_jax.training.loss import cross_entropy
from cnn_jax.training.optimizer import optimizer

Hyper = dict[str, jax.Array]  # Trial.dynamic as arrays: seed, learning_rate, weight_decay, momentum


@flax.struct.dataclass
class TrainState:
    """What a step changes: parameters, the model's other variables (batch statistics), the optimizer's state, steps done."""

    step: Any
    params: Any
    model_state: Any
    opt_state: Any


def create_train_state(model: nn.Module, input_shape: tuple[int, ...], optimizer_name: str, seed: int) -> TrainState:
    """The state before the first step, as numpy arrays: initial values drawn from `seed`, nothing compiled."""
    variables = initial_variables(model, input_shape, seed)
    params = variables["params"]
    zero = dict.fromkeys(("learning_rate", "weight_decay", "momentum"), 0.0)
    shapes = jax.eval_shape(optimizer(optimizer_name, zero).init, params)
    # Every optimizer of the table starts from zeros (held by a test): no need to compile its init.
    opt_state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    return TrainState(np.zeros((), np.int32), params, model_state, opt_state)


def as_floats(images: jax.Array, normalization: Normalization = UNIT) -> jax.Array:
    """uint8 0..255 -> float32, by default 0..1, the chapter's scaling."""
    return normalization(images)


def train_step(
    model: nn.Module,
    optimizer_name: str,
    state: TrainState,
    hyper: Hyper,
    images_BHWC: jax.Array,
    labels_B: jax.Array,
    count: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[TrainState, jax.Array]:
    """One step on the mean cross-entropy; also the sums over the batch of loss and of right answers, (2,).

    Only the first `count` images count: an epoch's last batch may be filled up. `normalization` converts the images, uint8.
    """
    key = jax.random.fold_in(jax.random.key(hyper["seed"]), state.step)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        (logits_BK, _), changed = model.apply(
            {"params": params, **state.model_state},
            as_floats(images_BHWC, normalization),
            train=True,
            mutable=list(state.model_state),
            rngs={"dropout": key},
        )
        loss_B = jnp.where(real_B, cross_entropy(logits_BK, labels_B), 0)
        right_B = (jnp.argmax(logits_BK, -1) == labels_B) & real_B
        return loss_B.sum() / count, (changed, jnp.stack([loss_B, right_B.astype(loss_B.dtype)]).sum(-1))

    real_B = jnp.arange(labels_B.shape[0]) < count
    grads, (model_state, sums_2) = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer(optimizer_name, hyper).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), sums_2


def eval_step(
    model: nn.Module, variables: Any, images_BHWC: jax.Array, labels_B: jax.Array, normalization: Normalization = UNIT
) -> tuple[jax.Array, jax.Array]:
    """Loss (float32) and whether the answer is right (bool), for each image."""
    logits_BK, _ = model.apply(variables, as_floats(images_BHWC, normalization), train=False)
    return cross_entropy(logits_BK, labels_B), jnp.argmax(logits_BK, -1) == labels_B
