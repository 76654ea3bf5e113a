"""Steps of cnn_jax's training program by number of lanes (trials trained together), in one variant. Images are random.

Each variant has a separate process: memory is measured as the peak of the process, so lanes ascend.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import numpy as np

from benchmarks.contenders import NETS, training_flops
from benchmarks.gpu import roofline
from benchmarks.gpu.ceilings import median
from benchmarks.gpu.report import Row
from benchmarks.gpu.settings import BATCH, Request
from cnn_jax.data import Dataset, DatasetInfo
from cnn_jax.description import describe
from cnn_jax.execution.backends import local
from cnn_jax.ops import conv as ops
from cnn_jax.training import program as programs
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.loop import epoch_order, over_lanes
from cnn_jax.training.position import start
from cnn_jax.training.step import train_step
from cnn_jax.trial import PRECISIONS, DataConfig, ModelConfig, TrainConfig, Trial

CLASSES = 10
_MODELS = {
    "lanes": (ModelConfig("cnn", filters=(32,)), (28, 28, 1)),
    "deep_lanes": (ModelConfig(NETS["resnet20"].model), (32, 32, 3)),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """Variant of a program: the precision of its trials, and a context for tracing."""

    precision: str = "float32"
    within: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext


VARIANTS = {
    "float32": Variant(),
    "bfloat16": Variant("bfloat16"),
    "plain_convolutions": Variant(within=lambda: ops.at_most("lax")),
    "unknown_length": Variant(within=lambda: mock.patch.dict(programs.LOOP_UNIT, clear=True)),
}
SLOW_ON_CPU = (("deep_lanes", "bfloat16"), ("deep_lanes", "plain_convolutions"))  # to compile


def run(request: Request, net: str, variant: str) -> Iterator[Row]:
    """Yield a row per number of lanes. After a failure, such as out of memory, the others still run."""
    if request.settings.smoke and (net, variant) in SLOW_ON_CPU:
        yield Row(what=variant.replace("_", " "), status="skipped", note="one variant of a deep network in a smoke test")
        return
    os.environ["XLA_FLAGS"] = local.environment(1)["XLA_FLAGS"]  # as for a worker; read when JAX initializes devices
    sizes = request.settings.sizes
    whole = {"lanes": sizes.lanes, "deep_lanes": sizes.deep_lanes}[net]
    for lanes in whole if variant in PRECISIONS else sizes.few_lanes:
        what = variant.replace("_", " ")
        if request.left < 5:
            yield Row(what=what, lanes=lanes, status="no time", note="the part's share of the budget is used up")
            continue
        try:
            yield measure(request, net, what, VARIANTS[variant], lanes)
        except Exception as error:
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Row(what=what, lanes=lanes, status="failed", note=note[:300])


def measure(request: Request, net: str, what: str, variant: Variant, lanes: int) -> Row:
    """Compile the program of one network with `lanes` lanes, and time its steps."""
    settings = request.settings
    model, shape = _MODELS[net]
    train = TrainConfig(batch_size=BATCH, epochs=1, precision=variant.precision)
    trials = [Trial(model, DataConfig("random"), train, seed) for seed in range(lanes)]
    data = DeviceData.put(random_images(shape, settings.sizes.step_images))
    with variant.within():
        program = programs.compile_program(trials[0], lanes, data)
        nbytes = step_bytes(program, trials[0], lanes, data)
    steps = settings.sizes.step_images // BATCH
    seconds = median(epochs(program, trials, data, steps), settings.sizes.repeats) / steps
    flops = training_flops(describe(model, shape, CLASSES)) * BATCH * lanes
    products = settings.products if variant.precision == "float32" else variant.precision
    stats = jax.devices()[0].memory_stats()
    return Row(
        what=what,
        precision=products,
        lanes=lanes,
        compile_seconds=program.compile_seconds,
        images_per_second=BATCH * lanes / seconds,
        step_microseconds=seconds * 1e6,
        trial_microseconds=seconds / lanes * 1e6,
        tflops=flops / seconds / 1e12,
        gigabytes=nbytes / seconds / 1e9 if nbytes else None,
        roofline=roofline.share(seconds, flops, products, nbytes, request.ceilings),
        device_megabytes=stats["peak_bytes_in_use"] / 1e6 if stats else None,
    )


def random_images(shape: tuple[int, int, int], count: int) -> Dataset:
    """Create `count` training images, and a batch each of validation and test images."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, CLASSES, count, np.int32)

    info = DatasetInfo("random", shape, CLASSES, count, BATCH, tuple(map(str, range(CLASSES))), BATCH)
    return Dataset(info, *drawn(count), *drawn(BATCH), *drawn(BATCH), np.arange(count), np.arange(BATCH), "")


def epochs(program: programs.Program, trials: list[Trial], data: DeviceData, steps: int) -> Callable[[], jax.Array]:
    """Return a function that trains an epoch with all data on the device; its result is ready at the end of the epoch."""
    position = start(program, trials, data)
    orders = np.stack([epoch_order(trial.seed, 0, len(data.train_labels), BATCH) for trial in trials])
    carry = jax.device_put((position.state, position.sums_T2S))
    hyper, order, bounds = jax.device_put((programs.hyper_of(trials), orders, (np.int32(0), np.int32(steps))))

    def epoch() -> jax.Array:
        nonlocal carry
        state, sums = carry
        carry = program.train(state, hyper, sums, data.train_images, data.train_labels, order, *bounds)
        return carry[1]

    return epoch


def step_bytes(program: programs.Program, trial: Trial, lanes: int, data: DeviceData) -> float | None:
    """Return XLA's count of bytes for one step of all lanes, compiled separately; None if XLA has no count."""

    def step(state, hyper, images, labels, count):  # type: ignore[no-untyped-def]
        return train_step(program.model, program.setup, state, hyper, images, labels, count, data.normalization)

    like = jax.ShapeDtypeStruct
    state = jax.tree.map(lambda leaf: like(leaf.shape, leaf.dtype), start(program, [trial] * lanes, data).state)
    images, labels = like((lanes, BATCH, *data.input_shape), np.uint8), like((lanes, BATCH), np.int32)
    alone = jax.jit(over_lanes(step, lanes, (0, 0, 0, 0, None)))
    found = alone.lower(state, programs.hyper_of([trial] * lanes), images, labels, like((), np.int32)).compile().cost_analysis()
    costs = found[0] if isinstance(found, list) else found  # by version of JAX
    return (costs or {}).get("bytes accessed")
