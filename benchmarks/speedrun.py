"""Time to train a CIFAR-10 network to 94 %, after the ideas of airbench94 (Jordan 2024, arXiv 2404.00498), in JAX.

    python -m benchmarks.speedrun --dataset=cifar10 --runs=5

From the paper: a first 2x2 convolution fixed to the whitening of the training patches, three groups of two convolutions that
begin as the identity, label smoothing, Nesterov's momentum under a triangular learning rate, translations by two pixels, flips
that alternate between epochs, and test images judged mirrored too. Left out: Lookahead, and the biases' larger learning rate.
The clock runs from images on the device to trained parameters; compiling is timed apart, by a run that is thrown away.
Convolutions are computed in bfloat16 on an accelerator, in float32 on CPU. Nothing here has been measured on a GPU yet.

N images, B of a batch, H, W, C height, width, channels, K classes, S steps.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import data
from cnn_jax.errors import UsageError
from cnn_jax.trial import DataConfig

MOMENTUM, SMOOTHING, SHIFT = 0.85, 0.2, 2
LEARNING_RATE, WEIGHT_DECAY = 0.1, 0.0005  # SGD on the mean loss of a batch


def identity_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The first filters hand their inputs through, the others are random."""
    random = nn.initializers.he_uniform()(key, shape, dtype)
    passed = min(shape[2:])
    kernel = jnp.zeros((*shape[:2], shape[2], passed), dtype).at[shape[0] // 2, shape[1] // 2, :passed].set(jnp.eye(passed))
    return random.at[..., :passed].set(kernel)


class Net(nn.Module):
    """Whitened patches (N, H, W, 24) -> logits (N, K)."""

    widths: tuple[int, ...]
    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.6, use_scale=False, dtype=self.dtype)
        for width in self.widths:
            conv = partial(nn.Conv, width, (3, 3), use_bias=False, kernel_init=identity_init, dtype=self.dtype)
            x = nn.gelu(norm()(nn.max_pool(conv()(x), (2, 2), (2, 2))))
            x = nn.gelu(norm()(conv()(x)))
        return nn.Dense(self.classes, use_bias=False, dtype=jnp.float32)(x.max((1, 2))) / 9


