"""Parts of `benchmarks.gpu` that do what real ones may do. Functions of a request, for parts' processes."""

import os
import signal
import sys
import time
from collections.abc import Iterator

from benchmarks.gpu.report import Row
from benchmarks.gpu.settings import Request


def good(request: Request) -> Iterator[Row]:
    print("what a library prints")
    yield Row(what="good", precision="TF32", tflops=2.5, images_per_second=12_345.6)
    yield Row(what="memory", gigabytes=3.0, roofline=0.5)
    yield Row(what="none", status="skipped", note="needs | a GPU")


def fails(request: Request) -> Iterator[Row]:
    yield Row(what="before", lanes=1)
    raise RuntimeError("out of ideas")


def dies(request: Request) -> Iterator[Row]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield Row(what="never")


def hangs(request: Request) -> Iterator[Row]:
    yield Row(what="before", lanes=1)
    time.sleep(120)


def ceilings_of_the_request(request: Request) -> Iterator[Row]:
    assert os.environ["JAX_DEFAULT_MATMUL_PRECISION"] == ("tensorfloat32" if request.settings.tf32 else "highest")
    assert "jax" not in sys.modules
    yield Row(what="told", tflops=request.ceilings.flops["TF32"] / 1e12, gigabytes=(request.ceilings.bandwidth or 0) / 1e9)
