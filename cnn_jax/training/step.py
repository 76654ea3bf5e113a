"""One training step and one evaluation step: pure functions of (static config, hyperparameters, data, state).

Shapes: B images of a batch, K classes.
"""

from collections.abc import Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.aliases import Array, PyTree, Value
from cnn_jax.data import UNIT, Normalization
from cnn_jax.nn.init import initial_variables
from cnn_jax.training.components import Components, Hyper
from cnn_jax.training.loss import as_float32, one_hot

_AUGMENT = 0x61756700  # folded into a step's key, so that augmentations and dropout draw independently


@flax.struct.dataclass
class TrainState:
    """State that a step updates.

    Attributes:
      step: steps done.
      params: parameters.
      model_state: the other variables of the model, such as batch statistics.
      opt_state: state of the optimizer.
      average: moving average of parameters and model_state; None where none is kept.
    """

    step: Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    average: PyTree = None


def create_train_state(
    model: nn.Module, input_shape: tuple[int, ...], setup: Components, dynamic: Mapping[str, Value]
) -> TrainState:
    """The state before the first step, as NumPy arrays: initial values drawn from the seed of `dynamic`, `Trial.dynamic`."""
    variables = initial_variables(model, input_shape, dynamic["seed"])
    params = variables["params"]
    model_state = {name: value for name, value in variables.items() if name != "params"}
    average = jax.tree.map(np.copy, variables) if setup.train.ema else None
    return TrainState(np.zeros((), np.int32), params, model_state, setup.initial_state(params, dynamic), average)


def variables_of(state: TrainState) -> dict[str, PyTree]:
    """Variables of the network to evaluate and to keep."""
    return {"params": state.params, **state.model_state} if state.average is None else state.average


def as_floats(images: jax.Array, normalization: Normalization = UNIT) -> jax.Array:
    """uint8 0..255 -> float32, by default 0..1, the chapter's scaling."""
    return normalization(images)


def train_step(
    model: nn.Module,
    setup: Components,
    state: TrainState,
    hyper: Hyper,
    images_BHWC: jax.Array,
    labels_B: jax.Array,
    count: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[TrainState, jax.Array]:
    """Take one step on the mean loss; also return the sums over the batch of loss and of correct answers, (2,).

    Only the first `count` images are used: an epoch's last batch may be padded. `normalization` converts the uint8 images.
    An answer is correct if it is the label of the image before augmentation.
    """
    key = jax.random.fold_in(jax.random.key(hyper["seed"]), state.step)
    inputs_BHWC, targets_BK = _inputs(setup, key, images_BHWC, labels_B, normalization)

    def loss_of(params: PyTree) -> tuple[jax.Array, PyTree]:
        (logits_BK, _), changed = model.apply(
            {"params": params, **state.model_state},
            inputs_BHWC,
            train=True,
            mutable=list(state.model_state),
            rngs={"dropout": key},
        )
        if targets_BK is None:
            losses_B = setup.losses(logits_BK, labels_B)
        else:
            losses_B = setup.training_losses(hyper, logits_BK, targets_BK)
        loss_B = jnp.where(real_B, losses_B, 0)
        right_B = (jnp.argmax(logits_BK, -1) == labels_B) & real_B
        return loss_B.sum() / count, (changed, jnp.stack([loss_B, right_B.astype(loss_B.dtype)]).sum(-1))

    real_B = jnp.arange(labels_B.shape[0]) < count
    grads, (model_state, sums_2) = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = setup.optimizer(hyper, state.step).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        average = _averaged(average, {"params": params, **model_state}, hyper["ema"], state.step)
    return TrainState(state.step + 1, params, model_state, opt_state, average), sums_2


def _inputs(
    setup: Components, key: jax.Array, images_BHWC: jax.Array, labels_B: jax.Array, normalization: Normalization
) -> tuple[jax.Array, jax.Array | None]:
    """Inputs of the network, and targets (B, K) as probabilities; None where labels suffice."""
    targets_BK = one_hot(labels_B, setup.num_classes) if setup.soft_targets else None
    if targets_BK is None or not setup.augmentations:
        return as_floats(images_BHWC, normalization), targets_BK
    unit_BHWC = images_BHWC.astype(jnp.float32) * (1 / 255)
    unit_BHWC, targets_BK = setup.augment(jax.random.fold_in(key, _AUGMENT), unit_BHWC, targets_BK)
    return as_floats(unit_BHWC * 255, normalization), targets_BK


def _averaged(average: PyTree, variables: PyTree, decay: jax.Array, step: Array) -> PyTree:
    """Exponential moving average after a step, of a decay of at most (1 + step) / (10 + step).

    The bound lets an average that starts at the initial values forget them (tf.train.ExponentialMovingAverage, num_updates).
    """
    done = step.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + done) / (10 + done))
    return jax.tree.map(lambda old, new: old + weight * (new - old), average, variables)


def eval_step(
    model: nn.Module,
    setup: Components,
    variables: PyTree,
    images_BHWC: jax.Array,
    labels_B: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss (B,), whether the answer is correct (B,), and logits (B, K), of the images."""
    logits_BK, _ = model.apply(variables, as_floats(images_BHWC, normalization), train=False)
    return setup.losses(logits_BK, labels_B), jnp.argmax(logits_BK, -1) == labels_B, as_float32(logits_BK)
