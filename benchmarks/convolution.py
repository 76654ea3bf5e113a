"""Training steps per second of small convnets on one core, by implementation of convolution and max-pool.

    python -m benchmarks.convolution [NET ...] [IMPLEMENTATION ...]        names of `NETS` and `IMPLEMENTATIONS`; none: all

All implementations are compiled first; then they run in turns, and the best time of each is printed, with its ratio to the
first. Processor time is measured, which is less sensitive to other load. XLA_FLAGS are taken from the environment, and the core
from the affinity; the defaults are those of a worker.
"""

import os
import sys
import time

if __name__ == "__main__":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # determines XLA's thread pool: before JAX is imported

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnn_jax.ops.conv import at_most, conv_max_pool, conv_valid, dense

BATCH, STEPS, TURNS = 128, 8, 4
POOL = 0  # a layer is (filters, kernel size, stride, padded) or POOL: a window of 2; a dense layer to 10 classes ends the net
NETS = {
    "chapter 3x3/32": ((28, 28, 1), [(32, 3, 1, False), POOL]),
    "chapter 5x5/32 same": ((28, 28, 1), [(32, 5, 1, True), POOL]),
    "chapter 3x3/8": ((28, 28, 1), [(8, 3, 1, False), POOL]),
    "LeNet": ((28, 28, 1), [(6, 5, 1, True), POOL, (16, 5, 1, False), POOL]),
    "simple_convnet": ((28, 28, 1), [(32, 3, 1, False), POOL, (64, 3, 1, False), POOL]),
    "VGG": ((32, 32, 3), [layer for f in (32, 64, 128) for layer in ((f, 3, 1, True), (f, 3, 1, True), POOL)]),
    "ResNet-20 without shortcuts": (
        (32, 32, 3),
        [(16, 3, 1, True)] * 7 + [(32, 3, 2, True)] + [(32, 3, 1, True)] * 5 + [(64, 3, 2, True)] + [(64, 3, 1, True)] * 5,
    ),
}


def lax_conv(x, kernel, strides, zeros):
    return lax.conv_general_dilated(x, kernel, strides, zeros, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def our_conv(x, kernel, strides, zeros):
    return conv_valid(x, kernel, strides=strides, dilation=(1, 1), groups=1, zeros=zeros)


def reduce_window(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def maximum_of_slices(x):
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    a, b, c, d = (x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def one_by_one(conv, pool):
    def layer(x, kernel, bias, strides, zeros, pooled):
        y = jax.nn.relu(conv(x, kernel, strides, zeros) + bias)
        return pool(y) if pooled else y

    return layer


def at_once(x, kernel, bias, strides, zeros, pooled):
    how = {"strides": strides, "dilation": (1, 1), "groups": 1, "zeros": zeros}
    y = conv_max_pool(x, kernel, bias, **how, activation=jax.nn.relu, window=(2, 2)) if pooled else None
    if y is not None:
        return y
    y = conv_valid(x, kernel, bias, **how, relu=True)
    return maximum_of_slices(y) if pooled else y


# Function of a layer, fallback implementation of `ops.conv`, and the dense layer.
IMPLEMENTATIONS = {
    "lax": (one_by_one(lax_conv, reduce_window), "lax", lambda x, k, b: x @ k + b),
    "lax, slices": (one_by_one(lax_conv, maximum_of_slices), "lax", lambda x, k, b: x @ k + b),
    "xla, apart": (one_by_one(our_conv, maximum_of_slices), "xla", lambda x, k, b: x @ k + b),
    "xla": (at_once, "xla", dense),
    "native": (at_once, "native", dense),
}


def logits(params, x, layers, implementation):
    do, by, last = implementation
    kernels = iter(params)
    with at_most(by):
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if layer == POOL:
                continue
            _, size, stride, padded = layer
            zeros = [(size // 2, size // 2) if padded else (0, 0)] * 2
            x = do(x, *next(kernels), (stride, stride), zeros, following == POOL)
        return last(x.reshape(len(x), -1), *next(kernels))


def initial(shape, layers, rng):
    size, channels = shape[0], shape[-1]
    params = []
    for layer in layers:
        if layer == POOL:
            size //= 2
            continue
        filters, k, stride, padded = layer
        size = (size - (0 if padded else k - 1) - 1) // stride + 1
        scale = (2 / (k * k * channels)) ** 0.5
        params.append((rng.normal(0, scale, (k, k, channels, filters)).astype(np.float32), np.zeros(filters, np.float32)))
        channels = filters
    head = rng.normal(0, 0.01, (size * size * channels, 10)).astype(np.float32)
    return [*params, (head, np.zeros(10, np.float32))]


def compiled(net, implementation):
    """Return a program of STEPS training steps, its arguments, and the seconds of tracing and compilation."""
    shape, layers = net
    rng = np.random.default_rng(0)
    optimizer = optax.flatten(optax.adam(1e-3))
    params = initial(shape, layers, rng)
    images = rng.integers(0, 256, (4 * BATCH, *shape), np.uint8)
    labels = rng.integers(0, 10, 4 * BATCH).astype(np.int32)
    order = rng.integers(0, 4 * BATCH, (STEPS, BATCH)).astype(np.int32)

    def train(params, state, images, labels, order):
        def step(carry, chosen):
            params, state = carry
            x = images[chosen].astype(jnp.float32) * (1 / 255)

            def loss(params):
                answers = logits(params, x, layers, implementation)
                return optax.softmax_cross_entropy_with_integer_labels(answers, labels[chosen]).mean()

            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        return lax.scan(step, (params, state), order)

    arguments = jax.device_put((params, optimizer.init(params), images, labels, order))
    start = time.process_time()
    program = jax.jit(train).lower(*arguments).compile()
    return program, arguments, time.process_time() - start


def main(names):
    nets = [name for name in names if name in NETS] or list(NETS)
    implementations = [name for name in names if name in IMPLEMENTATIONS] or list(IMPLEMENTATIONS)
    if unknown := set(names) - set(nets) - set(implementations):
        sys.exit(f"unknown: {', '.join(unknown)}; nets: {', '.join(NETS)}; implementations: {', '.join(IMPLEMENTATIONS)}")
    print(f"{'':28s}{'':16s}{'images/s':>10s}{'ratio':>8s}{'compile s':>11s}")
    for name in nets:
        programs = {implementation: compiled(NETS[name], IMPLEMENTATIONS[implementation]) for implementation in implementations}
        seconds = dict.fromkeys(programs, float("inf"))
        for _ in range(TURNS):
            for implementation, (program, arguments, _) in programs.items():
                start = time.process_time()
                jax.block_until_ready(program(*arguments))
                seconds[implementation] = min(seconds[implementation], time.process_time() - start)
        first = seconds[next(iter(programs))]
        for implementation, (_, _, compile_seconds) in programs.items():
            rate = BATCH * STEPS / seconds[implementation]
            print(
                f"{name:28s}{implementation:16s}{rate:10,.0f}{first / seconds[implementation]:8.1f}{compile_seconds:11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
