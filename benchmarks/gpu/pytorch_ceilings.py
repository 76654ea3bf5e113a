"""Limits of the device, measured with PyTorch: products, which show the use of TF32, and launches, eager and in a graph."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.report import Row
from benchmarks.gpu.settings import Request


def run(request: Request) -> Iterator[Row]:
    """Measure products in float32, by the setting of TF32, and in bfloat16; launches."""
    settings, sizes = request.settings, request.settings.sizes
    device, n = "cpu" if settings.smoke else "cuda", request.settings.sizes.product
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    for name, dtype in ((settings.products, torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(n, n, device=device).to(dtype)
        seconds = _median(functools.partial(torch.matmul, a, a), sizes.repeats)
        tflops = 2 * n**3 / seconds / 1e12
        yield Row(what=f"matrix product, {n} x {n}", precision=name, step_microseconds=seconds * 1e6, tflops=tflops)

    z = torch.zeros((), device=device)

    def calls() -> None:
        for _ in range(sizes.launches):
            z.sin_()

    yield Row(what="eager kernel", step_microseconds=_median(calls, sizes.repeats) / sizes.launches * 1e6)
    what = "kernel of a CUDA graph"
    if settings.smoke:
        yield Row(what=what, status="skipped", note="needs a GPU")
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    yield Row(what=what, step_microseconds=_median(graph.replay, sizes.repeats) / sizes.launches * 1e6)


def _median(function: Callable[[], object], repeats: int) -> float:
    """Measure the median seconds of a call until the device has finished, after a warm-up call."""

    def once() -> float:
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    return statistics.median(once() for _ in range(repeats))
