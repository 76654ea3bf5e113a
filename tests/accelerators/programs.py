"""Programs of trials, traced without data and compiled for devices that are not in this machine."""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Sharding, SingleDeviceSharding

from cnn_jax.description import describe
from cnn_jax.execution.queue import Queue
from cnn_jax.execution.scheduler import MOST_LANES
from cnn_jax.execution.worker import LANE_BYTES
from cnn_jax.sweep.plan import Plan
from cnn_jax.training.device_data import DeviceData
from cnn_jax.training.program import trace_program
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

_ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # versions of libraries that only a GPU needs
    "CUDA_VISIBLE_DEVICES": "-1",
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two test processes; no device is opened
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Platform of the lowering, and the topology's description.
TARGETS: dict[str, tuple[str, dict[str, str]]] = {
    "h100": ("cuda", {"target_config": Path(__file__).with_name("h100.textproto").read_text(), "topology": "1x1x1"}),
    "v5e": ("tpu", {"topology_name": "v5e:2x2"}),
}

# Image shape, training images and model of each representative network.
NETS: dict[str, tuple[tuple[int, ...], int, ModelConfig]] = {
    "chapter": ((28, 28, 1), 54_000, ModelConfig("cnn", filters=(32,))),
    "simple_convnet": ((28, 28, 1), 54_000, ModelConfig("simple_convnet")),
    "lenet5": ((28, 28, 1), 54_000, ModelConfig("lenet5")),
    "resnet20": ((32, 32, 3), 45_000, ModelConfig("resnet20")),
}


def lanes(net: str, target: str) -> int:
    """Return the lanes of a program on one device of `target`, for a sweep of many seeds of one of NETS."""
    shape, _, model = NETS[net]
    trials = [Trial(model, DataConfig("mnist"), TrainConfig(batch_size=128), seed) for seed in range(MOST_LANES)]
    lane_bytes = Plan((), {}, {(model, trials[0].data): describe(model, shape, 10)}).lane_bytes
    queue = Queue(trials, trials, lambda _: 1.0, MOST_LANES, lane_bytes)
    queue.spread(1, 1, LANE_BYTES.get(TARGETS[target][0]))
    task = queue.next(None)
    assert task
    return task.lanes


@functools.cache
def device(target: str) -> Sharding:
    """Return one device of `target`, for arrays to be placed on."""
    os.environ.update(_ENVIRONMENT)
    platform, settings = TARGETS[target]
    return SingleDeviceSharding(topologies.get_topology_desc(platform=platform, **settings).devices[0])


def shapes(shape: tuple[int, ...], classes: int, examples: int, sharding: Sharding | None = None) -> DeviceData:
    """Return a data set without arrays; a tenth of its images more to validate on, and a tenth to test on."""

    def array(*size: int, dtype: Any = np.uint8) -> Any:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    tenth = examples // 10
    train = array(examples, *shape), array(examples, dtype=np.int32)
    evaluated = array(2 * tenth, *shape), array(2 * tenth, dtype=np.int32)
    return DeviceData(*train, *evaluated, tenth, shape, classes, np.zeros(2 * tenth, np.int32))


def compiled(net: str, lanes: int, precision: str, target: str) -> jax.stages.Compiled:
    """Compile the training program of one of NETS, by Adam in batches of 128, for one device of `target`."""
    shape, examples, model = NETS[net]
    train = TrainConfig(batch_size=128, epochs=1, precision=precision)
    traced = trace_program(Trial(model, DataConfig("mnist"), train), lanes, shapes(shape, 10, examples, device(target)))
    return traced.train.lower(lowering_platforms=(TARGETS[target][0],)).compile()