def whitening(x_NHWC: np.ndarray) -> np.ndarray:
    """(2, 2, C, 8 C) kernel: the principal axes of 2x2 patches, scaled to unit variance, and their negatives."""
    patches = np.lib.stride_tricks.sliding_window_view(x_NHWC[:2000], (2, 2), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    values, vectors = np.linalg.eigh(np.cov(patches.reshape(-1, 4 * x_NHWC.shape[3]), rowvar=False))
    kernel = (vectors / np.sqrt(values + 5e-4)).reshape(2, 2, x_NHWC.shape[3], -1)
    return np.concatenate([kernel, -kernel], -1).astype(np.float32)


@partial(jax.jit, static_argnames=("net", "epochs", "batch"))
def train(net: Net, key: jax.Array, x_NHWC: jax.Array, y_N: jax.Array, kernel: jax.Array, epochs: int, batch: int) -> Any:
    """The variables after `epochs` passes; one program from the first step to the last."""
    steps = len(y_N) // batch
    rate = optax.linear_schedule(0.2 * LEARNING_RATE, LEARNING_RATE, max(1, epochs * steps // 5))
    fall = optax.linear_schedule(LEARNING_RATE, 0.07 * LEARNING_RATE, max(1, epochs * steps - epochs * steps // 5))
    schedule = optax.join_schedules([rate, fall], [max(1, epochs * steps // 5)])
    rule = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(schedule, MOMENTUM, nesterov=True))
    key, start = jax.random.split(key)
    variables = net.init(start, whiten(x_NHWC[:2], kernel, net.dtype), train=False)
    mirrored_N = jax.random.bernoulli(key, shape=y_N.shape)

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        params, stats, state = carry
        rows_B, shift_B2, flip_B = inputs
        x_BHWC = augment(x_NHWC[rows_B], shift_B2, flip_B)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            logits, changed = net.apply(variables, whiten(x_BHWC, kernel, net.dtype), train=True, mutable=["batch_stats"])
            target = optax.smooth_labels(jax.nn.one_hot(y_N[rows_B], net.classes), SMOOTHING)
            return optax.softmax_cross_entropy(logits, target).mean(), changed["batch_stats"]

        gradients, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = rule.update(gradients, state, params)
        return (optax.apply_updates(params, updates), stats, state), None

    def epoch(carry: Any, number: jax.Array) -> tuple[Any, None]:
        order, shifts = jax.random.split(jax.random.fold_in(key, number))
        rows_SB = jax.random.permutation(order, len(y_N))[: steps * batch].reshape(steps, batch)
        shift_SB2 = jax.random.randint(shifts, (steps, batch, 2), 0, 2 * SHIFT + 1)
        flip_SB = mirrored_N[rows_SB] ^ (number % 2 == 1)  # every other epoch an image is seen the other way round
        return jax.lax.scan(step, carry, (rows_SB, shift_SB2, flip_SB))

    begin = (variables["params"], variables["batch_stats"], rule.init(variables["params"]))
    (params, stats, _), _ = jax.lax.scan(epoch, begin, jnp.arange(epochs))
    return {"params": params, "batch_stats": stats}


def augment(x_BHWC: jax.Array, shift_B2: jax.Array, flip_B: jax.Array) -> jax.Array:
    """Images shifted by up to SHIFT pixels over reflected borders, and mirrored where `flip_B` says so."""
    size = x_BHWC.shape[1:]
    padded = jnp.pad(x_BHWC, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    moved = jax.vmap(lambda x, shift: jax.lax.dynamic_slice(x, (shift[0], shift[1], 0), size))(padded, shift_B2)
    return jnp.where(flip_B[:, None, None, None], moved[:, :, ::-1], moved)


def whiten(x_NHWC: jax.Array, kernel: jax.Array, dtype: Any) -> jax.Array:
    """The fixed first layer."""
    y = jax.lax.conv_general_dilated(
        x_NHWC.astype(dtype), kernel.astype(dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return nn.gelu(y)


@partial(jax.jit, static_argnames="net")
def right(net: Net, variables: Any, x_NHWC: jax.Array, y_N: jax.Array, kernel: jax.Array) -> jax.Array:
    """Right answers; the logits of an image and of its mirror image are added."""
    both = (x_NHWC, x_NHWC[:, :, ::-1])
    logits = sum(net.apply(variables, whiten(x, kernel, net.dtype), train=False) for x in both)
    return (jnp.argmax(logits, -1) == y_N).sum()


def main(argv: list[str] | None = None) -> None:
    """Trains `--runs` networks after one that is thrown away; prints seconds and accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", help="as for launch.py; colour images of 16x16 or more")
    parser.add_argument("--images", type=int, help="training images; default: all")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--widths", default="64,256,256", help="filters of the groups")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args(argv)
    try:
        images = data.load(DataConfig(args.dataset, validation_fraction=0.0, train_examples=args.images))
    except UsageError as error:
        sys.exit(f"error: {error}")
    if min(images.info.input_shape[:2]) < 16:
        sys.exit(f"error: --dataset={args.dataset}: images must be 16x16 or larger, not {images.info.input_shape}")
    if len(images.train_labels) < args.batch_size:
        sys.exit(f"error: --batch_size={args.batch_size}: must be 1 to {len(images.train_labels)}, the training images")
    mean, spread = images.train_images.mean((0, 1, 2)), images.train_images.std((0, 1, 2))
    x, u = ((a.astype(np.float32) - mean) / spread for a in (images.train_images, images.test_images))
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    net = Net(tuple(map(int, args.widths.split(","))), images.info.num_classes, dtype)
    x_NHWC, y_N, kernel = jax.device_put((x.astype(np.float32), images.train_labels, whitening(x)))
    seconds, accuracies = [], []
    for run in range(args.runs + 1):
        began = time.perf_counter()
        variables = jax.block_until_ready(train(net, jax.random.key(run), x_NHWC, y_N, kernel, args.epochs, args.batch_size))
        seconds.append(time.perf_counter() - began)
        pieces = [(u[i : i + 1000], images.test_labels[i : i + 1000]) for i in range(0, len(u), 1000)]
        accuracies.append(float(sum(right(net, variables, *piece, kernel) for piece in pieces)) / len(u))
    spread = f" (sd {statistics.stdev(accuracies[1:]):.4f})" if args.runs > 1 else ""
    print(f"{args.dataset}: {args.runs} runs of {args.epochs} epochs on {jax.devices()[0].device_kind}")
    print(f"test accuracy {statistics.fmean(accuracies[1:]):.4f}{spread} in {statistics.median(seconds[1:]):.2f} s,")
    print(f"and {seconds[0] - statistics.median(seconds[1:]):.1f} s to compile, once")


if __name__ == "__main__":
    main()
