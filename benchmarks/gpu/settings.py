"""Sizes of everything that is measured, and what a part's process is told. No JAX."""

import dataclasses
import json
import time
from collections.abc import Mapping

from benchmarks.contenders import CPU, NETS

BATCH = 128


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      product: rows of the square matrices of a product.
      stream: floats that are copied.
      launches: kernels started one after the other.
      repeats: of every timing of a ceiling or a step, of which the median counts.
      images: training images of the races where none are given, validation images included, and test images.
      train_examples: training images that are used of a data set that is given; None: all.
      axes: of the chapter's sweep.
      seeds: of the chapter's sweep, per cell.
      many: seeds of one cell.
      many_peers: the same for peers, which train one after the other, so that fewer tell as much; and for their warm run.
      epochs: of the warm run.
      deep: seeds of ResNet-20, and of the peers.
      step_images: training images of a program whose steps are timed.
      lanes: of the chapter's network, by variant.
      deep_lanes: of ResNet-20.
      few_lanes: of variants that are not a precision.
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
    """What the caller chose.

    Attributes:
      smoke: tiny sizes, on CPU.
      tf32: whether float32 products are in TF32, everywhere; otherwise in float32, everywhere.
      dataset: of the chapter's network, as for launch.py; 'random' for random images.
      colour_dataset: of ResNet-20, likewise.
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
        """What float32 products are multiplied in."""
        return "TF32" if self.tf32 and not self.smoke else "float32"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of every process. PyTorch is told by flags; an override of NVIDIA's libraries would be another setting."""
        jax = {"JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32" if self.tf32 else "highest"}
        # Without our C a network is traced in the same way as for a GPU, and nothing has to be compiled first.
        return jax | (dict(CPU) | {"CNN_JAX_NATIVE": "0"} if self.smoke else {})


OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # variables that would undo `tf32`


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What the device reaches: operations/s of matrix products by what they are multiplied in, and bytes/s of its memory."""

    flops: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bandwidth: float | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """What a part's process is told.

    Attributes:
      settings: of the call.
      ceilings: as far as they are known.
      folder: for files, of this part alone.
      deadline: when the part will be stopped, in seconds of time.time().
    """

    settings: Settings
    ceilings: Ceilings
    folder: str
    deadline: float

    @property
    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.deadline - time.time()

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Request":
        found = json.loads(text)
        return cls(Settings(**found.pop("settings")), Ceilings(**found.pop("ceilings")), **found)
