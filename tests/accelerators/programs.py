"""Programs of trials traced for a device that is not here, and compiled for it."""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Sharding, SingleDeviceSharding

from cnn_jax.training.program import DeviceData, Traced, trace_program
from cnn_jax.trial import DataConfig, ModelConfig, TrainConfig, Trial

H100 = Path(__file__).with_name("h100.textproto")
TARGETS = {
    "h100": ("cuda", {"target_config": H100.read_text(), "topology": "1x1x1"}),
    "v5e": ("tpu", {"topology_name": "v5e:2x2"}),
}

# Shape, training images and model of each representative network. Enough images that a data set does not fit a cache.
NETS: dict[str, tuple[tuple[int, ...], int, ModelConfig]] = {
    "chapter": ((28, 28, 1), 54_000, ModelConfig("cnn", filters=(32,))),
    "simple_convnet": ((28, 28, 1), 54_000, ModelConfig("simple_convnet")),
    "lenet5": ((28, 28, 1), 54_000, ModelConfig("lenet5")),
    "resnet20": ((32, 32, 3), 45_000, ModelConfig("resnet20")),
}


@functools.cache
def device(target: str) -> Sharding:
    """One device of `target`, which need not be in this machine."""
    os.environ.update(JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1", CUDA_VISIBLE_DEVICES="-1", TPU_SKIP_MDS_QUERY="1")
    platform, settings = TARGETS[target]
    return SingleDeviceSharding(topologies.get_topology_desc(platform=platform, **settings).devices[0])


def shapes(shape: tuple[int, ...], classes: int, examples: int, sharding: Sharding | None = None) -> DeviceData:
    """A data set without arrays, a tenth of it to validate on and a tenth to test on."""

    def array(*size: int, dtype: Any = np.uint8) -> Any:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    tenth = examples // 10
    train = array(examples, *shape), array(examples, dtype=np.int32)
    evaluated = array(2 * tenth, *shape), array(2 * tenth, dtype=np.int32)
    return DeviceData(*train, *evaluated, tenth, shape, classes, np.zeros(2 * tenth, np.int32))


def traced(net: str, lanes: int, precision: str = "float32", sharding: Sharding | None = None) -> Traced:
    """The programs of one of NETS, batches of 128, Adam."""
    shape, examples, model = NETS[net]
    train = TrainConfig(batch_size=128, epochs=1, precision=precision)
    return trace_program(Trial(model, DataConfig("mnist"), train), lanes, shapes(shape, 10, examples, sharding))


def compiled(net: str, lanes: int, precision: str, target: str) -> jax.stages.Compiled:
    """The training program, compiled for one device of `target`."""
    program = traced(net, lanes, precision, device(target)).train
    return program.lower(lowering_platforms=(TARGETS[target][0],)).compile()


def available(target: str) -> str:
    """Why programs cannot be compiled for `target`; empty if they can."""
    with contextlib.suppress(StopIteration):
        try:
            device(target)
        except Exception as error:  # whatever a plugin raises
            return f"{type(error).__name__}: {error}"
    return ""
