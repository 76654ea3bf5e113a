"""Limits of the device, measured with JAX: matrix products, memory bandwidth, and launch rate of kernels."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.report import Row
from benchmarks.gpu.settings import Request


def run(request: Request) -> Iterator[Row]:
    """Measure ceilings; those of products by precision."""
    sizes, products = request.settings.sizes, request.settings.products
    n = sizes.product
    asked: list[tuple[str, Any, str | None]] = [(products, jnp.float32, None), ("bfloat16", jnp.bfloat16, None)]
    if products != "float32":
        asked.append(("float32", jnp.float32, "highest"))
    for name, dtype, precision in asked:
        a = jax.random.normal(jax.random.key(0), (n, n), dtype)
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        seconds = median(functools.partial(product, a, a), sizes.repeats)
        tflops = 2 * n**3 / seconds / 1e12
        yield Row(what=f"matrix product, {n} x {n}", precision=name, step_microseconds=seconds * 1e6, tflops=tflops)

    x = jnp.arange(sizes.stream, dtype=jnp.float32)
    scale = jax.jit(lambda x: x * 1.5)
    seconds = median(lambda: scale(x), sizes.repeats)
    moved = 2 * x.nbytes
    yield Row(what=f"copy of {x.nbytes / 1e6:,.0f} MB", step_microseconds=seconds * 1e6, gigabytes=moved / seconds / 1e9)

    z, count = jnp.zeros(()), sizes.launches
    sine = jax.jit(jnp.sin)

    def calls() -> jax.Array:
        y = z
        for _ in range(count):
            y = sine(y)
        return y

    known = jax.jit(lambda z: jax.lax.fori_loop(0, count, lambda _, y: jnp.sin(y), z))
    unknown = jax.jit(lambda z, count: jax.lax.fori_loop(0, count, lambda _, y: jnp.sin(y), z))
    for what, function in (
        ("call of a compiled function", calls),
        ("iteration of a loop of known length", lambda: known(z)),
        ("iteration of a loop of unknown length", lambda: unknown(z, count)),
    ):
        yield Row(what=what, step_microseconds=median(function, sizes.repeats) / count * 1e6)


def median(function: Callable[[], Any], repeats: int) -> float:
    """Measure the median seconds of a call of `function` until its result is ready, after a warm-up call."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
