"""One compiled program for cells of different shape: savings in compilation and cost in running.

    python -m benchmarks.one_program [--images=12800] [--seeds=3] [--lanes]

The cells are the chapter's sweep: filters 8,16,32 x kernel 3,5 x same,valid on 28x28x1. `own` is a separate program for each.
`one` is a program for the largest, with the cell as data: the kernel is embedded in a larger one and masked, padding is a table
of pixel indices (for any mode), and the pooled image is masked to the size of the cell. With --lanes, vmap trains all trials
together in this program, for accelerators. Both start from the same values; the last column is the difference of their losses
after the same steps.
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.nn.padding import resolve_pads
from cnn_jax.ops.conv import conv_max_pool, dense, implementation
from cnn_jax.training.loss import cross_entropy_of_labels as cross_entropy
from cnn_jax.training.optimizer import optimizer
from cnn_jax.training.step import as_floats

SIZE, CLASSES, BATCH, TURNS = 28, 10, 128, 3
HYPER = {"learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.0}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of the sweep: one shape of the chapter's net."""

    filters: int
    kernel_size: int
    padding: str

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros before and after the image, on each axis."""
        return resolve_pads((SIZE,), self.kernel_size, 1, 1, self.padding)[0]

    @property
    def pooled(self) -> int:
        """Rows and columns after the pool."""
        return (SIZE + sum(self.pads) - self.kernel_size + 1) // 2


CELLS = [Cell(*values) for values in itertools.product((8, 16, 32), (3, 5), ("same", "valid"))]
LARGEST = Cell(32, 5, "same")


def initial(cell: Cell, seed: int) -> dict[str, np.ndarray]:
    """Draw He's values for the convolution, Glorot's for the dense layer: kernel (K, K, 1, F), weights (P, P, F, classes)."""
    rng = np.random.default_rng(seed)
    k, p, f = cell.kernel_size, cell.pooled, cell.filters
    wide, narrow = np.sqrt(6 / k**2), np.sqrt(6 / (p * p * f + CLASSES))
    return {
        "kernel": rng.uniform(-wide, wide, (k, k, 1, f)).astype(np.float32),
        "bias": np.zeros(f, np.float32),
        "weights": rng.uniform(-narrow, narrow, (p, p, f, CLASSES)).astype(np.float32),
        "last_bias": np.zeros(CLASSES, np.float32),
    }


def embedded(cell: Cell, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embed a cell's parameters in a corner of those of the largest cell, with zeros elsewhere."""
    shapes = {name: value.shape for name, value in initial(LARGEST, 0).items()}
    return {
        name: np.pad(value, [(0, whole - part) for whole, part in zip(shapes[name], value.shape, strict=True)])
        for name, value in params.items()
    }


def as_data(cell: Cell) -> dict[str, np.ndarray]:
    """Return the data that select a cell in the shared program: masks, and the pixel index of each padded position."""
    positions = np.arange(SIZE + LARGEST.kernel_size - 1) - cell.pads[0]
    kernel = np.zeros(initial(LARGEST, 0)["kernel"].shape, np.float32)
    kernel[: cell.kernel_size, : cell.kernel_size, :, : cell.filters] = 1
    pooled = np.zeros((LARGEST.pooled, LARGEST.pooled, 1), np.float32)
    pooled[: cell.pooled, : cell.pooled] = 1
    # SIZE is the index of the zero appended to the pixels.
    table = np.where((positions >= 0) & (positions < SIZE), positions, SIZE).astype(np.int32)
    return {"kernel": kernel, "pooled": pooled, "table": table}


def logits(params: Any, x: jax.Array, pads: tuple[int, int], data: dict[str, jax.Array] | None) -> jax.Array:
    """Compute the chapter's net; with `data`, the cell that it selects."""
    kernel = params["kernel"]
    if data is not None:
        kernel, pads = kernel * data["kernel"], (0, 0)
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, data["table"]][:, :, data["table"]]
    how = {"strides": (1, 1), "dilation": (1, 1), "groups": 1, "zeros": (pads, pads)}
    y = conv_max_pool(x, kernel, params["bias"], **how, activation=jax.nn.relu, window=(2, 2))
    if y is None:  # not on this backend
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), (pads, pads), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        y = jax.nn.relu(y + params["bias"][None, None, None])
    if data is not None:
        y = y * data["pooled"][None]
    return dense(y.reshape(len(y), -1), params["weights"].reshape(-1, CLASSES), params["last_bias"])


@dataclasses.dataclass(frozen=True)
class Run:
    """Seconds to trace and compile and to run a program of training steps, and the last loss of each trial."""

    compile_seconds: float
    seconds: float
    losses: np.ndarray


