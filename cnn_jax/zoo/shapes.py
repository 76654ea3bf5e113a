"""Types and markers of the arguments of model functions."""

from typing import Literal

Shape = tuple[int, ...]
# Marker of an option added to a model after sweeps of it were recorded, as in Annotated[int, ADDED]. At its default such an
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
# Paddings that keep the image size, as shortcuts require.
SamePadding = Literal["same", "reflect", "symmetric", "replicate", "circular"]
