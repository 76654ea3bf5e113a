"""Two training steps of a tiny network against the same steps written out in NumPy, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from cnn_jax.nn import Conv, Dense, Flatten
from cnn_jax.nn.network import CNN
from cnn_jax.training.components import components
from cnn_jax.training.step import create_train_state, train_step
from cnn_jax.trial import ModelConfig, TrainConfig, Trial

# 3 images count of a batch of 4, as in an epoch's last batch.
COUNT, SHAPE, CLASSES, RATE = 3, (5, 5, 2), 3, 0.01
MODEL = CNN((Conv(2, 3, activation="relu"), Flatten(), Dense(CLASSES)))


def gradients(params, images, labels):
    """Mean cross-entropy of convolution, ReLU and dense layer, right answers, and the gradients by the chain rule."""
    windows = sliding_window_view(images, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
    maps = np.einsum("nhwcij,ijcf->nhwf", windows, params["conv1"]["kernel"]) + params["conv1"]["bias"]
    flat = np.maximum(maps, 0).reshape(len(images), -1)
    logits = flat @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    share = odds / odds.sum(1, keepdims=True)
    rows = np.arange(len(images))
    losses = -np.log(share[rows, labels])
    d_logits = (share - np.eye(CLASSES)[labels]) / len(images)
    d_maps = (d_logits @ params["dense1"]["kernel"].T).reshape(maps.shape) * (maps > 0)
    found = {
        "conv1": {"kernel": np.einsum("nhwcij,nhwf->ijcf", windows, d_maps), "bias": d_maps.sum((0, 1, 2))},
        "dense1": {"kernel": flat.T @ d_logits, "bias": d_logits.sum(0)},
    }
    return losses.sum(), (logits.argmax(1) == labels).sum(), found


class Adam:
    """Kingma and Ba (2015), algorithm 1, with the weight decay of Loshchilov and Hutter (2019)."""

    def __init__(self, decay):
        self.decay, self.steps, self.m, self.v = decay, 0, 0.0, 0.0

    def __call__(self, w, g):
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        return w - RATE * (m / (np.sqrt(v) + 1e-8) + self.decay * w)


class Momentum:
    """Heavy ball."""

    def __init__(self, momentum):
        self.momentum, self.velocity = momentum, 0.0

    def __call__(self, w, g):
        self.velocity = self.momentum * self.velocity + g
        return w - RATE * self.velocity


RULES = {  # the optimizer, its settings, and its rule for one array
    "adam": ("adam", {}, lambda: Adam(0)),
    "adamw": ("adamw", {"weight_decay": 0.1}, lambda: Adam(0.1)),
    "momentum": ("sgd", {"momentum": 0.9}, lambda: Momentum(0.9)),
    "gradient descent": ("sgd", {"momentum": 0.0}, lambda: Momentum(0.0)),
}


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(value)) for value in jax.tree.leaves(tree)))


@pytest.mark.parametrize("case", RULES)
def test_two_steps_are_those_of_numpy(case):
    name, more, rule = RULES[case]
    train = TrainConfig(optimizer=name, learning_rate=RATE, batch_size=4, epochs=1, **more)
    trial = Trial(ModelConfig(), train=train, seed=5)
    setup = components(train, 2, CLASSES)
    state = create_train_state(MODEL, SHAPE, setup, trial.dynamic)
    hyper = {key: jnp.asarray(value) for key, value in trial.dynamic.items()}
    params = jax.tree.map(np.float64, state.params)
    assert {name: value.shape for name, value in params["conv1"].items()} == {"kernel": (3, 3, 2, 2), "bias": (2,)}
    assert {name: value.shape for name, value in params["dense1"].items()} == {"kernel": (18, 3), "bias": (3,)}
    rules = {layer: {leaf: rule() for leaf in leaves} for layer, leaves in params.items()}
    rng = np.random.default_rng(0)
    for _ in range(2):
        images, labels = rng.integers(0, 256, (4, *SHAPE), np.uint8), rng.integers(0, CLASSES, 4).astype(np.int32)
        loss, right, grads = gradients(params, images[:COUNT] / 255, labels[:COUNT])
        before = state.params
        state, sums = train_step(MODEL, setup, state, hyper, jnp.asarray(images), jnp.asarray(labels), jnp.asarray(COUNT))
        np.testing.assert_allclose(sums, [loss, right], rtol=1e-5)
        params = jax.tree.map(lambda one, w, g: one(w, g), rules, params, grads)
        jax.tree.map(lambda ours, value: np.testing.assert_allclose(ours, value, atol=2e-6), state.params, params)
        if case == "gradient descent":
            step = jax.tree.map(np.subtract, before, state.params)
            assert norm(step) / RATE == pytest.approx(norm(grads), rel=1e-4)
    assert state.step == 2
