"""Parts of the benchmark in order of execution, the most important first. No JAX."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import cast

from benchmarks.gpu.report import Row
from benchmarks.gpu.settings import Request

_CEILING = ("what", "precision", "step_microseconds", "tflops", "gigabytes", "note")
_RACE = (
    "what", "precision", "trials", "epochs", "seconds", "compile_seconds", "train_seconds", "images_per_second",
    "trial_microseconds", "tflops", "roofline", "device_megabytes", "accuracy", "note",
)  # fmt: skip
_LANES = (
    "what", "precision", "lanes", "compile_seconds", "images_per_second", "step_microseconds", "trial_microseconds", "tflops",
    "gigabytes", "roofline", "device_megabytes", "note",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """A part: a function that yields rows.

    Attributes:
      name: name in --parts and in the file.
      title: title of its table.
      columns: fields of a row shown in its table.
      function: 'module:function' of (request, *arguments) -> rows, imported only by the part's process.
      arguments: arguments of the function.
      weight: its share of the remaining time, relative to the following parts.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    function: str
    arguments: tuple[str, ...] = ()
    weight: float = 1.0

    def rows(self, request: Request) -> Iterator[Row]:
        module, _, function = self.function.partition(":")
        run = cast(Callable[..., Iterator[Row]], getattr(importlib.import_module(module), function))
        return run(request, *self.arguments)


PARTS = (
    Part("ceilings", "What the device reaches, by JAX", _CEILING, "benchmarks.gpu.ceilings:run"),
    Part("pytorch_ceilings", "What it reaches by PyTorch", _CEILING, "benchmarks.gpu.pytorch_ceilings:run"),
    Part("chapter", "The chapter's sweep, cold", _RACE, "benchmarks.gpu.races:chapter", weight=6),
    Part("seeds", "Seeds of one cell", _RACE, "benchmarks.gpu.races:seeds", weight=6),
    Part("resnet20", "ResNet-20, cold", _RACE, "benchmarks.gpu.races:resnet20", weight=5),
    *(
        Part(
            f"{net}_{variant}",
            f"Steps of our training program: {title}, {variant.replace('_', ' ')}",
            _LANES,
            "benchmarks.gpu.lanes:run",
            (net, variant),
            weight,
        )
        for net, variant, title, weight in (
            ("lanes", "float32", "the chapter's network", 2.0),
            ("lanes", "bfloat16", "the chapter's network", 2.0),
            ("deep_lanes", "float32", "ResNet-20", 3.0),
            ("deep_lanes", "bfloat16", "ResNet-20", 3.0),
            ("lanes", "plain_convolutions", "the chapter's network", 1.0),
            ("deep_lanes", "plain_convolutions", "ResNet-20", 2.0),
            ("lanes", "unknown_length", "the chapter's network", 1.0),
        )
    ),
)
