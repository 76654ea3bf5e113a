"""Time per image of every augmentation, and of alternative implementations of shifts, in a loop on the device.

    taskset -c 0 python -m benchmarks.augmentation [--size=28] [--channels=1]

B batch size, H, W, C height, width, channels.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.recipes.names import AUGMENTATIONS
from cnn_jax.training import augment

BATCH, STEPS, ROUNDS = 128, 200, 3
PIXELS = 2  # maximum shift

Way = Callable[[jax.Array, jax.Array], jax.Array]


def corners(key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (BATCH, 2), 0, 2 * PIXELS + 1)


def padded(x_BHWC: jax.Array) -> jax.Array:
    return jnp.pad(x_BHWC, ((0, 0), (PIXELS, PIXELS), (PIXELS, PIXELS), (0, 0)))


def by_selects(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Shift by selecting among all shifts, per axis."""
    corner_B2, x = corners(key), padded(x_BHWC)
    for axis, size in ((1, x_BHWC.shape[1]), (2, x_BHWC.shape[2])):
        at = corner_B2[:, axis - 1, None, None, None]
        slices = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(2 * PIXELS + 1)]
        x = sum(jnp.where(at == i, part, 0) for i, part in enumerate(slices))
    return x


def by_products(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Shift by products with shifted unit matrices."""
    corner_B2 = corners(key) - PIXELS

    def moved(size: int, axis: int) -> jax.Array:
        position = jnp.arange(size)
        return (position[None, :, None] + corner_B2[:, axis, None, None] == position).astype(x_BHWC.dtype)

    rows, columns = moved(x_BHWC.shape[1], 0), moved(x_BHWC.shape[2], 1)
    return jnp.einsum("bik,bkjc,blj->bilc", rows, x_BHWC, columns)


def by_gather(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Shift by one gather of single pixels."""
    (batch, height, width, channels), corner_B2 = x_BHWC.shape, corners(key)
    rows = jnp.arange(height) + corner_B2[:, :1]
    columns = jnp.arange(width) + corner_B2[:, 1:]
    pixel = rows[:, :, None] * (width + 2 * PIXELS) + columns[:, None, :]
    index = (pixel[..., None] * channels + jnp.arange(channels)).reshape(batch, -1)
    flat = padded(x_BHWC).reshape(batch, -1)
    return jnp.take_along_axis(flat, index, 1, mode="promise_in_bounds").reshape(x_BHWC.shape)


def built_in(name: str, amount: float | None) -> Way:
    rest = () if amount is None else (amount,)
    targets = jnp.zeros((BATCH, 10))
    return lambda key, x_BHWC: augment.BY_NAME[name](key, x_BHWC, targets, *rest)[0]


def measure(way: Way, x_BHWC: jax.Array) -> tuple[float, float]:
    """Measure compile time in seconds, and microseconds per image of the best round."""

    def loop(x_BHWC: jax.Array) -> jax.Array:
        def step(i: jax.Array, total: jax.Array) -> jax.Array:
            return total + way(jax.random.fold_in(jax.random.key(0), i), x_BHWC).sum()

        return jax.lax.fori_loop(0, STEPS, step, jnp.float32(0))

    began = time.perf_counter()
    compiled = jax.jit(loop).lower(x_BHWC).compile()
    compile_seconds = time.perf_counter() - began
    compiled(x_BHWC).block_until_ready()
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        compiled(x_BHWC).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return compile_seconds, best / STEPS / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    args = parser.parse_args()
    x_BHWC = jnp.asarray(np.random.default_rng(0).random((BATCH, args.size, args.size, args.channels)), jnp.float32)
    ways: dict[str, Way] = {"nothing": lambda _, x_BHWC: x_BHWC}
    ways |= {name: built_in(name, amount) for name, amount in AUGMENTATIONS.items()}
    ways |= {"shift by selects": by_selects, "shift by products": by_products, "shift by one gather": by_gather}
    for name, way in ways.items():
        compile_seconds, microseconds = measure(way, x_BHWC)
        print(f"{name:20s} {microseconds:8.2f} us per image   compiled in {compile_seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
