"""Training program of airbench94, from images on the device to trained variables, and evaluation over six views.

N images, B batch size, H, W, C height, width, channels, K classes, S steps, V views.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.speedrun.network import Net, whitening
from benchmarks.speedrun.recipe import SHIFT, SMOOTHING, Recipe
from cnn_jax.aliases import PyTree

WHITENED = 5000  # first training images, used for the whitening kernel
VIEW_SHIFT = 1  # pixels of shift of a view, up and left or down and right


class State(NamedTuple):
    """State updated by a step. `fast` and `slow` are {"params": ..., "batch_stats": ...}: Lookahead averages statistics too."""

    fast: PyTree
    slow: PyTree
    momentum: optax.OptState


class Trained(NamedTuple):
    """A trained network: its variables and its fixed first kernel."""

    variables: PyTree
    whitening_kernel: jax.Array


def create_state(recipe: Recipe, variables: PyTree) -> State:
    """Create the state before the first step."""
    return State(variables, variables, recipe.optimizer().init(variables["params"]))


def train_step(
    net: Net, recipe: Recipe, kernel: jax.Array, state: State, step: jax.Array, x_BHWC: jax.Array, y_B: jax.Array
) -> State:
    """Return the state after step `step`, counted from 0; `kernel` is that of the whitening layer."""

    def loss(params: PyTree) -> tuple[jax.Array, PyTree]:
        variables = {**state.fast, "params": params}
        logits_BK, changed = net.apply(variables, x_BHWC, kernel, train=True, mutable=["batch_stats"])
        target_BK = optax.smooth_labels(jax.nn.one_hot(y_B, net.classes, dtype=logits_BK.dtype), SMOOTHING)
        return optax.softmax_cross_entropy(logits_BK, target_BK).mean(), changed

    params = state.fast["params"]
    gradients, changed = jax.grad(loss, has_aux=True)(params)
    updates, momentum = recipe.optimizer().update(gradients, state.momentum, params)
    fast = {"params": optax.apply_updates(params, updates), **changed}
    slow, fast = recipe.lookahead(step + 1, state.slow, fast)
    return State(fast, slow, momentum)


@partial(jax.jit, static_argnames=("net", "recipe"))
def train(net: Net, recipe: Recipe, key: jax.Array, x_NHWC: jax.Array, y_N: jax.Array) -> Trained:
    """Train a network with the seed `key`: one program from whitening to the last step."""
    start, mirrored, order, shifts = jax.random.split(key, 4)
    kernel = whitening(x_NHWC[:WHITENED])
    state = create_state(recipe, net.init(start, x_NHWC[:2], kernel, train=False))
    mirrored_N = jax.random.bernoulli(mirrored, shape=y_N.shape)
    padded_NHWC = reflected(x_NHWC, SHIFT)
    rows_SB = batches(order, recipe)

    def step(state: State, inputs: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        number, rows_B = inputs
        shift_B2 = jax.random.randint(jax.random.fold_in(shifts, number), (len(rows_B), 2), 0, 2 * SHIFT + 1)
        odd = number // recipe.steps_per_epoch % 2 == 1  # images are flipped in every other epoch
        x_BHWC = augment(padded_NHWC[rows_B], shift_B2, mirrored_N[rows_B] ^ odd)
        return train_step(net, recipe, kernel, state, number, x_BHWC, y_N[rows_B]), None

    state, _ = jax.lax.scan(step, state, (jnp.arange(recipe.steps), rows_SB))
    return Trained(state.fast, kernel)


def batches(key: jax.Array, recipe: Recipe) -> jax.Array:
    """Draw image indices (S, B): a permutation per epoch, split into batches."""
    epochs, used = -(-recipe.steps // recipe.steps_per_epoch), recipe.steps_per_epoch * recipe.batch_size
    orders = jax.vmap(lambda key: jax.random.permutation(key, recipe.images)[:used])(jax.random.split(key, epochs))
    return orders.reshape(-1, recipe.batch_size)[: recipe.steps]


def reflected(x_NHWC: jax.Array, pixels: int) -> jax.Array:
    """Pad images by reflection."""
    return jnp.pad(x_NHWC, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="reflect")


def augment(padded_BHWC: jax.Array, shift_B2: jax.Array, flip_B: jax.Array) -> jax.Array:
    """Crop padded images at `shift_B2`, and flip those selected by `flip_B`."""
    height, width, channels = padded_BHWC.shape[1:]
    size = (height - 2 * SHIFT, width - 2 * SHIFT, channels)
    moved = jax.vmap(lambda x, shift: jax.lax.dynamic_slice(x, (shift[0], shift[1], 0), size))(padded_BHWC, shift_B2)
    return jnp.where(flip_B[:, None, None, None], moved[:, :, ::-1], moved)


def six_views(x_NHWC: jax.Array) -> list[tuple[float, jax.Array]]:
    """Return weights and views of images: original and shifted both ways along the diagonal, each also flipped."""
    ends = 2 * VIEW_SHIFT
    padded = reflected(x_NHWC, VIEW_SHIFT)
    moved = [(1 / 2, x_NHWC), (1 / 4, padded[:, :-ends, :-ends]), (1 / 4, padded[:, ends:, ends:])]
    return [(weight / 2, view) for weight, x in moved for view in (x, x[:, :, ::-1])]


@partial(jax.jit, static_argnames="net")
def correct(net: Net, trained: Trained, x_NHWC: jax.Array, y_N: jax.Array) -> jax.Array:
    """Count correctly classified images: with six views of each, and with the image only."""

    def logits_NK(view: jax.Array) -> jax.Array:
        return net.apply(trained.variables, view, trained.whitening_kernel, train=False)  # type: ignore[return-value]

    weights, views = zip(*six_views(x_NHWC), strict=True)
    logits_VNK = jnp.stack([logits_NK(view) for view in views])
    by_views_NK = (jnp.array(weights)[:, None, None] * logits_VNK).sum(0)
    return jnp.stack([(jnp.argmax(logits, -1) == y_N).sum() for logits in (by_views_NK, logits_VNK[0])])
