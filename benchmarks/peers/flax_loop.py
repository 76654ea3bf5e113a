"""The sweep in Flax, after its MNIST example: a jitted step per batch. Prints one line of JSON. Standalone.

    python benchmarks/peers/flax_loop.py mnist.npz --filters=8,16,32 --kernel_size=3,5 --padding=same,valid --seeds=3

Linen and optax, without cnn_jax. Optimized for speed: all cores in one process, JAX's default; the images are transferred once
to the device as float32; no results are read inside an epoch, so steps are dispatched asynchronously; the train state is
donated; one model and one optimizer per cell, so its seeds share a compilation. Initial values have the same distributions as
in cnn_jax, so accuracies are comparable. JAX_PLATFORMS selects the device.
"""

import argparse
import functools
import itertools
import json
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState


class CNN(nn.Module):
    """The chapter's network."""

    filters: int
    kernel_size: int
    padding: str
    classes: int

    @nn.compact
    def __call__(self, x, train):
        size = (self.kernel_size, self.kernel_size)
        x = nn.relu(nn.Conv(self.filters, size, padding=self.padding.upper(), kernel_init=nn.initializers.he_uniform())(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.classes, kernel_init=nn.initializers.glorot_uniform())(x.reshape(x.shape[0], -1))


class ResNet20(nn.Module):
    """He et al. 2016 for CIFAR: basic blocks with the parameter-free shortcut "A"."""

    classes: int

    @nn.compact
    def __call__(self, x, train):
        def conv_norm(x, filters, stride=1):
            kernel_init = nn.initializers.he_uniform()
            x = nn.Conv(filters, (3, 3), stride, padding=1, use_bias=False, kernel_init=kernel_init)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(conv_norm(x, 16))
        for filters, stride in ((16, 1),) * 3 + ((32, 2),) + ((32, 1),) * 2 + ((64, 2),) + ((64, 1),) * 2:
            shortcut = x[:, ::stride, ::stride]
            shortcut = jnp.pad(shortcut, ((0, 0),) * 3 + ((0, filters - x.shape[-1]),))
            x = nn.relu(conv_norm(nn.relu(conv_norm(x, filters, stride)), filters) + shortcut)
        return nn.Dense(self.classes, kernel_init=nn.initializers.glorot_uniform())(x.mean((1, 2)))


class State(TrainState):
    """Train state with batch statistics, if the network has them."""

    batch_stats: Any


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, images, labels):
    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed

    grads, changed = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=changed.get("batch_stats", {}))


@jax.jit
def eval_step(state, images, labels):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return (state.apply_fn(variables, images, train=False).argmax(-1) == labels).sum()


def accuracy(state, images, labels):
    """Compute accuracy; None without images. A smaller last batch is compiled separately."""
    right = [eval_step(state, images[i : i + 1000], labels[i : i + 1000]) for i in range(0, len(labels), 1000)]
    return float(sum(right)) / len(labels) if right else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="npz file with x_train, y_train, x_test, y_test, as in keras.datasets")
    parser.add_argument("--net", choices=("chapter", "resnet20"), default="chapter")
    parser.add_argument("--filters", default="32", help="comma-separated values; only for the chapter's net, as the next two")
    parser.add_argument("--kernel_size", default="3")
    parser.add_argument("--padding", default="valid")
    parser.add_argument("--seeds", type=int, default=1, help="trials per cell")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--validation", type=int, default=0, help="number of held-out training images, at the end")
    args = parser.parse_args()

    file = np.load(args.data)
    images = {part: jnp.asarray(file[f"x_{part}"].astype(np.float32) / 255) for part in ("train", "test")}
    images = {part: x if x.ndim == 4 else x[..., None] for part, x in images.items()}
    labels = {part: jnp.asarray(file[f"y_{part}"].astype(np.int32)) for part in ("train", "test")}
    held_out = len(labels["train"]) - args.validation
    x_NHWC, y_N = images["train"][:held_out], labels["train"][:held_out]
    held = images["train"][held_out:], labels["train"][held_out:]

    classes = int(file["y_train"].max()) + 1
    cells = list(itertools.product(args.filters.split(","), args.kernel_size.split(","), args.padding.split(",")))
    trials, compile_seconds, train_seconds = [], 0.0, 0.0
    for cell in cells if args.net == "chapter" else [()]:
        model = CNN(int(cell[0]), int(cell[1]), cell[2], classes) if cell else ResNet20(classes)
        adam, init = optax.adam(1e-3), jax.jit(functools.partial(model.init, train=False))
        for seed in range(args.seeds):
            variables = init(jax.random.key(seed), x_NHWC[:1])
            params, batch_stats = variables["params"], variables.get("batch_stats", {})
            state = State.create(apply_fn=model.apply, params=params, tx=adam, batch_stats=batch_stats)
            order = np.random.default_rng(seed)
            for epoch in range(args.epochs):
                rows, began = order.permutation(held_out), time.perf_counter()
                for i in range(0, held_out, args.batch_size):
                    batch = rows[i : i + args.batch_size]
                    state = train_step(state, x_NHWC[batch], y_N[batch])
                    if i == 0 and epoch == 0:
                        jax.block_until_ready(state)
                        compile_seconds += time.perf_counter() - began
                        began = time.perf_counter()
                jax.block_until_ready(state)
                train_seconds += time.perf_counter() - began
            validation, test = accuracy(state, *held), accuracy(state, images["test"], labels["test"])
            trials.append({"cell": cell, "seed": seed, "val_accuracy": validation, "test_accuracy": test})
    found = {"trials": trials, "compile_seconds": compile_seconds, "train_seconds": train_seconds}
    device = jax.devices()[0]
    if device.platform != "cpu":
        products = jax.config.jax_default_matmul_precision or "default"
        found |= {"device_memory": device.memory_stats()["peak_bytes_in_use"], "products": products}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
