"""Recipe of airbench94: constants, converted to the mean loss of a batch, optimizer and Lookahead.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, and its program, `legacy/airbench94.py`
of github.com/KellerJordan/cifar10-airbench.

The constants are decoupled. If gradients g of an example were constant, Nesterov's momentum m would step by 1 + 1 / (1 - m)
times the learning rate per gradient, so that the rate of 11.5 per 1,024 examples stands for

    r = 11.5 / (1024 * (1 + 1 / (1 - m)))        per example: SGD on the sum of the losses of a batch

and the decay d of weights by a step, as large for all parameters whatever their rate, for

    d = 0.0153 * B / (1024 * (1 + 1 / (1 - m)))  of the weights, times the schedule, which SGD applies as r * (g + (d / r) * w)

The program sums the losses of a batch of B. Here they are averaged, so that gradients do not grow with B: they are B times
smaller, the rate is B * r and the weight decay d / (B * r). Momentum is linear in gradients, so every step is the same. At
B = 1,024 the rate is 1.5, that of the biases of normalization 64 times it, 96, and d is 0.002.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax

from cnn_jax.aliases import PyTree

LEARNING_RATE, WEIGHT_DECAY = 11.5, 0.0153  # per 1,024 examples, decoupled from momentum and from each other
MOMENTUM = 0.85
NORM_BIAS_FACTOR = 64  # on the learning rate of the biases of normalization, not on their decay
SMOOTHING = 0.2  # of labels
SHIFT = 2  # pixels of a random translation
WHITENING_BIAS_EPOCHS = 3  # then the bias of the whitening layer is frozen
WARMUP, FIRST, LAST = 0.23, 0.2, 0.07  # share of warm-up steps; first and last rate relative to the peak
LOOKAHEAD_EVERY, LOOKAHEAD_DECAY = 5, 0.95**5  # steps; share of the slow weights after the last step


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Values derived from the number of training images, batch size and epochs."""

    images: int
    batch_size: int = 1024
    epochs: float = 9.9

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches; the remaining images are used in other epochs."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Total steps; the last epoch may be partial."""
        return math.ceil(self.steps_per_epoch * self.epochs)

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of SGD on the mean loss of a batch."""
        return LEARNING_RATE * self.batch_size / (1024 * (1 + 1 / (1 - MOMENTUM)))

    @property
    def decay(self) -> float:
        """Weight decay of a step at the peak learning rate, without momentum."""
        return WEIGHT_DECAY * self.batch_size / (1024 * (1 + 1 / (1 - MOMENTUM)))

    def factor(self, step: jax.Array) -> jax.Array:
        """Return the learning rate of a step, from 0, as a share of the peak: a triangular schedule."""
        top = int(self.steps * WARMUP)
        rising = FIRST + (1 - FIRST) * step / max(1, top)
        falling = 1 - (1 - LAST) * (step - top) / (self.steps - top)
        return jnp.where(step < top, rising, falling)

    def optimizer(self) -> optax.GradientTransformation:
        """Create SGD with Nesterov momentum on the mean loss, with a learning rate per kind of parameter (see `kinds`)."""

        def sgd(rate: float, last: int) -> optax.GradientTransformation:
            # The decay of a step is rate * (decay / rate): the same for every rate.
            decayed = optax.add_decayed_weights(self.decay / rate)
            return optax.chain(
                decayed,
                optax.trace(MOMENTUM, nesterov=True),
                # Parameters with a rate of 0 are frozen: their momentum is unused.
                optax.scale_by_learning_rate(lambda step: jnp.where(step < last, rate * self.factor(step), 0)),
            )

        frozen_from = WHITENING_BIAS_EPOCHS * self.steps_per_epoch
        rules = {
            "norm bias": sgd(NORM_BIAS_FACTOR * self.learning_rate, self.steps),
            "whitening bias": sgd(self.learning_rate, frozen_from),
            "other": sgd(self.learning_rate, self.steps),
        }
        return optax.multi_transform(rules, kinds)

    def lookahead(self, done: jax.Array, slow: PyTree, fast: PyTree) -> tuple[PyTree, PyTree]:
        """Update slow and fast weights after `done` steps (Zhang et al. 2019, arXiv 1907.08610, with a schedule).

        Every fifth step the slow weights become a moving average of the fast ones, with a decay that grows with the cube of the
        time, and are copied to the fast ones. After the last step, the slow weights are the result.
        """
        decay = LOOKAHEAD_DECAY * (done / self.steps) ** 3
        meets, ends = done % LOOKAHEAD_EVERY == 0, done == self.steps
        slow = jax.tree.map(lambda s, f: jnp.where(meets, f + decay.astype(f.dtype) * (s - f), s), slow, fast)
        return slow, jax.tree.map(lambda s, f: jnp.where(meets | ends, s, f), slow, fast)


def kinds(params: PyTree) -> PyTree:
    """Return the kind of every parameter by its name in `network.Net`; all parameters of layers `norm...` are biases."""

    def kind(path: tuple[jax.tree_util.DictKey, ...], _: jax.Array) -> str:
        names = [entry.key for entry in path]
        if any(name.startswith("norm") for name in names):
            return "norm bias"
        return "whitening bias" if names[-1] == "whitening_bias" else "other"

    return jax.tree_util.tree_map_with_path(kind, params)
