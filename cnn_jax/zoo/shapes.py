"""Types of the arguments of model functions, and their mark."""

from typing import Literal

Shape = tuple[int, ...]
# Mark of an option that a model got after sweeps of it were recorded, as in Annotated[int, ADDED]. At its default such an
# option is not part of a trial's configuration, so that ids of finished trials stay valid.
ADDED = "added"
KernelInit = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "pytorch_uniform",
    "normal",
    "zeros",
    "ones",
]
# The paddings that keep an image's size, so that a shortcut can be added.
SamePadding = Literal["same", "reflect", "symmetric", "replicate", "circular"]