def measure(cell: Cell, params: Any, data: Any, images: np.ndarray, labels: np.ndarray, *, lanes: bool) -> Run:
    """Compile and time one pass over the images; with `lanes`, params and data have a leading trial axis."""
    rule = optimizer("adam", HYPER)

    def run(params, state, data, images, labels):  # type: ignore[no-untyped-def]
        def step(carry, batch):  # type: ignore[no-untyped-def]
            params, state = carry
            x, y = batch

            def loss(params):  # type: ignore[no-untyped-def]
                return cross_entropy(logits(params, as_floats(x), cell.pads, data), y).mean()

            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = rule.update(gradients, state, params)
            return (jax.tree.map(jnp.add, params, updates), state), value

        return jax.lax.scan(step, (params, state), (images, labels))[1][-1]

    state = rule.init(jax.tree.map(lambda leaf: leaf[0], params) if lanes else params)
    if lanes:
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(params["bias"])), state)
        run = jax.vmap(run, in_axes=(0, 0, 0, None, None))
    arguments = jax.device_put((params, state, data, images, labels))
    began = time.perf_counter()
    options = {"xla_cpu_use_fusion_emitters": False} if jax.default_backend() == "cpu" else {}  # as for a short training
    program = jax.jit(run).lower(*arguments).compile(compiler_options=options)
    compiled, seconds = time.perf_counter(), float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        losses = np.asarray(jax.block_until_ready(program(*arguments)))
        seconds = min(seconds, time.perf_counter() - start)
    return Run(compiled - began, seconds, np.atleast_1d(losses))


def both_ways(count: int, seeds: int, *, lanes: bool) -> tuple[list[Run], list[Run]]:
    """Run every cell with its own program, and with the shared one, which has compile seconds only in its first run.

    count: training images per trial. With `lanes`, seconds are divided by the number of trials.
    """
    rng, steps = np.random.default_rng(0), count // BATCH
    images = rng.integers(0, 256, (steps, BATCH, SIZE, SIZE, 1), np.uint8)
    labels = rng.integers(0, CLASSES, (steps, BATCH)).astype(np.int32)
    own = [measure(cell, initial(cell, 0), None, images, labels, lanes=False) for cell in CELLS]
    if lanes:
        trials = [(cell, seed) for cell in CELLS for seed in range(seeds)]
        params, data = (
            jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
            for trees in zip(*((embedded(cell, initial(cell, seed)), as_data(cell)) for cell, seed in trials), strict=True)
        )
        run = measure(LARGEST, params, data, images, labels, lanes=True)
        one = [Run(run.compile_seconds, run.seconds / len(trials), losses[None]) for losses in run.losses[::seeds]]
    else:
        one = [measure(LARGEST, embedded(c, initial(c, 0)), as_data(c), images, labels, lanes=False) for c in CELLS]
    return own, [one[0], *(dataclasses.replace(run, compile_seconds=0.0) for run in one[1:])]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row per cell, and the total times of a sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_800, help="training images per timed trial")
    parser.add_argument("--seeds", type=int, default=3, help="trials per cell, with the same program")
    parser.add_argument("--lanes", action="store_true", help="train all trials of the shared program together")
    args = parser.parse_args(argv)
    if args.images < BATCH or args.seeds < 1:
        parser.error(f"--images must be at least {BATCH}, --seeds at least 1")
    implementation()  # compile the C of convolutions if necessary: once per machine, not per program
    count = args.images // BATCH * BATCH
    own, one = both_ways(count, args.seeds, lanes=args.lanes)

    print(f"{jax.devices()[0].device_kind}: {count:,} images a trial, batches of {BATCH}; us: of an image's training\n")
    titles = ("filters", "kernel", "padding", "own us", "one us", "own compile s", "losses differ by")
    print("  ".join(f"{title:>7s}" for title in titles))
    for cell, mine, shared in zip(CELLS, own, one, strict=True):
        apart = abs(float(mine.losses[0]) / float(shared.losses[0]) - 1)
        times = f"{mine.seconds / count * 1e6:7.1f}  {shared.seconds / count * 1e6:7.1f}  {mine.compile_seconds:13.2f}"
        print(f"{cell.filters:7d}  {cell.kernel_size:7d}  {cell.padding:>7s}  {times}  {apart:16.0e}")
    compiling, running = (
        [sum(getattr(run, what) for run in runs) for runs in (own, one)] for what in ("compile_seconds", "seconds")
    )
    running = [args.seeds * seconds for seconds in running]
    print(f"\n{len(CELLS) * args.seeds} trials: own programs compile {compiling[0]:.1f} s and run {running[0]:.1f} s;", end=" ")
    print(f"the one compiles {compiling[1]:.1f} s and runs {running[1]:.1f} s")
    if running[1] > running[0]:
        even = count * (compiling[0] - compiling[1]) / (running[1] - running[0])
        print(f"the one is faster up to {even:,.0f} images a trial")
    else:
        print("the one is faster")


if __name__ == "__main__":
    main()
