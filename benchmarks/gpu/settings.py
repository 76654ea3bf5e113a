"""Sizes of all measurements, and arguments of a part's process. No JAX."""

import dataclasses
import json
import time
from collections.abc import Mapping

from benchmarks.contenders import CPU, NETS

BATCH = 128


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements.

    Attributes:
      product: rows of the square matrices of a product.
      stream: floats to copy.
      launches: consecutive kernel launches.
      repeats: timings of a ceiling or a step; the median is used.
      images: random training images of the races, including validation images, and test images.
      train_examples: training images used from a given data set; None: all.
      axes: axes of the chapter's sweep.
      seeds: seeds per cell of the chapter's sweep.
      many: seeds of one cell.
      many_peers: the same for peers, which train sequentially and need fewer; and for their warm run.
      epochs: epochs of the warm run.
      deep: seeds of ResNet-20, for cnn_jax and for the peers.
      step_images: training images of a program whose steps are timed.
      lanes: lanes of the chapter's network.
      deep_lanes: lanes of ResNet-20.
      few_lanes: lanes of variants other than precisions.
    """

    product: int = 8192
    stream: int = 1 << 28
    launches: int = 2000
    repeats: int = 5
    images: tuple[int, int] = (60_000, 10_000)
    train_examples: int | None = None
    axes: Mapping[str, str] = dataclasses.field(default_factory=lambda: NETS["chapter"].axes)
    seeds: int = 3
    many: int = 256
    many_peers: tuple[int, int] = (8, 2)
    epochs: int = 10
    deep: tuple[int, int] = (64, 2)
    step_images: int = 64 * BATCH
    lanes: tuple[int, ...] = (1, 4, 16, 64, 256)
    deep_lanes: tuple[int, ...] = (1, 4, 16, 64)
    few_lanes: tuple[int, ...] = (1, 16)


FULL = Sizes()
SMOKE = Sizes(
    product=256,
    stream=1 << 20,
    launches=20,
    repeats=2,
    images=(300, 100),
    train_examples=300,
    axes={"filters": "4", "kernel_size": "3", "padding": "valid"},
    seeds=1,
    many=3,
    many_peers=(1, 1),
    epochs=2,
    deep=(1, 1),
    step_images=2 * BATCH,
    lanes=(2,),
    deep_lanes=(1,),
    few_lanes=(2,),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings chosen by the caller.

    Attributes:
      smoke: tiny sizes, on CPU.
      tf32: whether all float32 products are in TF32; otherwise all are in float32.
      dataset: data set of the chapter's network, as in launch.py; 'random' for random images.
      colour_dataset: data set of ResNet-20, likewise.
    """

    smoke: bool = False
    tf32: bool = True
    dataset: str = "random"
    colour_dataset: str = "random"

    @property
    def sizes(self) -> Sizes:
        return SMOKE if self.smoke else FULL

    @property
    def products(self) -> str:
        """Precision of float32 products."""
        return "TF32" if self.tf32 and not self.smoke else "float32"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of every process, without NVIDIA's overrides; PyTorch is configured by flags."""
        jax = {"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32" if self.tf32 else "highest"}
        # Without C, a network is traced as for a GPU, and no C is compiled.
        return jax | (dict(CPU) | {"CNN_JAX_NATIVE": "0"} if self.smoke else {})


OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # variables that override `tf32`


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Limits of the device: operations/s of matrix products by precision, and bytes/s of its memory."""

    flops: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bandwidth: float | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """Arguments of a part's process.

    Attributes:
      settings: settings of the call.
      ceilings: ceilings measured so far.
      folder: folder for files of this part.
      deadline: time at which the part is stopped, as time.time().
    """

    settings: Settings
    ceilings: Ceilings
    folder: str
    deadline: float

    @property
    def left(self) -> float:
        """Return the seconds until the part is stopped."""
        return self.deadline - time.time()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Request":
        found = json.loads(text)
        return cls(Settings(**found.pop("settings")), Ceilings(**found.pop("ceilings")), **found)
