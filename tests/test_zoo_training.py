"""Every model of the zoo trains: two steps, on images as small as it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import zoo
from cnn_jax.training.components import components
from cnn_jax.training.loop import train_steps
from cnn_jax.training.step import create_train_state
from cnn_jax.trial import ModelConfig, TrainConfig, Trial
from cnn_jax.zoo.build import build

# Where the native input is larger than two steps need. Everything else runs on its own.
SMALLER = {
    "alexnet": (64, 64, 3),
    "vgg11": (32, 32, 3),
    "vgg13": (32, 32, 3),
    "vgg16": (32, 32, 3),
    "resnet18": (32, 32, 3),
    "convmixer": (8, 8, 3),
    "mnist_m3": (22, 22, 1),
    "mnist_m5": (22, 22, 1),
    "mnist_m7": (26, 26, 1),
}


# Deeper networks of the same layers as shallower ones: they compile for longer.
DEEP = ("alexnet", "vgg11", "vgg13", "vgg16", "resnet18", "resnet32", "resnet44", "resnet56", "resnet110")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in zoo.MODELS])
def test_two_steps(name: str) -> None:
    shape, classes = zoo.PUBLISHED_FOR[name]
    shape, classes = SMALLER.get(name, shape), min(classes, 10)
    model = build(ModelConfig(name), shape, classes)
    setup = components(TrainConfig(), 2, classes)
    state = create_train_state(model, shape, setup, Trial().dynamic)
    before = jax.tree.map(np.copy, state.params)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (3, *shape), np.uint8), np.arange(3, dtype=np.int32)
    hyper = {"seed": np.int32(0), "learning_rate": np.float32(1e-3), "weight_decay": np.float32(0), "momentum": np.float32(0.9)}

    def two(state, images, labels):  # type: ignore[no-untyped-def]
        order = jnp.array([[0, 1], [2, 0]])
        return train_steps(model, setup, state, hyper, jnp.zeros((2, 2)), images, labels, order, 0, 2)

    # Compiled without LLVM's costly passes: here the steps are to be right, not fast.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    state, sums = jax.jit(two).lower(state, images, labels).compile(compiler_options=options)(state, images, labels)
    assert int(state.step) == 2
    assert np.isfinite(sums).all()
    assert (np.asarray(sums)[0] > 0).all()
    for path, old in jax.tree_util.tree_leaves_with_path(before):
        new = dict(jax.tree_util.tree_leaves_with_path(state.params))[path]
        assert np.isfinite(new).all(), path
        assert not np.array_equal(old, new), f"{jax.tree_util.keystr(path)} was not trained"
