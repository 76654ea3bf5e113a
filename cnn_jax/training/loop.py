"""Many steps: the batch order of an epoch, and loops over steps, batches of an evaluation, and trials.

The batch order is drawn from (seed, epoch) and a step's randomness from (seed, step): there is no iterator and no key to store.
Shapes: N images, S steps of an epoch, B images of a batch, E batches of an evaluation.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.aliases import PyTree
from cnn_jax.data import UNIT, Normalization
from cnn_jax.training.components import Components, Hyper
from cnn_jax.training.step import TrainState, eval_step, train_step


def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
    """(S, B) int32: the batches of an epoch, drawn from (seed, epoch); the last one is padded from the start of the order."""
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch)))).permutation(examples).astype(np.int32)
    return np.resize(order, (steps_per_epoch(examples, batch_size), batch_size))


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Number of steps: every image is used in every epoch, and the last batch may be smaller."""
    return -(-examples // batch_size)


def train_steps(
    model: nn.Module,
    setup: Components,
    state: TrainState,
    hyper: Hyper,
    sums_2S: jax.Array,
    images_NHWC: jax.Array,
    labels_N: jax.Array,
    order_SB: jax.Array,
    first: jax.Array,
    last: jax.Array,
    normalization: Normalization = UNIT,
    unit: int = 1,
) -> tuple[TrainState, jax.Array]:
    """Steps `first` to `last` (exclusive) of an epoch. `sums_2S` collects each step's sums of loss and of correct answers.

    The bounds are arguments of the program: one program runs pieces of an epoch of any length, with the same results. `unit`
    steps at a time are a loop of known length; the remaining steps run one by one.
    """
    examples, batch = labels_N.shape[0], order_SB.shape[1]

    def body(s: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, sums_2S = carry
        unsigned = s.astype(jnp.uint32)  # for a signed index JAX would also handle negative values
        indices_B = jax.lax.dynamic_index_in_dim(order_SB, unsigned, keepdims=False)
        count = jnp.minimum(batch, examples - s * batch)
        images_BHWC, labels_B = _at(images_NHWC, indices_B), _at(labels_N, indices_B)
        state, sums_2 = train_step(model, setup, state, hyper, images_BHWC, labels_B, count, normalization)
        return state, jax.lax.dynamic_update_index_in_dim(sums_2S, sums_2, unsigned, axis=1)

    carry = (state, sums_2S)
    if unit > 1:

        def known_length(u: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
            return jax.lax.fori_loop(0, unit, lambda i, carry: body(first + u * unit + i, carry), carry)

        units = (last - first) // unit
        carry = jax.lax.fori_loop(0, units, known_length, carry)
        first = first + units * unit
    return jax.lax.fori_loop(first, last, body, carry)


def _at(values_N: jax.Array, indices_B: jax.Array) -> jax.Array:
    """values_N[indices_B], without bounds checks: the indices are known to be in bounds."""
    return values_N.at[indices_B].get(mode="promise_in_bounds")


def eval_batches(
    model: nn.Module,
    setup: Components,
    variables: PyTree,
    images_NHWC: jax.Array,
    labels_N: jax.Array,
    indices_EB: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(E, B) losses and correct answers and (E, B, K) logits of the images at `indices_EB`."""

    def evaluate(indices_B: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return eval_step(model, setup, variables, _at(images_NHWC, indices_B), _at(labels_N, indices_B), normalization)

    return jax.lax.map(evaluate, indices_EB)


def over_lanes(function: Callable, lanes: int, in_axes: tuple[int | None, ...]) -> Callable:
    """`function` with a leading trial axis on the arguments marked 0 in `in_axes`, and on every result.

    One lane is the function itself, not a vmap over one: a batched product of one is slower on CPU.
    """
    if lanes > 1:
        return jax.vmap(function, in_axes=in_axes)

    def single(*args: PyTree) -> PyTree:
        first = [arg if axis is None else jax.tree.map(lambda a: a[0], arg) for arg, axis in zip(args, in_axes, strict=True)]
        return jax.tree.map(lambda a: a[None], function(*first))

    return single
